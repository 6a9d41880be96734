"""What `fedsite check` looks at of a site's own rules: its agreement, its hours, and plans that await a person."""

from fedsite.errors import OutsideHours
from fedsite.jobs.checks.findings import Check
from fedsite.jobs.plan import approve
from fedsite.jobs.round import guard
from fedsite.jobs.site import Site
from fedsite.site import hours

SOON_DAYS = 30


def agreement(site: Site) -> Check:
    """Whether it is accepted, and how long it still lasts. Raises what a run would meet."""
    policy, pinned, now = site.config.policy, site.pinned, guard.now()
    guard.require_agreement(policy, pinned, now)
    end = guard.end_of_agreement(policy, pinned)
    if end is None:
        return Check("agreement", "ok", "The data-use agreement is accepted, or there is none; it has no end.")
    days = (end[0] - now).days
    told = f"This site takes part until {end[0]:%Y-%m-%d %H:%M %Z}, for {days} more days ({end[1]})."
    if days < SOON_DAYS:
        return Check("agreement", "warning", told, "Speak with the coordinator, or whoever decides here, in time.")
    return Check("agreement", "ok", told)


def open_hours(site: Site) -> Check:
    """When the site takes part. That it does not now is no fault."""
    policy = site.config.policy
    if not (policy.hours or policy.days):
        return Check("hours", "ok", "This site takes part at any hour.")
    told = f"This site takes part {hours.in_words(policy.hours, policy.days)} ({guard.zone(policy)})"
    try:
        guard.require_hours(policy, guard.now())
    except OutsideHours:
        return Check("hours", "ok", f"{told}: not now.")
    return Check("hours", "ok", f"{told}: now, too.")


def plans(site: Site) -> Check:
    """Whether the plan that was offered last awaits a person."""
    pinned = site.pinned
    if not site.config.policy.approve_plans:
        return Check("plans", "ok", "No plan awaits a person: this site asks for no approval.")
    offered = approve.offered(site)
    if not offered:
        return Check("plans", "ok", f"Federation {pinned.federation} has offered no plan yet.")
    last = max(offered, key=lambda one: one.last_round)
    if last.approval is None:
        mend = f"Look at it, and agree or let it be: fedsite approve {last.kind[:16]}"
        return Check("plans", "warning", f"The plan {last.plan.plan} awaits a person.", mend)
    return Check("plans", "ok", f"The plan {last.plan.plan} was approved by {last.approval.by}, {last.approval.at}.")
