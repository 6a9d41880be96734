"""int8 payloads: rounded after the noise, by chance that nobody can foresee, and true in the mean."""

import hashlib
import math
import random
import tracemalloc
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file

from fedsite.errors import DataNotFit
from fedsite.privacy import mechanism
from fedsite.privacy.mechanism import CHUNK, Gate, Rounded, Sealed
from fedsite.wire import payload
from fedsite.wire.payload import SCALES, Layout, Tensor

Values = NDArray[np.float64]


def layout_for(sizes: Sequence[int]) -> Layout:
    return Layout(tuple(Tensor(f"t{place}", (size,)) for place, size in enumerate(sizes)), "int8")


def sealed(folder: Path, values: Values, sizes: Sequence[int], gate: Gate | None = None) -> Sealed:
    """As a round seals it: through the gate, or what was noised step by step."""
    header, destination = layout_for(sizes).header, folder / "payload"
    if gate is None:
        return mechanism.seal_noised(values.__getitem__, values.size, header, Rounded(tuple(sizes)), destination)
    return mechanism.seal(values.__getitem__, gate, header, Rounded(tuple(sizes)), destination)


def decoded(path: Path, sizes: Sequence[int]) -> Values:
    """As the server reads it, slice by slice; and the same by the library."""
    layout = layout_for(sizes)
    payload.check_file(path, layout)
    parts = payload.chunks(layout.values, 1000)
    found = np.concatenate([payload.read_values(path, layout, part) for part in parts])
    tensors = load_file(path)
    scales = tensors.pop(SCALES).astype(np.float64)
    theirs = [tensors[f"t{place}"].astype(np.float64) * scale for place, scale in enumerate(scales)]
    np.testing.assert_array_equal(found, np.concatenate(theirs))
    return found


def test_what_is_sealed_is_in_the_layouts_form(tmp_path: Path) -> None:
    sizes = (3 * CHUNK + 5, 1, 700)
    release = sealed(tmp_path, np.random.default_rng(0).normal(size=sum(sizes)), sizes, Gate(1.0, 2.0, sum(sizes)))
    assert release.size == layout_for(sizes).file_bytes == release.path.stat().st_size
    assert release.sha256 == hashlib.sha256(release.path.read_bytes()).hexdigest()
    assert release.path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["payload"]
    assert release.size < 0.26 * layout_for(sizes).encoded("float32").file_bytes


def test_every_value_goes_to_a_neighbour_and_each_tensor_has_its_own_scale(tmp_path: Path) -> None:
    sizes = (2 * CHUNK - 3, 40, CHUNK, 5, 1)
    drawn = np.random.default_rng(1)
    magnitudes = (1.0, 1e-6, 1e6, 0.0, 1e-30)
    update = np.concatenate([scale * drawn.normal(size=size) for scale, size in zip(magnitudes, sizes, strict=True)])
    found = decoded(sealed(tmp_path, update, sizes).path, sizes)
    scales = load_file(tmp_path / "payload")[SCALES]
    ends = np.cumsum(sizes)
    for place, (start, end) in enumerate(zip(ends - sizes, ends, strict=True)):
        tensor = update[start:end].astype(np.float32)
        assert np.abs(found[start:end] - tensor).max() < scales[place]
        stored = load_file(tmp_path / "payload")[f"t{place}"]
        assert np.abs(stored.astype(int)).max() <= 127
        if magnitudes[place]:
            assert scales[place] == pytest.approx(np.abs(tensor).max() / 127, rel=1e-6)
    assert not found[ends[3] - 5 : ends[3]].any()


@pytest.mark.parametrize("fraction", [0.001, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("sign", [1, -1])
def test_rounding_is_true_in_the_mean(tmp_path: Path, fraction: float, sign: int) -> None:
    """E[rounded] = value: so the mean over many values, or sites, is not pulled to the grid."""
    count = 200_000
    update = np.full(count, sign * (12 + fraction) / 127)
    update[0] = 1.0
    found = decoded(sealed(tmp_path, update, (count,)).path, (count,))[1:] * 127
    assert set(np.rint(np.unique(found))) <= {12 * sign, 13 * sign}
    expected = sign * (12 + fraction)
    assert abs(found.mean() - expected) < 5 * math.sqrt(fraction * (1 - fraction) / count) + 1e-5


def test_the_noise_is_still_there_and_the_rounding_beside_it(tmp_path: Path) -> None:
    count, sigma = 400_000, 0.7
    update = np.random.default_rng(2).normal(size=count)
    found = decoded(sealed(tmp_path, update, (count,), Gate(1.0, sigma, count)).path, (count,))
    scale = float(load_file(tmp_path / "payload")[SCALES][0])
    clipped = update / np.linalg.norm(update)
    # A uniform fraction f is rounded with variance f (1 - f) steps squared, 1/6 in the mean.
    assert (found - clipped).std() == pytest.approx(math.sqrt(sigma**2 + scale**2 / 6), rel=0.005)


def test_scales_are_taken_after_the_noise(tmp_path: Path) -> None:
    """A scale is released too: that of an update of zeros must be the noise's, another one each time."""
    scales = []
    for _ in range(2):
        path = sealed(tmp_path, np.zeros(10_000), (9_000, 1_000), Gate(1.0, 1.0, 10_000)).path
        scales.append(load_file(path)[SCALES] * 127)
    assert all(2 < scale < 7 for pair in scales for scale in pair), "the largest of a thousand normal values or more"
    assert not set(scales[0]) & set(scales[1])


def test_nothing_seeds_the_rounding(tmp_path: Path) -> None:
    update = np.random.default_rng(3).normal(size=5_000)
    releases = []
    for _ in range(2):
        random.seed(7)
        np.random.seed(7)
        releases.append(decoded(sealed(tmp_path, update, (5_000,), Gate(1.0, 0.0, 5_000)).path, (5_000,)))
    differ = np.mean(releases[0] != releases[1])
    assert 0.2 < differ < 0.5, "2 f (1 - f) is 1/3 in the mean"


def test_numbers_below_one_are_uniform_and_never_one() -> None:
    drawn = mechanism.SystemNoise().below_one(300_001)
    assert drawn.size == 300_001
    assert 0 <= drawn.min() < drawn.max() < 1
    counts = np.histogram(drawn, bins=100, range=(0, 1))[0]
    assert ((counts - 3_000) ** 2 / 3_000).sum() < 99 + 7 * math.sqrt(2 * 99)


@settings(max_examples=60, deadline=None)
@given(
    largest=st.floats(min_value=0, max_value=3e38),
    shares=st.lists(st.floats(min_value=-1, max_value=1), max_size=5),
)
def test_any_finite_tensor_fits(tmp_path_factory: pytest.TempPathFactory, largest: float, shares: list[float]) -> None:
    update = np.array([largest, *(share * largest for share in shares)])
    path = sealed(tmp_path_factory.getbasetemp(), update, (update.size,)).path
    found = decoded(path, (update.size,))
    assert np.isfinite(found).all()
    assert np.abs(found - update).max() <= largest / 127 * (1 + 1e-6) + 2e-45


@settings(max_examples=300, deadline=None)
@given(largest=st.floats(min_value=0, max_value=3.4e38))
def test_no_value_is_ever_rounded_beyond_127(largest: float) -> None:
    """128 would be -128 in 8 bits. A scale is rounded to float32, so it must be rounded up."""
    [scale] = mechanism._scales(np.array([largest], np.float64))
    assert scale.dtype == np.float32
    assert 127 * Fraction(float(scale)) >= Fraction(largest)
    assert largest == 0 or float(scale) <= largest / 127 * (1 + 2**-23) + 2e-45


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("gate", [None, Gate(1.0, 1.0, CHUNK + 5)])
def test_what_is_not_finite_leaves_nothing(tmp_path: Path, bad: float, gate: Gate | None) -> None:
    update = np.zeros(CHUNK + 5)
    update[CHUNK + 4] = bad
    with pytest.raises(DataNotFit, match="not finite"):
        sealed(tmp_path, update, (update.size,), gate)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sizes", [(9,), (5, 6), ()])
def test_sizes_that_are_not_the_updates_leave_nothing(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    with pytest.raises(DataNotFit, match="as many values"):
        mechanism.seal_noised(np.ones(10).__getitem__, 10, b"", Rounded(sizes), tmp_path / "payload")
    assert list(tmp_path.iterdir()) == []


def test_what_was_noised_waits_in_a_file_without_a_name(tmp_path: Path) -> None:
    """Whatever kills the process, no second version of a release stays behind."""
    seen: set[str] = set()

    def read(part: slice) -> Values:
        seen.update(path.suffix for path in tmp_path.iterdir())
        return np.ones(part.stop - part.start)

    mechanism.seal_noised(read, 3 * CHUNK, b"", Rounded((3 * CHUNK,)), tmp_path / "payload")
    assert seen == {".tmp"}, "the unfinished payload alone"


def test_rounding_needs_no_more_memory_than_the_gate(tmp_path: Path) -> None:
    """The bound of tests/unit/privacy/test_mechanism.py. The thread that makes noise ahead moves the peak a little."""
    values = 2_000_000
    update = np.full(values, 1e-3)
    tracemalloc.start()
    sealed(tmp_path, update, (values - 10, 10), Gate(1.0, 1.0, values))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.15 * 4 * 4_700_000
