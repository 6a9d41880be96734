"""`fedsite server` and `fedsite model` as a coordinator types them."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import Encoding
from support import authorities
from support.authorities import chain_of_three
from support.federation import model_file, plan, tensors, update_file
from typer.testing import CliRunner

from fedsite.cli import model, server
from fedsite.cli.output import Output
from fedsite.errors import CannotWrite, ConfigurationError, DataNotFit, FedsiteError, SourceMissing, UsageError
from fedsite.files import sha256_of
from fedsite.server.federation import open_federation
from fedsite.tasks.description import OutOfRange
from fedsite.wire.enrolment import Invitation, fingerprint, new_key, signing_request, spki_sha256, to_pem
from fedsite.wire.messages import utc_now
from fedsite.wire.payload import layout_of

APPS = {"server": server.app, "model": model.app}


def say(group: str, *args: object, as_json: bool = False) -> str:
    """What the command prints on stdout; its errors are raised as they are."""
    output = Output(command=group, as_json=as_json)
    words = [str(word) for word in args]
    result = CliRunner().invoke(APPS[group], words, obj=output, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def ask(group: str, *args: object) -> dict[str, Any]:
    """The same with --json: its data."""
    answer = json.loads(say(group, *args, as_json=True))
    assert answer["error"] is None
    data: dict[str, Any] = answer["data"]
    return data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "federation"
    (tmp_path / "agreement.txt").write_text("Be kind.")
    data = ask(
        *("server", "init", made, "--federation", "test-federation", "--name", "localhost", "--name", "127.0.0.1"),
        *("--agreement", tmp_path / "agreement.txt"),
    )
    assert data["url"] == "https://localhost:8443"
    assert len(data["ca_sha256"]) == 64
    return made


@pytest.fixture
def plan_path(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(plan(rounds={"quorum": 1, "enough": 1, "deadline_seconds": 600})))
    return path


def test_init_remembers_names_and_agreement(folder: Path) -> None:
    opened = open_federation(folder)
    assert (opened.hosts, opened.agreement) == (("localhost", "127.0.0.1"), "Be kind.")


def test_init_says_what_comes_next(tmp_path: Path) -> None:
    said = say("server", "init", tmp_path / "new", "--federation", "f", "--name", "host", "--url", "https://other:1/")
    assert "https://other:1" in said
    assert "Next: fedsite server run" in said


def test_invite_prints_one_line_and_nothing_else(folder: Path) -> None:
    said = say("server", "invite", "site-a", "--dir", folder)
    invitation = Invitation.decode(said)
    assert said.count("\n") == 1
    assert (invitation.site, invitation.server) == ("site-a", "https://localhost:8443")
    other = Invitation.decode(say("server", "invite", "site-b", "--dir", folder, "--url", "https://there:9"))
    assert other.server == "https://there:9"
    assert ask("server", "invite", "site-c", "--dir", folder, "--expires", "7d")["site"] == "site-c"
    with pytest.raises(UsageError, match="no duration"):
        say("server", "invite", "site-d", "--dir", folder, "--expires", "soon")


def test_a_federation_is_backed_up_and_restored(folder: Path, tmp_path: Path) -> None:
    assert ask("server", "backup", tmp_path / "backup", "--dir", folder) == {
        "folder": str(tmp_path / "backup"), "files": 0, "copied": 0
    }  # fmt: skip
    assert "the federation's keys" in say("server", "backup", tmp_path / "backup", "--dir", folder)
    said = say("server", "restore", tmp_path / "backup", tmp_path / "restored")
    assert "as it was in round 0" in said
    assert "exit 76" in said
    assert open_federation(tmp_path / "restored").name == open_federation(folder).name
    assert ask("server", "restore", tmp_path / "backup", tmp_path / "again")["newest_round"] == 0


def test_nothing_is_to_upgrade(folder: Path) -> None:
    assert ask("server", "upgrade", "--dir", folder) == {"copy": None}
    assert say("server", "upgrade", "--dir", folder).strip() == "The database is up to date."


def test_sites_are_listed_and_revoked(folder: Path) -> None:
    say("server", "invite", "site-a", "--dir", folder)
    assert ask("server", "site", "list", "--dir", folder)["sites"][0] == {
        "site": "site-a", "status": "invited", "certificate_expires": None, "certificate_days": None,
        "last_seen": None, "contributions": 0, "refusals": 0, "rejected": 0, "pending": [],
    }  # fmt: skip
    assert "site-a" in say("server", "site", "list", "--dir", folder)
    assert "0 certificates" in say("server", "site", "revoke", "site-a", "--dir", folder)
    assert ask("server", "site", "list", "--dir", folder)["sites"][0]["status"] == "revoked"


def test_a_key_that_asks_is_shown_and_approved(folder: Path) -> None:
    line = say("server", "invite", "site-a", "--dir", folder, "--approve")
    key = _ask_for_a_certificate(folder, Invitation.decode(line))
    (site,) = ask("server", "site", "list", "--dir", folder)["sites"]
    assert (site["status"], [one["key_sha256"] for one in site["pending"]]) == ("pending", [key])
    said = say("server", "site", "list", "--dir", folder)
    assert key in said
    assert "fedsite server site approve site-a" in said
    with pytest.raises(UsageError, match="No such key"):
        say("server", "site", "approve", "site-a", "--key", "00" * 32, "--dir", folder)
    assert ask("server", "site", "approve", "site-a", "--key", key[:8], "--dir", folder)["key_sha256"] == key
    assert key not in say("server", "site", "list", "--dir", folder)


def test_a_federation_may_ask_for_every_approval(tmp_path: Path) -> None:
    made = tmp_path / "careful"
    assert ask("server", "init", made, "--federation", "f", "--name", "localhost", "--approve")["approval"] is True
    assert ask("server", "invite", "site-a", "--dir", made)["approval"] is True
    assert ask("server", "invite", "site-b", "--dir", made, "--no-approve")["approval"] is False


def test_an_intermediate_signs_and_is_replaced(tmp_path: Path, folder: Path) -> None:
    made, authority = tmp_path / "with-intermediate", chain_of_three()
    key, chain = authorities.write(tmp_path / "ca", authority)
    opening = ("server", "init", made, "--federation", "test-federation", "--name", "localhost")
    for half in (("--ca-key", key), ("--ca-chain", chain)):
        with pytest.raises(UsageError, match="belong together"):
            say(*opening, *half)
    data = ask(*opening, "--ca-key", key, "--ca-chain", chain)
    assert data["ca_sha256"] == fingerprint(authority.root)
    assert [one["subject"].partition(",")[0] for one in data["chain"]] == ["CN=issuing", "CN=policy", "CN=root"]
    assert Invitation.decode(say("server", "invite", "site-a", "--dir", made)).ca_sha256 == data["ca_sha256"]
    hospital, answer = chain_of_three(), tmp_path / "answer.pem"
    own = hospital.issue_site(new_key().public_key(), "site-b", utc_now())
    answer.write_bytes(to_pem([own, *hospital.intermediates]))
    imported = ask("server", "site", "import", "site-b", answer, "--dir", made)
    assert imported == {"site": "site-b", "certificate_expires": own.not_valid_after_utc.isoformat()}
    with pytest.raises(SourceMissing, match="cannot be read"):
        say("server", "site", "import", "site-b", tmp_path / "none", "--dir", made)
    second = authorities.write(tmp_path / "second", chain_of_three())
    new = ("server", "authority", "replace", "--ca-key", second[0], "--ca-chain", second[1])
    replaced = ask(*new, "--dir", made)
    assert replaced["ca_sha256"] == data["ca_sha256"]
    assert replaced["chain"][0]["sha256"] != data["chain"][0]["sha256"]
    assert ask("server", "authority", "show", "--dir", made) == replaced
    with pytest.raises(UsageError, match="another root"):
        say(*new, "--dir", folder)
    assert "CN=test-federation root" in say("server", "authority", "show", "--dir", folder)


def test_a_round_from_open_to_export(folder: Path, plan_path: Path, tmp_path: Path) -> None:
    first = model_file(tmp_path / "model.safetensors")
    opened = ask("server", "round", "open", plan_path, "--model", first, "--rounds", 2, "--dir", folder)
    assert (opened["round"], opened["status"], opened["model_sha256"]) == (1, "open", sha256_of(first))
    _deliver(folder, "site-a", 1, tmp_path)
    assert "site-a" in say("server", "round", "show", 1, "--dir", folder)
    assert "aggregated" in say("server", "round", "close", 1, "--dir", folder)
    listed = ask("server", "round", "list", "--dir", folder)["rounds"]
    assert [(one["round"], one["status"]) for one in listed] == [(1, "aggregated"), (2, "open")]
    assert "test-plan" in say("server", "round", "list", "--dir", folder)
    models = ask("model", "list", "--dir", folder)["models"]
    assert [one["round"] for one in models] == [None, 1]
    assert "round 1 of test-plan, 1 updates" in say("model", "list", "--dir", folder)
    shown = say("model", "show", models[1]["sha256"][:8], "--dir", folder)
    assert all(models[1][name] in shown for name in ("sha256", "plan_sha256", "ticket_sha256", "from_sha256"))
    assert "brought" in say("model", "show", models[0]["sha256"], "--dir", folder)
    assert [one["round"] for one in ask("model", "show", "--round", 1, "--dir", folder)["line"]] == [1, None]
    for args in (("--round", 1), (models[1]["sha256"][:8],)):
        exported = ask("model", "export", *args, "-o", tmp_path / "out", "--dir", folder)
        assert sha256_of(tmp_path / "out") == exported["sha256"] == listed[0]["result_sha256"]


def test_model_init_writes_the_plans_network(plan_path: Path, tmp_path: Path) -> None:
    made = ask("model", "init", plan_path, "-o", tmp_path / "a", "--seed", 3)
    assert layout_of(tmp_path / "a").values == made["values"] > 1000
    assert ask("model", "init", plan_path, "-o", tmp_path / "b", "--seed", 3)["sha256"] == made["sha256"]
    assert ask("model", "init", plan_path, "-o", tmp_path / "c", "--seed", 4)["sha256"] != made["sha256"]
    assert "tensors" in say("model", "init", plan_path, "-o", tmp_path / "d")


def test_errors_have_their_kind(folder: Path, plan_path: Path, tmp_path: Path) -> None:
    model_path = model_file(tmp_path / "model.safetensors")
    rubbish = tmp_path / "rubbish"
    rubbish.write_bytes(b"rubbish")
    strange = tmp_path / "strange.yaml"
    strange.write_text(yaml.safe_dump(plan(network={"name": "unet", "settings": {"channels": [1, 2]}})))
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(plan(channels=["dwi", "t1"])))
    opening = ("server", "round", "open")
    cases: list[tuple[type[FedsiteError], tuple[object, ...]]] = [
        (UsageError, ("server", "init", folder, "--federation", "f", "--name", "localhost")),
        (UsageError, ("server", "init", tmp_path / "n", "--federation", "F!", "--name", "localhost")),
        (SourceMissing, ("server", "init", tmp_path / "n", "--federation", "f", "--name", "h", "--agreement", "/no")),
        (SourceMissing, ("server", "site", "list", "--dir", tmp_path)),
        (UsageError, ("server", "invite", "Not A Site", "--dir", folder)),
        (UsageError, ("server", "site", "revoke", "nobody", "--dir", folder)),
        (UsageError, ("server", "round", "show", 9, "--dir", folder)),
        (UsageError, ("server", "round", "close", 9, "--dir", folder)),
        (SourceMissing, (*opening, tmp_path / "no", "--model", model_path, "--dir", folder)),
        (SourceMissing, (*opening, plan_path, "--model", tmp_path / "no", "--dir", folder)),
        (DataNotFit, (*opening, plan_path, "--model", rubbish, "--dir", folder)),
        (ConfigurationError, (*opening, rubbish, "--model", model_path, "--dir", folder)),
        (OutOfRange, (*opening, strange, "--model", model_path, "--dir", folder)),
        (OutOfRange, (*opening, other, "--model", model_path, "--dir", folder)),
        (OutOfRange, ("model", "init", other, "-o", tmp_path / "x")),
        (UsageError, ("model", "export", "-o", tmp_path / "x", "--dir", folder)),
        (UsageError, ("model", "export", "00", "-o", tmp_path / "x", "--dir", folder)),
        (UsageError, ("model", "export", "00", "--round", 1, "-o", tmp_path / "x", "--dir", folder)),
    ]
    for kind, args in cases:
        with pytest.raises(kind):
            say(str(args[0]), *args[1:])
    assert ask("server", "round", "list", "--dir", folder)["rounds"] == []
    assert not (tmp_path / "x").exists()


def test_a_round_is_told_by_its_number_and_place_in_the_series(folder: Path, plan_path: Path, tmp_path: Path) -> None:
    opening = ("round", "open", plan_path, "--model", model_file(tmp_path / "model.safetensors"), "--dir", folder)
    assert ", 1 of 3 in its series." in say("server", *opening, "--rounds", 3).splitlines()[0]
    say("server", "round", "close", 1, "--dir", folder)
    assert say("server", *opening).startswith("Round 2 is open until 20")


def test_a_damaged_model_is_not_exported(folder: Path, plan_path: Path, tmp_path: Path) -> None:
    first = model_file(tmp_path / "model.safetensors")
    say("server", "round", "open", plan_path, "--model", first, "--dir", folder)
    stored = folder / "models" / sha256_of(first)
    stored.write_bytes(stored.read_bytes()[:-1] + b"!")
    with pytest.raises(SourceMissing, match="damaged"):
        say("model", "export", stored.name[:12], "-o", tmp_path / "x", "--dir", folder)
    assert not (tmp_path / "x").exists()


def test_a_taken_port_is_named(folder: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(CannotWrite, match="Cannot listen"),
    ):
        say("server", "run", "--dir", folder, "--host", "127.0.0.1", "--port", taken.getsockname()[1])


def _ask_for_a_certificate(folder: Path, invitation: Invitation) -> str:
    """The SHA-256 of the key that asks."""
    from fedsite.server.members import enrolment

    key = new_key()
    request = signing_request(key, invitation.site).public_bytes(Encoding.DER)
    assert enrolment.enrol(open_federation(folder), invitation.site, invitation.secret, request) is None
    return spki_sha256(key.public_key())


def _deliver(folder: Path, site: str, number: int, tmp_path: Path) -> None:
    from fedsite.server.exchange import uploads

    federation = open_federation(folder)
    update = update_file(tmp_path / "update", tensors(1))
    said = uploads.Announcement(sha256_of(update), update.stat().st_size, 1, None)
    upload = uploads.announce(federation, site, number, said)
    part = uploads.Part(federation, upload, 0)
    part.write(update.read_bytes())
    part.close()
    uploads.conclude(federation, site, upload.id)
