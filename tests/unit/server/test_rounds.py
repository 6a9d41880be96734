"""Rounds under a clock that the tests move."""

import base64
import fcntl
from pathlib import Path

import numpy as np
import pytest
from support.federation import draft, model_file, tensors, update_file

from fedsite.errors import ConfigurationError, DataNotFit, SourceMissing, UsageError
from fedsite.server.exchange import participation, uploads
from fedsite.server.members import enrolment
from fedsite.server.problems import Refused
from fedsite.server.rounds import rounds, series
from fedsite.server.rounds.reports import find_model, models, round_report
from fedsite.wire.enrolment import new_key
from fedsite.wire.messages import ParticipationRequest, Refusal, Ticket, parse
from fedsite.wire.payload import tensors_of, write_model
from fedsite.wire.signing import TICKET, open_envelope, public_key

ASK = ParticipationRequest(protocol=1, ledger_sequence=0)


def rules(quorum: int = 1, enough: int | None = None, seconds: int = 600) -> dict:
    return {"rounds": {"quorum": quorum, "enough": enough, "deadline_seconds": seconds}}


def status(bench, number: int) -> str:
    return round_report(bench.federation, number)["status"]


def test_a_round_closes_at_once_when_enough_updates_are_in(bench) -> None:
    number = bench.open(**rules(quorum=1, enough=2))
    bench.deliver("site-a", number, tensors(1))
    rounds.advance(bench.federation)
    assert status(bench, number) == "open"
    bench.deliver("site-b", number, tensors(2))
    rounds.advance(bench.federation)
    report = round_report(bench.federation, number)
    assert (report["status"], report["reason"]) == ("aggregated", "enough updates: 2 updates, quorum 1")


def test_a_plan_that_another_one_has_replaced_is_not_opened_again(bench) -> None:
    """The sites would take it for a replay (jobs.plan.verification); the same plan goes on as often as one likes."""
    expires = "2040-01-01T00:00:00Z"
    for plan in ("first", "first", "second"):
        rounds.close_now(bench.federation, bench.open(plan=plan, expires=expires))
    with pytest.raises(UsageError, match="another one since"):
        bench.open(plan="first", expires=expires)
    bench.open(plan="third", expires=expires)


def test_a_deadline_with_quorum_aggregates(bench) -> None:
    number = bench.open(**rules(quorum=2, seconds=60))
    bench.deliver("site-a", number, tensors(1))
    bench.deliver("site-b", number, tensors(2))
    bench.clock.pass_by(seconds=59)
    rounds.advance(bench.federation)
    assert status(bench, number) == "open"
    bench.clock.pass_by(seconds=1)
    rounds.advance(bench.federation)
    assert status(bench, number) == "aggregated"


def test_a_deadline_without_quorum_fails_and_ends_the_series(bench) -> None:
    number = bench.open(count=5, **rules(quorum=2, seconds=60))
    bench.deliver("site-a", number, tensors(1))
    bench.clock.pass_by(seconds=60)
    rounds.advance(bench.federation)
    report = round_report(bench.federation, number)
    assert (report["status"], report["result_sha256"]) == ("failed", None)
    assert participation.participate(bench.federation, "site-b", ASK).plan is None
    assert len(list((bench.federation.folder / "updates").iterdir())) == 1, "a failed round's updates are kept"


def test_a_series_goes_on_by_itself_and_each_round_gets_its_own_deadline(bench) -> None:
    first = bench.open(count=3, **rules(quorum=1, enough=1, seconds=60))
    for number in range(first, first + 3):
        bench.clock.pass_by(seconds=59)
        bench.deliver("site-a", number, tensors(number))
        rounds.advance(bench.federation)
        assert status(bench, number) == "aggregated"
    with pytest.raises(UsageError):
        round_report(bench.federation, first + 3)
    tickets = [parse(Ticket, _content(one)) for one in participation.tickets(bench.federation, 0).tickets]
    assert [one.previous_ticket for one in tickets][1:] == [
        participation.answer(bench.federation, number).ticket_sha256 for number in (first, first + 1)
    ]
    assert [one.model_sha256 for one in tickets][1:] == [
        round_report(bench.federation, number)["result_sha256"] for number in (first, first + 1)
    ]


def test_a_series_ends_with_its_plan(bench) -> None:
    expires = bench.clock.now.replace(microsecond=0)
    bench.clock.pass_by(seconds=-100)
    number = bench.open(count=3, expires=expires.isoformat(), **rules(quorum=1, seconds=600))
    ticket = open_envelope(
        participation.participate(bench.federation, "site-a", ASK).ticket,
        Ticket, TICKET, [public_key(bench.federation.round_key)],
    )  # fmt: skip
    assert ticket.expires == expires, "a ticket never outlives its plan"
    bench.deliver("site-a", number, tensors(1))
    bench.clock.pass_by(seconds=100)
    rounds.advance(bench.federation)
    assert status(bench, number) == "aggregated"
    assert len(participation.tickets(bench.federation, 0).tickets) == 1


def test_everyone_is_named(bench) -> None:
    for site in ("absent", "part", "reject", "refuse", "slow", "unfinished"):
        with bench.federation.database.writing() as session:
            enrolment._issue(bench.federation, session, site, new_key().public_key(), bench.clock())
    number = bench.open(**rules(quorum=1, seconds=60))
    for site in ("part", "reject", "refuse", "slow", "unfinished"):
        assert participation.participate(bench.federation, site, ASK).plan is not None
    bench.deliver("part", number, tensors(1))
    with pytest.raises(Refused) as caught:
        bench.deliver("reject", number, tensors(2, scale=1e9))
    assert (caught.value.problem.status, caught.value.problem.type) == (422, "update-refused")
    participation.refuse(bench.federation, "refuse", number, Refusal(reason="budget"))
    bench.announce("unfinished", number, update_file(bench.folder / "u", tensors(3)))
    bench.clock.pass_by(seconds=60)
    rounds.advance(bench.federation)
    report = round_report(bench.federation, number)
    assert [one["site"] for one in report["took_part"]] == ["part"]
    assert [one["site"] for one in report["rejected"]] == ["reject"]
    assert "norm" in report["rejected"][0]["reason"]
    assert report["refused"] == [{"site": "refuse", "reason": "budget"}]
    assert report["late"] == [{"site": "unfinished", "reason": "0 of 5604 bytes were here when the round closed"}]
    assert (report["dropped"], report["absent"]) == ([{"site": "slow"}], [{"site": "absent"}])
    assert [path.name for path in (bench.federation.folder / "incoming").iterdir()] == []
    assert len(list((bench.federation.folder / "refused").iterdir())) == 1, "kept apart"


def test_nothing_is_taken_after_the_deadline_even_before_anyone_noticed_it(bench) -> None:
    number = bench.open(**rules(seconds=60))
    early = bench.announce("early", number, update_file(bench.folder / "early", tensors(1)))
    bench.send(early, (bench.folder / "early").read_bytes())
    bench.clock.pass_by(seconds=60)
    for attempt in (
        lambda: bench.deliver("late", number, tensors(2)),
        lambda: uploads.conclude(bench.federation, "early", early.id),
    ):
        with pytest.raises(Refused) as caught:
            attempt()
        assert caught.value.problem.type == "round-closed"
    assert participation.participate(bench.federation, "another", ASK).plan is None


def test_a_repeat_after_the_round_has_closed_still_gets_its_receipt(bench) -> None:
    number = bench.open(**rules(enough=1))
    receipt = bench.deliver("site-a", number, tensors(1)).receipt
    rounds.advance(bench.federation)
    assert status(bench, number) == "aggregated"
    again = bench.announce("site-a", number, bench.folder / "update")
    assert again.receipt == receipt is not None


def test_one_series_runs_at_a_time(bench) -> None:
    first = bench.open(count=2, **rules())
    bench.deliver("site-a", first, tensors(1))
    for number, outcome in ((first, "aggregated"), (first + 1, "failed")):
        with pytest.raises(UsageError, match=f"Round {number} has not ended") as caught:
            bench.open()
        assert f"round close {number}" in caught.value.mend
        assert rounds.close_now(bench.federation, number).status == outcome
    assert bench.open() == first + 2, "the refused ones left no round behind"


def test_a_round_is_due_until_the_site_has_answered_it(bench) -> None:
    number = bench.open(**rules())

    def due(site: str) -> int | None:
        answer = participation.participate(bench.federation, site, ASK)
        return None if answer.ticket is None else parse(Ticket, _content(answer.ticket)).round

    assert due("site-a") == number
    bench.deliver("site-a", number, tensors(1))
    assert due("site-a") is None, "it has its receipt"
    assert participation.participate(bench.federation, "site-a", ASK).retry_after == participation.SOON
    participation.refuse(bench.federation, "site-b", number, Refusal(reason="policy"))
    assert due("site-b") == number, "who has refused may think again"
    bench.announce("site-b", number, update_file(bench.folder / "unfit", tensors(1, scale=1e9)))
    assert due("site-b") == number, "an upload that was cut off goes on"
    with pytest.raises(Refused):
        bench.deliver("site-b", number, tensors(1, scale=1e9))
    assert due("site-b") is None, "a refused update is final"
    assert due("site-c") == number


def test_receipts_beyond_the_named_sequence_come_with_the_answer(bench) -> None:
    first = bench.open(count=2, **rules(enough=2))
    for number in (first, first + 1):
        bench.deliver("site-a", number, tensors(number))  # the bench uses the round's number as sequence
        bench.deliver("site-b", number, tensors(number))
        rounds.advance(bench.federation)

    def known(site: str, after: int) -> int:
        asked = ParticipationRequest(protocol=1, ledger_sequence=after)
        return len(participation.participate(bench.federation, site, asked).receipts)

    assert [known("site-a", after) for after in (0, 1, 2)] == [2, 1, 0]
    assert known("site-c", 0) == 0


def test_unknown_protocol_is_refused(bench) -> None:
    with pytest.raises(Refused) as caught:
        participation.participate(bench.federation, "a", ParticipationRequest(protocol=2, ledger_sequence=0))
    assert caught.value.problem.type == "protocol-version"


def test_idle_and_latest(bench) -> None:
    assert participation.participate(bench.federation, "site-a", ASK).retry_after == participation.LATER
    for ask in (
        lambda: participation.latest_result(bench.federation),
        lambda: participation.answer(bench.federation, 1),
        lambda: participation.refuse(bench.federation, "site-a", 1, Refusal(reason="window")),
    ):
        with pytest.raises(Refused) as caught:
            ask()
        assert caught.value.problem.status == 404


def test_close_now_follows_the_deadlines_rule(bench) -> None:
    for quorum, outcome in ((1, "aggregated"), (2, "failed")):
        number = bench.open(**rules(quorum=quorum))
        bench.deliver("site-a", number, tensors(1))
        assert rounds.close_now(bench.federation, number).status == outcome
        with pytest.raises(UsageError, match="not open"):
            rounds.close_now(bench.federation, number)
    with pytest.raises(UsageError, match="not open"):
        rounds.close_now(bench.federation, 99)


def test_an_equal_weights_round_adds_the_mean(bench) -> None:
    number = bench.open(**rules(enough=3))
    before = {name: value.copy() for name, value in tensors_of(bench.folder / "model.safetensors").items()}
    for seed, site in enumerate(("site-c", "site-a", "site-b"), start=1):
        bench.deliver(site, number, tensors(seed))
    rounds.advance(bench.federation)
    _assert_model(bench, number, {
        name: before[name] + sum(tensors(seed)[name].astype(np.float64) for seed in (1, 2, 3)) / 3 for name in before
    })  # fmt: skip


def test_declared_weights_are_clamped_by_the_plan(bench) -> None:
    number = bench.open(weights="declared", maximum_weight=4.0, **rules(enough=2))
    before = {name: value.copy() for name, value in tensors_of(bench.folder / "model.safetensors").items()}
    bench.deliver("site-a", number, tensors(1), weight=1.0)
    bench.deliver("site-b", number, tensors(2), weight=1000.0)
    rounds.advance(bench.federation)
    _assert_model(bench, number, {
        name: before[name] + (tensors(1)[name].astype(np.float64) + 4 * tensors(2)[name].astype(np.float64)) / 5
        for name in before
    })  # fmt: skip


def test_weights_are_given_exactly_when_the_plan_declares_them(bench) -> None:
    for weights, weight in (("equal", 1.0), ("declared", None)):
        number = bench.open(weights=weights, **rules())
        with pytest.raises(Refused) as caught:
            bench.deliver("site-a", number, tensors(1), weight=weight)
        assert caught.value.problem.type == "malformed"
        rounds.close_now(bench.federation, number)


def test_float16_updates(bench) -> None:
    number = bench.open(payload="float16", **rules(enough=1))
    before = {name: value.copy() for name, value in tensors_of(bench.folder / "model.safetensors").items()}
    bench.deliver("site-a", number, tensors(1), encoding="float16")
    rounds.advance(bench.federation)
    _assert_model(bench, number, {
        name: before[name] + tensors(1)[name].astype(np.float16).astype(np.float64) for name in before
    })  # fmt: skip


def test_an_aggregation_that_was_interrupted_is_repeated_with_the_same_result(bench, monkeypatch) -> None:
    number = bench.open(count=2, **rules(enough=2))
    for site, seed in (("site-a", 1), ("site-b", 2)):
        bench.deliver(site, number, tensors(seed))
    original = rounds.making.remember

    class PowerCutError(Exception):
        pass

    def cut(*args: object) -> None:
        raise PowerCutError

    monkeypatch.setattr(rounds.making, "remember", cut)
    with pytest.raises(PowerCutError):
        rounds.advance(bench.federation)
    assert status(bench, number) == "closing"
    assert participation.participate(bench.federation, "site-c", ASK).retry_after == participation.SOON
    with pytest.raises(UsageError, match="has not ended"):
        bench.open()
    before = round_report(bench.federation, number)["model_sha256"]
    [written] = [path for path in (bench.federation.folder / "models").iterdir() if path.name != before]
    monkeypatch.setattr(rounds.making, "remember", original)
    rounds.advance(bench.federation)
    report = round_report(bench.federation, number)
    assert (report["status"], report["result_sha256"]) == ("aggregated", written.name)
    assert status(bench, number + 1) == "open"
    rounds.advance(bench.federation)
    with pytest.raises(UsageError):
        round_report(bench.federation, number + 2)


def test_only_one_process_advances(bench) -> None:
    number = bench.open(**rules(enough=1))
    bench.deliver("site-a", number, tensors(1))
    with (bench.federation.folder / "advance.lock").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        rounds.advance(bench.federation)
        assert status(bench, number) == "open"
    rounds.advance(bench.federation)
    assert status(bench, number) == "aggregated"


def test_updates_are_removed_once_they_are_in_the_model(bench) -> None:
    number = bench.open(**rules(enough=1))
    bench.deliver("site-a", number, tensors(1))
    assert len(list((bench.federation.folder / "updates").iterdir())) == 1
    rounds.advance(bench.federation)
    assert list((bench.federation.folder / "updates").iterdir()) == []


def test_models_are_listed_with_their_origin(bench) -> None:
    number = bench.open(**rules(enough=1))
    bench.deliver("site-a", number, {name: np.zeros_like(value) for name, value in tensors().items()})
    rounds.advance(bench.federation)
    [only] = models(bench.federation)
    assert only["round"] is None, "an update of zeros makes the same model again"
    assert find_model(bench.federation, None, number) == find_model(bench.federation, only["sha256"][:6], None)
    for sha256, wanted in ((None, 99), ("zz", None), ("", None)):
        with pytest.raises(UsageError, match="no such model"):
            find_model(bench.federation, sha256, wanted)


def test_what_cannot_be_opened(bench, tmp_path: Path) -> None:
    good = model_file(tmp_path / "good")
    half = model_file(tmp_path / "half")
    half.write_bytes(half.read_bytes()[:-1])
    write_model(tmp_path / "nan", {"a": np.array([1.0, np.nan], dtype=np.float32)})
    update_file(tmp_path / "float16", tensors(), "float16")
    plan = draft(tmp_path)
    for model, error in (
        ("nowhere", SourceMissing), ("half", DataNotFit), ("nan", DataNotFit), ("float16", DataNotFit),
    ):  # fmt: skip
        with pytest.raises(error):
            series.open_series(bench.federation, plan, tmp_path / model, 1)
    with pytest.raises(ConfigurationError, match="other-federation"):
        series.open_series(bench.federation, draft(tmp_path, federation="other-federation"), good, 1)
    with pytest.raises(ConfigurationError, match="expired"):
        series.open_series(bench.federation, draft(tmp_path, expires="2020-01-01T00:00:00Z"), good, 1)
    assert participation.tickets(bench.federation, 0).tickets == []


def _assert_model(bench, number: int, expected: dict[str, np.ndarray]) -> None:
    path = bench.federation.models.path(round_report(bench.federation, number)["result_sha256"])
    found = tensors_of(path)
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value.astype(np.float32))


def _content(envelope) -> bytes:
    return base64.b64decode(envelope.payload)
