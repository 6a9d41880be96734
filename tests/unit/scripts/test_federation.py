"""The federation in one process: what it makes of trainings, what stays at home, what corrects and goes on."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from utility import federation, private
from utility.federation import LocalWork, build, dice, learn
from utility.recipes import Privacy, Recipe

from fedsite.privacy import accountant
from fedsite.training import weights
from fedsite.wire.server_rules import ServerAdam, TrimmedMean


def ball(centre: tuple[int, int, int]) -> SimpleNamespace:
    """A case with a bright ball in noise, as the case store gives them."""
    grid = np.indices((16, 16, 16)) - np.array(centre)[:, None, None, None]
    label = ((grid**2).sum(axis=0) < 20).astype(np.uint8)
    image = (np.random.default_rng(sum(centre)).standard_normal(label.shape) + 4 * label)[None].astype(np.float16)
    return SimpleNamespace(image=image, label=label, missing=(), foreground=lambda: np.flatnonzero(label))


SITES = [[ball((6, 9, 8))], [ball((9, 5, 10))]]


def recipe(name: str, **settings: object) -> Recipe:
    return Recipe(name, **{"rounds": 2, "steps": 4, "learning_rate": 0.05, "patch": (16, 16, 16), **settings})


def same(one: federation.Tensors, other: federation.Tensors, *, tolerance: float = 0.0) -> bool:
    return all(np.allclose(one[name], other[name], rtol=0, atol=tolerance) for name in one)


def test_one_site_and_one_round_is_a_plain_training() -> None:
    plain = recipe("plain", rounds=1)
    network = build(plain, 3)
    seed = int.from_bytes(federation.hashlib.sha256(b"3:0:0").digest()[:8], "big")
    federation.train(network, SITES[0], LocalWork(plain, 4, 0.05, seed))
    assert same(learn(plain, SITES[:1], 3).model, weights.export(network), tolerance=1e-6)


def test_the_global_model_is_the_mean_of_what_sites_made() -> None:
    once = recipe("once", rounds=1)
    made, train = [], federation.train

    def remember(network: object, cases: federation.Cases, work: LocalWork) -> None:
        train(network, cases, work)
        made.append(weights.export(network))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(federation, "train", remember)
        learned = learn(once, SITES, 3)
    assert not same(*made)
    mean = {name: (made[0][name] + made[1][name]) / 2 for name in made[0]}
    assert same(learned.model, mean, tolerance=1e-6)
    assert same(learned.model, learn(once, SITES, 3).model), "the same seed gives the same model"


@pytest.mark.parametrize(
    ("settings", "expected", "tolerance"),
    [
        ({"aggregation": "median"}, lambda updates: np.median(updates, axis=0), 1e-6),
        (
            {"aggregation": TrimmedMean(name="trimmed-mean", share=0.34)},
            lambda updates: np.median(updates, axis=0),
            1e-6,
        ),
        ({"payload": "float16"}, lambda updates: np.mean(updates, axis=0), 1e-3),
        ({"payload": "int8"}, lambda updates: np.mean(updates, axis=0), 1e-2),
        (
            {"server_adam": ServerAdam(learning_rate=0.5, beta1=0.0, beta2=0.0, tau=0.1)},
            lambda updates: 0.5 * np.mean(updates, axis=0) / (np.abs(np.mean(updates, axis=0)) + 0.1),
            1e-6,
        ),
    ],
    ids=["median", "trimmed-mean", "float16", "int8", "fedadam"],
)
def test_what_a_plan_asks_of_the_server_is_done(
    settings: dict[str, object], expected: Callable[[list[np.ndarray]], np.ndarray], tolerance: float
) -> None:
    three, made = [*SITES, [ball((7, 7, 5))]], []
    asked, train = recipe("asked", rounds=1, **settings), federation.train

    def remember(network: object, cases: federation.Cases, work: LocalWork) -> None:
        before = weights.export(network)
        train(network, cases, work)
        made.append({name: values - before[name] for name, values in weights.export(network).items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(federation, "train", remember)
        learned = learn(asked, three, 3).model
    built = weights.export(build(asked, 3))
    moved = {name: expected([update[name] for update in made]) for name in built}
    assert same(learned, {name: values + moved[name] for name, values in built.items()}, tolerance=tolerance)
    assert not same(learned, learn(recipe("plain", rounds=1), three, 3).model), "and it is not what a plan without does"


def test_under_privacy_no_two_runs_are_alike_and_the_clip_norm_bounds_the_way() -> None:
    """Weights move by no more than learning rate times clip norm a step; and the noise is real."""
    private = recipe("private", momentum=0.0, rounds=1, steps=2, privacy=Privacy(0.1, 0.0, 1, 1))
    built = weights.export(build(private, 3))
    moved = learn(private, SITES[:1], 3).model
    way = sum(float(((moved[name] - values) ** 2).sum()) for name, values in built.items()) ** 0.5
    assert 0.5 * 2 * 0.05 * 0.1 < way < 1.001 * 2 * 0.05 * 0.1
    noised = recipe("noised", rounds=1, steps=2, privacy=Privacy(0.1, 1.0, 1, 1))
    assert not same(learn(noised, SITES[:1], 3).model, learn(noised, SITES[:1], 3).model)


def test_the_noise_of_a_comparison_is_the_least_that_its_epsilon_allows() -> None:
    steps, order = 120, accountant.best_order(8.0, private.DELTA)
    asked = private.privacy(8.0, 200, steps)
    assert (asked.batch_patients, asked.sampling_rate) == (50, 0.25)

    def epsilon(noise: float) -> float:
        release = accountant.Release(noise, asked.sampling_rate, steps)
        return accountant.filter_epsilon(accountant.renyi(release, order), order, private.DELTA)

    assert epsilon(0.99 * asked.noise_multiplier) > 8.0 >= epsilon(asked.noise_multiplier)
    assert private.privacy(2.0, 200, steps).noise_multiplier > 2 * asked.noise_multiplier


def test_each_algorithm_makes_a_model_of_its_own() -> None:
    plain = learn(recipe("plain", momentum=0.0), SITES, 3).model
    others = {
        "fedprox": learn(recipe("fedprox", momentum=0.0, algorithm="fedprox", mu=5.0), SITES, 3).model,
        "scaffold": learn(recipe("scaffold", momentum=0.0, algorithm="scaffold"), SITES, 3).model,
        "momentum": learn(recipe("momentum", momentum=0.0, server_momentum=0.9), SITES, 3).model,
    }
    assert not any(same(plain, other) for other in others.values())
    assert all(np.isfinite(values).all() for other in others.values() for values in other.values())
    # Controls and momentum know nothing before the second round.
    first = learn(recipe("plain", momentum=0.0, rounds=1), SITES, 3).model
    for settings in ({"algorithm": "scaffold"}, {"server_momentum": 0.9}):
        assert same(first, learn(recipe("one", momentum=0.0, rounds=1, **settings), SITES, 3).model)


def test_normalisation_stays_at_home() -> None:
    learned = learn(recipe("fedbn", algorithm="fedbn"), SITES, 3)
    here, there = learned.kept
    assert here
    assert not same(here, there)
    built = weights.export(build(recipe("fedbn", algorithm="fedbn"), 3))
    assert same({name: learned.model[name] for name in here}, {name: built[name] for name in here})
    assert learn(recipe("plain"), SITES, 3).kept == ({}, {})


def test_dice_of_each_case() -> None:
    longer = recipe("longer", rounds=1, steps=40, learning_rate=0.1)
    found = dice(longer, learn(longer, SITES[:1], 3).model, SITES[0] + SITES[1])
    assert len(found) == 2
    assert found[0] > 0.6
