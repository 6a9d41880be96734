"""A round under a screen: flagged, held for a person, left out; every wait ends, and nothing of it is silent."""

import base64
import json

import numpy as np
import pytest
from support.federation import tensors
from typer.testing import CliRunner

from fedsite.cli import server
from fedsite.cli.output import Output
from fedsite.errors import ConfigurationError, UsageError
from fedsite.server.exchange import participation
from fedsite.server.rounds import rounds
from fedsite.server.rounds.reports import round_report
from fedsite.wire.messages import ParticipationRequest
from fedsite.wire.payload import tensors_of

ASK = ParticipationRequest(protocol=1, ledger_sequence=0)
NO_NOISE = {"mechanism": "gaussian-update", "clip_norm": 1.0, "noise_multiplier": 0.0}
HONEST = ("a", "b", "c", "d", "e")


def opened(bench, rule: str, count: int = 1, quorum: int = 3, **changes: object) -> int:
    given = {
        "screen": {"rule": rule, "hold_seconds": 3600},
        "rounds": {"quorum": quorum, "enough": 6, "deadline_seconds": 600},
        "privacy": NO_NOISE,
    }
    return bench.open(count=count, **given | changes)


def update(site: str) -> dict[str, np.ndarray]:
    """What the honest have in common, and something of each one's own."""
    common, own = tensors(100, scale=0.01), tensors(HONEST.index(site), scale=0.005)
    return {name: values + own[name] for name, values in common.items()}


def play(bench, number: int, poisoned: float = -1.0) -> None:
    """Five honest sites and `mallory`, who sends the opposite of what the first has."""
    for site in HONEST:
        bench.deliver(site, number, update(site))
    bench.deliver("mallory", number, {name: np.float32(poisoned) * values for name, values in update("a").items()})
    rounds.advance(bench.federation)


def result_is_mean_of(bench, number: int, sites: tuple[str, ...]) -> bool:
    report = round_report(bench.federation, number)
    model, made = (tensors_of(bench.federation.models.path(report[key])) for key in ("model_sha256", "result_sha256"))
    return all(
        np.allclose(made[name], before + np.mean([update(site)[name] for site in sites], axis=0), atol=1e-6)
        for name, before in model.items()
    )


def said(*words: object) -> str:
    """What `fedsite server WORDS` prints."""
    result = CliRunner().invoke(server.app, [str(word) for word in words], obj=Output(command="server"))
    assert result.exit_code == 0, result.output
    return result.stdout


def everybody(report: dict) -> set[str]:
    return {one["site"] for one in report["took_part"]} | {one["site"] for one in report["left_out"]}


def test_flag_names_it_and_goes_on(bench) -> None:
    number = opened(bench, "flag")
    play(bench, number)
    report = round_report(bench.federation, number)
    assert (report["status"], report["updates"], report["left_out"]) == ("aggregated", 6, [])
    assert report["screen"]["findings"].keys() == {"mallory"}
    assert report["screen"]["updates"].keys() == {*HONEST, "mallory"}
    assert not result_is_mean_of(bench, number, HONEST)


def test_drop_leaves_it_out_and_says_so(bench) -> None:
    number = opened(bench, "drop", count=2)
    play(bench, number)
    report = round_report(bench.federation, number)
    assert (report["status"], report["updates"]) == ("aggregated", 5)
    assert [(one["site"], one["reason"]) for one in report["left_out"]] == [("mallory", "dropped by the plan's screen")]
    assert everybody(report) == {*HONEST, "mallory"}
    assert report["reason"].endswith("; dropped by the plan's screen: without mallory, 5 updates")
    assert result_is_mean_of(bench, number, HONEST)
    latest = participation.latest_result(bench.federation)
    assert json.loads(base64.b64decode(latest.payload))["contributions"] == 5
    assert participation.participate(bench.federation, "mallory", ASK).plan is not None, "it may take part again"


def test_a_round_that_loses_its_quorum_fails(bench) -> None:
    number = opened(bench, "drop", quorum=6)
    play(bench, number)
    report = round_report(bench.federation, number)
    assert (report["status"], report["result_sha256"]) == ("failed", None)
    assert report["reason"].endswith("without mallory, 5 updates")
    assert [one["site"] for one in report["left_out"]] == ["mallory"]
    assert len(list((bench.federation.folder / "updates").iterdir())) == 6, "a failed round's updates are kept"


@pytest.mark.parametrize("rule", ["flag", "hold", "drop"])
def test_without_anything_conspicuous_the_round_goes_on(bench, rule: str) -> None:
    number = opened(bench, rule)
    play(bench, number, poisoned=1.0)
    report = round_report(bench.federation, number)
    assert (report["status"], report["updates"]) == ("aggregated", 6)
    assert report["screen"]["findings"] == {}
    assert report["screen"]["cosine"] == "informative"


def test_a_plan_without_a_screen_has_none(bench) -> None:
    number = bench.open(rounds={"quorum": 1, "enough": 6, "deadline_seconds": 600})
    play(bench, number)
    assert round_report(bench.federation, number)["screen"] is None


# --- held -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def held(bench) -> int:
    number = opened(bench, "hold", count=2)
    play(bench, number)
    assert round_report(bench.federation, number)["status"] == "held"
    return number


def test_a_held_round_waits_and_says_until_when(bench, held: int) -> None:
    bench.clock.pass_by(seconds=3599)
    rounds.advance(bench.federation)
    report = round_report(bench.federation, held)
    assert (report["status"], report["updates"], report["screen"]["decision"]) == ("held", 6, "")
    assert report["screen"]["held_until"] is not None
    answer = participation.answer(bench.federation, held)
    assert answer.status == "closing", "the word that a site knows"
    asked = participation.participate(bench.federation, "somebody", ASK)
    assert (asked.plan, asked.retry_after) == (None, participation.LATER)
    assert len(list((bench.federation.folder / "updates").iterdir())) == 6
    with pytest.raises(UsageError, match="has not ended") as refused:
        bench.open()
    assert f"round release {held}" in refused.value.mend
    with pytest.raises(UsageError, match="held by its screen") as refused:
        rounds.close_now(bench.federation, held)
    assert f"round release {held}" in refused.value.mend


def test_nobody_decides_in_time(bench, held: int) -> None:
    bench.clock.pass_by(seconds=3600)
    rounds.advance(bench.federation)
    report = round_report(bench.federation, held)
    assert report["status"] == "aggregated"
    assert [(one["site"], one["reason"]) for one in report["left_out"]] == [("mallory", "nobody has decided in time")]
    assert result_is_mean_of(bench, held, HONEST)
    assert round_report(bench.federation, held + 1)["status"] == "open"


def test_a_person_lets_everything_in(bench, held: int) -> None:
    assert rounds.release(bench.federation, held, []).status == "aggregated"
    report = round_report(bench.federation, held)
    assert (report["updates"], report["left_out"]) == (6, [])
    assert report["screen"]["decision"] == "released by the coordinator"
    assert "without nobody" in report["reason"]


def test_a_person_leaves_some_out(bench, held: int) -> None:
    rounds.release(bench.federation, held, ["mallory", "e", "mallory"])
    report = round_report(bench.federation, held)
    assert [one["site"] for one in report["left_out"]] == ["e", "mallory"]
    assert result_is_mean_of(bench, held, HONEST[:-1])


def test_a_person_leaves_too_many_out(bench, held: int) -> None:
    assert rounds.release(bench.federation, held, ["a", "b", "c", "d"]).status == "failed"
    with pytest.raises(UsageError, match="no round"):
        round_report(bench.federation, held + 1)


def test_what_cannot_be_released(bench, held: int) -> None:
    with pytest.raises(UsageError, match="no update of nobody"):
        rounds.release(bench.federation, held, ["a", "nobody"])
    assert round_report(bench.federation, held)["status"] == "held"
    rounds.release(bench.federation, held, [])
    for number in (held, held + 1, 99):
        with pytest.raises(UsageError, match="not held"):
            rounds.release(bench.federation, number, [])


def test_the_command_shows_all_of_it_and_releases(bench, held: int) -> None:
    folder = bench.federation.folder
    shown = said("round", "show", held, "--dir", folder)
    [mallory] = [line for line in shown.splitlines() if line.startswith("    mallory ")]
    assert "conspicuous: its cosine to the median of the others is -0." in mallory
    for word in ("hold; norms and outliers judged; cosines judged", "held until", f"round release {held} [--without"):
        assert word in shown, word
    shown = said("round", "release", held, "--without", "mallory", "--dir", folder)
    assert ": aggregated\n" in shown
    assert "left out       mallory (released by the coordinator)" in shown


# --- cut off --------------------------------------------------------------------------------------------------------


class PowerCutError(Exception):
    pass


@pytest.mark.parametrize("rule", ["drop", "hold", "flag"])
@pytest.mark.parametrize("where", ["screen.examine", "making.make", "making.remember"])
def test_a_power_cut_changes_nothing(bench, monkeypatch, rule: str, where: str) -> None:
    """Before the verdict is durable it is made again; once it is, nobody looks a second time."""
    module, name = where.split(".")
    place = getattr(rounds, module)
    original, looked = getattr(place, name), []

    def cut(*args: object) -> None:
        raise PowerCutError

    number = opened(bench, rule, count=2)
    monkeypatch.setattr(place, name, cut)
    if rule == "hold" and where != "screen.examine":
        play(bench, number)
        with pytest.raises(PowerCutError):
            rounds.release(bench.federation, number, ["mallory"])
    else:
        with pytest.raises(PowerCutError):
            play(bench, number)
    assert round_report(bench.federation, number)["status"] == "closing"
    monkeypatch.setattr(place, name, original)
    examine = rounds.screen.examine
    monkeypatch.setattr(rounds.screen, "examine", lambda *args: (looked.append(1), examine(*args))[1])
    rounds.advance(bench.federation)
    if round_report(bench.federation, number)["status"] == "held":
        rounds.release(bench.federation, number, ["mallory"])
    report = round_report(bench.federation, number)
    assert report["status"] == "aggregated"
    assert len(looked) == (where == "screen.examine")
    assert (rule == "flag") != result_is_mean_of(bench, number, HONEST)
    assert round_report(bench.federation, number + 1)["status"] == "open"


# --- before it opens ------------------------------------------------------------------------------------------------


def test_a_norm_bound_below_honest_noise_is_refused_before_sites_hear_of_it(bench) -> None:
    privacy = {"mechanism": "gaussian-update", "clip_norm": 1.0, "noise_multiplier": 2.0}
    with pytest.raises(ConfigurationError, match=r"max_update_norm: 50 is below") as refused:
        bench.open(privacy=privacy, max_update_norm=50.0)
    least = float(refused.value.mend.removeprefix("Set it to ").removesuffix(" or more."))
    assert participation.tickets(bench.federation, 0).tickets == []
    with pytest.raises(ConfigurationError):
        bench.open(privacy=privacy, max_update_norm=round(least - 0.002, 3))
    assert bench.open(privacy=privacy, max_update_norm=least) == 1
