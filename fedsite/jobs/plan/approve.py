"""A person's consent to a plan, where the policy asks for it: given once for all plans that ask for the same.

The audit chain is the list of what was approved, as it is of who was withdrawn: it can be neither changed nor removed
unseen, and names who agreed and when.
"""

from dataclasses import dataclass, replace
from typing import Any

from fedsite.errors import RecordsDamaged, TryAgainLater, UsageError
from fedsite.jobs.site import Site
from fedsite.site.state import State
from fedsite.wire import signing
from fedsite.wire.messages import Envelope, MalformedMessage
from fedsite.wire.plans import Plan, PlanDraft, kind

APPROVED = "plan approved"
TAKEN_BACK = "plan approval taken back"
SHORTEST_KIND = 8


@dataclass(frozen=True)
class Approval:
    """Who agreed to what a plan asks for, and when (UTC)."""

    by: str
    at: str


@dataclass(frozen=True)
class Known:
    """A plan that the server has offered to this site, with the rounds in which it came first and last."""

    plan: Plan
    kind: str
    first_round: int
    last_round: int
    approval: Approval | None

    def as_data(self) -> dict[str, Any]:
        """For --json."""
        approved = self.approval
        return {
            "plan": self.plan.plan,
            "kind": self.kind,
            "first_round": self.first_round,
            "last_round": self.last_round,
            "approved_by": approved.by if approved else None,
            "approved_at": approved.at if approved else None,
            "asks": self.plan.model_dump(mode="json", by_alias=True, exclude={"round_key", "receipt_key"}),
        }


def require(site: Site, plan: PlanDraft) -> None:
    """Raises TryAgainLater while the policy asks for a person's consent to such a plan, and nobody has given it."""
    wanted = kind(plan)
    if site.config.policy.approve_plans and wanted not in approvals(site.state):
        raise TryAgainLater(
            f"The plan {plan.plan} (kind {wanted[:16]}) asks for something to which nobody here has agreed yet"
            " (policy.approve_plans).",
            f"Look at it, and agree or let it be: fedsite approve {wanted[:16]}",
        )


def approvals(state: State) -> dict[str, Approval]:
    """The approvals in force, by the kind of plan."""
    found: dict[str, Approval] = {}
    for record in state.records("audit"):
        if record.body["event"] == APPROVED:
            found[record.body["kind"]] = Approval(record.body["by"], record.time)
        elif record.body["event"] == TAKEN_BACK:
            found.pop(record.body["kind"], None)
    return found


def find(site: Site, name: str) -> Known:
    """The plan of that name, or of a kind that begins so. Raises UsageError where there is none, or several kinds."""
    known = offered(site)
    found = {one.kind: one for one in known if one.plan.plan == name}
    if not found and len(name) >= SHORTEST_KIND:
        found = {one.kind: one for one in known if one.kind.startswith(name)}
    if not found:
        there = ", ".join(dict.fromkeys(one.plan.plan for one in known))
        raise UsageError(
            f"The server has offered no plan {name} to this site.",
            f"It has offered: {there}." if there else "A plan is known once fedsite train-round has met it.",
        )
    if len(found) > 1:
        kinds = ", ".join(one[:16] for one in found)
        raise UsageError(f"Several plans are called {name}.", f"Name the kind that is meant: {kinds}")
    return next(iter(found.values()))


def offered(site: Site) -> list[Known]:
    """The plans that the server has offered, the newest of each name and kind, in the order in which they came."""
    agreed, found = approvals(site.state), dict[tuple[str, str], Known]()
    for record in site.state.rounds(site.pinned.federation):
        if (stored := record.body.get("plan")) is None:
            continue
        try:
            plan = signing.unverified(Envelope.model_validate(stored), Plan)
        except MalformedMessage as error:
            raise RecordsDamaged(f"The plan of round {record.round} cannot be read.") from error
        one = kind(plan)
        before = found.get((plan.plan, one))
        first = before.first_round if before else record.round
        found[plan.plan, one] = Known(plan, one, first, record.round, agreed.get(one))
    return list(found.values())


def approve(site: Site, known: Known, person: str) -> Known:
    """Records that a person agrees to what the plan asks for. Raises UsageError without a name."""
    if not person.strip():
        raise UsageError("Somebody must agree.", "Name the person: --by NAME")
    record = site.state.audit(APPROVED, by=person.strip(), plan=known.plan.plan, kind=known.kind)
    return replace(known, approval=Approval(person.strip(), record.time))


def take_back(site: Site, known: Known) -> bool:
    """Records that the consent is taken back, from the next run on; False where there is none."""
    if known.kind not in approvals(site.state):
        return False
    site.state.audit(TAKEN_BACK, plan=known.plan.plan, kind=known.kind)
    return True
