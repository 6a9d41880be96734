"""Averaging against NumPy, its memory, and what admission refuses."""

import hashlib
import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from support.federation import model_file, tensors, update_file

from fedsite.server.rounds.aggregation import Rules, Start, Update, following, why_unfit
from fedsite.wire.messages import MalformedMessage
from fedsite.wire.payload import layout_of, tensors_of

LARGE = {"weight": (900, 1000)}  # several slices of 2**18 values


def model_of(model: Path, updates: list[Update], encoding: str = "float32") -> bytes:
    pieces = following(Start(model, layout_of(model)), updates, Rules(encoding=encoding))
    return b"".join(piece["model"] for piece in pieces)


def averaged(folder: Path, model: Path, updates: list[Update], encoding: str = "float32") -> dict[str, np.ndarray]:
    result = folder / "result.safetensors"
    result.write_bytes(model_of(model, updates, encoding))
    return tensors_of(result)


@pytest.mark.parametrize("encoding", ["float32", "float16"])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [1.0, 2.5, 40.0]])
def test_against_numpy(tmp_path: Path, encoding: str, weights: list[float]) -> None:
    model = model_file(tmp_path / "model", 0, LARGE)
    given = [tensors(seed, LARGE)["weight"] for seed in (1, 2, 3)]
    updates = [
        Update(update_file(tmp_path / f"{place}", {"weight": value}, encoding), weight)
        for place, (value, weight) in enumerate(zip(given, weights, strict=True))
    ]
    sent = np.stack([value.astype(encoding).astype(np.float64) for value in given])
    expected = tensors(0, LARGE)["weight"] + np.average(sent, axis=0, weights=weights)
    found = averaged(tmp_path, model, updates, encoding)["weight"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-12)
    assert (found == expected.astype(np.float32)).mean() > 0.9999


def test_the_same_updates_give_the_same_bytes_in_every_order(tmp_path: Path) -> None:
    model = model_file(tmp_path / "model")
    updates = [Update(update_file(tmp_path / f"{seed}", tensors(seed)), 1.0 + seed) for seed in (1, 2, 3)]
    digests = {hashlib.sha256(model_of(model, list(order))).hexdigest() for order in itertools.permutations(updates)}
    assert len(digests) == 1, "float64 sums of float32 values, rounded to float32"


def test_memory_does_not_grow_with_sites_nor_with_the_model(tmp_path: Path) -> None:
    def peak(sites: int, shapes: dict[str, tuple[int, ...]]) -> int:
        model = model_file(tmp_path / "model", 0, shapes)
        updates = [Update(update_file(tmp_path / f"{number}", tensors(number, shapes)), 1.0) for number in range(sites)]
        tracemalloc.start()
        for _ in following(Start(model, layout_of(model)), updates, Rules()):
            pass
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    few, many = peak(2, LARGE), peak(24, LARGE)
    assert many < 1.05 * few
    assert peak(2, {"weight": (2700, 1000)}) < 1.05 * few
    assert few < 5 * 8 * (1 << 18), "a few slices in float64"


def test_a_file_that_ends_early_is_noticed(tmp_path: Path) -> None:
    model = model_file(tmp_path / "model")
    update = update_file(tmp_path / "update", tensors(1))
    update.write_bytes(update.read_bytes()[:-4])
    with pytest.raises(MalformedMessage, match="ends before"):
        averaged(tmp_path, model, [Update(update, 1.0)])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 899_999])
def test_values_that_are_not_finite(tmp_path: Path, value: float, place: int) -> None:
    values = tensors(1, LARGE)
    values["weight"].flat[place] = value
    update = update_file(tmp_path / "update", values)
    assert why_unfit(update, layout_of(update), 1e30) == "a value is not finite"


def test_the_bound_on_the_norm_is_exact(tmp_path: Path) -> None:
    update = update_file(tmp_path / "update", {"a": np.array([3.0, 4.0], dtype=np.float32)})
    assert why_unfit(update, layout_of(update), 5.0) is None
    assert "norm is above 4.9" in (why_unfit(update, layout_of(update), 4.9) or "")


def test_large_finite_values_do_not_overflow(tmp_path: Path) -> None:
    update = update_file(tmp_path / "update", {"a": np.full(10, 3e38, dtype=np.float32)})
    assert why_unfit(update, layout_of(update), 1e39) is None
