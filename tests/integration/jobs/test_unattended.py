"""A machine where nobody is: no environment, no terminal, no standard input, no keyring."""

import json
import os
import pty
import shlex
import subprocess
from pathlib import Path

from support.certificates import files_of
from support.federation import Server
from support.processes import FEDSITE
from support.site import Site

from fedsite.server.rounds import reports

PLAN = {
    "local": {"steps": 0, "patch_voxels": [16, 16, 16]},
    "rounds": {"quorum": 1, "enough": 2, "deadline_seconds": 600},
}
NO_BUS = {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/nonexistent/bus"}


def test_a_round_as_cron_runs_it(server: Server, site: Site, tmp_path: Path) -> None:
    number = server.open_round(tmp_path, **PLAN)
    command = f"env -i setsid {shlex.quote(FEDSITE)} train-round --json --config {shlex.quote(str(site.config))}"
    done = subprocess.run(
        ["sh", "-c", f"{command} < /dev/null"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["outcome"], answer["data"]["round"]) == ("uploaded", number)
    assert [one["site"] for one in reports.round_report(server.federation, number)["took_part"]] == ["site-a"]
    server.close_rounds()


def test_check_says_so_before(site: Site) -> None:
    answer = site.run("check", "--as-cron", "--config", str(site.config))
    assert answer.code == 0, answer
    (found,) = answer.json["data"]["checks"]
    assert (found["name"], found["status"]) == ("key-as-cron", "ok")
    assert "file" in found["message"]

    answer = site.run("check", "--as-cron")  # by $FEDSITE_CONFIG, of which no crontab knows
    (found,) = answer.json["data"]["checks"]
    assert answer.code == found["exit_code"] == 78
    assert "--config FILE" in found["mend"]


def test_where_there_is_no_keyring_none_is_chosen(server: Server, tmp_path: Path) -> None:
    site = Site(tmp_path / "desktop", NO_BUS)
    site.init()
    invitation = server.invite("desktop")
    answer = site.run("enroll", "--invitation", "-", "--key-storage", "keyring", stdin=invitation)
    assert answer.code == 78
    assert "--key-storage file" in answer.json["error"]["mend"]
    assert not list(files_of(site).folder.rglob("key.pem"))
    site.ok("enroll", "--invitation", "-", stdin=invitation)
    assert files_of(site).current.choice.place.storage == "file"


def test_a_service_is_given_its_credential(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "fedsite-passphrase").write_text("5e" * 32 + "\n")
    (folder / "fedsite-passphrase").chmod(0o400)
    given = {"CREDENTIALS_DIRECTORY": str(folder)}
    service, login = Site(tmp_path / "service", given), Site(tmp_path / "service")
    service.init()
    service.enroll(server.invite("service"))
    assert files_of(service).current.choice.place.storage == "credentials"
    assert not list(service.state.rglob("passphrase"))
    assert service.run("check", "--as-cron", "--config", str(service.config)).code == 0
    service.ok("identity", "renew")
    answer = login.run("train-round")
    assert answer.code == 78, "no other place is looked into"
    assert "fedsite-passphrase" in answer.json["error"]["message"]
    assert "LoadCredentialEncrypted=" in answer.json["error"]["mend"]

    # Whoever has the credential can move the secret elsewhere.
    service.ok("identity", "renew", "--key-storage", "file")
    assert login.ok("train-round")["outcome"] == "nothing-to-do"


def test_a_retired_site_can_do_nothing_and_come_back(server: Server, tmp_path: Path) -> None:
    site = Site(tmp_path / "retiring")
    site.init()
    site.enroll(server.invite("retiring"))
    with site.open_state() as state:
        state.put_round("test-federation", 7, "rejected", {})
    shown, known = _typed(site, "", "identity", "show"), site.ok("identity", "show")["data"]
    for name in ("audit_key", "sha256", "ca_sha256"):
        assert known[name] in "".join(shown.split()), "what is read out by telephone stands there whole"
    ledger, pseudonyms = site.ledger(), files_of(site).pseudonyms.read_bytes()
    refused = site.run("identity", "retire", "--confirm", "another")
    assert refused.code == 2
    assert "--confirm retiring" in refused.json["error"]["mend"]
    assert files_of(site).key.is_file()

    said = _typed(site, "retiring\n", "identity", "retire")
    assert "type its name" in said
    assert "fedsite server site revoke retiring" in said
    assert not [path for path in files_of(site).folder.rglob("*") if path.name in ("key.pem", "passphrase", "site.pem")]
    assert site.run("train-round").code == 77
    assert [one["round"] for one in site.ok("status")["data"]["rounds"]] == [7], "what it did is not forgotten"
    assert (site.ledger(), files_of(site).pseudonyms.read_bytes()) == (ledger, pseudonyms)
    with site.open_state() as state:
        state.verify()
        events = [record.body.get("event") for record in state.records("audit")]
    assert "identity retired" in events

    assert site.ok("enroll", "--invitation", "-", stdin=server.invite("retiring"))["outcome"] == "enrolled"


def _typed(site: Site, answer: str, *args: str) -> str:
    """Runs a command on a terminal and types an answer; gives what stood there."""
    mine, theirs = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "FEDSITE_CONFIG": str(site.config)}
    process = subprocess.Popen(
        [FEDSITE, *args], env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    os.write(mine, answer.encode())
    seen = b""
    while block := _read(mine):
        seen += block
    os.close(mine)
    assert process.wait(30) == 0, seen
    return seen.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other side is closed
        return b""
