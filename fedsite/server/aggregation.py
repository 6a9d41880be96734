"""Federated averaging over files: memory for one slice, whatever the number of sites and the size of the model.

McMahan et al. 2017, Communication-Efficient Learning of Deep Networks from Decentralized Data, in the form that
privacy.md needs: sites send differences, the server adds their weighted mean to the model that they started from.
Momentum and SCAFFOLD's control are made of the same updates, so they cost no privacy and nothing more is sent.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedsite.wire.algorithms import next_model, next_server_control
from fedsite.wire.messages import MalformedMessage
from fedsite.wire.payload import Layout, check_file, chunks, read_values


@dataclass(frozen=True)
class Update:
    """One site's update as it lies on disk, and its weight."""

    path: Path
    weight: float


def average(
    model: Path,
    layout: Layout,
    updates: Sequence[Update],
    encoding: str,
    momentum: float = 0.0,
    previous: Path | None = None,
) -> Iterator[bytes]:
    """The next model as the bytes of its file: model + sum(w * update) / sum(w), summed in float64.

    With `momentum` it also goes on as it moved since `previous`, the model of the round before (FedAvgM). The same
    updates in the same order give the same bytes. `layout` is the model's (float32), `encoding` that of the updates.
    """
    encoded = layout.encoded(encoding)
    total = math.fsum(update.weight for update in updates)
    yield layout.header
    for part in chunks(layout.values):
        before = read_values(previous, layout, part) if previous else None
        now = read_values(model, layout, part)
        yield next_model(now, _sum(updates, encoded, part, total), momentum, before).astype(layout.dtype).tobytes()


@dataclass(frozen=True)
class Controls:
    """What SCAFFOLD's server knows before a round's updates: its control's file (None: zero), steps times learning
    rate, and how many sites have taken part in the series before this round and with it.
    """

    path: Path | None
    reach: float
    known_before: int
    known: int


def next_control(controls: Controls, layout: Layout, updates: Sequence[Update], encoding: str) -> Iterator[bytes]:
    """The server's next control as the bytes of its file, in the model's form: made of the released updates alone."""
    encoded = layout.encoded(encoding)
    yield layout.header
    for part in chunks(layout.values):
        present = read_values(controls.path, layout, part) if controls.path else 0.0
        control = next_server_control(
            present,
            _sum(updates, encoded, part),
            controls.reach,
            taking_part=len(updates),
            known_before=controls.known_before,
            known=controls.known,
        )
        yield control.astype(layout.dtype).tobytes()


def _sum(updates: Sequence[Update], encoded: Layout, part: slice, over: float = 1.0) -> NDArray[np.float64]:
    """A slice of the weighted sum of updates, over `over`."""
    summed = np.zeros(part.stop - part.start, dtype=np.float64)
    for update in updates:
        summed += np.multiply(read_values(update.path, encoded, part), update.weight, dtype=np.float64)
    summed /= over
    return summed


def why_unfit(path: Path, layout: Layout, max_norm: float) -> str | None:
    """Why an update cannot be admitted, None when it can: its form, its finiteness, its Euclidean norm."""
    try:
        check_file(path, layout)
    except MalformedMessage as error:
        return f"{error}"
    squares = []
    for part in chunks(layout.values):
        values = read_values(path, layout, part).astype(np.float64)
        squares.append(float(np.dot(values, values)))
    norm = math.sqrt(math.fsum(squares)) if all(map(math.isfinite, squares)) else math.nan
    if not math.isfinite(norm):
        return "a value is not finite"
    if norm > max_norm:
        return f"its norm is above {max_norm:g}, the plan's bound"
    return None
