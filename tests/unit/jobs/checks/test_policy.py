"""What `fedsite check` says of the site's own rules."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from example_site import make_site

from fedsite.errors import PolicyRefused, TryAgainLater, UsageError
from fedsite.jobs.checks import policy
from fedsite.jobs.plan import approve
from fedsite.jobs.round import guard
from fedsite.jobs.site import Site, open_site
from fedsite.site import identity

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An enrolled site that has taken part twice; it is noon."""
    monkeypatch.setattr(guard, "now", lambda: NOW)
    with open_site(make_site(tmp_path, rounds=2, cases=3)) as opened:
        yield opened


def under(site: Site, **rules: Any) -> Site:
    policy = site.config.policy.model_validate(site.config.policy.model_dump() | {"time_zone": "UTC"} | rules)
    return replace(site, config=site.config.model_copy(update={"policy": policy}))


def test_an_agreement_without_an_end(site: Site) -> None:
    found = policy.agreement(site)
    assert (found.status, found.message[-14:]) == ("ok", "it has no end.")


@pytest.mark.parametrize(("days", "status"), [(31, "ok"), (30, "ok"), (29, "warning"), (0, "warning")])
def test_an_agreement_that_ends(site: Site, days: int, status: str) -> None:
    found = policy.agreement(under(site, agreement_until=NOW.date() + timedelta(days=days)))
    assert found.status == status
    assert f"for {days} more days (policy.agreement_until)" in found.message


def test_an_agreement_that_has_ended_or_awaits_a_person(site: Site) -> None:
    with pytest.raises(PolicyRefused):
        policy.agreement(under(site, agreement_until=date(2026, 5, 31)))
    identity.pin(site.files, replace(site.pinned, agreement_accepted_by=""))
    with pytest.raises(TryAgainLater):
        policy.agreement(site)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({}, "This site takes part at any hour."),
        ({"hours": ["12:00-13:00"]}, "This site takes part 12:00-13:00 (UTC): now, too."),
        ({"hours": ["20:00-06:00"]}, "This site takes part 20:00-06:00 (UTC): not now."),
        ({"days": ["sun"]}, "This site takes part 00:00-24:00 on sun (UTC): not now."),
    ],
)
def test_hours(site: Site, rules: dict[str, Any], said: str) -> None:
    found = policy.open_hours(under(site, **rules))
    assert (found.status, found.message) == ("ok", said)


def test_plans_before_any_was_offered(site: Site) -> None:
    assert policy.plans(site).message == "No plan awaits a person: this site asks for no approval."
    assert policy.plans(under(site, approve_plans=True)).message.endswith("has offered no plan yet.")
    with pytest.raises(UsageError, match="has offered no plan winter") as unknown:
        approve.find(site, "winter")
    assert "train-round" in unknown.value.mend
