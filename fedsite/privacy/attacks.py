"""Attacks on what a site would release, which its operator runs at home: on arrays, networks and functions alone.

The attacker is the strongest that the promise is made against: it knows model, label, mechanism and every other
patient, and sees all that leaves. `worlds` and `canaries` are audits with patients made for the purpose; `inversion`
and `membership` ask what is seen of real ones. What leaves is made by the code of a round, and goes nowhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedsite.privacy import mechanism
from fedsite.privacy.dpsgd import Chance, PrivateGradient, Settings
from fedsite.privacy.mechanism import Gate, NoiseSource

if TYPE_CHECKING:
    import torch
    from torch import nn

Floats = NDArray[np.float64]
Bits = NDArray[np.bool_]
Gradients = NDArray[np.floating]
# What leaves of the gradients [patients, d] of those who take part: [d].
Leaves = Callable[[Gradients], Floats]
Loss = Callable[[Any, "torch.Tensor"], "torch.Tensor"]
Progress = Callable[[int, int], None]
# How far beyond the clip norm an audit's patients try to go: a mechanism that does not clip lets them.
EXCESS = 10.0


def _silent(done: int, total: int) -> None:
    """No progress is shown."""


# --- what leaves ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UpdateRelease:
    """`gaussian-update`: one step along the mean of the gradients, so long that it is clipped, and noised."""

    gate: Gate
    noise: NoiseSource

    def __call__(self, gradients: Gradients) -> Floats:
        """What leaves, [d]."""
        update = gradients.mean(axis=0, dtype=np.float64)
        norm = float(np.linalg.norm(update))
        return self.of_update(update * (EXCESS * self.gate.clip_norm / norm) if norm else update)

    def of_update(self, update: Floats) -> Floats:
        """What leaves of an update [d]."""
        return np.concatenate(list(mechanism.privatised(update.__getitem__, self.gate, self.noise)))

    def without_noise(self) -> "UpdateRelease":
        """The same, but for the noise."""
        return replace(self, gate=replace(self.gate, noise_multiplier=0.0))


class SumRelease:
    """`dp-sgd`: the noised sum of a step's clipped gradients, made by the step of a training itself."""

    def __init__(
        self,
        values: int,
        settings: Settings,
        patients: int = 0,
        chance: Chance | None = None,
        noise: NoiseSource | None = None,
    ) -> None:
        import torch

        self._parameter = torch.nn.Parameter(torch.zeros(values, dtype=torch.float64))
        network = torch.nn.ParameterList([self._parameter])
        self._step = PrivateGradient(network, patients, settings, chance, noise)

    def __call__(self, gradients: Gradients | Sequence[Floats]) -> Floats:
        """What leaves of a step with these patients, before its division: [d]."""
        self._step(self._take, list(gradients))
        assert self._parameter.grad is not None
        total: Floats = self._parameter.grad.numpy() * self._step.settings.batch_patients
        return total

    def of_next_step(self, gradient_of: Callable[[int], Floats]) -> Floats:
        """The same of a step that samples its patients itself."""
        return self([gradient_of(patient) for patient in self._step.included()])

    def without_noise(self) -> "SumRelease":
        """The same, but for the noise."""
        return SumRelease(self._parameter.numel(), replace(self._step.settings, noise_multiplier=0.0))

    def _take(self, gradient: Floats) -> "torch.Tensor":
        import torch

        self._parameter.grad = torch.from_numpy(np.asarray(gradient, np.float64))
        return torch.zeros(())


# --- audits ---------------------------------------------------------------------------------------------------------


def worlds(release: UpdateRelease, runs: int, progress: Progress = _silent) -> tuple[Floats, Floats]:
    """`gaussian-update` in two worlds that differ by one patient, as far apart as clipping allows: -C and +C.

    Gives for each run where the release lies on the line between them, in units of C: without and with the patient,
    [runs / 2] each.
    """
    gate = release.gate
    line = np.full(gate.values, gate.values**-0.5)
    update = EXCESS * gate.clip_norm * line
    seen = np.empty((runs // 2, 2))
    for number, place in enumerate(np.ndindex(seen.shape), start=1):
        seen[place] = line @ release.of_update(update if place[1] else -update) / gate.clip_norm
        progress(number, seen.size)
    return seen[:, 0], seen[:, 1]


def canaries(
    settings: Settings,
    steps: int,
    included: Bits,
    chance: Chance | None = None,
    noise: NoiseSource | None = None,
    progress: Progress = _silent,
) -> Floats:
    """`dp-sgd`, one run of it whose patients are canaries, each along an axis of its own, of whom some are `included`.

    Gives the log-likelihood ratio of "it took part" for each, [canaries]. A noised sum along its axis is sigma times
    N(0, 1) in units of C, and 1 more in a step that sampled it.
    """
    patients, count = np.flatnonzero(included), len(included)
    release = SumRelease(count, settings, len(patients), chance, noise)

    def gradient_of(patient: int) -> Floats:
        axis = np.zeros(count)
        axis[patients[patient]] = EXCESS * settings.clip_norm
        return axis

    variance = max(settings.noise_multiplier, 1e-3) ** 2  # without any noise the ratios are as good as infinite
    with np.errstate(divide="ignore"):  # at rate 1 nobody is left out
        left_out, taken = np.log1p(-settings.sampling_rate), np.log(settings.sampling_rate)
    ratios = np.zeros(count)
    for number in range(steps):
        seen = release.of_next_step(gradient_of) / settings.clip_norm
        ratios += np.logaddexp(left_out, taken + (2 * seen - 1) / (2 * variance))
        progress(number + 1, steps)
    return ratios


# --- gradient inversion ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inversion:
    """What gradients gave away of a patch [C, x, y, z], and how each result correlates with it.

    `noise` are the correlations of the same attack on noise alone, of which `of_noise` is one; the interval is where
    one more of them would lie. `released` beyond it would have been a leak.
    """

    patch: Floats
    of_raw: Floats
    of_released: Floats
    of_noise: Floats
    raw: float
    released: float
    noise: tuple[float, ...]
    interval: tuple[float, float]

    @property
    def within(self) -> bool:
        """Whether what is released told no more than noise does."""
        return self.interval[0] <= self.released <= self.interval[1]


def gradient_of(
    network: "nn.Module", loss: Loss, image: "torch.Tensor", label: "torch.Tensor", differentiable: bool = False
) -> "torch.Tensor":
    """The gradient [d] of the loss by what learns of the network, for image [B, C, x, y, z], label [B, 1, x, y, z]."""
    import torch

    learning = [one for one in network.parameters() if one.requires_grad]
    value = loss(network(image), label)
    parts = torch.autograd.grad(value, learning, create_graph=differentiable, allow_unused=True, materialize_grads=True)
    return torch.cat([part.reshape(-1) for part in parts])


class PatchGradient:
    """The gradient [d] of a network's loss for one patch, in float64, as a function of the patch [C, x, y, z].

    The patch lies in the middle of `sides` voxels, the fewest that the network takes, which are zero else. `label`
    uint8 [x, y, z] belongs to the patch. The network is copied, and made as an attacker would who makes the model: with
    activations of slope 1 (PReLU's is a weight) the gradient is smooth, and a search does not stop at their kinks.
    """

    def __init__(self, network: "nn.Module", loss: Loss, label: NDArray[np.uint8], sides: Sequence[int]) -> None:
        import copy

        import torch

        self._network = copy.deepcopy(network).cpu().double().train()
        for activation in self._network.modules():
            if isinstance(activation, torch.nn.PReLU):
                torch.nn.init.ones_(activation.weight)
        self._loss = loss
        missing = [side - given for side, given in zip(sides, label.shape, strict=True)]
        self._widths = [width for gap in reversed(missing) for width in (gap // 2, gap - gap // 2)]
        self._label = self._placed(torch.from_numpy(np.array(label[None])))

    def __call__(self, patch: Floats) -> Floats:
        """The gradient for a patch."""
        import torch

        gradient: Floats = self._gradient(torch.from_numpy(patch)).numpy()
        return gradient

    def mismatch(self, patch: Floats, wanted: Floats) -> tuple[float, Floats]:
        """One less the cosine between a patch's gradient and the one that is wanted, and its slope by the patch."""
        import torch

        image = torch.from_numpy(patch).requires_grad_()
        gradient, target = self._gradient(image, differentiable=True), torch.from_numpy(wanted)
        mismatch = 1 - gradient @ target / (gradient.norm() * target.norm())
        (slope,) = torch.autograd.grad(mismatch, image)
        return float(mismatch.detach()), slope.numpy()

    def _gradient(self, image: "torch.Tensor", differentiable: bool = False) -> "torch.Tensor":
        return gradient_of(self._network, self._loss, self._placed(image), self._label, differentiable)

    def _placed(self, image: "torch.Tensor") -> "torch.Tensor":
        """[C, x, y, z] in the middle of [1, C, *sides]."""
        import torch

        return torch.nn.functional.pad(image, self._widths)[None]


def invert(gradient: PatchGradient, seen: Floats, shape: Sequence[int], iterations: int, seed: int) -> Floats:
    """The patch of that shape whose gradient points most nearly where the one that was seen does.

    Gradient matching by cosine (Geiping et al. 2020), by L-BFGS (as Zhu, Liu and Han 2019) from random values; by
    direction alone, so clipping does not hide anything. What is sought are the amplitudes of waves, weighted as they
    are in smooth images: long waves first.
    """
    from scipy.optimize import minimize

    weights = _weights_of_waves(shape[1:])

    def smooth(values: Floats) -> Floats:  # its own adjoint
        image: Floats = np.fft.ifftn(np.fft.fftn(values.reshape(shape), axes=(1, 2, 3)) * weights, axes=(1, 2, 3)).real
        return image

    def mismatch(values: Floats) -> tuple[float, Floats]:
        value, slope = gradient.mismatch(smooth(values), seen)
        return value, smooth(slope).ravel()

    found = minimize(
        mismatch,
        np.random.default_rng(seed).normal(size=int(np.prod(shape))),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": iterations, "maxfun": 2 * iterations, "maxcor": 50, "ftol": 0, "gtol": 1e-14},
    )
    return smooth(found.x)


def _weights_of_waves(sides: Sequence[int]) -> Floats:
    """How strong waves are in a smooth image: falling with the square of their number, 1 in the mean square."""
    waves = np.meshgrid(*[np.fft.fftfreq(side) * side for side in sides], indexing="ij")
    weights = 1 / (1 + np.sqrt(sum(wave**2 for wave in waves))) ** 2
    scaled: Floats = weights / np.sqrt(np.mean(weights**2))
    return scaled


def inversion(
    gradient: PatchGradient,
    patch: Floats,
    leaves: Leaves,
    *,
    iterations: int,
    yardsticks: int,
    seed: int,
    progress: Progress = _silent,
) -> Inversion:
    """Inverts the gradient of a patch as it is, as it would be released, and noise alone, `yardsticks` times."""
    true = gradient(patch)
    pure = np.random.default_rng(seed).normal(size=(yardsticks, len(true)))
    targets = [true, leaves(true[None]), *pure]
    images = []
    for number, target in enumerate(targets):
        images.append(invert(gradient, target, patch.shape, iterations, seed + number))
        progress(number + 1, len(targets))
    raw, leaked, *by_noise = (correlation(image, patch) for image in images)
    return Inversion(patch, images[0], images[1], images[2], raw, leaked, tuple(by_noise), one_more(by_noise))


def correlation(image: Floats, patch: Floats) -> float:
    """Pearson's correlation of two images; 0 where one of them is even."""
    return cosine(*(values.ravel() - values.mean() for values in (image, patch)))


def one_more(values: Sequence[float], confidence: float = 0.99) -> tuple[float, float]:
    """Between which bounds another value of the same kind lies (Student's prediction interval)."""
    from scipy.stats import t

    count, middle = len(values), float(np.mean(values))
    reach = float(t.ppf((1 + confidence) / 2, count - 1) * np.std(values, ddof=1) * (1 + 1 / count) ** 0.5)
    return middle - reach, middle + reach


# --- membership -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Membership:
    """Scores of strangers and of members in as many games each: by what would leave raw, and by what is released."""

    raw: tuple[Floats, Floats]
    released: tuple[Floats, Floats]


def membership(
    gradients: Gradients,
    batch: int,
    release: "UpdateRelease | SumRelease",
    games: int,
    seed: int,
    progress: Progress = _silent,
) -> Membership:
    """Whether a patient took part in the update of up to `batch` patients, guessed by somebody who knows all others.

    The score is the cosine between the patient's own part and what the update holds beyond the part of the others.
    `gradients` [patients, d]. In each of `games` games with the patient, and in as many without, all are drawn anew.
    """
    random, expected = np.random.default_rng(seed), release.without_noise()
    scores = np.empty((2, games, 2))
    for number, (game, member) in enumerate(np.ndindex(games, 2), start=1):
        everybody = gradients[random.permutation(len(gradients))[:batch]]
        others = everybody[1:]
        part = everybody if member else others
        known = others.sum(axis=0, dtype=np.float64)
        scores[0, game, member] = cosine(everybody[0], part.sum(axis=0, dtype=np.float64) - known)
        known = expected(others)
        scores[1, game, member] = cosine(expected(everybody) - known, release(part) - known)
        progress(number, 2 * games)
    raw, released = scores
    return Membership((raw[:, 0], raw[:, 1]), (released[:, 0], released[:, 1]))


def cosine(one: Gradients, other: Gradients) -> float:
    """The cosine between two vectors; 0 where one of them is zero."""
    norms = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / norms if norms else 0.0
