"""Versions of key and certificate: one is in use, the next is made beside it, the last one goes."""

import json
from pathlib import Path

import pytest

from fedsite.errors import CannotWrite, ConfigurationError, RecordsDamaged
from fedsite.site import secrets, versions
from fedsite.site.identity import Choice, IdentityFiles, Version
from fedsite.site.secrets import Place

IN_A_FILE = Choice(Place("file"))


@pytest.fixture
def files(tmp_path: Path) -> IdentityFiles:
    return IdentityFiles(tmp_path)


def begin(files: IdentityFiles, choice: Choice = IN_A_FILE) -> Version:
    """A version whose key is its passphrase, upside down."""
    return versions.begin(files, choice, lambda passphrase: passphrase[::-1].encode())


def put_into_use(files: IdentityFiles) -> Version:
    version = begin(files)
    version.certificate.write_bytes(b"a certificate")
    versions.switch(files, version)
    return version


def names(files: IdentityFiles) -> list[str]:
    return sorted(str(path.relative_to(files.folder)) for path in files.folder.rglob("*") if path.is_file())


def test_a_version_is_in_use_once_it_is_switched_to(files: IdentityFiles) -> None:
    first = begin(files)
    assert versions.pending(files) == first
    assert not files.key.exists(), "what is pending is not in use"
    versions.switch(files, first)
    assert versions.pending(files) is None
    assert files.current == first
    assert files.key.read_bytes().decode() == first.passphrase()[::-1]
    assert names(files) == ["current", "versions/1/choice.json", "versions/1/key.pem", "versions/1/passphrase"]
    assert {path.stat().st_mode & 0o777 for path in files.folder.rglob("*") if path.is_file()} == {0o600}
    assert files.versions.stat().st_mode & 0o777 == 0o700
    assert first.folder.stat().st_mode & 0o777 == 0o700


def test_the_old_version_stays_until_the_switch(files: IdentityFiles) -> None:
    first = put_into_use(files)
    second = begin(files)
    assert (files.current, second.number) == (first, 2)
    assert first.passphrase() != second.passphrase()
    assert first.key.is_file()
    versions.switch(files, second)
    assert files.current == second
    assert not first.folder.exists()


def test_an_unfinished_version_gives_way_to_the_next(files: IdentityFiles) -> None:
    put_into_use(files)
    abandoned = begin(files)
    again = begin(files)
    assert not abandoned.folder.exists() or again == abandoned
    assert versions.pending(files) == again
    again.key.unlink()
    assert versions.pending(files) is None, "without its key it is only rubbish"
    assert begin(files).key.is_file()


def test_what_a_kill_has_left_of_an_old_version_is_no_pending_one(files: IdentityFiles) -> None:
    first = put_into_use(files)
    kept = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    second = put_into_use(files)
    first.folder.mkdir()
    for name, content in kept.items():
        (first.folder / name).write_bytes(content)
    assert files.current == second
    assert versions.pending(files) is None
    third = begin(files)
    assert third.number == 3
    versions.switch(files, third)
    assert not first.folder.exists()
    assert not second.folder.exists()


def test_the_files_of_0_1_0_are_in_use_until_the_next_version(files: IdentityFiles) -> None:
    secrets.create_secret(files.folder / "passphrase")
    (files.folder / "key.pem").write_bytes(b"a key")
    (files.folder / "site.pem").write_bytes(b"a certificate")
    (files.folder / "pseudonyms.key").write_bytes(b"pseudonyms")
    (files.folder / "ca.pem").write_bytes(b"a root")
    old = files.current
    assert (old.number, old.choice) == (0, IN_A_FILE)
    assert files.key.read_bytes() == b"a key"
    assert old.passphrase() == (files.folder / "passphrase").read_text()
    new = begin(files)
    assert files.current == old
    versions.switch(files, new)
    assert files.current == new
    flat = {"current", "pseudonyms.key", "ca.pem"}
    assert {path.name for path in files.folder.iterdir() if path.is_file()} == flat


def test_a_passphrase_that_cannot_be_kept_leaves_nothing(files: IdentityFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    put_into_use(files)
    before = names(files)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(ConfigurationError):
        begin(files, Choice(Place("credentials")))
    assert names(files) == before
    assert versions.pending(files) is None


def test_a_folder_that_takes_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "versions").write_text("in the way")
    with pytest.raises(CannotWrite):
        begin(IdentityFiles(tmp_path))


def test_retired_means_no_key_at_all(files: IdentityFiles) -> None:
    (files.folder / "pseudonyms.key").write_bytes(b"pseudonyms")
    put_into_use(files)
    begin(files)
    (files.folder / "key.pem").write_bytes(b"left over from 0.1.0")
    for _ in range(2):
        versions.retire(files)
        assert names(files) == ["pseudonyms.key"]
    assert begin(files).number == 1


def test_a_damaged_version_can_still_be_retired(files: IdentityFiles) -> None:
    version = put_into_use(files)
    (version.folder / "choice.json").write_bytes(b"{")
    files.pointer.write_bytes(b"nonsense")
    versions.retire(files)
    assert names(files) == []


@pytest.mark.parametrize("content", [b"", b"0", b"x", b"-1", b"01", b"1 ", b"../../other", b"9" * 10, b"\xff"])
def test_a_damaged_pointer_is_named(files: IdentityFiles, content: bytes) -> None:
    put_into_use(files)
    files.pointer.write_bytes(content)
    with pytest.raises(RecordsDamaged, match="identity/current"):
        _ = files.current


GOOD = {"place": {"storage": "file", "keyring": "", "entry": ""}, "imported": False}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        json.dumps({"imported": False}).encode(),
        json.dumps(GOOD | {"imported": 0}).encode(),
        json.dumps(GOOD | {"more": 1}).encode(),
        json.dumps(GOOD | {"place": "file"}).encode(),
        json.dumps(GOOD | {"place": {"storage": "keyring", "keyring": "os.path", "entry": "ab" * 8}}).encode(),
        json.dumps(GOOD | {"place": {"storage": "file", "keyring": 5, "entry": ""}}).encode(),
        json.dumps(GOOD | {"place": {"storage": ["file"], "keyring": "", "entry": ""}}).encode(),
        None,
    ],
)
def test_a_damaged_choice_is_named_and_nothing_else_is_tried(files: IdentityFiles, content: bytes | None) -> None:
    version = put_into_use(files)
    if content is None:
        (version.folder / "choice.json").unlink()
    else:
        (version.folder / "choice.json").write_bytes(content)
    with pytest.raises(RecordsDamaged, match=r"versions/1/choice\.json is damaged"):
        version.passphrase()


def test_a_choice_is_read_back() -> None:
    for choice in (IN_A_FILE, Choice(Place("credentials"), imported=True), Choice(secrets.beside(Place("file")))):
        assert Choice.from_json(choice.to_json()) == choice
    assert json.loads(IN_A_FILE.to_json()) == GOOD
