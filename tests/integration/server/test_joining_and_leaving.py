"""Sites that come and go between rounds and within them, through a real server that is killed in between."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.federation import NAME, Server, tensors, update_file

from fedsite.errors import NotAuthorised, ServerBrokeProtocol
from fedsite.files import sha256_of
from fedsite.jobs.plan.verification import open_offer, verify_chain
from fedsite.server.members.enrolment import revoke
from fedsite.server.rounds.reports import round_report
from fedsite.wire.client import TlsIdentity
from fedsite.wire.messages import Participation, ParticipationRequest
from fedsite.wire.payload import tensors_of
from fedsite.wire.signing import digest, public_key

PLAN = {"rounds": {"quorum": 1, "enough": 3, "deadline_seconds": 600}}


def ask(server: Server, identity: TlsIdentity) -> Participation:
    with server.client(identity) as client:
        return client.participate(ParticipationRequest(protocol=1, ledger_sequence=1000))


def send(server: Server, identity: TlsIdentity, number: int, folder: Path, seed: int) -> None:
    file = update_file(folder / f"update-{seed}", tensors(seed))
    with server.client(identity) as client:
        client.upload(number, file, sha256_of(file), number)


def command(server: Server, *words: str) -> dict:
    done = server.run("server", "round", *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["data"]


def named(report: dict, *parts: str) -> dict[str, list[str]]:
    return {part: [one["site"] for one in report[part]] for part in parts}


def test_sites_come_and_go_within_a_round(server: Server, tmp_path: Path) -> None:
    stays, leaves, goes = (server.enrol(site, tmp_path / site) for site in ("stays", "leaves", "goes"))
    number = server.open_round(tmp_path, count=2, **PLAN)
    for identity in (stays, leaves, goes):
        assert ask(server, identity).plan is not None
    send(server, leaves, number, tmp_path, 1)
    for site in ("leaves", "goes"):
        revoke(server.federation, site)
    with pytest.raises(NotAuthorised):
        send(server, goes, number, tmp_path, 2)
    joins = server.enrol("joins", tmp_path / "joins")
    server.enrol("silent", tmp_path / "silent")
    assert ask(server, joins).ticket is not None
    send(server, joins, number, tmp_path, 3)
    report = round_report(server.federation, number)
    parts = named(report, "took_part", "at_work", "revoked", "absent")
    assert parts == {"took_part": ["joins", "leaves"], "at_work": ["stays"], "revoked": ["goes"], "absent": ["silent"]}
    assert [bool(one["revoked"]) for one in report["took_part"]] == [False, True]

    send(server, stays, number, tmp_path, 4)
    server.wait_for(number, "aggregated")
    report = round_report(server.federation, number)
    assert named(report, "took_part") == {"took_part": ["joins", "leaves", "stays"]}, "sent while it was trusted"

    send(server, joins, number + 1, tmp_path, 5)
    report = command(server, "close", str(number + 1))
    assert named(report, "took_part", "revoked", "absent", "dropped") == {
        "took_part": ["joins"], "revoked": [], "absent": ["silent", "stays"], "dropped": [],
    }  # fmt: skip
    later = round_report(server.federation, number)
    assert later["absent"] == [{"site": "silent"}], "who joins later was not absent before"


def test_a_paused_series_survives_the_servers_death_and_goes_on_with_whoever_is_there(
    server: Server, tmp_path: Path
) -> None:
    one, two = (server.enrol(site, tmp_path / site) for site in ("one", "two"))
    first = server.open_round(tmp_path, count=4, plan="paused", **PLAN)
    answer = ask(server, one)
    assert answer.plan is not None
    assert answer.ticket is not None
    command(server, "pause")
    server.stop(signal.SIGKILL)
    server.start()
    assert ask(server, one).plan is not None
    assert (ask(server, two).plan, ask(server, two).retry_after) == (None, 60)
    send(server, one, first, tmp_path, 11)
    send(server, two, first, tmp_path, 12)
    report = command(server, "close", str(first), "--without", "two")
    assert (report["status"], named(report, "left_out")) == ("aggregated", {"left_out": ["two"]})
    assert report["series"]["state"] == "paused"
    made, began = (tensors_of(server.federation.models.path(report[key])) for key in ("result_sha256", "model_sha256"))
    for name, values in tensors(11).items():
        np.testing.assert_array_equal(made[name], (began[name] + values.astype(np.float64)).astype(np.float32))

    assert command(server, "resume")["round"] == first + 1
    aborted = command(server, "abort", str(first + 1), "--reason", "a wrong plan", "--yes")
    assert (aborted["status"], aborted["series"]["state"]) == ("aborted", "paused")
    assert command(server, "resume")["round"] == first + 2
    late = ask(server, one)
    assert late.plan is not None
    assert late.ticket is not None
    pinned = SimpleNamespace(
        federation=NAME, plan_keys=[public_key(server.federation.plan_key).ed25519], plan_threshold=1
    )
    offer = open_offer(pinned, late.plan, late.ticket)  # type: ignore[arg-type]
    body = {"plan_sha256": offer.plan_sha256, "ticket_sha256": digest(answer.ticket)}
    known = [SimpleNamespace(round=first, body=body)]
    with server.client(one) as client:
        verify_chain(offer, known, client)  # type: ignore[arg-type]
        known[0].body["ticket_sha256"] = "0" * 64
        with pytest.raises(ServerBrokeProtocol, match="chain"):
            verify_chain(offer, known, client)  # type: ignore[arg-type]
