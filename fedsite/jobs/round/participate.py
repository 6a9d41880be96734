"""`fedsite train-round`: check in, verify, decide, walk the round, tell the server when this site says no."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from fedsite.errors import (
    BudgetSpent,
    ConfigurationError,
    DataNotFit,
    FedsiteError,
    NotAuthorised,
    OutsideHours,
    PolicyRefused,
    RecordsDamaged,
    ServerBrokeProtocol,
    SourceMissing,
    TryAgainLater,
)
from fedsite.files import sweep
from fedsite.jobs import trail
from fedsite.jobs.lock import only_run
from fedsite.jobs.models import evaluations
from fedsite.jobs.pages import own_rounds, writing
from fedsite.jobs.plan import approve, charging
from fedsite.jobs.plan.verification import TELL, Expired, Offer, verify_chain, verify_offer
from fedsite.jobs.progress import Steps
from fedsite.jobs.round import egress, leftovers, receipts, rehearsal, state_machine
from fedsite.jobs.round.guard import Guard
from fedsite.jobs.round.state_machine import Round
from fedsite.jobs.site import Site
from fedsite.privacy.statement import guarantee
from fedsite.site.identity import Pinned
from fedsite.site.state import RoundRecord
from fedsite.tasks.description import OutOfRange
from fedsite.wire.client import FederationClient
from fedsite.wire.messages import (
    PROTOCOL_VERSIONS,
    Envelope,
    Participation,
    ParticipationRequest,
    RefusalReason,
    utc_now,
)

REASONS: dict[type[FedsiteError], RefusalReason] = {
    PolicyRefused: "policy",
    BudgetSpent: "budget",
    DataNotFit: "technical",
    SourceMissing: "technical",
    ConfigurationError: "technical",
}
# What this site has refused, or waits for: the server's breaches, and its own reasons.
WRITTEN_DOWN: tuple[type[FedsiteError], ...] = (
    ServerBrokeProtocol,
    OutOfRange,
    TryAgainLater,
    NotAuthorised,
    *REASONS,
)


Around = Callable[[int], AbstractContextManager[None]]
"""What a round of that number happens within, once it is due and allowed; what it raises at its end, the round has."""


def nothing(_number: int) -> AbstractContextManager[None]:
    """No more than the round."""
    return nullcontext()


@dataclass(frozen=True)
class Outcome:
    """How a participation ended: `uploaded`, `nothing-to-do` or `previewed`, and what there is to say of it."""

    outcome: str
    data: dict[str, Any] = field(default_factory=dict)


def take_part(
    site: Site, step: Steps, *, dry_run: bool = False, wait_seconds: float = 0, around: Around = nothing
) -> Outcome:
    """One participation. With `dry_run` it stops before anything is charged and shows what would leave.

    Raises every error of cli.md's table; what was reached is kept, and the next run goes on from there.
    """
    with only_run(site.state.folder, wait_seconds), trail.refusals(site.state, *WRITTEN_DOWN):
        site.state.verify()
        sweep(site.state.folder)  # what killed runs have left half-written: their round may be the last for long
        pinned = site.pinned
        guard = Guard(site.config.policy, pinned)
        guard.require()
        with site.client() as client:
            if guard.minds_the_clock:
                guard.compare(client.clock_skew())
                guard.require()
            step = guard.over(step)
            if not dry_run and (finished := _finish_pending(site, client, step, pinned)):
                return finished
            return _take_what_is_due(site, client, step, pinned, dry_run, around)


def _take_what_is_due(
    site: Site, client: FederationClient, step: Steps, pinned: Pinned, dry_run: bool, around: Around
) -> Outcome:
    request = ParticipationRequest(protocol=PROTOCOL_VERSIONS[-1], ledger_sequence=site.ledger.sequence())
    answer = client.participate(request)
    _require_known(site, answer)
    receipts.require_remembered(site, pinned, client)
    if answer.plan is None and answer.ticket is None:
        site.state.audit("nothing due")
        return Outcome("nothing-to-do", {"retry_after": answer.retry_after})
    if answer.plan is None or answer.ticket is None:
        raise ServerBrokeProtocol("The server's answer holds half of an offer.", TELL)
    here = _begin(site, client, step, pinned, answer.plan, answer.ticket)
    if here.state == "acknowledged":
        raise ServerBrokeProtocol(
            f"The server asks again for round {here.number}, for which this site holds its receipt.",
            "The server may have been restored from an older copy: tell the coordinator. Nothing was sent.",
        )
    if here.state in ("rejected", "recovered"):
        return Outcome("nothing-to-do", {"round": here.number, here.state: here.body.get("reason", "")})
    if dry_run:
        with around(here.number):
            return Outcome("previewed", {"round": here.number, **rehearsal.rehearse(here)})
    leftovers.clear_overtaken(here)
    state_machine.reopen(here)
    _tell_of_missed_hours(here)
    with ExitStack() as end:
        with _telling_refusals(here):
            state_machine.admit(here)
            approve.require(site, here.offer.plan)
            if here.state == "offered":
                facts = {"plan_sha256": here.offer.plan_sha256, "ticket_sha256": here.offer.ticket_sha256}
                site.state.audit("accepted", round=here.number, **facts)
            end.enter_context(around(here.number))
            state_machine.advance(here)
        return _ended(here)


def _require_known(site: Site, answer: Participation) -> None:
    """Raises RecordsDamaged when the server has had of this site what its ledger does not know."""
    if answer.receipts or answer.ledger_sequence is not None:
        site.state.audit("unknown receipts", count=len(answer.receipts), ledger_sequence=answer.ledger_sequence)
        raise RecordsDamaged(
            "The server has had updates of this site that its ledger does not know; it holds"
            f" {len(answer.receipts)} receipts for them.",
            "This state folder is an older copy, or a new one: nothing leaves, since its ledger counts too little."
            " Bring back the newest state folder, or charge what the server knows of: fedsite privacy recover",
        )


def _begin(
    site: Site, client: FederationClient, step: Steps, pinned: Pinned, plan: Envelope, ticket: Envelope
) -> Round:
    try:
        offer = verify_offer(pinned, plan, ticket, utc_now())
    except Expired as error:
        raise client.or_clock(error) from error  # it is as likely that this clock is wrong, since this very moment
    verify_chain(offer, site.state.rounds(pinned.federation), client)
    return state_machine.begin(site, client, offer, {"plan": plan, "ticket": ticket}, step)


def _finish_pending(site: Site, client: FederationClient, step: Steps, pinned: Pinned) -> Outcome | None:
    """Sends what an earlier run released: it is charged already, and always the same bytes."""
    pending = [record for record in site.state.rounds(pinned.federation) if record.state in state_machine.PENDING]
    if not pending:
        return None
    here = Round(site, client, _stored_offer(pinned, pending[-1]), step, pending[-1].state, pending[-1].body)
    state_machine.advance(here)
    return _ended(here) if here.state == "acknowledged" else None


def _stored_offer(pinned: Pinned, record: RoundRecord) -> Offer:
    """The offer as it was verified when it came; signatures are checked again, expiry is the server's business."""
    plan, ticket = (Envelope.model_validate(record.body[name]) for name in ("plan", "ticket"))
    return verify_offer(pinned, plan, ticket, now=None)


def _ended(here: Round) -> Outcome:
    if here.state != "acknowledged":
        raise TryAgainLater(
            f"Round {here.number} ended before this site's update was there ({here.state}).",
            "What was charged stays charged; the next run takes the next round.",
        )
    spent, terms = here.site.ledger.spent(), here.site.ledger.terms
    return Outcome(
        "uploaded",
        {
            "federation": here.offer.plan.federation,
            "round": here.number,
            "task": here.offer.plan.task,
            "steps": here.offer.plan.local.steps,
            "bytes_sent": here.body["payload_bytes"],
            "payload_sha256": here.body["payload_sha256"],
            "epsilon": spent.epsilon,
            "delta": terms.delta,
            "guarantee": guarantee(spent.epsilon, terms.delta),
            "signal_to_noise": charging.signal_to_noise(here.offer.plan, here.body["values"]),
            "evaluation": evaluations.brief(here.site.state, here.offer.ticket.model_sha256),
            "evaluation_after": evaluations.brief_of_trained(here.site.state, here.number),
            "report": _write_page(here),
        },
    )


def _write_page(here: Round) -> str | None:
    """The page of this site's rounds, made anew; None where that failed, which the audit tells: the round is done."""
    try:
        page = writing.place(here.site.state, writing.ROUNDS)
        federation = here.offer.plan.federation
        rows = evaluations.rounds(here.site.state, federation)
        own_rounds.write(page, federation, rows, egress.kept(here.site.state))
    except Exception as error:  # noqa: BLE001 - no picture is worth a round
        here.site.state.audit("page failed", round=here.number, reason=type(error).__name__)
        return None
    return str(page)


@contextmanager
def _telling_refusals(here: Round) -> Iterator[None]:
    """Tells the server that this site says no, in one of four words; the whole reason is written down at home."""
    try:
        yield
    except tuple(REASONS) as error:
        _tell(here, here.number, next(word for kind, word in REASONS.items() if isinstance(error, kind)))
        raise
    except OutsideHours:
        here.move(here.state, outside_hours=True)  # nothing more leaves today, and the round may still go well
        raise


def _tell_of_missed_hours(here: Round) -> None:
    """Tells the server, now that the hours allow it, which rounds ended without this site because its hours had."""
    federation = here.offer.plan.federation
    for record in here.site.state.rounds(federation):
        if record.state in ("abandoned", "late") and record.body.pop("outside_hours", False):
            _tell(here, record.round, "window")
            here.site.state.put_round(federation, record.round, record.state, record.body)


def _tell(here: Round, number: int, reason: RefusalReason) -> None:
    try:
        here.client.refuse(number, reason)
        here.site.state.audit("refusal told", round=number, reason=reason)
    except FedsiteError as failure:
        here.site.state.audit("refusal not delivered", round=number, message=failure.message)
