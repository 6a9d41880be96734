"""Series: paused, resumed, aborted, stopped by their plan; what a round leaves behind that has made no model."""

import json
from datetime import timedelta

import numpy as np
import pytest
from support.federation import tensors, update_file
from typer.testing import CliRunner

from fedsite.cli import server
from fedsite.cli.output import Output
from fedsite.errors import ConfigurationError, UsageError
from fedsite.server.exchange import participation, uploads
from fedsite.server.problems import Refused
from fedsite.server.rounds import rounds, series, stops
from fedsite.server.rounds.reports import round_report
from fedsite.server.rows import round_of
from fedsite.wire.messages import ParticipationRequest
from fedsite.wire.plans import read_draft

ASK = ParticipationRequest(protocol=1, ledger_sequence=0)
NO_NOISE = {"mechanism": "gaussian-update", "clip_norm": 1.0, "noise_multiplier": 0.0}


def rules(quorum: int = 1, enough: int | None = 1, seconds: int = 60, **more: int) -> dict:
    return {"rounds": {"quorum": quorum, "enough": enough, "deadline_seconds": seconds, **more}}


def play(bench, number: int, *sites: str, scale: float = 0.01) -> None:
    """Some sites take part in a round; without any its deadline goes by."""
    for site in sites:
        bench.deliver(site, number, tensors(ord(site[0]) + number, scale=scale))
    if not sites:
        bench.clock.pass_by(seconds=60)
    rounds.advance(bench.federation)


def standing(bench, number: int) -> tuple[str, str]:
    report = round_report(bench.federation, number)
    return report["status"], report["series"]["state"]


def is_given(bench, site: str) -> bool:
    return participation.participate(bench.federation, site, ASK).plan is not None


def said(*words: object, code: int = 0) -> str:
    """What `fedsite server round WORDS` prints."""
    result = CliRunner().invoke(server.app, ["round", *map(str, words)], obj=Output(command="server"))
    assert result.exit_code == code, result.output
    return result.stdout


# --- after a failed round -------------------------------------------------------------------------------------------


def test_a_failed_round_pauses_its_series_and_a_person_lets_it_go_on(bench) -> None:
    first = bench.open(count=4, **rules())
    play(bench, first, "a")
    play(bench, first + 1)
    assert standing(bench, first + 1) == ("failed", "paused")
    assert round_report(bench.federation, first + 1)["series"]["reason"] == "round 2 failed"
    rounds.advance(bench.federation)
    assert not is_given(bench, "a")
    assert participation.participate(bench.federation, "a", ASK).retry_after == participation.LATER
    row = series.resume(bench.federation)
    assert (row.number, row.place_in_series) == (first + 2, 3)
    assert row.model_sha256 == round_report(bench.federation, first)["result_sha256"]
    assert is_given(bench, "a")
    play(bench, first + 2, "a")
    play(bench, first + 3)
    assert standing(bench, first + 3) == ("failed", "ended"), "no round is left"


def test_a_series_outlives_the_failed_rounds_that_its_plan_allows(bench) -> None:
    first = bench.open(count=9, stop={"failed_rounds": 2}, **rules())
    play(bench, first)
    assert standing(bench, first) == ("failed", "running")
    play(bench, first + 1, "a")
    play(bench, first + 2)
    play(bench, first + 3)
    assert standing(bench, first + 3) == ("failed", "paused")
    assert round_report(bench.federation, first)["series"]["reason"] == "round 4 failed, number 2 in a row"
    play(bench, series.resume(bench.federation).number)
    assert standing(bench, first + 4) == ("failed", "paused"), "nobody came again"


@pytest.mark.parametrize(
    "how",
    [
        {"server_momentum": 0.9},
        {"server_adam": {"learning_rate": 0.1}},
        {
            "algorithm": "scaffold",
            "local": {"steps": 5, "patch_voxels": [16, 16, 16], "optimizer": "sgd", "momentum": 0.0},
        },
    ],
    ids=["momentum", "adam", "scaffold"],
)
def test_what_a_series_remembers_outlives_a_round_without_a_model(bench, how: dict) -> None:
    """Velocity, moments and control are those of the last model, as if the failed round had not been."""
    made = []
    for fails in (False, True):
        stop = {"failed_rounds": 2}
        number = bench.open(count=5 if fails else 3, plan=f"plan-{fails}".lower(), stop=stop, **how, **rules())
        for place in range(3):
            bench.deliver("aba"[place], number, tensors(place, scale=0.01))
            rounds.advance(bench.federation)
            last, number = number, number + 1
            if fails and place < 2:
                play(bench, number)
                number += 1
        with bench.federation.database.reading() as session:
            row = round_of(session, last)
        made.append((row.result_sha256, row.control_sha256))
    assert made[0] == made[1]


def test_under_scaffold_a_series_ends_with_updates_that_are_in_no_model(bench) -> None:
    local = {"steps": 5, "patch_voxels": [16, 16, 16], "optimizer": "sgd", "momentum": 0.0}
    number = bench.open(count=5, algorithm="scaffold", local=local, stop={"failed_rounds": 9}, **rules(2, None))
    bench.deliver("a", number, tensors(1, scale=0.01))
    with pytest.raises(UsageError, match="no update can be left out"):
        rounds.close_now(bench.federation, number, ["a"])
    play(bench, number)
    assert standing(bench, number) == ("failed", "ended")
    with pytest.raises(UsageError, match="into their controls"):
        series.resume(bench.federation)


def test_updates_of_the_newest_rounds_without_a_model_are_kept(bench) -> None:
    first = bench.open(count=9, stop={"failed_rounds": 9}, **rules(quorum=2, enough=None))
    kept = []
    for number in range(first, first + 5):
        kept.append(bench.deliver("a", number, tensors(number)).id)
        play(bench, number)
        assert {path.name for path in (bench.federation.folder / "updates").iterdir()} == set(kept[-3:])


# --- pause and resume -----------------------------------------------------------------------------------------------


def test_a_paused_series_lets_its_open_round_end_for_those_who_have_it(bench) -> None:
    first = bench.open(count=3, **rules(quorum=1, enough=None))
    assert is_given(bench, "early")
    assert series.pause(bench.federation, after_this_round=False).withheld
    assert is_given(bench, "early"), "it may have paid"
    assert not is_given(bench, "late")
    assert participation.participate(bench.federation, "late", ASK).retry_after == participation.LATER
    series.pause(bench.federation, after_this_round=True)
    assert is_given(bench, "late"), "one may change one's mind"
    play(bench, first, "early")
    play(bench, first)
    assert standing(bench, first) == ("aggregated", "paused")
    assert len(participation.tickets(bench.federation, 0).tickets) == 1
    with pytest.raises(UsageError, match="paused already: paused by the coordinator") as refused:
        series.pause(bench.federation, after_this_round=False)
    assert "round resume" in refused.value.mend
    row = series.resume(bench.federation)
    assert row.model_sha256 == round_report(bench.federation, first)["result_sha256"]
    assert is_given(bench, "late")


def test_resumed_in_its_round_a_series_goes_on_as_if_nothing_had_been(bench) -> None:
    first = bench.open(count=2, **rules())
    series.pause(bench.federation, after_this_round=False)
    assert series.resume(bench.federation).number == first
    assert is_given(bench, "a")
    play(bench, first, "a")
    assert standing(bench, first + 1) == ("open", "running")


def test_what_cannot_be_paused_or_resumed(bench) -> None:
    for change in (
        lambda: series.pause(bench.federation, after_this_round=True),
        lambda: series.resume(bench.federation),
    ):
        with pytest.raises(UsageError, match="ever opened"):
            change()
    number = bench.open(**rules())
    with pytest.raises(UsageError, match="not paused"):
        series.resume(bench.federation)
    play(bench, number, "a")
    for change in (
        lambda: series.pause(bench.federation, after_this_round=True),
        lambda: series.resume(bench.federation),
    ):
        with pytest.raises(UsageError, match="ended already: all of its rounds are over"):
            change()


def test_an_expired_plan_is_not_resumed(bench) -> None:
    expires = (bench.clock.now + timedelta(seconds=90)).isoformat()
    play(bench, bench.open(count=5, expires=expires, **rules()))
    bench.clock.pass_by(seconds=60)
    with pytest.raises(UsageError, match="plan has expired"):
        series.resume(bench.federation)


def test_a_paused_series_ends_where_another_one_is_opened(bench) -> None:
    first = bench.open(count=3, **rules())
    play(bench, first)
    second = bench.open(plan="another", **rules())
    assert standing(bench, first) == ("failed", "ended")
    assert standing(bench, second) == ("open", "running")


# --- abort ----------------------------------------------------------------------------------------------------------


def test_an_aborted_round_keeps_its_updates_apart_and_pauses_the_series(bench) -> None:
    number = bench.open(count=3, **rules(enough=None))
    bench.deliver("here", number, tensors(1))
    bench.announce("begun", number, update_file(bench.folder / "half", tensors(2)))
    row = rounds.abort(bench.federation, number, "wrong cases")
    assert (row.status, row.reason) == ("aborted", "aborted by the coordinator: wrong cases")
    report = round_report(bench.federation, number)
    assert [one["site"] for one in report["took_part"]] == ["here"]
    assert [one["site"] for one in report["late"]] == ["begun"]
    assert (report["result_sha256"], report["series"]["reason"]) == (None, "round 1 was aborted")
    assert len(list((bench.federation.folder / "updates").iterdir())) == 1
    assert list((bench.federation.folder / "incoming").iterdir()) == []
    assert participation.answer(bench.federation, number).status == "failed", "the word that a site knows"
    with pytest.raises(Refused):
        bench.deliver("begun", number, tensors(2))
    assert series.resume(bench.federation).model_sha256 == report["model_sha256"]
    with pytest.raises(UsageError, match="not under way"):
        rounds.abort(bench.federation, number, "again")


@pytest.mark.parametrize("status", ["held", "closing"])
def test_a_round_is_aborted_from_anywhere_before_its_end(bench, monkeypatch, status: str) -> None:
    class PowerCutError(Exception):
        pass

    def cut(*args: object) -> None:
        raise PowerCutError

    number = bench.open(
        screen={"rule": "hold" if status == "held" else "flag"}, privacy=NO_NOISE, **rules(quorum=3, enough=4)
    )
    if status == "closing":
        monkeypatch.setattr(rounds.making, "make", cut)
    common = tensors(9, scale=0.01)
    for site, sign in (("a", 1), ("b", 1), ("c", 1), ("mallory", -1)):
        bench.deliver(site, number, {name: np.float32(sign) * values for name, values in common.items()})
    if status == "closing":
        with pytest.raises(PowerCutError):
            rounds.advance(bench.federation)
    else:
        rounds.advance(bench.federation)
    assert standing(bench, number)[0] == status
    assert rounds.abort(bench.federation, number, "no").reason.endswith("; aborted by the coordinator: no")
    monkeypatch.undo()
    rounds.advance(bench.federation)
    assert standing(bench, number) == ("aborted", "ended")


def test_the_commands_say_what_happened_and_ask(bench) -> None:
    number, folder = bench.open(count=3, **rules(enough=None)), bench.federation.folder
    bench.deliver("site-a", number, tensors(1))
    is_given(bench, "site-b")
    assert "for those sites alone that have had it" in said("pause", "--dir", folder)
    assert f"The series runs: round {number}, 1 of 3." in said("resume", "--dir", folder)
    abort = ("abort", number, "--reason", "wrong cases", "--dir", folder)
    assert said(*abort, code=1) == "", "not without --yes, where there is no terminal"
    for reason in (" ", "two\nlines", "x" * 201):
        said("abort", number, "--reason", reason, "--yes", "--dir", folder, code=1)
    assert standing(bench, number) == ("open", "running")
    result = CliRunner().invoke(server.app, ["round", *map(str, abort), "--yes"], obj=Output(command="server"))
    assert "Updates of site-a are here, and 1 more sites have had the round" in result.stderr
    assert "aborted by the coordinator: wrong cases" in result.stdout
    for shown in (said("list", "--dir", folder), said("show", number, "--dir", folder)):
        assert "is paused since" in shown
        assert "round 1 was aborted.\nTo go on: fedsite server round resume" in shown


# --- stopped by the plan --------------------------------------------------------------------------------------------


def test_small_steps_end_a_series(bench) -> None:
    small = {"small_steps": {"norm_below": 1.0, "rounds": 2}}
    first = bench.open(count=9, stop=small, privacy=NO_NOISE, **rules())
    for place, scale in enumerate((0.001, 1.0, 0.001, 0.001)):
        play(bench, first + place, "a", scale=scale)
    report = round_report(bench.federation, first + 3)
    assert (report["status"], report["series"]["state"]) == ("aggregated", "ended")
    assert report["series"]["reason"] == "its model moved by less than 1 in each of its last 2 rounds"
    assert report["step"]["judged"] == "informative"
    update = tensors(ord("a") + first + 3, scale=0.001)
    expected = np.sqrt(sum(float((values.astype(np.float64) ** 2).sum()) for values in update.values()))
    assert report["step"]["norm"] == pytest.approx(expected, rel=1e-3)
    assert report["step"]["values"] == sum(values.size for values in update.values())


def test_steps_of_noise_end_nothing_and_say_so(bench) -> None:
    small = {"small_steps": {"norm_below": 1000.0, "rounds": 1}}
    first = bench.open(count=9, stop=small, **rules())
    play(bench, first, "a")
    report = round_report(bench.federation, first)
    assert (report["status"], report["series"]["state"]) == ("aggregated", "running")
    assert report["step"]["judged"].startswith("uninformative: the noise in the mean of 1 updates has 3.")
    plan = read_draft(bench.folder / "plan.yaml")
    assert stops.outlook(plan, 1345) is not None
    assert stops.outlook(plan, 1345).startswith("stop: steps are not judged")
    assert stops.outlook(plan, 10) == "stop: small steps end the series"


def test_steps_of_one_size_are_no_rule(bench) -> None:
    small = {"small_steps": {"norm_below": 1.0, "rounds": 2}}
    with pytest.raises(ConfigurationError, match=r"stop\.small_steps: not with server_adam"):
        bench.open(stop=small, server_adam={"learning_rate": 0.1}, **rules())


# --- late, in time, left out ----------------------------------------------------------------------------------------


def test_an_upload_that_has_begun_may_end_within_the_grace(bench) -> None:
    number = bench.open(**rules(enough=None, grace_seconds=30))
    file = update_file(bench.folder / "u", tensors(1))
    for site in ("quick", "slow"):
        bench.send(bench.announce(site, number, file), file.read_bytes())
    bench.clock.pass_by(seconds=60)
    rounds.advance(bench.federation)
    assert standing(bench, number)[0] == "open"
    assert round_report(bench.federation, number)["at_work"] == [{"site": "quick"}, {"site": "slow"}]
    assert not is_given(bench, "another"), "the time to begin is over"
    with pytest.raises(Refused):
        bench.announce("another", number, file)
    bench.clock.pass_by(seconds=29)
    quick, slow = (bench.announce(site, number, file) for site in ("quick", "slow"))
    assert uploads.conclude(bench.federation, "quick", quick.id).receipt
    rounds.advance(bench.federation)
    assert standing(bench, number)[0] == "open"
    bench.clock.pass_by(seconds=1)
    with pytest.raises(Refused):
        uploads.conclude(bench.federation, "slow", slow.id)
    rounds.advance(bench.federation)
    report = round_report(bench.federation, number)
    assert (report["status"], [one["site"] for one in report["took_part"]]) == ("aggregated", ["quick"])
    assert [(one["site"], one["reason"]) for one in report["late"]] == [
        ("another", "it was announced after the round had closed"),
        ("slow", "its last byte came after the round had closed"),
    ]


def test_the_grace_ends_at_once_when_nothing_more_arrives_and_with_the_plan(bench) -> None:
    number = bench.open(**rules(enough=None, grace_seconds=30))
    file = update_file(bench.folder / "u", tensors(1))
    bench.send(bench.announce("slow", number, file), file.read_bytes())
    bench.clock.pass_by(seconds=61)
    uploads.conclude(bench.federation, "slow", bench.announce("slow", number, file).id)
    rounds.advance(bench.federation)
    assert standing(bench, number)[0] == "aggregated"
    expires = (bench.clock.now + timedelta(seconds=10)).isoformat()
    number = bench.open(expires=expires, **rules(enough=None, grace_seconds=30))
    bench.announce("slow", number, file)
    bench.clock.pass_by(seconds=10)
    rounds.advance(bench.federation)
    assert standing(bench, number)[0] == "failed"


def test_a_person_leaves_out_what_was_accepted(bench) -> None:
    number = bench.open(**rules(enough=None))
    for site in ("a", "b"):
        bench.deliver(site, number, tensors(1))
    with pytest.raises(UsageError, match="no update of nobody"):
        rounds.close_now(bench.federation, number, ["nobody"])
    assert standing(bench, number)[0] == "open"
    assert rounds.close_now(bench.federation, number, ["b"]).status == "aggregated"
    report = round_report(bench.federation, number)
    assert [(one["site"], one["reason"]) for one in report["left_out"]] == [("b", "left out by the coordinator")]
    assert (report["updates"], [one["site"] for one in report["took_part"]]) == (1, ["a"])
    assert "1 updates, quorum 1" in report["reason"]


# --- cut off --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["aggregated", "failed", "aborted"])
def test_a_round_ends_with_what_follows_it_or_not_at_all(bench, monkeypatch, end: str) -> None:
    class PowerCutError(Exception):
        pass

    def cut(*args: object) -> None:
        raise PowerCutError

    number = bench.open(count=2, stop={"failed_rounds": 2}, **rules(quorum=1 if end == "aggregated" else 2, enough=2))
    for site in "ab" if end == "aggregated" else "a":
        bench.deliver(site, number, tensors(1))

    def go_on() -> None:
        if end == "aborted":
            rounds.abort(bench.federation, number, "no")
        elif end == "failed":
            bench.clock.pass_by(seconds=60)
        rounds.advance(bench.federation)

    with monkeypatch.context() as patch:
        patch.setattr(rounds.series, "go_on", cut)
        with pytest.raises(PowerCutError):
            go_on()
    assert standing(bench, number) == ("closing" if end == "aggregated" else "open", "running")
    go_on()
    assert standing(bench, number) == (end, "paused" if end == "aborted" else "running")
    rounds.advance(bench.federation)
    assert len(participation.tickets(bench.federation, 0).tickets) == (1 if end == "aborted" else 2)
    assert json.dumps(round_report(bench.federation, number))
