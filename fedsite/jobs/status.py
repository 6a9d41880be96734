"""`fedsite status`: what this site knows about itself. Reads only, asks nobody, imports nothing heavy."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedsite.errors import FedsiteError, NotAuthorised
from fedsite.jobs.round import guard
from fedsite.jobs.schedule import install
from fedsite.jobs.site import Site, open_site
from fedsite.jobs.unattended import run_log, streaks
from fedsite.privacy.statement import guarantee
from fedsite.site import identity
from fedsite.site.identity import Certificate
from fedsite.site.state import RoundRecord

LAST_ROUNDS = 5
SOON_DAYS = 30
OUTCOMES = {
    "acknowledged": "update sent, receipt verified",
    "abandoned": "ended before this site was done",
    "late": "the update came too late",
    "rejected": "the server did not admit the update",
    "recovered": "charged by fedsite privacy recover",
}
"""What became of a round, by the state in which it ended; every other one is under way."""

UNDER_WAY = "under way"

Data = dict[str, Any]


def status(config_path: Path | None) -> Data:
    """Identity (None before enrolment), data (None before preparation), last rounds and run, privacy, what is wrong."""
    with open_site(config_path, looking=True) as site:
        return of(site)


def of(site: Site) -> Data:
    """The same of a site that is open."""
    return {
        "identity": _identity(site),
        "data": _data(site),
        "rounds": [
            {
                "round": record.round,
                "state": record.state,
                "outcome": OUTCOMES.get(record.state, UNDER_WAY),
                "changed": record.changed,
            }
            for record in _rounds(site)[-LAST_ROUNDS:]
        ],
        "privacy": _privacy(site),
        "last_run": run_log.last(site.state.folder),
        "next_run": _next_run(site),
        "warnings": [{"message": message, "mend": mend} for message, mend in _warnings(site)],
    }


def _privacy(site: Site) -> Data:
    spent, terms = site.ledger.spent(), site.ledger.terms
    budget = terms.budget(site.config.policy.maximum_epsilon)
    return {
        "epsilon": spent.epsilon,
        "delta": terms.delta,
        "budget": budget,
        "left": max(0.0, budget - spent.epsilon_noised),
        "releases": spent.releases,
        "guarantee": guarantee(spent.epsilon, terms.delta),
    }


def _rounds(site: Site) -> list[RoundRecord]:
    """Those of the federation that is pinned, which a site that retired still has."""
    try:
        return site.state.rounds(site.pinned.federation)
    except NotAuthorised:
        return []


def _certificate(site: Site) -> Certificate | None:
    try:
        return identity.certificate(site.files)
    except NotAuthorised:
        return None


def _identity(site: Site) -> Data | None:
    certificate = _certificate(site)
    if certificate is None:
        return None
    pinned = site.pinned
    return {
        "site": pinned.site,
        "federation": pinned.federation,
        "server": pinned.server,
        "days_left": round(certificate.days_left(), 1),
        "renewed_from": certificate.renewed_from.date().isoformat(),
    }


def _data(site: Site) -> Data | None:
    from fedsite.dataset import manifest

    try:
        found = manifest.load(site.config.paths.data)
    except FedsiteError:
        return None
    return {
        "task": found.task,
        "training": len(found.of_split("training")),
        "validation": len(found.of_split("validation")),
        "excluded": len(found.excluded),
    }


def _next_run(site: Site) -> str | None:
    """When the schedule starts one; None where there is none, or it cannot be looked at from here."""
    try:
        found = install.next_run(site.state.folder)
    except (FedsiteError, OSError):
        return None
    return found.isoformat(timespec="minutes") if found else None


def _warnings(site: Site) -> Iterator[tuple[str, str]]:
    """What a person should look at, each with its mend."""
    if site.state.is_copy:
        yield (
            "The records are still those of an older fedsite; a copy of them is shown.",
            "Whatever writes next brings them up to date, after a backup: fedsite check, or train-round.",
        )
    streak = streaks.load(site.state.folder)
    if streak:
        yield f"{streak.message} {streak.how_often}", streak.mend
    certificate = _certificate(site)
    now = datetime.now(UTC)
    if certificate and now >= certificate.not_after:
        yield "This site's certificate has expired.", "What is to be done is told by: fedsite check"
    elif certificate and now >= certificate.renewed_from:
        yield "The certificate should have been renewed.", "What is in the way is told by: fedsite identity renew"
    if certificate:
        yield from _agreement(site, now)


def _agreement(site: Site, now: datetime) -> Iterator[tuple[str, str]]:
    policy, pinned = site.config.policy, site.pinned
    try:
        guard.require_agreement(policy, pinned, now)
    except FedsiteError as error:
        yield error.message, error.mend
        return
    end = guard.end_of_agreement(policy, pinned)
    if end and (end[0] - now).days < SOON_DAYS:
        yield (
            f"This site takes part until {end[0]:%Y-%m-%d %H:%M %Z} ({end[1]}).",
            "Speak with the coordinator, or whoever decides here, in time.",
        )
