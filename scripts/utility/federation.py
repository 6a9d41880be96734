"""Learning from hospitals' cases in one process: no server; everything else is what sites and server run.

The loop, the patches, the step, the algorithms' corrections and dp-sgd are those of `fedsite.training` and
`fedsite.privacy`, the averaging is that of `fedsite.server`, on files. A site by itself is a federation of one, and so
are all cases in one place.
"""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedsite.dataset.cases import Case
from fedsite.privacy import mechanism
from fedsite.privacy.dpsgd import PrivateGradient, Settings
from fedsite.server.rounds import aggregation
from fedsite.tasks import networks, parts, registry
from fedsite.tasks.description import Task
from fedsite.training import algorithms, inference, loop, metrics, sampling, schedules, steps, weights
from fedsite.training.private import PatientSampler, Private, PrivateStep
from fedsite.wire import payload
from fedsite.wire.algorithms import next_control
from utility.patients import CHANNELS, TASK
from utility.recipes import NETWORK, Privacy, Recipe

FOREGROUND_FRACTION = 0.67
CPU = torch.device("cpu")

Cases = Sequence[Case]
Tensors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class LocalWork:
    """What one site does in one round, from the weights that the network holds."""

    recipe: Recipe
    steps: int
    learning_rate: float
    seed: int
    correction: algorithms.Correction | None = None


def train(network: nn.Module, cases: Cases, work: LocalWork) -> None:
    """A site's steps of one round. Each case is a patient; nothing is clipped nor noised unless the recipe says so."""
    recipe = work.recipe
    patches = 1 if recipe.privacy else recipe.batch_size
    sampler = sampling.PatchSampler(cases, recipe.patch, patches, FOREGROUND_FRACTION, work.seed)
    optimizer = schedules.make_optimizer(network, "sgd", work.learning_rate, recipe.momentum)
    step = steps.SupervisedStep(network, optimizer, registry.module(TASK).loss(), CPU, correction=work.correction)
    before_step = schedules.follow(optimizer, recipe.schedule, work.learning_rate, work.steps)
    if recipe.privacy is None:
        loop.train(network, sampler, step, work.steps, before_step=before_step)
        return
    private = _private(network, len(cases), recipe.privacy)
    of_patients, of_step = PatientSampler(sampler, private), PrivateStep(step, private.mechanism)
    loop.train(network, of_patients, of_step, work.steps, before_step=before_step)


def _private(network: nn.Module, cases: int, asked: Privacy) -> Private:
    """dp-sgd with noise and sampling by the operating system, as a release has it: no two runs are alike."""
    settings = Settings(asked.clip_norm, asked.noise_multiplier, asked.batch_patients, asked.sampling_rate)
    return Private(PrivateGradient(network, cases, settings), {f"patient-{place}": (place,) for place in range(cases)})


@dataclass(frozen=True)
class Learned:
    """The last global model, whole; and for each site the layers that it kept to itself (FedBN: its normalisation).

    Where layers stay at home, the global model has them as they were built: who took no part gets no others.
    """

    model: Tensors
    kept: tuple[Tensors, ...]


def build(recipe: Recipe, seed: int) -> nn.Module:
    """The network with its first weights."""
    return networks.build(_task(), NETWORK, recipe.network, seed)


def learn(recipe: Recipe, sites: Sequence[Cases], seed: int) -> Learned:
    """Takes all rounds of a federation of these sites."""
    with tempfile.TemporaryDirectory() as folder:
        federation = _Federation(recipe, sites, seed, Path(folder))
        for number in range(recipe.rounds):
            federation.take_round(number)
        return Learned({**federation.built, **_tensors(federation.model)}, tuple(federation.kept))


def dice(recipe: Recipe, tensors: Tensors, cases: Cases) -> list[float]:
    """Each case's Dice on the prepared grid, by sliding windows of the size of the training's patches."""
    network = build(recipe, 0)
    weights.load(network, tensors)
    return [
        metrics.dice(inference.segment(network, _task(), case.image, recipe.patch, CPU), case.label) for case in cases
    ]


class _Federation:
    """The sites of a federation, what each keeps to itself, and the server's files."""

    def __init__(self, recipe: Recipe, sites: Sequence[Cases], seed: int, folder: Path) -> None:
        self.recipe, self.sites, self.seed, self.folder = recipe, sites, seed, folder
        self.network = build(recipe, seed)
        tensors = weights.export(self.network)
        home = parts.of(NETWORK, "normalisation", tensors) if recipe.algorithm == "fedbn" else frozenset()
        self.built = {name: values for name, values in tensors.items() if name in home}
        self.kept = [self.built for _ in sites]
        self.model = folder / "model-0.safetensors"
        self.layout = payload.write_model(
            self.model, {name: values for name, values in tensors.items() if name not in home}
        )
        self.encoded = self.layout.encoded(recipe.payload)
        self.previous: Path | None = None
        self.moments: aggregation.Moments | None = None
        self.controls: list[Tensors | None] = [None for _ in sites]
        self.control: Path | None = None

    def take_round(self, number: int) -> None:
        """Every site trains from the global model; the server makes the next one of their updates."""
        updates = [self._updated(site, number) for site in range(len(self.sites))]
        scaffold = self.recipe.algorithm == "scaffold"
        controls = self._controls(number) if scaffold else None
        start = aggregation.Start(self.model, self.layout, self.previous, self.moments, controls)
        if scaffold:
            self._keep_controls(updates, number)
        recipe = self.recipe
        rules = aggregation.Rules(recipe.aggregation, recipe.server_momentum, recipe.server_adam, recipe.payload)
        pieces = list(aggregation.following(start, updates, rules))
        files = {name: self.folder / f"{name}-{number + 1}.safetensors" for name in pieces[0]}
        for name, path in files.items():
            path.write_bytes(b"".join(piece[name] for piece in pieces))
        self.model, self.previous = files["model"], self.model
        self.control = files.get("control")
        self.moments = aggregation.Moments(files["first"], files["second"]) if recipe.server_adam else None

    def _updated(self, site: int, number: int) -> aggregation.Update:
        """A site's part of a round: its update, as a file."""
        before = _tensors(self.model)
        weights.load(self.network, {**before, **self.kept[site]})
        seed = hashlib.sha256(f"{self.seed}:{number}:{site}".encode()).digest()[:8]
        work = LocalWork(
            recipe=self.recipe,
            steps=self.recipe.steps_in(number),
            learning_rate=self.recipe.learning_rate_in(number),
            seed=int.from_bytes(seed, "big"),
            correction=self._correction(site),
        )
        train(self.network, self.sites[site], work)
        trained = weights.export(self.network)
        self.kept[site] = {name: trained[name] for name in self.built}
        path = self.folder / f"update-{site}.safetensors"
        payload.write_model(path, {name: trained[name] - values for name, values in before.items()})
        return aggregation.Update(self._sent(path), 1.0)

    def _sent(self, update: Path) -> Path:
        """The update as the plan's encoding has it, by the code that seals what dp-sgd has noised."""
        if self.recipe.payload == "float32":
            return update
        form = mechanism.Rounded(self.encoded.sizes) if self.encoded.scaled else self.encoded.dtype
        path = update.with_suffix(f".{self.recipe.payload}")
        mechanism.seal_noised(
            lambda part: payload.read_values(update, self.layout, part).astype(np.float64),
            self.layout.values,
            self.encoded.header,
            form,
            path,
        )
        return path

    def _correction(self, site: int) -> algorithms.Correction | None:
        if self.recipe.algorithm == "fedprox":
            return algorithms.proximal(self.network, self.recipe.mu)
        if self.recipe.algorithm == "scaffold":
            control = _tensors(self.control) if self.control else None
            return algorithms.controlled(self.network, self.controls[site], control)
        return None

    def _controls(self, number: int) -> aggregation.Controls:
        """What the server knows of SCAFFOLD before a round: all sites take part in every one."""
        known = len(self.sites)
        return aggregation.Controls(self.control, self._reach(number), known if self.control else 0, known)

    def _keep_controls(self, updates: Sequence[aggregation.Update], number: int) -> None:
        """SCAFFOLD's next control of each site, from its update."""
        present = _tensors(self.control) if self.control else None
        for site, update in enumerate(updates):
            own = self.controls[site]
            self.controls[site] = {
                name: next_control(
                    own[name].astype(np.float64) if own else 0.0,
                    present[name].astype(np.float64) if present else 0.0,
                    values.astype(np.float64),
                    self._reach(number),
                ).astype(np.float32)
                for name, values in _tensors(update.path).items()
            }

    def _reach(self, number: int) -> float:
        return self.recipe.steps_in(number) * self.recipe.learning_rate_in(number)


def _task() -> Task:
    return registry.get(TASK).narrowed(CHANNELS)


def _tensors(file: Path) -> Tensors:
    """Copies: the file may be written anew."""
    return {name: np.array(values, np.float32) for name, values in payload.tensors_of(file).items()}
