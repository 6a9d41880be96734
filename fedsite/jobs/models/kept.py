"""What stays at this site from round to round: a control of SCAFFOLD, or layers that never travel.

One file for each round, `kept/control-N.safetensors` or `kept/layers-N.safetensors` (0600), written before the round
is released. Its digest stands in the round's record, and it is in force once that record says `acknowledged`, in the
transaction that keeps the receipt: it never runs ahead of what the server has, and never falls behind. A round that
ends otherwise leaves what was in force before. What is kept belongs to one plan; another plan begins anew.
"""

from pathlib import Path
from typing import Any

import numpy as np

from fedsite.errors import RecordsDamaged
from fedsite.files import PRIVATE_FILE, PRIVATE_FOLDER, atomic_writer, make_folder, sha256_of
from fedsite.jobs.plan import algorithms
from fedsite.jobs.plan.algorithms import Carried
from fedsite.jobs.plan.verification import Offer
from fedsite.site import withdrawals
from fedsite.site.state import RoundRecord, State
from fedsite.wire import payload
from fedsite.wire.algorithms import next_control
from fedsite.wire.messages import Ticket
from fedsite.wire.payload import Layout

FOLDER = "kept"
SHA256, WITHDRAWN = "kept_sha256", "withdrawn_before"
"""In a round's record: the file's digest; for layers, how many patients had been withdrawn when training began."""


def server_control(state: State, ticket: Ticket) -> Path | None:
    """Where the server's control of a round lies, or will lie; None where the ticket names none (it is zero)."""
    digest = ticket.control_sha256
    return None if digest is None else state.folder / "models" / f"{digest}.safetensors"


def has_control(state: State, offer: Offer) -> bool:
    """Whether the server's control is here, or there is none."""
    control = server_control(state, offer.ticket)
    return control is None or _is_intact(control, offer.ticket.control_sha256)


def for_training(state: State, offer: Offer) -> Carried:
    """What a round's training goes on from. Where layers begin anew, the audit says so. Raises as `current` does."""
    plan, number = offer.plan, offer.ticket.round
    own = current(state, plan.federation, offer.plan_sha256)
    if own is None and _in_force(state, plan.federation, offer.plan_sha256) is not None:
        state.audit("layers at home begin anew", round=number, reason="a patient whom they had seen was withdrawn")
    learns = algorithms.learns_at_home(plan)
    return Carried(own, server_control(state, offer.ticket), _place(state, "layers", number) if learns else None)


def for_measuring(state: State, offer: Offer, *, trained: bool) -> Path | None:
    """What belongs to the round's global model at home, or to the weights that the round has trained."""
    if trained and algorithms.learns_at_home(offer.plan):
        return _place(state, "layers", offer.ticket.round)
    return current(state, offer.plan.federation, offer.plan_sha256)


def withdrawn_now(state: State) -> int:
    """How many patients have been withdrawn; asked before layers are trained, and kept with them."""
    return len(withdrawals.withdrawn(state))


def after_training(carried: Carried, withdrawn: int) -> dict[str, Any]:
    """What a round's record must say of the layers that its training wrote."""
    return {} if carried.layers is None else {SHA256: sha256_of(carried.layers), WITHDRAWN: withdrawn}


def is_whole(state: State, offer: Offer, body: dict[str, Any]) -> bool:
    """Whether what a trained round needs for its release is here: its own layers, the server's control."""
    if not has_control(state, offer):
        return False
    return WITHDRAWN not in body or _is_intact(_place(state, "layers", offer.ticket.round), body[SHA256])


def at_release(state: State, offer: Offer, layout: Layout, sealed: Path) -> dict[str, Any]:
    """Writes this site's next control, made of the sealed update; gives what the round's record must say of it.

    Nothing under other algorithms than SCAFFOLD. A crash before the release draws other noise, and writes it again.
    """
    if offer.plan.algorithm != "scaffold":
        return {}
    own = current(state, offer.plan.federation, offer.plan_sha256)
    server, encoded = server_control(state, offer.ticket), layout.encoded(offer.plan.payload)
    destination, reach = _place(state, "control", offer.ticket.round), algorithms.reach(offer.plan)
    with atomic_writer(destination, PRIVATE_FILE) as file:
        file.write(layout.header)
        for part in payload.chunks(layout.values):
            present, servers = (
                payload.read_values(control, layout, part) if control else 0.0 for control in (own, server)
            )
            update = payload.read_values(sealed, encoded, part).astype(np.float64)
            file.write(next_control(present, servers, update, reach).astype(layout.dtype).tobytes())
    return {SHA256: sha256_of(destination)}


def current(state: State, federation: str, plan_sha256: str) -> Path | None:
    """The file in force under a plan; None before there is one, and for layers that have seen a withdrawn patient.

    Raises RecordsDamaged when it is gone or altered: nothing would be right to go on with.
    """
    record = _in_force(state, federation, plan_sha256)
    if record is None or _has_seen_withdrawn(state, record):
        return None
    file = _file(state, record)
    if not _is_intact(file, record.body[SHA256]):
        raise RecordsDamaged(
            f"What this site keeps to itself since round {record.round} is gone or damaged ({FOLDER}/{file.name}).",
            "Bring that file back from a backup of the state folder; nothing was sent.",
        )
    return file


def tidy(state: State, federation: str, unfinished: frozenset[int]) -> None:
    """Removes what no round needs: all but the file in force under each plan, and those of unfinished rounds."""
    plans = {record.body["plan_sha256"] for record in state.rounds(federation)}
    in_force = [record for plan in plans if (record := _in_force(state, federation, plan))]
    needed = {_file(state, record) for record in in_force if not _has_seen_withdrawn(state, record)}
    needed |= {_place(state, kind, number) for number in unfinished for kind in ("control", "layers")}
    for file in _folder(state).iterdir():
        if file not in needed:
            file.unlink(missing_ok=True)


def forget_layers(state: State) -> None:
    """Removes layers that were trained here, when a patient is withdrawn; a control holds nothing that has not left."""
    for file in _folder(state).glob("layers-*"):
        file.unlink(missing_ok=True)


def _in_force(state: State, federation: str, plan_sha256: str) -> RoundRecord | None:
    """The newest acknowledged round of the plan that left something here."""
    for record in reversed(state.rounds(federation)):
        if record.state == "acknowledged" and record.body["plan_sha256"] == plan_sha256 and SHA256 in record.body:
            return record
    return None


def _has_seen_withdrawn(state: State, record: RoundRecord) -> bool:
    return WITHDRAWN in record.body and record.body[WITHDRAWN] < withdrawn_now(state)


def _is_intact(file: Path, sha256: str | None) -> bool:
    return file.is_file() and sha256_of(file) == sha256


def _file(state: State, record: RoundRecord) -> Path:
    return _place(state, "layers" if WITHDRAWN in record.body else "control", record.round)


def _place(state: State, kind: str, number: int) -> Path:
    return _folder(state) / f"{kind}-{number}.safetensors"


def _folder(state: State) -> Path:
    make_folder(state.folder / FOLDER, PRIVATE_FOLDER)
    return state.folder / FOLDER
