"""What leaves in a round, block by block of the network, for this site's people: before it happens, and kept after.

Norms before the noise and the spread of an update's values depend on patients: all of this stays at home (privacy.md).
What is kept lies below the state folder, for its user alone, one file for each round.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsite.files import PRIVATE_FILE, PRIVATE_FOLDER, make_folder, write_atomically
from fedsite.jobs.plan import algorithms, charging
from fedsite.jobs.training.local_work import Update
from fedsite.privacy import mechanism
from fedsite.privacy.ledger import Spent
from fedsite.privacy.mechanism import Floats, Gate, ReadUpdate
from fedsite.privacy.statement import guarantee
from fedsite.site.state import State
from fedsite.tasks import parts
from fedsite.wire import payload
from fedsite.wire.payload import Layout
from fedsite.wire.plans import DpSgd, PlanDraft

FOLDER = "egress"
LOWEST, HIGHEST = -60, 60  # the powers of two between which values are told apart

Record = dict[str, Any]


@dataclass(frozen=True)
class Counted:
    """Squared L2 norms of some of an update's values, before and after clipping, and how many there are of which size.

    `counts[0]` are zeros, `counts[i]` values of 2^(e-1) <= |v| < 2^e, where e is LOWEST + i - 1; what is smaller or
    larger counts at the ends.
    """

    before: float = 0.0
    after: float = 0.0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(HIGHEST - LOWEST + 2, np.int64))

    def __add__(self, other: "Counted") -> "Counted":
        """Both together."""
        return Counted(self.before + other.before, self.after + other.after, self.counts + other.counts)


def describe(plan: PlanDraft, update: Update, before: Spent, after: Spent, delta: float) -> Record:
    """What a release is: tensors, bytes, norms, noise and cost, and the same of each block of the network.

    `norm_after` is the L2 norm of what meets the noise, the clipped update. Under dp-sgd, where each step was clipped
    and noised, it is that of the update as it leaves: `norm_before`, `noise_norm` and `signal_to_noise` are then None,
    and `noise_standard_deviation` is that of the noise on each step's mean gradient. `signal_to_noise_at_most` is of
    the largest update, or step, that clipping lets through. `lost_on_the_grid` is the share of the update's energy that
    its cut to steps of a millionth of the clip norm took: much only where the clip norm is far too large for it.
    `before` and `after` are the ledger's totals without and with this release. Raises DataNotFit as the gate does.
    """
    read, layout = update
    norm = None if isinstance(plan.privacy, DpSgd) else mechanism.measure_norm(read, layout.values)
    blocks = {
        name: sum((_count(plan, read, place, norm) for place in places), Counted())
        for name, places in _runs(plan, layout).items()
    }
    whole = sum(blocks.values(), Counted())
    return {
        "mechanism": plan.privacy.mechanism,
        "algorithm": plan.algorithm_name,
        "composition": algorithms.composition(plan, layout.values),
        "tensors": [{"name": tensor.name, "shape": list(tensor.shape)} for tensor in layout.tensors],
        "bytes": layout.encoded(plan.payload).file_bytes,
        "clip_norm": plan.privacy.clip_norm,
        "noise_standard_deviation": noise_deviation(plan),
        "signal_to_noise_at_most": charging.signal_to_noise(plan, layout.values),
        **_figures(plan, whole),
        "lost_on_the_grid": None if norm is None else _lost(whole, plan.privacy.clip_norm),
        "blocks": [{"name": name, **_figures(plan, counted)} for name, counted in blocks.items()],
        "epsilon_before": before.epsilon,
        "epsilon_after": after.epsilon,
        "guarantee_before": guarantee(before.epsilon, delta),
        "guarantee_after": guarantee(after.epsilon, delta),
    }


def noise_deviation(plan: PlanDraft) -> float:
    """The standard deviation of the noise on each value: of the update, or under dp-sgd of a step's mean gradient."""
    asked = plan.privacy
    return asked.noise_multiplier * asked.clip_norm / (asked.batch_patients if isinstance(asked, DpSgd) else 1)


def keep(state: State, number: int, record: Mapping[str, Any]) -> None:
    """Keeps what a round's release is, in place of what an earlier try left. Raises CannotWrite."""
    write_atomically(_folder(state) / f"round-{number}.json", json.dumps(record).encode(), PRIVATE_FILE)


def kept(state: State) -> dict[int, Record]:
    """What was kept of each round, oldest first."""
    files = {int(path.stem.removeprefix("round-")): path for path in _folder(state).glob("round-*.json")}
    return {number: json.loads(files[number].read_bytes()) for number in sorted(files)}


def _count(plan: PlanDraft, read: ReadUpdate, place: slice, norm: float | None) -> Counted:
    """The values at a place of the update; `norm` is the whole update's, if that is clipped."""
    values = place.stop - place.start

    def own(part: slice) -> Floats:
        return read(slice(place.start + part.start, place.start + part.stop))

    found = Counted(before=mechanism.measure_norm(own, values) ** 2)
    for chunk in _meeting_the_noise(own, charging.gate_for(plan, values), norm):
        found += Counted(after=float(np.dot(chunk, chunk)), counts=_by_powers(chunk))
    return found


def _figures(plan: PlanDraft, counted: Counted) -> Record:
    """What is told of some of an update's values; `counts` begin with those of 2^(lowest-1) <= |v| < 2^lowest."""
    clipped = not isinstance(plan.privacy, DpSgd)
    values, norm = int(counted.counts.sum()), math.sqrt(counted.after)
    noise = noise_deviation(plan) * math.sqrt(values)
    taken = np.flatnonzero(counted.counts[1:])
    low, high = (int(taken[0]), int(taken[-1])) if taken.size else (0, -1)
    return {
        "values": values,
        "norm_before": math.sqrt(counted.before) if clipped else None,
        "norm_after": norm,
        "noise_norm": noise if clipped else None,
        "signal_to_noise": norm / noise if clipped and noise else None,
        "zeros": int(counted.counts[0]),
        "lowest": low + LOWEST,
        "counts": counted.counts[1:][low : high + 1].tolist(),
    }


def _lost(counted: Counted, clip_norm: float) -> float:
    clipped = min(counted.before, clip_norm**2)
    return max(0.0, 1 - counted.after / clipped) if clipped else 0.0


def _meeting_the_noise(read: ReadUpdate, gate: Gate, norm: float | None) -> Iterator[Floats]:
    if norm is None:
        return (read(part) for part in payload.chunks(gate.values, mechanism.CHUNK))
    return (clipped / gate.scale for clipped in mechanism.quantised(read, gate, norm))


def _by_powers(values: Floats) -> NDArray[np.int64]:
    """How many values there are of each power of two; the first count is that of the zeros."""
    places = np.clip(np.frexp(values)[1], LOWEST, HIGHEST) - LOWEST + 1
    return np.bincount(np.where(values == 0, 0, places), minlength=HIGHEST - LOWEST + 2)


def _runs(plan: PlanDraft, layout: Layout) -> dict[str, list[slice]]:
    """Where each block of the network lies in the update: neighbouring tensors in one piece."""
    blocks = parts.blocks(plan.network.name, (tensor.name for tensor in layout.tensors))
    runs: dict[str, list[slice]] = {}
    ends = accumulate(tensor.size for tensor in layout.tensors)
    for tensor, end in zip(layout.tensors, ends, strict=True):
        own, start = runs.setdefault(blocks[tensor.name], []), end - tensor.size
        if own and own[-1].stop == start:
            start = own.pop().start
        own.append(slice(start, end))
    return runs


def _folder(state: State) -> Path:
    make_folder(state.folder / FOLDER, PRIVATE_FOLDER)
    return state.folder / FOLDER
