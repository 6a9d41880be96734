"""What the child that opens the key is given, and what becomes of one that gives no answer."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from example_site import make_site

from fedsite.errors import ConfigurationError, NotAuthorised
from fedsite.jobs.checks import identity
from fedsite.jobs.identity import as_cron, renew
from fedsite.jobs.identity.as_cron import Answer
from fedsite.jobs.site import open_site
from fedsite.site import secrets, versions
from fedsite.site.identity import Choice, IdentityFiles
from fedsite.site.secrets import KEYRINGS, Place

SPY = """#!{python}
import json, os, sys
def terminal():
    try:
        return bool(os.open("/dev/tty", os.O_RDWR))
    except OSError:
        return False
seen = {{
    "environment": sorted(set(os.environ) - {{"LC_CTYPE"}}),
    "terminal": terminal() or any(os.isatty(number) for number in range(3)),
    "input": sys.stdin.read(),
    "leader": os.getsid(0) == os.getpid(),
    "folder": os.getcwd(),
}}
print(json.dumps({{"storage": json.dumps(seen)}}))
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site(tmp_path_factory.mktemp("site"), rounds=0, cases=1)


@contextmanager
def typed(answer: bytes) -> Iterator[None]:
    """Standard input as it is when somebody sits there."""
    reading, writing = os.pipe()
    before = os.dup(0)
    os.write(writing, answer)
    os.close(writing)
    os.dup2(reading, 0)
    yield
    os.dup2(before, 0)
    os.close(before)
    os.close(reading)


@pytest.mark.parametrize("variables", [[], ["CREDENTIALS_DIRECTORY"]])
def test_the_child_has_nothing_that_a_person_could_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: list[str]
) -> None:
    spy = tmp_path / "python"
    spy.write_text(SPY.format(python=sys.executable))
    spy.chmod(0o700)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    for name in variables:
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/run/somebody")
    monkeypatch.setattr(sys, "executable", str(spy))
    with typed(b"y\n"):
        seen = json.loads(as_cron.opens(None).storage)
    assert seen == {"environment": variables, "terminal": False, "input": "", "leader": True, "folder": "/"}


def test_a_key_in_a_file_needs_nobody(config: Path) -> None:
    assert as_cron.opens(config) == Answer("file")
    found = identity.key_as_cron(config)
    assert (found.status, "file" in found.message) == ("ok", True)
    files = IdentityFiles(config.parent / "state" / "identity")
    assert as_cron.opens(files.folder, 1) == Answer("file")
    absent = as_cron.opens(files.folder, 2)
    assert (absent.exit_code, absent.storage) == (NotAuthorised.exit_code, "")


def test_what_waits_is_ended(tmp_path: Path) -> None:
    """As a prompt does, a pipe into which nobody writes waits for ever."""
    config = make_site(tmp_path, rounds=0, cases=1)
    passphrase = IdentityFiles(tmp_path / "state" / "identity").current.folder / "passphrase"
    passphrase.unlink()
    os.mkfifo(passphrase, 0o600)
    began = time.monotonic()
    found = identity.key_as_cron(config)
    assert time.monotonic() - began >= as_cron.SECONDS
    assert (found.status, found.exit_code) == ("error", 78)
    assert "more than 2 s" in found.message
    assert "waits for a person" in found.message
    assert found.mend


def test_a_start_has_an_end_too(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(as_cron, "START_SECONDS", 0.01)
    found = identity.key_as_cron(config)
    assert (found.status, found.exit_code) == ("error", 78)
    assert "not even started" in found.message


def test_a_child_that_says_nothing_is_a_finding(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    found = identity.key_as_cron(config)
    assert (found.status, found.exit_code) == ("error", 78)
    assert "ended with code 1" in found.message


def test_a_keyring_that_only_this_session_can_open_is_refused(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried alone before anything depends on it; then nothing of the new key is left."""
    kept: dict[Place, str] = {}
    monkeypatch.setattr(secrets, "create", lambda place, folder: kept.update({place: "ab" * 32}))
    monkeypatch.setattr("fedsite.site.identity.read", lambda place, folder: kept[place])
    monkeypatch.setattr(secrets, "forget", lambda place, folder: kept.pop(place, None))
    choice = Choice(Place("keyring", KEYRINGS[0], "ab" * 8))
    with open_site(config) as site:
        before = site.files.current
        monkeypatch.setattr(as_cron, "opens", lambda place, number: Answer(error="It is locked.", exit_code=78))
        with pytest.raises(ConfigurationError, match=r"not where nobody is logged in: It is locked\.") as refused:
            renew.take_up(site, choice)
        assert "--key-storage file" in refused.value.mend
        assert versions.pending(site.files) is None
        assert site.files.current == before
        assert not kept

        monkeypatch.setattr(as_cron, "opens", lambda place, number: Answer("keyring"))
        version = renew.take_up(site, choice)
        assert version.choice == choice
        assert renew.key_of(version)
        versions.remove(version)
