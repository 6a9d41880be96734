"""This site's personalised model: where it lies, and what is known about it. It never leaves.

One model a site, below the state folder and for its user alone (0600). The gate takes a round's update from the round's
own checkpoint, and sends what a ledger record names; of this folder neither knows anything.
"""

from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from fedsite.errors import RecordsDamaged, TryAgainLater
from fedsite.files import PRIVATE_FILE, PRIVATE_FOLDER, make_folder, sha256_of, write_atomically
from fedsite.jobs.models.choice import Model
from fedsite.site.state import State
from fedsite.wire.messages import Closed, Sha256
from fedsite.wire.plans import PlanDraft

FOLDER = "personal"
RECORD = "model.json"
_MEND = "Make it anew: fedsite personalize."


class Gain(Closed):
    """What it gained on the held-out patients: mean Dice of the global model and its own, and the mean difference.

    The interval is the bootstrap's over patients, 95%; None where there are too few of them.
    """

    patients: int
    before: float
    after: float
    difference: float
    low: float | None
    high: float | None


class Record(Closed):
    """How the personalised model was made: from which global model, with what, and what it gained."""

    schema_version: Literal[1] = 1
    sha256: Sha256
    plan: PlanDraft
    base_sha256: Sha256
    after_round: int | None
    data_sha256: Sha256
    steps: int
    learning_rate: float
    seed: int
    gain: Gain


def file_of(state: State, sha256: str) -> Path:
    """Where a personalised model lies. Its folder is made if need be. Raises CannotWrite."""
    folder = state.folder / FOLDER
    make_folder(folder, PRIVATE_FOLDER)
    return folder / f"{sha256}.safetensors"


def keep(state: State, record: Record) -> None:
    """Makes this the personalised model: from now on, at once. Its weights lie there already; older ones are removed.

    Raises CannotWrite.
    """
    write_atomically(state.folder / FOLDER / RECORD, record.model_dump_json(by_alias=True).encode(), PRIVATE_FILE)
    for other in (state.folder / FOLDER).glob("*.safetensors"):
        if other.stem != record.sha256:
            other.unlink(missing_ok=True)


def discard(state: State) -> bool:
    """Removes the personalised model; False where there is none. One that has seen a withdrawn patient must go."""
    folder = state.folder / FOLDER
    record = folder / RECORD
    there = record.exists()
    record.unlink(missing_ok=True)  # first: without it the weights are nobody's
    for weights in folder.glob("*.safetensors"):
        weights.unlink(missing_ok=True)
    return there


def read(state: State) -> Record:
    """What is known about the personalised model. Raises TryAgainLater where there is none, RecordsDamaged."""
    try:
        return Record.model_validate_json((state.folder / FOLDER / RECORD).read_bytes())
    except FileNotFoundError:
        raise TryAgainLater("There is no personalised model yet.", _MEND.replace("anew", "first")) from None
    except ValidationError:
        raise RecordsDamaged("What is known about the personalised model is damaged.", _MEND) from None


def kept(state: State) -> Model:
    """The personalised model. Raises TryAgainLater where there is none, RecordsDamaged when it is damaged."""
    record = read(state)
    path = state.folder / FOLDER / f"{record.sha256}.safetensors"
    if not path.is_file() or sha256_of(path) != record.sha256:
        raise RecordsDamaged("The personalised model is damaged, or gone from the state folder.", _MEND)
    return Model(path, record.sha256, record.plan, "personalised", record.after_round)
