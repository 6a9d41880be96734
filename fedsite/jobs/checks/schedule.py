"""What `fedsite check` says of the schedule by which this site takes part."""

from fedsite.jobs.checks.findings import Check
from fedsite.jobs.schedule import install
from fedsite.jobs.site import Site

AGAIN = "Install it again: fedsite schedule install"


def schedule(site: Site) -> Check:
    """Whether anything starts this site's rounds, and when it does next."""
    found = install.find(site.config.paths.state)
    if not found:
        return Check("schedule", "warning", "Nothing starts this site's rounds by itself.", "fedsite schedule install")
    if len(found) > 1:
        places = "; ".join(one.where for one in found)
        return Check("schedule", "warning", f"This site is scheduled {len(found)} times: {places}.", AGAIN)
    (one,) = found
    if one.schedule is None:
        return Check("schedule", "warning", f"The schedule was changed by hand: {one.where}.", AGAIN)
    if one.next_run is None:
        return Check("schedule", "warning", f"{one.way} does not run the schedule: {one.where}.", f"Start {one.way}.")
    if not one.schedule.within(site.config.policy):
        return Check("schedule", "warning", "No scheduled start lies within policy.hours and policy.days.", AGAIN)
    return Check(
        "schedule",
        "ok",
        f"{one.way} starts a run {one.schedule.in_words()}; next on {one.next_run:%a %Y-%m-%d %H:%M %Z}.",
    )
