"""A training on disk, so that a kill costs minutes: weights, optimiser and losses, without pickle.

One safetensors file: `network.NAME`, `optimizer.INDEX.KEY`, `average.NAME`, `best.NAME`, `losses`, as JSON in `about`
what is no tensor, and in `sha256` the digest of all that. The batch of a step depends on seed and step alone, so no
generator's state is kept, and on a CPU a resumed training goes on bit by bit as if nothing had happened. Under dp-sgd
it goes on with new draws of patients and noise: those of the steps that are done again were never seen.
"""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from fedsite.files import PRIVATE_FILE, atomic_writer
from fedsite.training.steps import SupervisedStep
from fedsite.training.stopping import EarlyStop

_KINDS = ("network", "optimizer", "average", "best", "losses", "about", "sha256")

Tensors = dict[str, torch.Tensor]


class Checkpoints:
    """The one file in which a training is kept (0600: raw weights), written every so many seconds.

    `purpose` names everything that decides what the training computes. A file of another purpose is thrown away, and
    so is one that is damaged: then the training begins anew. Where several processes train, one of them keeps the file
    (`leads`), and `tell` gives its bytes to all.
    """

    def __init__(
        self,
        path: Path,
        purpose: str,
        every_seconds: float,
        step: SupervisedStep,
        early_stop: EarlyStop | None = None,
        *,
        leads: bool = True,
        tell: Callable[[bytes], bytes] = lambda content: content,
    ) -> None:
        self.path = path
        self.purpose = purpose
        self.every_seconds = every_seconds
        self._step = step
        self._early_stop = early_stop
        self._leads = leads
        self._tell = tell
        self._written = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is this process's turn to write, since the last one is old enough."""
        return self._leads and time.monotonic() - self._written >= self.every_seconds

    def keep(self, losses: list[float], seconds: float) -> None:
        """Replaces the checkpoint by the training as it is after so many losses and seconds, durably.

        Raises CannotWrite; the one before is then still there.
        """
        if not self._leads:
            return
        self._written = time.monotonic()
        tensors = {f"network.{name}": tensor for name, tensor in self._step.network.state_dict().items()}
        for index, entries in self._step.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in entries.items() if value is not None}
        about: dict[str, Any] = {"purpose": self.purpose, "seconds": seconds, "micro_batch": self._step.micro_batch}
        about["scaler"] = self._step.scaler.state_dict()
        if self._step.average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self._step.average.weights.items()}
            about["averaged"] = self._step.average.followed
        if self._early_stop is not None:
            tensors |= {f"best.{name}": tensor for name, tensor in self._early_stop.best.items()}
            about["scores"] = self._early_stop.scores
        tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
        tensors["about"] = torch.frombuffer(bytearray(json.dumps(about).encode()), dtype=torch.uint8)
        held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        content = save({**held, "sha256": _digest(held)})
        with atomic_writer(self.path, PRIVATE_FILE) as file:
            file.write(content)

    def resume(self) -> tuple[list[float], float]:
        """Brings step, network and optimiser to where the training was kept: its losses so far, and its seconds.

        Without a checkpoint of this purpose nothing changes, and there are no losses.
        """
        content = self._tell(self._read() if self._leads else b"")
        if not content:
            return [], 0.0
        tensors = _by_kind(content)
        about = json.loads(tensors["about"][""].numpy().tobytes())
        self._step.network.load_state_dict(tensors["network"])
        state: dict[int, Tensors] = {}
        for name, tensor in tensors["optimizer"].items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = tensor
        optimizer = self._step.optimizer
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        if about["scaler"]:
            self._step.scaler.load_state_dict(about["scaler"])
        self._step.micro_batch = about["micro_batch"]
        if self._step.average is not None:
            self._step.average.load(tensors["average"], about["averaged"])
        if self._early_stop is not None:
            self._early_stop.best, self._early_stop.scores = tensors["best"], about["scores"]
        losses: list[float] = tensors["losses"][""].tolist()
        return losses, about["seconds"]

    def remove(self) -> None:
        """Throws the checkpoint away."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> bytes:
        """The file's bytes, if it is whole and of this purpose; else it goes, and there are none."""
        try:
            content = self.path.read_bytes()
            tensors = load(content)
            whole = torch.equal(tensors.pop("sha256"), _digest(tensors))
            if whole and json.loads(tensors["about"].numpy().tobytes())["purpose"] == self.purpose:
                return content
        except (SafetensorError, OSError, LookupError):
            pass
        self.remove()
        return b""


def _by_kind(content: bytes) -> dict[str, Tensors]:
    """The tensors of a checkpoint by the first part of their names."""
    tensors: dict[str, Tensors] = {kind: {} for kind in _KINDS}
    for name, tensor in load(content).items():
        kind, _, rest = name.partition(".")
        tensors[kind][rest] = tensor
    return tensors


def _digest(tensors: Tensors) -> torch.Tensor:
    """The SHA-256 of names and values, uint8 [32]: a bit that turned on the disk must not reach a model."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
