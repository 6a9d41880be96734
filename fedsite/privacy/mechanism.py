"""The gate: clip, quantise, noise. Nothing else in fedsite makes a file that leaves the building.

The whole update is clipped to C in L2 (norm in float64), scaled by S = 2^20 / C and truncated toward zero, so that
the integer vector's norm is at most C*S before noise; Gaussian noise of standard deviation sigma*C*S is rounded and
added in integers, so the floating-point grid of the result says nothing about the update (Mironov 2012). Rounding
the noise at integers is post-processing of the continuous Gaussian mechanism. Everything fails closed: what is not
finite, or cannot be proven small enough, raises, and no payload exists.
"""

import hashlib
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from fedsite.errors import DataNotFit
from fedsite.files import PRIVATE_FILE, atomic_writer

STEPS_PER_CLIP_NORM = 1 << 20
CHUNK = 1 << 13  # fits the processor's cache; OpenBLAS gives a dot product of more than 10,000 values to threads
AHEAD = 6 * CHUNK  # so much noise is made at once beside the rest: 384 KiB
GENERATOR = "AES-256-CTR keyed by os.urandom, Box-Muller in float64, added in integers"
_STEPS = 127  # of an int8 value's scale, on either side of zero
_WAITING = np.dtype("<f4")
SMALLEST_NOISE_STEPS = 64  # below this the grid is too coarse for the noise to be Gaussian in any useful sense

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
ReadUpdate = Callable[[slice], Floats]


class NoiseSource(Protocol):
    """Where standard normal values come from. A release takes `SystemNoise`, tests may bring another."""

    def standard_normal(self, count: int) -> Floats:
        """`count` independent values of N(0, 1)."""
        ...


@dataclass(frozen=True)
class Gate:
    """The mechanism's settings: clip norm C > 0, noise multiplier sigma >= 0, number of values d >= 1."""

    clip_norm: float
    noise_multiplier: float
    values: int

    def __post_init__(self) -> None:
        """Refuses settings under which the promise could not be kept."""
        finite = math.isfinite(self.clip_norm) and math.isfinite(self.noise_multiplier)
        if not finite or self.clip_norm <= 0 or self.noise_multiplier < 0 or self.values < 1:
            raise DataNotFit("The privacy mechanism's settings are out of range.", "Nothing was released.")
        if 0 < self.noise_multiplier * STEPS_PER_CLIP_NORM < SMALLEST_NOISE_STEPS:
            raise DataNotFit(
                f"A noise multiplier of {self.noise_multiplier:g} is finer than the gate's grid.",
                f"The plan must ask for at least {SMALLEST_NOISE_STEPS / STEPS_PER_CLIP_NORM:.1g}, or for none.",
            )

    @property
    def scale(self) -> float:
        """S: grid steps per unit of the update."""
        return STEPS_PER_CLIP_NORM / self.clip_norm

    @property
    def signal_to_noise(self) -> float:
        """Norm of the largest possible update over the expected norm of the noise: 1 / (sigma * sqrt(d))."""
        return math.inf if self.noise_multiplier == 0 else 1 / (self.noise_multiplier * math.sqrt(self.values))

    @property
    def tail(self) -> float:
        """What the noise's finite precision adds to delta: 2^-53 for each value. (The cut of the tail alone, beyond
        13 standard deviations, has probability 2^-128 for a pair of values.)
        """
        return 0.0 if self.noise_multiplier == 0 else self.values * 2.0**-53


@dataclass(frozen=True)
class Sealed:
    """A payload in the outbox."""

    path: Path
    sha256: str
    size: int


@dataclass(frozen=True)
class Rounded:
    """An encoding of 8 bits: tensors of so many values each, one after the other, each with a scale of its own.

    The scales come first (float32), then the values as integers of -127 to 127 times their tensor's scale.
    """

    sizes: tuple[int, ...]


Encoding = np.dtype[np.floating] | Rounded


class SystemNoise:
    """Standard normal values from an AES-CTR keystream that the operating system's entropy keys."""

    def __init__(self) -> None:
        key, counter = os.urandom(32), os.urandom(16)
        self._keystream = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()

    def standard_normal(self, count: int) -> Floats:
        """Box and Muller (1958) on u in (0, 1], so that no logarithm of zero occurs.

        Cosine and sine of the angle come from the tangent t of its half, (1 - t^2) / (1 + t^2) and 2t / (1 + t^2): with
        NumPy that takes half the time.
        """
        half = (count + 1) // 2
        words = self._words(2 * half).reshape(2, half)
        radius = self._uniform(words[0])
        np.log(radius, out=radius)
        radius *= -2
        np.sqrt(radius, out=radius)
        tangent = words[1] * (2.0**-64 * math.pi)
        np.tan(tangent, out=tangent)
        square = tangent * tangent
        radius /= square + 1
        normal = np.empty((2, half))
        np.subtract(1, square, out=normal[0])
        np.multiply(2, tangent, out=normal[1])
        normal *= radius
        return normal.reshape(-1)[:count]

    def below_one(self, count: int) -> Floats:
        """`count` independent multiples of 2^-32 in [0, 1)."""
        return np.multiply(self._words((count + 1) // 2).view(np.uint32)[:count], 2.0**-32, dtype=np.float64)

    def _uniform(self, words: NDArray[np.uint64]) -> Floats:
        """Numbers in (0, 1] with 53 significant bits however small they are.

        On an even grid of 2^-53 the radii of the tail would lie further apart than the gate's steps (by 85,000 steps
        for the two largest, at sigma 1), and a noise that no radius can make would tell which value lies under it.
        """
        uniform: Floats = np.add(words, 1.0, dtype=np.float64)
        uniform *= 2.0**-64
        small = np.flatnonzero(words < np.uint64(1 << 53))
        uniform[small] = (words[small] + (self._words(small.size) + 1.0) * 2.0**-64) * 2.0**-64
        return uniform

    def _words(self, count: int) -> NDArray[np.uint64]:
        return np.frombuffer(self._keystream.update(bytes(8 * count)), np.uint64)


class _Ahead:
    """A source's values in their order, the next ones made by a thread while these are used.

    `values` are taken in all, in portions of `CHUNK`, the last one excepted.
    """

    def __init__(self, source: NoiseSource, values: int, thread: Executor) -> None:
        self._blocks = _made_ahead(source, values, thread)
        self._left = np.empty(0)

    def standard_normal(self, count: int) -> Floats:
        """As `NoiseSource` says."""
        if not self._left.size:
            self._left = next(self._blocks)
        taken, self._left = self._left[:count], self._left[count:]
        return taken


def _made_ahead(source: NoiseSource, values: int, thread: Executor) -> Iterator[Floats]:
    made: Future[Floats] | None = None
    for start in range(0, values, AHEAD):
        following = thread.submit(source.standard_normal, min(AHEAD, values - start))
        if made is not None:
            yield made.result()
        made = following
    if made is not None:
        yield made.result()


def seal(read: ReadUpdate, gate: Gate, header: bytes, dtype: Encoding, destination: Path) -> Sealed:
    """Clips and noises the update and writes it, header first, into the outbox.

    `read` gives the values of the update at a slice, float64, shape [stop - start]; it is called twice for each
    chunk. `header` and `dtype` are the payload's encoding. Raises DataNotFit on anything that is not finite, and
    CannotWrite; the destination then does not exist.
    """
    with ThreadPoolExecutor(1) as thread:
        noise = _Ahead(SystemNoise(), gate.values, thread)
        return _write(privatised(read, gate, noise), gate.values, header, dtype, destination)


def privatised(read: ReadUpdate, gate: Gate, noise: NoiseSource) -> Iterator[Floats]:
    """What `seal` writes of an update, chunk by chunk: clipped and noised. Raises as it does.

    The attacks on this site's own data (`fedsite.privacy.attacks`) look at just this.
    """
    norm = measure_norm(read, gate.values)
    for clipped in quantised(read, gate, norm):
        yield add_noise(clipped, gate, noise) / gate.scale


def seal_noised(read: ReadUpdate, values: int, header: bytes, dtype: Encoding, destination: Path) -> Sealed:
    """Writes, without clipping or noising, an update whose every step was clipped and noised as it was trained.

    Only the release of a `dp-sgd` round may call this, for weights that its private steps alone have made: the update
    is then post-processing of what was noised, and its charge covers it. Anything else goes through `seal`.
    `read` gives the `values` values of the update as for `seal`, and is called once for each chunk. Raises DataNotFit
    on anything that is not finite, and CannotWrite; the destination then does not exist.
    """
    return _write((_finite(read(part)) for part in _chunks(values)), values, header, dtype, destination)


def measure_norm(read: ReadUpdate, values: int) -> float:
    """The L2 norm of an update in float64. Raises DataNotFit when it is not finite."""
    total = 0.0
    with np.errstate(over="ignore"):  # too large to square: found below
        for part in _chunks(values):
            chunk = read(part)
            total += float(np.dot(chunk, chunk))
    if not math.isfinite(total):  # nor is any value that is not
        raise _not_finite()
    return math.sqrt(total)


def quantised(read: ReadUpdate, gate: Gate, norm: float) -> Iterator[Integers]:
    """The clipped update in grid steps, truncated toward zero, chunk by chunk: its norm is at most 2^20.

    Raises DataNotFit where that does not hold.
    """
    factor = factor_of(gate, norm)
    square = 0.0
    for part in _chunks(gate.values):
        with np.errstate(over="ignore", invalid="ignore"):
            steps = read(part) * factor
            np.trunc(steps, out=steps)
            square += float(np.dot(steps, steps))  # of integers, so exact up to 2^53
        # `read` may give another answer than it gave for the norm, and what an integer cannot hold would wrap.
        require_bounded(square)
        yield steps.astype(np.int64)


def factor_of(gate: Gate, norm: float) -> float:
    """By what an update of this norm is multiplied to be one of grid steps, whose norm is at most 2^20."""
    # One part in 2^40 less than C, so that no rounding of the product can lift the norm above the bound.
    return min(gate.scale, STEPS_PER_CLIP_NORM * (1 - 2.0**-40) / norm) if norm > 0 else gate.scale


def require_bounded(square: float) -> None:
    """Raises DataNotFit unless this is the squared norm of a clipped update, in grid steps. NaN is none."""
    if not square <= STEPS_PER_CLIP_NORM**2:
        raise DataNotFit("The clipped update is longer than its bound.", "Nothing was released; report this bug.")


def add_noise(clipped: Integers, gate: Gate, noise: NoiseSource) -> Integers:
    """Adds rounded Gaussian noise of standard deviation sigma * C * S in integers."""
    if gate.noise_multiplier == 0:
        return clipped
    steps = noise.standard_normal(len(clipped)) * (gate.noise_multiplier * STEPS_PER_CLIP_NORM)
    return clipped + np.rint(steps, out=steps).astype(np.int64)


def _write(released: Iterable[Floats], values: int, header: bytes, dtype: Encoding, destination: Path) -> Sealed:
    """Writes the payload, which appears only once its last chunk was made without an exception."""
    digest = hashlib.sha256(header)
    with atomic_writer(destination, PRIVATE_FILE) as file:
        file.write(header)
        if isinstance(dtype, Rounded):
            blocks = _rounded(released, values, dtype, destination.parent)
        else:
            blocks = _encoded(released, dtype)
        for block in blocks:
            digest.update(block)
            file.write(block)
    return Sealed(destination, digest.hexdigest(), destination.stat().st_size)


def _encoded(released: Iterable[Floats], dtype: np.dtype[np.floating]) -> Iterator[bytes]:
    """Float values as the wire wants them; saturates at the largest finite value of a narrow type."""
    largest = float(np.finfo(dtype).max)
    for values in released:
        yield np.clip(values, -largest, largest).astype(dtype).tobytes()


def _rounded(released: Iterable[Floats], values: int, encoding: Rounded, folder: Path) -> Iterator[bytes]:
    """The scales, then the values, rounded up or down by chance so that each is itself in the mean.

    All of it is post-processing of what was noised: the largest value of a tensor, too, is taken after the noise. It
    is known only at the end, and noise is drawn once; so what was noised waits as float32 in a file without a name.
    """
    if sum(encoding.sizes) != values:
        raise DataNotFit("The update has not as many values as its tensors.", "Nothing was released; report this bug.")
    ends, chance = np.cumsum(encoding.sizes), SystemNoise()
    largest = np.zeros(len(ends))
    with tempfile.TemporaryFile(dir=folder) as waiting:
        for block, part in zip(_encoded(released, _WAITING), _chunks(values), strict=True):
            which, counts = _tensors(ends, part)
            own = np.maximum.reduceat(np.abs(np.frombuffer(block, _WAITING)), np.cumsum(counts) - counts)
            np.maximum(largest[which], own, out=largest[which])
            waiting.write(block)
        scales = _scales(largest)
        yield scales.tobytes()
        waiting.seek(0)
        for part in _chunks(values):
            block = waiting.read((part.stop - part.start) * _WAITING.itemsize)
            which, counts = _tensors(ends, part)
            steps = np.divide(np.frombuffer(block, _WAITING), np.repeat(scales[which], counts), dtype=np.float64)
            steps += chance.below_one(steps.size)
            yield np.floor(steps, out=steps).astype(np.int8).tobytes()


def _scales(largest: Floats) -> NDArray[np.float32]:
    """The smallest float32 numbers of which each tensor's largest value is at most 127; 1 where all values are 0."""
    scales = (largest / _STEPS).astype(_WAITING)
    scales = np.where(_STEPS * scales.astype(np.float64) < largest, np.nextafter(scales, np.float32(np.inf)), scales)
    return np.where(largest > 0, scales, np.float32(1))


def _tensors(ends: Integers, part: slice) -> tuple[slice, Integers]:
    """The tensors that a slice has a part in, and how many of its values are each one's, by where tensors end."""
    first, last = np.searchsorted(ends, (part.start, part.stop - 1), side="right")
    which = slice(int(first), int(last) + 1)
    return which, np.diff(np.minimum(ends[which], part.stop), prepend=part.start)


def _finite(values: Floats) -> Floats:
    if not np.isfinite(values).all():
        raise _not_finite()
    return values


def _not_finite() -> DataNotFit:
    return DataNotFit(
        "The update holds values that are not finite (NaN or infinity), or are too large.",
        "Nothing was released. The training diverged: look at the round's loss; the plan's learning rate may be too"
        " high.",
    )


def _chunks(values: int) -> Iterator[slice]:
    for start in range(0, values, CHUNK):
        yield slice(start, min(start + CHUNK, values))
