"""One participation in one process: a durable state machine that may be killed and started again anywhere.

    gaussian-update:  offered -> fetched -> trained -> reserved -> released -> uploading -> acknowledged
    dp-sgd:           offered -> fetched -> reserved -> trained -> released -> uploading -> acknowledged

Each arrow is one function below; its state is durable in `state.db` before the next begins. The charge is durable
before the noise is drawn: before the release, or before the first private step. A training that was cut off goes on
from its checkpoint, or begins anew under the same reservation: nothing of it has left. From `released` on the same
bytes are sent until the server's receipt is here. A round that ends before its bytes arrived becomes `late`, one that
the server refuses `rejected`, one that was overtaken before its release `abandoned`, one that a lost copy of the state
folder has released `recovered`; what was charged stays charged.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsite.errors import OutsideHours, RecordsDamaged, ServerBrokeProtocol, TryAgainLater, UpdateRefused
from fedsite.files import remove, sha256_of
from fedsite.jobs.models import choice, evaluate, evaluations, kept
from fedsite.jobs.models.choice import Model
from fedsite.jobs.plan import algorithms, charging
from fedsite.jobs.plan.verification import Offer, verify_receipt
from fedsite.jobs.progress import Steps
from fedsite.jobs.round import egress
from fedsite.jobs.site import Site
from fedsite.jobs.training import launch, local_work
from fedsite.jobs.training.local_work import PreparedData
from fedsite.jobs.training.worker import Task
from fedsite.privacy import accountant, mechanism
from fedsite.privacy.ledger import Spent
from fedsite.privacy.statement import MEANINGFUL, guarantee
from fedsite.site import policy
from fedsite.site.policy import Asked
from fedsite.site.state import Record
from fedsite.wire import payload
from fedsite.wire.client import FederationClient
from fedsite.wire.messages import Envelope, MalformedMessage
from fedsite.wire.plans import DpSgd

ORDERS = {
    "gaussian-update": ("offered", "fetched", "trained", "reserved", "released", "uploading", "acknowledged"),
    "dp-sgd": ("offered", "fetched", "reserved", "trained", "released", "uploading", "acknowledged"),
}
FINAL = ("acknowledged", "late", "rejected", "abandoned", "recovered")
PENDING = ("released", "uploading")


@dataclass
class Round:
    """A round under way. `state` and `body` are what `state.db` holds of it."""

    site: Site
    client: FederationClient
    offer: Offer
    step: Steps
    state: str
    body: dict[str, Any]

    @property
    def number(self) -> int:
        """The round's number in its federation."""
        return self.offer.ticket.round

    @property
    def model(self) -> Path:
        """The global model, by its digest."""
        return self.site.state.folder / "models" / f"{self.offer.ticket.model_sha256}.safetensors"

    @property
    def checkpoint(self) -> Path:
        """The trained weights, which never leave: 0600, removed once the payload is sealed."""
        return self.site.state.folder / "checkpoints" / f"round-{self.number}.safetensors"

    @property
    def payload(self) -> Path:
        """What leaves."""
        return payload_of(self.site, self.number)

    def move(self, state: str, **facts: Any) -> None:
        """Makes the next state durable."""
        self.body = {**self.body, **facts}
        self.site.state.put_round(self.offer.plan.federation, self.number, state, self.body)
        self.state = state

    def data(self) -> PreparedData:
        """The prepared data, if they fit the plan."""
        return local_work.open_prepared(self.site, self.offer.plan)

    @property
    def order(self) -> tuple[str, ...]:
        """The states that the plan's mechanism goes through."""
        return ORDERS[self.offer.plan.privacy.mechanism]


def payload_of(site: Site, number: int) -> Path:
    """Where what a round releases lies until the server has it."""
    return site.state.folder / "outbox" / f"round-{number}.safetensors"


def begin(site: Site, client: FederationClient, offer: Offer, envelopes: dict[str, Envelope], step: Steps) -> Round:
    """The round as this site knows it, or a new one in state `offered`."""
    known = site.state.round(offer.plan.federation, offer.ticket.round)
    body = known.body if known else {}
    here = Round(site, client, offer, step, known.state if known else "", body)
    if known is None:
        here.move(
            "offered",
            plan=envelopes["plan"].model_dump(),
            ticket=envelopes["ticket"].model_dump(),
            plan_sha256=offer.plan_sha256,
            ticket_sha256=offer.ticket_sha256,
        )
    return here


def reopen(here: Round) -> None:
    """A late round that the server opened again takes the bytes that were released, if they are here, and no others."""
    if here.state == "late" and here.payload.is_file():
        here.move("released")


def advance(here: Round, until: str = "acknowledged") -> None:
    """Walks the round's states, from wherever it stands, until the given one; never beyond."""
    while here.state not in FINAL and (now := here.order.index(here.state)) < here.order.index(until):
        TO[here.order[now + 1]](here)


def admit(here: Round) -> None:
    """Whether the site takes part at all, asked before anything is fetched or trained.

    Raises PolicyRefused, BudgetSpent, SourceMissing, DataNotFit. What is reserved already has been admitted.
    """
    plan, rules = here.offer.plan, here.site.config.policy
    ledger, size = here.site.ledger, here.offer.ticket.model_bytes
    policy.check(
        rules,
        Asked(
            federation=plan.federation,
            task=plan.task,
            algorithm=plan.algorithm_name,
            steps=plan.local.steps,
            epochs=charging.epochs(plan, ledger.terms),
            noise_multiplier=plan.privacy.noise_multiplier,
            download_bytes=size * (2 if here.offer.ticket.control_sha256 else 1),
            upload_bytes=size // 4 * payload.Layout((), plan.payload).dtype.itemsize,
            declared_weight=plan.weights == "declared",
        ),
    )
    if ledger.reservation(plan.federation, here.number):
        return
    charge = charging.charge_for(here.offer, size // 4, ledger.terms)
    after = ledger.price(charge)
    ledger.require(after, rules.maximum_epsilon)
    alone = None
    if charge.release is not None:
        alone = accountant.sequence_epsilon([charge.release], ledger.terms.delta)
    policy.check_price(rules, alone, after.epsilon_noised, MEANINGFUL)
    if plan.local.steps:
        here.data()


# --- the transitions ----------------------------------------------------------------------------------------------


def _fetch(here: Round) -> None:
    """To `fetched`: the global model is here, verified, and of the size that the ticket names."""
    ticket = here.offer.ticket
    with here.step("Fetching the global model") as progress:
        here.client.download_model(ticket.model_sha256, ticket.model_bytes, here.model, progress)
    try:
        payload.check_finite(here.model, payload.layout_of(here.model))
    except MalformedMessage as error:
        raise ServerBrokeProtocol(f"The global model is refused: {error}.", "Tell the coordinator.") from error
    control = kept.server_control(here.site.state, ticket)
    if control is not None and ticket.control_sha256 is not None:
        with here.step("Fetching the server's control") as progress:
            here.client.download_model(ticket.control_sha256, ticket.model_bytes, control, progress)
        algorithms.check_control(control, here.model)
    _evaluate(here, here.model, ticket.model_sha256, "global")
    here.move("fetched")


def _evaluate(here: Round, path: Path, sha256: str, kind: choice.Kind) -> None:
    """Measures the round's model on the held-out patients. The result stays here and steers nothing."""
    ticket, plan = here.offer.ticket, here.offer.plan
    if plan.local.steps:
        own = kept.for_measuring(here.site.state, here.offer, trained=kind == "trained")
        model = Model(path, sha256, plan, kind, ticket.round - (kind == "global"), own)
        until = ticket.expires if kind == "trained" else None
        evaluate.in_round(here.site, model, here.data, here.step, until)


def _train(here: Round) -> None:
    """To `trained`: the trained weights lie in the checkpoint. A kill costs the minutes since the last one was kept."""
    if not model_is_here(here):
        return
    facts = trained(here, here.checkpoint)
    here.move("trained", **facts)
    _evaluate(here, here.checkpoint, sha256_of(here.checkpoint), "trained")


def model_is_here(here: Round) -> bool:
    """Whether the training has what it begins with; else the round is `offered` again, and fetches it."""
    intact = here.model.is_file() and sha256_of(here.model) == here.offer.ticket.model_sha256
    if intact and kept.has_control(here.site.state, here.offer):
        return True
    here.model.unlink(missing_ok=True)
    here.move("offered")  # somebody tidied up, or the disk failed
    return False


def trained(here: Round, destination: Path) -> dict[str, Any]:
    """Trains, and writes the weights; gives what the round's record says of it."""
    state, offer, config = here.site.state, here.offer, here.site.config
    plan = offer.plan
    seed_text = f"{plan.local.seed}:{offer.ticket_sha256}:{here.site.pinned.site}"
    seed = int.from_bytes(hashlib.sha256(seed_text.encode()).digest()[:8], "big")
    withdrawn, carried = kept.withdrawn_now(state), kept.for_training(state, offer)
    data = here.data() if plan.local.steps else None
    rate = charging.sampling_rate(plan, here.site.ledger.terms)
    task = Task.of(config, plan, seed, here.model, data, carried, destination, rate)
    with here.step(f"Training{_dice_of_global(here)}") as progress:
        training = launch.train(config.training, task, progress)
    for event in (training or {}).get("events", ()):
        state.audit("in training", round=here.number, message=event)
    facts = {"data_sha256": data.sha256 if data else None, "training": training}
    return facts | kept.after_training(carried, withdrawn)


def _dice_of_global(here: Round) -> str:
    """How good the model is that the training begins with, for whoever watches."""
    known = evaluations.brief(here.site.state, here.offer.ticket.model_sha256)
    return f" (from Dice {known['mean_dice']:.3f})" if known and known["mean_dice"] is not None else ""


def _reserve(here: Round) -> None:
    """To `reserved`: the charge is durable, before any noise is drawn."""
    layout = _layout(here)
    if layout is None:
        return
    ledger = here.site.ledger
    with here.step("Charging the ledger"):
        if not _stands(here):
            raise TryAgainLater(
                f"Round {here.number} ended while this site was at work on it.",
                "Nothing was charged for it now and nothing left; the next run takes the next round.",
            )
        charge = charging.charge_for(here.offer, layout.values, ledger.terms)
        record = ledger.reserve(charge, here.site.config.policy.maximum_epsilon)
        here.move("reserved", reservation=record.sequence, values=layout.values)


def _layout(here: Round) -> payload.Layout | None:
    """The layout of what is to be released; None where the weights or the model are gone and the round goes back."""
    if here.state == "trained":
        update = _update(here)
        return update[1] if update else None
    return payload.layout_of(here.model) if model_is_here(here) else None


def _release(here: Round) -> None:
    """To `released`: clipped and noised (under dp-sgd every step has been), sealed; the ledger binds the reservation to
    these bytes.
    """
    update = _update(here)
    if update is None:
        return
    read, layout = update
    plan, encoded = here.offer.plan, layout.encoded(here.offer.plan.payload)
    form = mechanism.Rounded(encoded.sizes) if encoded.scaled else encoded.dtype
    reservation, delta = _reservation(here), here.site.ledger.terms.delta
    before, after = (Spent(**reservation.body[name]) for name in ("before", "after"))
    egress.keep(here.site.state, here.number, egress.describe(plan, update, before, after, delta))
    if isinstance(plan.privacy, DpSgd):
        with here.step("Sealing the update"):
            sealed = mechanism.seal_noised(read, layout.values, encoded.header, form, here.payload)
    else:
        gate = charging.gate_for(plan, layout.values)
        with here.step("Clipping and noising"):
            sealed = mechanism.seal(read, gate, encoded.header, form, here.payload)
    facts = kept.at_release(here.site.state, here.offer, layout, sealed.path)
    with here.site.state.transaction():
        record = here.site.ledger.release(reservation, sealed.sha256, sealed.size)
        facts |= {"payload_sha256": sealed.sha256, "payload_bytes": sealed.size, "sequence": record.sequence}
        here.move("released", **facts)
        here.site.state.audit("stated", round=here.number, guarantee=guarantee(after.epsilon, delta))
    here.checkpoint.unlink(missing_ok=True)


def _start_upload(here: Round) -> None:
    """To `uploading`: from here on bytes may have left, and the trained weights are gone for good."""
    remove(here.checkpoint)
    here.move("uploading")


def _upload(here: Round) -> None:
    """To `acknowledged`: the bytes of the ledger's record, sent once, and the server's receipt for them."""
    reservation = _reservation(here)
    released = here.site.ledger.released(reservation)
    if released is None:
        raise RecordsDamaged(f"Round {here.number} was never released by the ledger.", "Nothing was sent.")
    if not here.payload.is_file():
        raise RecordsDamaged(f"The payload of round {here.number} is gone from the outbox.", "Nothing was sent.")
    sha256 = released.body["payload_sha256"]
    plan = here.offer.plan
    weight = here.site.config.policy.public_weight if plan.weights == "declared" else None
    try:
        with here.step("Uploading") as progress:
            receipt = here.client.upload(
                here.number, here.payload, sha256, released.sequence, weight=weight, progress=progress
            )
    except OutsideHours:
        raise  # the rest of the bytes waits for the next hour
    except TryAgainLater:
        if _stands(here):
            raise
        here.move("late")
        return
    except UpdateRefused as error:
        here.move("rejected", reason=error.message)
        raise
    digest = verify_receipt(receipt, here.offer, here.site.pinned.site, sha256, released.sequence)
    with here.site.state.transaction():
        here.site.ledger.acknowledge(reservation, digest)
        here.move("acknowledged", receipt=receipt.model_dump())
    remove(here.payload)


TO: dict[str, Callable[[Round], None]] = {
    "fetched": _fetch,
    "reserved": _reserve,
    "trained": _train,
    "released": _release,
    "uploading": _start_upload,
    "acknowledged": _upload,
}


def _update(here: Round) -> local_work.Update | None:
    """The update to release. Where its weights are gone, or the prepared data changed since (somebody was withdrawn),
    None: the round is where it began to train, and trains once more.

    Nothing of it has left, and a round that is reserved keeps its reservation. Raises RecordsDamaged when the weights
    are there but damaged; they are thrown away, so that the next run trains.
    """
    if not _is_whole(here):
        here.move(here.order[here.order.index("trained") - 1])
        return None
    try:
        return local_work.open_update(here.model, here.checkpoint)
    except RecordsDamaged:
        here.checkpoint.unlink()
        raise


def _is_whole(here: Round) -> bool:
    """Whether all that a release needs is here; right after training, whether the prepared data are still the same."""
    there = here.model.is_file() and here.checkpoint.is_file()
    if not (there and kept.is_whole(here.site.state, here.offer, here.body)):
        return False
    fresh = here.state == "trained" and here.offer.plan.local.steps
    return not fresh or here.data().sha256 == here.body["data_sha256"]


def _reservation(here: Round) -> Record:
    reservation = here.site.ledger.reservation(here.offer.plan.federation, here.number)
    if reservation is None:
        raise RecordsDamaged(f"Round {here.number} has no reservation in the ledger.", "Nothing was sent.")
    return reservation


def _stands(here: Round) -> bool:
    """Whether the server still takes updates for exactly this ticket."""
    answer = here.client.round_answer(here.number)
    return answer.status == "open" and answer.ticket_sha256 == here.offer.ticket_sha256
