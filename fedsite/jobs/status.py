"""`fedsite status`: what this site knows about itself. Reads only, asks nobody, imports nothing heavy."""

from pathlib import Path
from typing import Any

from fedsite.errors import FedsiteError, NotAuthorised
from fedsite.jobs.site import Site, open_site
from fedsite.privacy.statement import guarantee
from fedsite.site import identity
from fedsite.site.state import RoundRecord

LAST_ROUNDS = 5


def status(config_path: Path | None) -> dict[str, Any]:
    """Identity (None before enrolment), data (None before preparation), last rounds, privacy."""
    with open_site(config_path) as site:
        spent, terms = site.ledger.spent(), site.ledger.terms
        return {
            "identity": _identity(site),
            "data": _data(site),
            "rounds": [
                {"round": record.round, "state": record.state, "changed": record.changed}
                for record in _rounds(site)[-LAST_ROUNDS:]
            ],
            "privacy": {
                "epsilon": spent.epsilon,
                "delta": terms.delta,
                "budget": terms.budget(site.config.policy.maximum_epsilon),
                "releases": spent.releases,
                "guarantee": guarantee(spent.epsilon, terms.delta),
            },
        }


def _rounds(site: Site) -> list[RoundRecord]:
    """Those of the federation that is pinned, which a site that retired still has."""
    try:
        return site.state.rounds(site.pinned.federation)
    except NotAuthorised:
        return []


def _identity(site: Site) -> dict[str, Any] | None:
    try:
        pinned, certificate = site.pinned, identity.certificate(site.files)
    except NotAuthorised:
        return None
    return {
        "site": pinned.site,
        "federation": pinned.federation,
        "server": pinned.server,
        "days_left": round(certificate.days_left(), 1),
    }


def _data(site: Site) -> dict[str, Any] | None:
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
