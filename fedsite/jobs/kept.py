"""What stays at this site from round to round: a control of SCAFFOLD, or layers that never travel.

One file for each round, `kept/control-N.safetensors` or `kept/layers-N.safetensors` (0600), written before the round
is released. Its digest stands in the round's record, and it is in force once that record says `acknowledged`, in the
transaction that keeps the receipt: it never runs ahead of what the server has, and never falls behind. A round that
ends otherwise leaves what was in force before. What is kept belongs to one plan; another plan begins anew.
"""

from pathlib import Path

import numpy as np

from fedsite.errors import RecordsDamaged
from fedsite.files import PRIVATE_FILE, PRIVATE_FOLDER, atomic_writer, make_folder, sha256_of
from fedsite.site import withdrawals
from fedsite.site.state import RoundRecord, State
from fedsite.wire import payload
from fedsite.wire.algorithms import next_control
from fedsite.wire.payload import Layout

FOLDER = "kept"
SHA256, WITHDRAWN = "kept_sha256", "withdrawn_before"
"""In a round's record: the file's digest; for layers, how many patients had been withdrawn when they were trained."""


def control_path(state: State, number: int) -> Path:
    """Where a round's control lies, or will lie."""
    return _folder(state) / f"control-{number}.safetensors"


def layers_path(state: State, number: int) -> Path:
    """Where the layers lie, or will lie, that were trained in a round and stay here."""
    return _folder(state) / f"layers-{number}.safetensors"


def current(state: State, federation: str, plan_sha256: str) -> Path | None:
    """The file in force under a plan; None before there is one, and for layers that have seen a withdrawn patient.

    Raises RecordsDamaged when it is gone or altered: nothing would be right to go on with.
    """
    record = _in_force(state, federation, plan_sha256)
    if record is None or _has_seen_withdrawn(state, record):
        return None
    file = _file(state, record)
    if not is_intact(file, record.body[SHA256]):
        raise RecordsDamaged(
            f"What this site keeps to itself since round {record.round} is gone or damaged ({FOLDER}/{file.name}).",
            "Bring that file back from a backup of the state folder; nothing was sent.",
        )
    return file


def begins_anew(state: State, federation: str, plan_sha256: str) -> bool:
    """Whether layers were in force that are none any more, since a patient whom they have seen was withdrawn."""
    record = _in_force(state, federation, plan_sha256)
    return record is not None and _has_seen_withdrawn(state, record)


def is_intact(file: Path, sha256: str) -> bool:
    """Whether a file is there, and the one of this digest."""
    return file.is_file() and sha256_of(file) == sha256


def write_control(
    destination: Path, layout: Layout, update: tuple[Path, str], own: Path | None, server: Path | None, reach: float
) -> str:
    """Writes SCAFFOLD's next control of this site and gives its digest.

    `update` is the sealed update and its encoding; `own` and `server` are the controls of this round (None: zero), in
    `layout`, the model's form. Memory stays that of one slice.
    """
    released, encoding = update
    with atomic_writer(destination, PRIVATE_FILE) as file:
        file.write(layout.header)
        for part in payload.chunks(layout.values):
            present, servers = (
                payload.read_values(control, layout, part).astype(np.float64) if control else 0.0
                for control in (own, server)
            )
            sent = payload.read_values(released, layout.encoded(encoding), part).astype(np.float64)
            file.write(next_control(present, servers, sent, reach).astype(layout.dtype).tobytes())
    return sha256_of(destination)


def tidy(state: State, federation: str, unfinished: frozenset[int]) -> None:
    """Removes what no round needs: all but the file in force under each plan, and those of unfinished rounds."""
    plans = {record.body["plan_sha256"] for record in state.rounds(federation)}
    in_force = [record for plan in plans if (record := _in_force(state, federation, plan))]
    needed = {_file(state, record) for record in in_force if not _has_seen_withdrawn(state, record)}
    needed |= {place(state, number) for number in unfinished for place in (control_path, layers_path)}
    for file in _folder(state).iterdir():
        if file not in needed:
            file.unlink()


def forget_layers(state: State) -> None:
    """Removes layers that were trained here, when a patient is withdrawn; a control holds nothing that has not left."""
    for file in _folder(state).glob("layers-*"):
        file.unlink(missing_ok=True)


def withdrawn_now(state: State) -> int:
    """How many patients have been withdrawn: layers trained before the next one are in force no longer."""
    return len(withdrawals.withdrawn(state))


def _in_force(state: State, federation: str, plan_sha256: str) -> RoundRecord | None:
    """The newest acknowledged round of the plan that left something here."""
    for record in reversed(state.rounds(federation)):
        if record.state == "acknowledged" and record.body["plan_sha256"] == plan_sha256 and SHA256 in record.body:
            return record
    return None


def _has_seen_withdrawn(state: State, record: RoundRecord) -> bool:
    return WITHDRAWN in record.body and record.body[WITHDRAWN] < withdrawn_now(state)


def _file(state: State, record: RoundRecord) -> Path:
    place = layers_path if WITHDRAWN in record.body else control_path
    return place(state, record.round)


def _folder(state: State) -> Path:
    make_folder(state.folder / FOLDER, PRIVATE_FOLDER)
    return state.folder / FOLDER
