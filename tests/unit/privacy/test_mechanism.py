"""The gate: what leaves is clipped, noised with exactly the noise that was promised, or does not leave."""

import ast
import hashlib
import inspect
import math
import random
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from fedsite.errors import CannotWrite, DataNotFit
from fedsite.jobs.training import local_work
from fedsite.privacy import mechanism
from fedsite.privacy.mechanism import CHUNK, STEPS_PER_CLIP_NORM, Gate, SystemNoise
from fedsite.wire import payload

F32 = np.dtype("<f4")


def reader(values: NDArray[np.float64]) -> Callable[[slice], NDArray[np.float64]]:
    return lambda part: values[part]


def sealed_values(
    folder: Path, values: NDArray[np.float64], gate: Gate, dtype: np.dtype[np.floating] = F32
) -> NDArray[np.float64]:
    """What `seal` writes for an update, read back."""
    mechanism.seal(reader(values), gate, b"", dtype, folder / "payload")
    return np.fromfile(folder / "payload", dtype).astype(np.float64)


def two_models(folder: Path, values: int, seed: int) -> tuple[Path, Path]:
    """A global model and what training made of it, as files, in two tensors of uneven size."""
    drawn = np.random.default_rng(seed)
    before = {"a": drawn.normal(size=(values // 4, 3)), "b": drawn.normal(size=(values - values // 4 * 3,))}
    after = {name: tensor + drawn.normal(scale=0.01, size=tensor.shape) for name, tensor in before.items()}
    payload.write_model(folder / "global.safetensors", before)
    payload.write_model(folder / "trained.safetensors", after)
    return folder / "global.safetensors", folder / "trained.safetensors"


# --- the noise, through the code that runs in a round -------------------------------------------------------------


@pytest.mark.parametrize(("clip_norm", "sigma"), [(1.0, 2.0), (0.3, 0.05), (7.0, 40.0)])
def test_the_noise_in_a_release_is_sigma_times_c(tmp_path: Path, clip_norm: float, sigma: float) -> None:
    """privacy.md: the standard deviation of (release - clipped) over 10^6 coordinates within 0.5% of sigma*C."""
    read, layout = local_work.open_update(*two_models(tmp_path, 1_000_000, seed=1))
    gate = Gate(clip_norm, sigma, layout.values)
    encoded = layout.encoded("float32")
    sealed = mechanism.seal(read, gate, encoded.header, encoded.dtype, tmp_path / "payload")

    payload.check_file(sealed.path, encoded)
    released = np.asarray(payload.map_values(sealed.path, encoded), np.float64)
    update = read(slice(0, layout.values))
    clipped = update * min(1.0, clip_norm / float(np.linalg.norm(update)))
    noise = (released - clipped) / (sigma * clip_norm)

    assert noise.size == 1_000_000
    assert noise.std() == pytest.approx(1, rel=0.005)
    assert abs(noise.mean()) < 5 / math.sqrt(noise.size)
    assert sealed.sha256 == hashlib.sha256(sealed.path.read_bytes()).hexdigest()
    assert sealed.size == encoded.file_bytes == sealed.path.stat().st_size
    assert sealed.path.stat().st_mode & 0o777 == 0o600


def test_without_noise_the_release_is_the_clipped_update(tmp_path: Path) -> None:
    update = np.random.default_rng(2).normal(size=5_000)
    released = sealed_values(tmp_path, update, Gate(1.0, 0.0, update.size))
    assert np.linalg.norm(released) <= 1
    np.testing.assert_allclose(released, update / np.linalg.norm(update), atol=1 / STEPS_PER_CLIP_NORM)


def test_an_update_within_the_bound_is_not_scaled(tmp_path: Path) -> None:
    update = np.random.default_rng(2).normal(size=5_000) * 1e-3
    released = sealed_values(tmp_path, update, Gate(1.0, 0.0, update.size))
    np.testing.assert_allclose(released, update, atol=1 / STEPS_PER_CLIP_NORM)


def test_the_noise_is_normal_and_independent() -> None:
    noise = SystemNoise().standard_normal(1_000_001)
    assert noise.size == 1_000_001
    count = noise.size
    assert stats.kstest(noise, "norm").pvalue > 1e-6
    assert abs(noise.mean()) < 5 / math.sqrt(count)
    assert noise.var() == pytest.approx(1, abs=5 * math.sqrt(2 / count))
    assert abs(stats.kurtosis(noise)) < 5 * math.sqrt(24 / count)
    half = count // 2
    for one, other in ((noise[:-1], noise[1:]), (noise[:half], noise[half : 2 * half])):
        # Box-Muller's two values share a radius: their squares must not correlate either.
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / math.sqrt(half)
        assert abs(np.corrcoef(one**2, other**2)[0, 1]) < 5 / math.sqrt(half)


def test_the_tail_of_the_noise_reaches_as_far_as_it_should() -> None:
    noise = np.abs(SystemNoise().standard_normal(2_000_000))
    for bound in (3, 4):
        expected = 2_000_000 * 2 * stats.norm.sf(bound)
        assert abs(np.count_nonzero(noise > bound) - expected) < 5 * math.sqrt(expected)


class Keystream:
    """Stands for AES-CTR: hands out the given words."""

    def __init__(self, words: list[int]) -> None:
        self._bytes = np.array(words, np.uint64).tobytes()

    def update(self, wanted: bytes) -> bytes:
        taken, self._bytes = self._bytes[: len(wanted)], self._bytes[len(wanted) :]
        assert len(taken) == len(wanted), "the keystream gave less than was asked for"
        return taken


def radius(*words: int) -> float:
    """The noise that the first word makes as radius, at angle 0; further words refine a small first one."""
    source = SystemNoise()
    source._keystream = Keystream([words[0], 0, *words[1:]])
    return float(source.standard_normal(1)[0])


@pytest.mark.parametrize("values", [1, CHUNK, mechanism.AHEAD, mechanism.AHEAD + 1, 2 * mechanism.AHEAD + CHUNK + 5])
def test_noise_made_ahead_is_each_value_once_in_its_order(values: int) -> None:
    class Counting:
        """Gives 0, 1, 2 and so on."""

        given = 0

        def standard_normal(self, count: int) -> np.ndarray:
            self.given += count
            return np.arange(self.given - count, self.given, dtype=np.float64)

    source = Counting()
    with ThreadPoolExecutor(1) as thread:
        ahead = mechanism._Ahead(source, values, thread)
        taken = [ahead.standard_normal(part.stop - part.start) for part in mechanism._chunks(values)]
    assert np.array_equal(np.concatenate(taken), np.arange(values))
    assert source.given == values


def test_what_fails_while_noise_is_made_ahead_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(SystemNoise):
        def standard_normal(self, count: int) -> np.ndarray:
            raise OSError("no entropy")

    monkeypatch.setattr(mechanism, "SystemNoise", Broken)
    gate = Gate(1.0, 1.0, 10)
    with pytest.raises(OSError, match="no entropy"):
        mechanism.seal(np.zeros(10).__getitem__, gate, b"", np.dtype(np.float32), tmp_path / "payload")
    assert list(tmp_path.iterdir()) == []


def test_neighbouring_radii_lie_within_one_step_of_the_gate_even_in_the_tail() -> None:
    """Radii on a coarser grid than the gate's would make noise that only one of two updates can lie under."""
    largest = 1 << 64
    for exponent in range(1, 64):
        word = largest >> exponent
        neighbour = (word, 0) if word < 1 << 53 else (word,)
        further = (word, 1 << 11) if word < 1 << 53 else (word + (1 << 11 if exponent < 11 else 1),)
        assert abs(radius(*neighbour) - radius(*further)) * STEPS_PER_CLIP_NORM < 1
    # The end of one word's interval is the beginning of the next one's.
    assert radius(4, largest - 1) == pytest.approx(radius(5, 0), abs=1e-15)
    assert radius(largest - 1) == 0
    assert 13 < radius(0, 0) < 14


# --- chance is honest -----------------------------------------------------------------------------------------------


def test_nothing_seeds_the_noise(tmp_path: Path) -> None:
    import torch

    update, gate = np.zeros(1_000), Gate(1.0, 1.0, 1_000)
    releases = []
    for _ in range(2):
        random.seed(7)
        np.random.seed(7)
        torch.manual_seed(7)
        releases.append(sealed_values(tmp_path, update, gate))
    assert not np.array_equal(*releases)
    assert np.mean(releases[0] == releases[1]) < 0.01


def test_every_chunk_has_noise_of_its_own(tmp_path: Path) -> None:
    values = 3 * CHUNK + 17
    released = sealed_values(tmp_path, np.zeros(values), Gate(1.0, 1.0, values))
    parts = [released[start : start + CHUNK] for start in range(0, 3 * CHUNK, CHUNK)]
    for one in range(3):
        for other in range(one):
            assert abs(np.corrcoef(parts[one], parts[other])[0, 1]) < 5 / math.sqrt(CHUNK)


def test_seal_takes_no_noise_source() -> None:
    """Tests may inject a source into `add_noise`; a release may not."""
    assert list(inspect.signature(mechanism.seal).parameters) == ["read", "gate", "header", "dtype", "destination"]
    assert inspect.signature(SystemNoise.__init__).parameters.keys() == {"self"}
    source = ast.parse(inspect.getsource(mechanism.seal))
    assert "SystemNoise()" in ast.unparse(source)


def test_add_noise_adds_rounded_multiples_of_sigma() -> None:
    class Fixed:
        def standard_normal(self, count: int) -> NDArray[np.float64]:
            return np.array([0.0, 1.0, -1.0, 1e-7][:count])

    noised = mechanism.add_noise(np.array([5, 5, 5, 5]), Gate(3.0, 0.5, 4), Fixed())
    assert noised.tolist() == [5, 5 + 2**19, 5 - 2**19, 5]


# --- the bound before noise -----------------------------------------------------------------------------------------

MAGNITUDES = st.sampled_from([0.0, 5e-324, 1e-300, 1e-45, 1e-20, 1e-6, 0.5, 1.0, 3.0, 1e6, 3.4e38, 1e150])


@settings(max_examples=150, deadline=None)
@given(
    clip_norm=st.floats(min_value=1e-300, max_value=1e300),
    magnitudes=st.lists(MAGNITUDES, min_size=1, max_size=4),
    count=st.sampled_from([1, 2, 3, 1000, CHUNK - 1, CHUNK, CHUNK + 1]),
    seed=st.integers(0, 1000),
    spread=st.sampled_from(["even", "one", "normal"]),
)
def test_the_integer_norm_before_noise_never_exceeds_the_bound(
    clip_norm: float, magnitudes: list[float], count: int, seed: int, spread: str
) -> None:
    """C*S = 2^20 for any input: huge, tiny, denormal, zero, one huge value among small ones; or nothing comes out."""
    drawn = np.random.default_rng(seed)
    update = np.resize(np.array(magnitudes), count)
    if spread == "normal":
        update = update * drawn.normal(size=count)
    elif spread == "one":
        update[:-1] = 0
    gate = Gate(clip_norm, 0.0, count)
    try:
        norm = mechanism.measure_norm(reader(update), count)
        parts = list(mechanism.quantised(reader(update), gate, norm))
    except DataNotFit:
        # Only what float64 cannot square may be refused: no update in float32 is.
        assert max(magnitudes) > 1e140 or min(m for m in magnitudes if m) < 1e-140
        return
    exact = sum(int(value) ** 2 for part in parts for value in part[part != 0])
    assert exact <= STEPS_PER_CLIP_NORM**2
    assert sum(len(part) for part in parts) == count


@pytest.mark.parametrize("values", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_clipping_loses_next_to_nothing(values: int) -> None:
    """The other side of the bound: a long update keeps its length C, or the noise would drown more than it must."""
    update = np.full(values, 5.0)
    norm = mechanism.measure_norm(reader(update), values)
    clipped = np.concatenate(list(mechanism.quantised(reader(update), Gate(1.0, 0.0, values), norm)))
    assert math.sqrt(int(np.dot(clipped, clipped))) >= STEPS_PER_CLIP_NORM - math.sqrt(values)


@pytest.mark.parametrize(("clip_norm", "dtype"), [(1.0, "<f4"), (0.37, "<f8"), (1024.0, "<f2")])
def test_a_release_lies_on_the_gates_grid(tmp_path: Path, clip_norm: float, dtype: str) -> None:
    """Released values times S are integers: their lowest bits say nothing about the update (Mironov 2012)."""
    update = np.random.default_rng(3).normal(size=10_000) * clip_norm
    gate = Gate(clip_norm, 0.25, update.size)
    released = sealed_values(tmp_path, update, gate, np.dtype(dtype)) * gate.scale
    if dtype == "<f2":
        assert np.unique(released).size > 100  # rounding to half precision is post-processing of the grid
    else:
        np.testing.assert_allclose(released, np.rint(released), atol=1e-6)


def test_half_precision_rounds_the_release_and_saturates(tmp_path: Path) -> None:
    values = 200_000
    released = sealed_values(tmp_path, np.zeros(values), Gate(1.0, 3.0, values), np.dtype("<f2"))
    assert released.std() == pytest.approx(3, rel=0.01)
    huge = sealed_values(tmp_path, np.zeros(values), Gate(1e5, 3.0, values), np.dtype("<f2"))
    assert np.isfinite(huge).all()
    assert np.abs(huge).max() == 65504


# --- it fails closed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e200])
@pytest.mark.parametrize("place", [0, CHUNK, CHUNK + 4])
def test_what_is_not_finite_leaves_nothing(tmp_path: Path, bad: float, place: int) -> None:
    update = np.zeros(CHUNK + 5)
    update[place] = bad
    with pytest.raises(DataNotFit, match="not finite"):
        mechanism.seal(reader(update), Gate(1.0, 1.0, update.size), b"header", F32, tmp_path / "payload")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("second", [math.nan, math.inf, 50.0, 1e300])
def test_an_update_that_changes_between_the_two_passes_leaves_nothing(tmp_path: Path, second: float) -> None:
    """The norm is measured in one pass and used in the next: what would wrap in integers must not get through."""
    calls = 0

    def read(part: slice) -> NDArray[np.float64]:
        nonlocal calls
        calls += 1
        values = np.ones(part.stop - part.start)
        if calls > 1:
            values[0] = second
        return values

    with pytest.raises(DataNotFit, match="longer than its bound"):
        mechanism.seal(read, Gate(1.0, 1.0, 10), b"", F32, tmp_path / "payload")
    assert list(tmp_path.iterdir()) == []


def test_a_slightly_longer_update_in_the_second_pass_leaves_nothing(tmp_path: Path) -> None:
    """No single value is too large for the bound, only all of them together."""
    calls = 0

    def read(part: slice) -> NDArray[np.float64]:
        nonlocal calls
        calls += 1
        return np.full(part.stop - part.start, 1.0 if calls == 1 else 1.01)

    with pytest.raises(DataNotFit, match="longer than its bound"):
        mechanism.seal(read, Gate(1.0, 1.0, 10), b"", F32, tmp_path / "payload")
    assert list(tmp_path.iterdir()) == []


def test_an_exception_on_the_way_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "payload").write_bytes(b"sealed before")

    def read(part: slice) -> NDArray[np.float64]:
        if part.start:
            raise RuntimeError("the disk is gone")
        return np.ones(part.stop - part.start)

    with pytest.raises(RuntimeError, match="the disk is gone"):
        mechanism.seal(read, Gate(1.0, 1.0, CHUNK + 1), b"", F32, tmp_path / "payload")
    assert [path.name for path in tmp_path.iterdir()] == ["payload"]
    assert (tmp_path / "payload").read_bytes() == b"sealed before"


def test_a_missing_outbox_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite):
        mechanism.seal(reader(np.ones(3)), Gate(1.0, 1.0, 3), b"", F32, tmp_path / "gone" / "payload")


@pytest.mark.parametrize(
    ("clip_norm", "sigma", "values"),
    [
        (0.0, 1.0, 1),
        (-1.0, 1.0, 1),
        (math.nan, 1.0, 1),
        (math.inf, 1.0, 1),
        (1.0, -1.0, 1),
        (1.0, math.nan, 1),
        (1.0, math.inf, 1),
        (1.0, 1.0, 0),
        (1.0, 1e-9, 1),
    ],
)
def test_settings_without_a_promise_are_refused(clip_norm: float, sigma: float, values: int) -> None:
    with pytest.raises(DataNotFit):
        Gate(clip_norm, sigma, values)


def test_the_gates_figures() -> None:
    gate = Gate(2.0, 0.5, 10_000)
    assert gate.scale == 2**19
    assert gate.signal_to_noise == pytest.approx(1 / 50)
    assert gate.tail == 10_000 * 2.0**-53
    assert (Gate(2.0, 0.0, 10).tail, Gate(2.0, 0.0, 10).signal_to_noise) == (0.0, math.inf)


# --- what was noised as it was trained ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["<f4", "<f2"])
def test_what_is_noised_already_is_sealed_as_it_is(tmp_path: Path, dtype: str) -> None:
    update = np.random.default_rng(4).normal(size=CHUNK + 5).astype(dtype).astype(np.float64)
    update[0] = 2e4
    sealed = mechanism.seal_noised(reader(update), update.size, b"header", np.dtype(dtype), tmp_path / "payload")
    written = sealed.path.read_bytes()
    assert written.startswith(b"header")
    np.testing.assert_array_equal(np.frombuffer(written[6:], dtype), update.astype(dtype))
    assert (sealed.sha256, sealed.size) == (hashlib.sha256(written).hexdigest(), len(written))
    assert sealed.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, CHUNK + 4])
def test_what_is_noised_and_not_finite_leaves_nothing(tmp_path: Path, bad: float, place: int) -> None:
    update = np.zeros(CHUNK + 5)
    update[place] = bad
    with pytest.raises(DataNotFit, match="not finite"):
        mechanism.seal_noised(reader(update), update.size, b"header", F32, tmp_path / "payload")
    assert list(tmp_path.iterdir()) == []


def test_the_gate_needs_little_memory_beside_the_update(tmp_path: Path) -> None:
    """Extra memory under 15% of the update (4.7 million values, mapped from their files)."""
    values = 4_700_000
    for name in ("global", "trained"):
        tensors = {"weight": np.full(values, 0.0 if name == "global" else 1e-3, np.float32)}
        layout = payload.write_model(tmp_path / f"{name}.safetensors", tensors)
    read, layout = local_work.open_update(tmp_path / "global.safetensors", tmp_path / "trained.safetensors")
    sealing = (read, Gate(1.0, 1.0, values), layout.header, layout.dtype, tmp_path / "payload")
    tracemalloc.start()
    mechanism.seal(*sealing)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.15 * values * 4
