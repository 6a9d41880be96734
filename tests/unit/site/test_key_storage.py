"""Where a key's passphrase may lie: systemd's credentials, a file, one of three keyrings; chosen once, read there only.

The keyrings are fakes that are registered for the test; the machine's own are never asked.
"""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import keyring.core
import pytest
import secretstorage
from keyring.backend import KeyringBackend

from fedsite.errors import ConfigurationError, FedsiteError, NotAuthorised, RecordsDamaged
from fedsite.site import secrets
from fedsite.site.secrets import KEYRINGS, Place

SECRET = "5e" * 32


class FakeKeyring(KeyringBackend):
    """Keeps passwords in memory, unless it is told to behave like one that cannot."""

    priority = 1
    kept: ClassVar[dict[tuple[str, str], str]] = {}
    fault: ClassVar[Exception | None] = None
    waits: ClassVar[threading.Event | None] = None

    def get_password(self, service: str, username: str) -> str | None:
        self._behave()
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._behave()
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        self._behave()
        del self.kept[service, username]

    def _behave(self) -> None:
        if self.waits:
            self.waits.wait(10)
        if self.fault:
            raise self.fault


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The keyrings of this machine, by name: the second is there, the others are not."""
    found: dict[str, Any] = {KEYRINGS[1]: FakeKeyring}

    def load(name: str) -> KeyringBackend:
        if name not in found:
            raise RuntimeError("not here")
        backend: KeyringBackend = found[name]()
        return backend

    def no_bus() -> None:
        raise secretstorage.exceptions.SecretServiceNotAvailableException("no bus")

    monkeypatch.setattr(keyring.core, "load_keyring", load)
    monkeypatch.setattr(secretstorage, "dbus_init", no_bus)
    monkeypatch.setattr(FakeKeyring, "kept", {})
    yield found
    if FakeKeyring.waits:
        FakeKeyring.waits.set()


def credential(folder: Path, content: str = SECRET, mode: int = 0o400) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "fedsite-passphrase"
    path.unlink(missing_ok=True)
    path.write_text(content)
    path.chmod(mode)
    return path


# --- the choice -----------------------------------------------------------------------------------------------------


def test_auto_takes_what_needs_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fakes: dict[str, Any]) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert secrets.choose("auto") == Place("file"), "a keyring that could be used is not taken unasked"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert secrets.choose("auto") == Place("file"), "systemd gives others than ours"
    credential(tmp_path)
    assert secrets.choose("auto") == Place("credentials")
    assert secrets.choose("file") == Place("file")


@pytest.mark.parametrize(
    "fields",
    [
        ("plain",),
        ("keyring", "keyrings.alt.file.PlaintextKeyring", "ab" * 8),
        ("keyring", "keyring.backends.null.Keyring", "ab" * 8),
        ("keyring", "keyring.backends.chainer.ChainerBackend", "ab" * 8),
        ("keyring", "os.system", "ab" * 8),
        ("keyring", KEYRINGS[0], "../entry"),
        ("keyring", KEYRINGS[0]),
        ("keyring",),
        ("file", KEYRINGS[0], "ab" * 8),
        ("credentials", "", "ab" * 8),
    ],
)
def test_no_other_place_can_be_recorded(fields: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="no place"):
        Place(*fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("storage", ["file", "credentials", "keyring"])
def test_a_passphrase_is_read_from_its_own_place_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fakes: dict[str, Any], storage: Any
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    credential(tmp_path / "credentials")
    place = secrets.choose(storage)
    secrets.create(place, tmp_path)
    found = secrets.read(place, tmp_path)
    assert len(bytes.fromhex(found)) == 32
    assert (found == SECRET) == (storage == "credentials")
    assert (tmp_path / "passphrase").exists() == (storage == "file")
    assert len(FakeKeyring.kept) == (storage == "keyring")

    # The right secret in every other place helps nobody.
    credential(tmp_path / "credentials", found)
    (tmp_path / "passphrase").write_text(found)
    (tmp_path / "passphrase").chmod(0o600)
    if storage == "file":
        (tmp_path / "passphrase").unlink()
    elif storage == "credentials":
        monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    else:
        FakeKeyring.kept.clear()
    with pytest.raises(FedsiteError) as refused:
        secrets.read(place, tmp_path)
    assert refused.value.mend
    assert found not in str(refused.value)


# --- systemd's credentials ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o404, 0o444, 0o460, 0o420, 0o602])
def test_a_credential_that_others_can_read_or_change_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    credential(tmp_path, mode=mode)
    with pytest.raises(RecordsDamaged, match="others"):
        secrets.read(Place("credentials"), tmp_path)


def test_the_access_list_of_systemd_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    credential(tmp_path, f"{SECRET}\n", mode=0o440)
    assert secrets.read(Place("credentials"), tmp_path) == SECRET
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    if owner == 0:  # root's file, shown to another user
        assert secrets.read(Place("credentials"), tmp_path) == SECRET
    else:
        with pytest.raises(RecordsDamaged):
            secrets.read(Place("credentials"), tmp_path)


@pytest.mark.parametrize("content", ["", "short", "A" * 64, "a" * 63, "a" * 65])
def test_a_credential_that_is_no_secret_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    credential(tmp_path, content)
    with pytest.raises(ConfigurationError, match="openssl rand -hex 32"):
        secrets.create(Place("credentials"), tmp_path)


def test_a_relative_folder_of_credentials_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    credential(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", ".")
    with pytest.raises(ConfigurationError, match="nobody gave"):
        secrets.read(Place("credentials"), tmp_path)


def test_a_folder_of_credentials_that_cannot_be_looked_into_is_never_taken_for_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/" + 300 * "a")
    with pytest.raises(ConfigurationError, match="cannot be looked into: File name too long"):
        secrets.choose("auto")


# --- keyrings -------------------------------------------------------------------------------------------------------


def test_a_keyring_keeps_one_entry_for_each_key(tmp_path: Path, fakes: dict[str, Any]) -> None:
    one = secrets.choose("keyring")
    other = secrets.beside(one)
    assert one.keyring == other.keyring == KEYRINGS[1]
    for place in (one, other):
        secrets.create(place, tmp_path)
    assert secrets.read(one, tmp_path) != secrets.read(other, tmp_path)
    secrets.forget(one, tmp_path)
    with pytest.raises(NotAuthorised):
        secrets.read(one, tmp_path)
    assert secrets.read(other, tmp_path)


def test_the_environment_chooses_no_keyring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fakes: dict[str, Any]
) -> None:
    """keyring itself would follow these into any class that can be imported."""
    fakes.clear()
    fakes["keyring.backends.null.Keyring"] = FakeKeyring
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    configuration = tmp_path / "python_keyring"
    configuration.mkdir()
    (configuration / "keyringrc.cfg").write_text("[backend]\ndefault-keyring=keyring.backends.null.Keyring\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(ConfigurationError, match="No keyring that fedsite uses"):
        secrets.choose("keyring")


def test_a_keyring_that_asks_a_person_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fakes: dict[str, Any]
) -> None:
    place = secrets.choose("keyring")
    secrets.create(place, tmp_path)
    monkeypatch.setattr(FakeKeyring, "waits", threading.Event())
    monkeypatch.setattr(secrets, "KEYRING_SECONDS", 0.05)
    with pytest.raises(ConfigurationError, match="locked and waits for a person") as refused:
        secrets.read(place, tmp_path)
    assert "--key-storage file" in refused.value.mend


def test_what_a_keyring_says_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fakes: dict[str, Any]
) -> None:
    place = secrets.choose("keyring")
    monkeypatch.setattr(FakeKeyring, "fault", KeyError(f"the secret {SECRET}"))
    with pytest.raises(ConfigurationError, match="KeyError") as refused:
        secrets.read(place, tmp_path)
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("known", ["", "unix:path=/run/somewhere"])
def test_the_session_bus_is_found_where_nobody_says_where(
    monkeypatch: pytest.MonkeyPatch, fakes: dict[str, Any], known: str
) -> None:
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", known)
    if not known:
        monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS")
    monkeypatch.setattr(Path, "is_socket", lambda path: str(path) == f"/run/user/{os.geteuid()}/bus")
    secrets.choose("keyring")
    assert os.environ["DBUS_SESSION_BUS_ADDRESS"] == (known or f"unix:path=/run/user/{os.geteuid()}/bus")


class FakeCollection:
    locked = False

    def __init__(self, bus: object) -> None:
        pass

    def is_locked(self) -> bool:
        return self.locked


class FakeBus:
    def close(self) -> None:
        pass


@pytest.mark.parametrize("locked", [False, True])
def test_a_locked_secret_service_is_not_even_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fakes: dict[str, Any], locked: bool
) -> None:
    """Asking it would open a window on somebody's desktop."""
    fakes[KEYRINGS[0]] = FakeKeyring
    monkeypatch.setattr(secretstorage, "dbus_init", FakeBus)
    monkeypatch.setattr(secretstorage, "Collection", FakeCollection)
    place = secrets.choose("keyring")
    assert place.keyring == KEYRINGS[0]
    monkeypatch.setattr(FakeCollection, "locked", locked)
    if not locked:
        secrets.create(place, tmp_path)
        assert len(FakeKeyring.kept) == 1
        return
    with pytest.raises(ConfigurationError, match="SecretService cannot be used here: it is locked"):
        secrets.create(place, tmp_path)
    assert FakeKeyring.kept == {}
