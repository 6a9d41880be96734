"""Median, trimmed mean and norm bounding over files, against NumPy on the whole; memory, order, encodings."""

import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from support.federation import model_file, tensors, update_file

from fedsite.server.rounds import aggregation
from fedsite.server.rounds.aggregation import Rules, Start, Update, following
from fedsite.wire.payload import SCALES, Layout, Tensor, layout_of, tensors_of
from fedsite.wire.server_rules import Aggregation, NormBounded, TrimmedMean

SHAPES = {"weight": (300, 70), "bias": (70,)}
TRIMMED = TrimmedMean(name="trimmed-mean", share=0.2)
BOUNDED = NormBounded(name="norm-bounded", bound=50.0)


def made(start: Start, updates: list[Update], rules: Rules) -> bytes:
    return b"".join(piece["model"] for piece in following(start, updates, rules))


def flat(values: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([value.ravel() for value in values.values()]).astype(np.float64)


def expected(rule: Aggregation, sent: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """By NumPy and SciPy, all sites and values at once."""
    if rule == "median":
        return np.median(sent, axis=0)
    if rule == TRIMMED:
        return stats.trim_mean(sent, 0.2, axis=0)
    norms = np.linalg.norm(sent, axis=1, keepdims=True)
    return np.average(sent / np.maximum(1, norms / BOUNDED.bound), axis=0, weights=weights)


@pytest.mark.parametrize("encoding", ["float32", "float16"])
@pytest.mark.parametrize("sites", [3, 5, 6, 11])
@pytest.mark.parametrize("rule", ["median", TRIMMED, BOUNDED], ids=["median", "trimmed", "bounded"])
def test_against_numpy(tmp_path: Path, rule: Aggregation, sites: int, encoding: str) -> None:
    model = model_file(tmp_path / "model", 0, SHAPES)
    given = [tensors(seed, SHAPES, scale=0.2 * seed) for seed in range(1, sites + 1)]
    weights = np.arange(1.0, sites + 1) if rule is BOUNDED else np.ones(sites)
    updates = [
        Update(update_file(tmp_path / f"{place}", values, encoding), weights[place])
        for place, values in enumerate(given)
    ]
    result = tmp_path / "result"
    result.write_bytes(made(Start(model, layout_of(model)), updates, Rules(rule, encoding=encoding)))
    sent = np.stack([flat({name: value.astype(encoding) for name, value in one.items()}) for one in given])
    if rule is BOUNDED:
        norms = np.linalg.norm(sent, axis=1)
        assert norms.min() < BOUNDED.bound < norms.max(), "both kinds are there"
    wanted = flat(tensors(0, SHAPES)) + expected(rule, sent, weights)
    np.testing.assert_allclose(flat(tensors_of(result)), wanted, rtol=1e-6, atol=1e-7)


def test_slices_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_file(tmp_path / "model", 0, SHAPES)
    updates = [Update(update_file(tmp_path / f"{seed}", tensors(seed, SHAPES)), 1.0) for seed in range(1, 6)]
    start = Start(model, layout_of(model))
    whole = {rule: made(start, updates, Rules(rule)) for rule in ("mean", "median", TRIMMED, BOUNDED)}
    monkeypatch.setattr(aggregation, "SLICE", 1000)
    monkeypatch.setattr(aggregation, "STACK", 777)
    for rule, content in whole.items():
        assert made(start, updates, Rules(rule)) == content


@pytest.mark.parametrize("rule", ["median", TRIMMED], ids=["median", "trimmed"])
def test_the_sites_order_does_not_matter(tmp_path: Path, rule: Aggregation) -> None:
    model = model_file(tmp_path / "model", 0, {"a": (40,)})
    paths = [update_file(tmp_path / f"{seed}", tensors(seed, {"a": (40,)})) for seed in range(5)]
    start = Start(model, layout_of(model))
    orders = itertools.islice(itertools.permutations(Update(path, 1.0) for path in paths), 0, 120, 7)
    assert len({made(start, list(order), Rules(rule)) for order in orders}) == 1


@pytest.mark.parametrize("rule", ["median", TRIMMED], ids=["median", "trimmed"])
def test_one_site_cannot_move_it_far(tmp_path: Path, rule: Aggregation) -> None:
    """What these rules are for: beside four honest sites a fifth may send anything; under a mean it decides all."""
    shapes = {"a": (1000,)}
    zero = update_file(tmp_path / "model", {"a": np.zeros(1000, np.float32)})
    honest = [tensors(seed, shapes)["a"] for seed in range(4)]
    start, far = Start(zero, layout_of(zero)), np.full(1000, 1e6, np.float32)
    updates = [
        Update(update_file(tmp_path / f"{place}", {"a": values}), 1.0) for place, values in enumerate([*honest, far])
    ]
    found = np.frombuffer(made(start, updates, Rules(rule))[-4000:], np.float32)
    assert (found <= np.max(honest, axis=0)).all()
    assert (found >= np.min(honest, axis=0)).all()
    assert np.frombuffer(made(start, updates, Rules())[-4000:], np.float32).min() > 1e5


def test_int8_updates(tmp_path: Path) -> None:
    """The scales are applied before anything is ranked or summed."""
    model = model_file(tmp_path / "model", 0, SHAPES)
    layout = Layout(tuple(Tensor(name, shape) for name, shape in SHAPES.items()), "int8")
    drawn = np.random.default_rng(0)
    sent, updates = [], []
    for site in range(5):
        scales = drawn.uniform(0.01, 2.0, size=2).astype("<f4")
        steps = [drawn.integers(-127, 128, size=shape).astype(np.int8) for shape in SHAPES.values()]
        path = tmp_path / f"{site}"
        path.write_bytes(layout.header + scales.tobytes() + b"".join(one.tobytes() for one in steps))
        updates.append(Update(path, 1.0))
        pairs = zip(SHAPES, steps, scales, strict=True)
        sent.append(flat({name: one.astype(np.float64) * np.float64(scale) for name, one, scale in pairs}))
    assert SCALES.encode() in layout.header
    for rule, wanted in (("mean", np.mean(sent, axis=0)), ("median", np.median(sent, axis=0))):
        result = tmp_path / "result"
        result.write_bytes(made(Start(model, layout_of(model)), updates, Rules(rule, encoding="int8")))
        np.testing.assert_allclose(flat(tensors_of(result)), flat(tensors(0, SHAPES)) + wanted, rtol=1e-6, atol=1e-6)


def test_memory_is_that_of_a_few_slices_whatever_the_number_of_sites(tmp_path: Path) -> None:
    shapes = {"weight": (900, 1000)}
    model = model_file(tmp_path / "model", 0, shapes)
    updates = [Update(update_file(tmp_path / f"{seed}", tensors(seed, shapes)), 1.0) for seed in range(24)]

    def peak(sites: int) -> int:
        tracemalloc.start()
        for _ in following(Start(model, layout_of(model)), updates[:sites], Rules("median")):
            pass
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    most = max(peak(3), peak(24))
    assert most < 4 * 8 * aggregation.STACK
    assert most < 1.3 * peak(3)


@pytest.mark.parametrize("sites", [1, 3, 64, 10_000, 1_000_000])
def test_sites_side_by_side_are_never_more_than_a_stack(sites: int) -> None:
    length = aggregation.slice_length(sites)
    assert 1 <= length <= aggregation.SLICE
    assert length * sites <= max(aggregation.STACK, sites)
