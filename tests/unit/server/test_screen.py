"""What the screen measures, what it calls conspicuous, and when it says that it cannot tell."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.federation import dp_sgd, draft, update_file

from fedsite.server.rounds import aggregation, screen
from fedsite.server.rounds.screen import Measured
from fedsite.wire.payload import layout_of
from fedsite.wire.plans import PlanDraft
from fedsite.wire.server_rules import Screen

UPDATE = {"mechanism": "gaussian-update", "clip_norm": 1.0, "noise_multiplier": 0.0}
DROP = Screen(rule="drop")


def files(folder: Path, sent: np.ndarray) -> dict[str, Path]:
    return {
        f"site-{place}": update_file(folder / f"{place}", {"a": values.astype(np.float32)})
        for place, values in enumerate(sent)
    }


def examined(folder: Path, sent: np.ndarray, rules: Screen = DROP, **changes: Any) -> screen.Verdict:
    updates = files(folder, sent)
    return screen.examine(updates, layout_of(next(iter(updates.values()))), draft(folder, **changes), rules)


def honest(sites: int, values: int, seed: int = 0, spread: float = 1.0) -> np.ndarray:
    """Updates that share a direction of norm 1, and differ from it by random ones of norm `spread`."""
    drawn = np.random.default_rng(seed)
    common = drawn.normal(size=values) / math.sqrt(values)
    return common + spread * drawn.normal(size=(sites, values)) / math.sqrt(values)


# --- measuring ------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    sites=st.integers(1, 7),
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(["normal", "ties", "zeros", "one zero"]),
)
def test_against_numpy(tmp_path_factory: pytest.TempPathFactory, sites: int, seed: int, kind: str) -> None:
    """Norm, cosine to the median of the others (of two others to either), and outliers; ties and zeros included."""
    drawn = np.random.default_rng(seed)
    sent = drawn.normal(size=(sites, 57)).astype(np.float32).astype(np.float64)
    sent = {"ties": np.rint(sent), "zeros": 0 * sent, "normal": sent}.get(kind, sent * (np.arange(sites) > 0)[:, None])
    updates = files(tmp_path_factory.getbasetemp(), sent)
    found, moved = screen.measure(list(updates.values()), layout_of(updates["site-0"]))
    assert moved == sent.any(axis=0).sum()
    middle = np.median(sent, axis=0)
    far = 3.5 * 1.4826 * np.median(np.abs(sent - middle), axis=0)
    for place, one in enumerate(found):
        assert one.norm == pytest.approx(np.linalg.norm(sent[place]))
        others = np.delete(sent, place, axis=0)
        known = [np.median(others, axis=0)] if len(others) > 2 else list(others)
        with np.errstate(invalid="ignore"):
            cosines = [sent[place] @ rest / np.linalg.norm(sent[place]) / np.linalg.norm(rest) for rest in known]
        best = max((cosine for cosine in cosines if np.isfinite(cosine)), default=None)
        assert one.cosine == (best if best is None else pytest.approx(best, abs=1e-12))
        assert one.outliers == pytest.approx((np.abs(sent[place] - middle) > far).mean(), abs=1e-12)


def test_slices_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    updates = files(tmp_path, honest(5, 4000))
    layout = layout_of(updates["site-0"])
    whole, moved = screen.measure(list(updates.values()), layout)
    monkeypatch.setattr(aggregation, "STACK", 5 * 333)
    sliced, also = screen.measure(list(updates.values()), layout)
    assert also == moved == 4000
    for one, other in zip(sliced, whole, strict=True):
        assert (one.norm, one.cosine) == pytest.approx((other.norm, other.cosine), rel=1e-12)
        assert one.outliers == other.outliers


# --- judging --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sites", [3, 4, 5, 16])
@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_the_honest_are_left_alone(tmp_path: Path, sites: int, spread: float) -> None:
    verdict = examined(tmp_path, honest(sites, 20_000, spread=spread), privacy=UPDATE)
    assert verdict["findings"] == {}
    assert (verdict["cosine"], verdict["others"]) == ("informative", "informative")


ATTACKS = {
    "the other way": lambda own, rest: -own,
    "the other way, loudly": lambda own, rest: -10 * own,
    "magnified": lambda own, rest: 10 * own,
    "against the mean of the others": lambda own, rest: -rest.mean(axis=0),
    "noise of another size": lambda own, rest: np.random.default_rng(9).normal(size=own.size),
    "a few huge values": lambda own, rest: np.where(np.arange(own.size) < 10, 5.0, own),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("sites", [3, 4, 5, 10])
def test_the_poisoned_one_stands_out_and_nobody_else(tmp_path: Path, attack: str, sites: int) -> None:
    sent = honest(sites, 20_000, seed=sites)
    sent[1] = ATTACKS[attack](sent[1], np.delete(sent, 1, axis=0))
    verdict = examined(tmp_path, sent, privacy=UPDATE)
    assert screen.conspicuous(verdict) == ["site-1"]
    assert all(reason.startswith(("its norm", "its cosine", "1")) or "outliers" in reason
               for reason in verdict["findings"]["site-1"])  # fmt: skip


@pytest.mark.parametrize("sites", [6, 9])
def test_poisoned_ones_that_agree_stand_out_as_long_as_they_are_less_than_half_of_the_others(
    tmp_path: Path, sites: int
) -> None:
    sent = honest(sites, 20_000, seed=2)
    several = (sites - 2) // 2
    sent[:several] = -sent[several:].mean(axis=0)
    verdict = examined(tmp_path, sent, privacy=UPDATE)
    assert screen.conspicuous(verdict) == [f"site-{place}" for place in range(several)]


def test_outliers_are_told_where_norm_and_cosine_are_not(tmp_path: Path) -> None:
    """Most values far from what all others agree on, few of them large."""
    drawn = np.random.default_rng(0)
    common = drawn.normal(size=5_000)
    sent = common + 0.01 * drawn.normal(size=(5, 5_000))
    sent[2] += 0.3 * np.sign(drawn.normal(size=5_000))
    verdict = examined(tmp_path, sent, privacy=UPDATE)
    assert [reason.split(" of ", 1)[1] for reason in verdict["findings"]["site-2"]] == ["its values are outliers"]
    assert screen.conspicuous(verdict) == ["site-2"]


def test_what_nobody_can_see_is_not_claimed(tmp_path: Path) -> None:
    """An attack that stays within the spread of the others (Baruch et al. 2019, A Little Is Enough) goes through."""
    sent = honest(6, 20_000)
    rest = np.delete(sent, 0, axis=0)
    sent[0] = rest.mean(axis=0) - 0.3 * rest.std(axis=0)
    assert examined(tmp_path, sent, privacy=UPDATE)["findings"] == {}


def test_the_plans_thresholds_are_those_that_judge(tmp_path: Path) -> None:
    sent = honest(5, 20_000)
    sent[1] *= 2
    assert examined(tmp_path, sent, privacy=UPDATE)["findings"] == {}
    for rules, word in (
        (Screen(rule="flag", largest_norm=1.9), "norm"),
        (Screen(rule="flag", least_cosine=0.99), "cosine"),
        (Screen(rule="flag", most_outliers=0.01), "outliers"),
    ):
        assert word in examined(tmp_path, sent, rules, privacy=UPDATE)["findings"]["site-1"][0]


@pytest.mark.parametrize("sites", [1, 2])
def test_of_fewer_than_three_nobody_stands_out(tmp_path: Path, sites: int) -> None:
    sent = honest(sites, 1000)
    sent[0] *= 1e6
    verdict = examined(tmp_path, sent, privacy=UPDATE)
    assert verdict["findings"] == {}
    assert verdict["cosine"].startswith("uninformative: it takes 3 updates")
    assert verdict["others"].startswith("uninformative: it takes 3 updates")


def test_updates_of_nothing_are_not_conspicuous(tmp_path: Path) -> None:
    verdict = examined(tmp_path, np.zeros((4, 50)), privacy=UPDATE)
    assert (verdict["findings"], verdict["cosine"]) == ({}, "uninformative: the updates hold nothing but zeros")
    assert verdict["updates"]["site-0"] == {"norm": 0.0, "cosine": None, "outliers": 0.0}


# --- where noise dominates ------------------------------------------------------------------------------------------


def plan_with(folder: Path, noise: float) -> PlanDraft:
    return draft(folder, privacy=UPDATE | {"noise_multiplier": noise})


@pytest.mark.parametrize("sites", [3, 4, 9])
@pytest.mark.parametrize("ratio", [0.003, 0.03])
def test_the_expected_cosine_is_that_of_a_simulation(sites: int, ratio: float) -> None:
    """All signals alike and of norm 1, noise of `ratio` on each value; of few sites the formula is a little low."""
    drawn, values = np.random.default_rng(3), 20_000
    signal = np.zeros(values)
    signal[:] = 1 / math.sqrt(values)
    cosines = []
    for _ in range(4):
        sent = signal + ratio * drawn.normal(size=(sites, values))
        rest = sent[1] if sites == 3 else np.median(sent[1:], axis=0)
        cosines.append(sent[0] @ rest / np.linalg.norm(sent[0]) / np.linalg.norm(rest))
    expected = screen.expected_cosine(ratio, values, sites)
    assert np.mean(cosines) == pytest.approx(expected, rel=0.25, abs=3 / math.sqrt(4 * values))
    assert np.mean(cosines) > expected - 2.5 / math.sqrt(4 * values)


def test_two_directions_of_chance_have_a_cosine_of_one_over_the_root(tmp_path: Path) -> None:
    drawn, cosines = np.random.default_rng(0), []
    for _ in range(12):
        updates = files(tmp_path, drawn.normal(size=(5, 900)))
        found, _ = screen.measure(list(updates.values()), layout_of(tmp_path / "0"))
        cosines += [one.cosine for one in found]
    assert np.std(np.array(cosines, float)) * 30 == pytest.approx(1, rel=0.2)


def test_what_is_frozen_hides_no_direction(tmp_path: Path) -> None:
    """Under dp-sgd only what learns is noised: a head of 500 values among 50,000 has directions that can be seen."""
    drawn, noise = np.random.default_rng(5), {"steps": 4, "patch_voxels": [16, 16, 16], "train": "head"}
    sent = np.zeros((6, 50_000))
    signal = drawn.normal(size=500) / math.sqrt(500)
    sent[:, :500] = signal + 0.05 * drawn.normal(size=(6, 500))
    sent[3, :500] -= 2 * signal
    asked = {"privacy": dp_sgd(noise_multiplier=0.2, batch_patients=2), "local": noise, "screen": {"rule": "drop"}}
    verdict = examined(tmp_path, sent, **asked)
    assert verdict["cosine"] == "informative"
    assert screen.conspicuous(verdict) == ["site-3"]
    assert "uninformative" in str(examined(tmp_path, sent + 1e-9 * drawn.normal(size=sent.shape), **asked)["cosine"])
    assert screen.outlook(draft(tmp_path, **asked), 50_000) is None, "the server does not know what a head is"


@pytest.mark.parametrize(("noise", "told"), [(0.0, True), (0.02, True), (0.05, False), (8.0, False)])
def test_an_update_of_the_opposite_direction_is_told_just_where_cosines_are_informative(
    tmp_path: Path, noise: float, told: bool
) -> None:
    """The strongest signals that clipping lets through, one of them reversed, under the plan's noise."""
    values, drawn = 40_000, np.random.default_rng(1)
    signal = drawn.normal(size=values)
    sent = np.tile(signal / np.linalg.norm(signal), (6, 1))
    sent[4] *= -1
    sent += noise * drawn.normal(size=sent.shape)
    verdict = examined(tmp_path, sent, privacy=UPDATE | {"noise_multiplier": noise})
    assert (verdict["cosine"] == "informative") == told
    assert screen.conspicuous(verdict) == (["site-4"] if told else [])
    if not told:
        assert verdict["cosine"].startswith("uninformative: the noise has ")


def test_under_noise_another_size_is_still_told(tmp_path: Path) -> None:
    sent = 8.0 * np.random.default_rng(1).normal(size=(6, 10_000))
    sent[2] *= 4
    verdict = examined(tmp_path, sent, privacy=UPDATE | {"noise_multiplier": 8.0})
    assert screen.conspicuous(verdict) == ["site-2"]
    assert "norm" in verdict["findings"]["site-2"][0]


def test_noise_over_signal_of_both_mechanisms(tmp_path: Path) -> None:
    assert screen.noise_ratio(plan_with(tmp_path, 0.7)) == 0.7
    local = {"steps": 25, "patch_voxels": [16, 16, 16]}
    private = draft(tmp_path, privacy=dp_sgd(noise_multiplier=2.0, batch_patients=8), local=local)
    assert screen.noise_ratio(private) == pytest.approx(2.0 / (8 * 5))


def test_the_outlook_says_it_before_the_first_round(tmp_path: Path) -> None:
    asked = {"screen": {"rule": "hold"}, "rounds": {"quorum": 3, "enough": 6, "deadline_seconds": 60}}
    quiet = draft(tmp_path, privacy=UPDATE, **asked)
    loud = draft(tmp_path, privacy=UPDATE | {"noise_multiplier": 8.0}, **asked)
    assert screen.outlook(quiet, 1000) == "screen (hold): norms, cosines and outliers are judged"
    assert "cosines are not judged: the noise has" in (screen.outlook(loud, 1000) or "")
    assert screen.outlook(plan_with(tmp_path, 8.0), 1000) is None


def test_a_measurement_is_json(tmp_path: Path) -> None:
    assert vars(Measured(1.0, None, 0.5)) == {"norm": 1.0, "cosine": None, "outliers": 0.5}
