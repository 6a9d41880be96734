"""The site's own rules in a whole participation: hours, the end of its agreement, a person's approval of a plan."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support import federation as federations
from support.federation import Server, plan_file
from support.site import Site, prepare_blobs

from fedsite.errors import OutsideHours, PolicyRefused, TryAgainLater
from fedsite.jobs.checks import policy
from fedsite.jobs.plan import approve
from fedsite.jobs.progress import Progress
from fedsite.jobs.round import participate
from fedsite.jobs.round.guard import Guard
from fedsite.jobs.site import open_site
from fedsite.server.rounds import reports

LOCAL = {"steps": 0, "patch_voxels": [16, 16, 16]}
PLAN = {"local": LOCAL, "rounds": {"quorum": 1, "enough": 9, "deadline_seconds": 600}}
ANY_HOUR: dict[str, Any] = {"hours": [], "days": [], "time_zone": None, "agreement_until": None, "approve_plans": False}


@pytest.fixture(autouse=True)
def afterwards(site: Site) -> Iterator[None]:
    """Each test leaves the site without rules of its own."""
    yield
    site.configure(policy=ANY_HOUR)


def window(hours_away: int) -> str:
    """An hour in UTC: `hours_away` from now, or the present one with those around it where that is 0."""
    here = datetime.now(UTC) + timedelta(hours=hours_away)
    start, end = (
        (here, here + timedelta(hours=1)) if hours_away else (here - timedelta(hours=1), here + timedelta(hours=2))
    )
    return f"{start:%H}:00-{end:%H}:00"


def closed() -> dict[str, Any]:
    return {"hours": [window(6)], "time_zone": "UTC"}


def opened() -> dict[str, Any]:
    return {"hours": [window(0)], "time_zone": "UTC"}


def events(site: Site, after: int = 0) -> list[dict[str, Any]]:
    """The audit's records after one, by their bodies."""
    with site.open_state() as state:
        return [record.body for record in state.records("audit", after)]


def length(site: Site) -> int:
    with site.open_state() as state:
        last = state.last("audit")
        return last.sequence if last else 0


def took_part(server: Server, number: int) -> list[str]:
    return [one["site"] for one in reports.round_report(server.federation, number)["took_part"]]


@contextmanager
def quietly(_step: str) -> Iterator[Progress]:
    """A step that nobody watches."""
    yield lambda done, total, note="": None


# --- hours ----------------------------------------------------------------------------------------------------------


def test_outside_its_hours_a_site_does_not_even_ask(server: Server, site: Site, tmp_path: Path) -> None:
    number = server.open_round(tmp_path, **PLAN)
    site.configure(policy=closed())
    before = length(site)

    answer = site.run("train-round")

    assert (answer.code, answer.json["outcome"], answer.json["error"]["code"]) == (75, "pending", "outside-hours")
    assert [one["code"] for one in events(site, before) if one["event"] == "refused"] == ["outside-hours"]
    assert not [one for one in events(site, before) if one["event"] == "request"]
    with pytest.raises(StopIteration):
        site.round_state(number)
    with open_site(site.config) as here, pytest.raises(OutsideHours):
        participate.take_part(here, quietly, dry_run=True)


def test_no_variable_moves_the_hours(site: Site) -> None:
    """This machine's zone is its own; $TZ would move the hours by as much as one likes."""
    here = datetime.now().astimezone()
    away = here + timedelta(hours=6)
    site.configure(policy={"hours": [f"{away:%H}:00-{away + timedelta(hours=1):%H}:00"]})
    assert Site(site.home, {"TZ": "XXX-6"}).run("train-round").code == 75


def test_what_was_released_waits_for_the_hours_too(server: Server, site: Site, tmp_path: Path) -> None:
    """It is charged, and the round may end meanwhile; but what leaves outside the hours would break the promise."""
    number = server.open_round(tmp_path, **PLAN)
    site.killed("after:released", "train-round")
    digest = site.round_state(number)[1]["payload_sha256"]
    site.configure(policy=closed())

    assert site.run("train-round").code == 75

    assert site.round_state(number)[0] == "released"
    assert took_part(server, number) == []
    site.configure(policy=opened())
    assert site.ok("train-round")["data"]["payload_sha256"] == digest
    assert took_part(server, number) == ["site-a"]


class Evening:
    """A site's clock, and steps that make the hours end once one of them has begun, or is so far."""

    def __init__(self, last: str, far: int = 0) -> None:
        self.shows, self.last, self.far, self.seconds = datetime.now(UTC), last, far, 0.0

    @contextmanager
    def step(self, description: str) -> Iterator[Progress]:
        def told(done: int, total: int, note: str = "") -> None:
            if description.startswith(self.last) and done == self.far:
                self.shows += timedelta(hours=6)
                self.seconds += 6 * 3600

        told(0, 0)
        yield told

    def guard(self, *given: Any) -> Guard:
        return Guard(*given, clock=lambda: self.shows, elapsed=lambda: self.seconds)


@pytest.mark.parametrize(
    ("last", "stands", "charged"),
    [
        ("Fetching", "offered", []),
        ("Training", "trained", []),
        ("Charging", "reserved", ["reserved"]),
        ("Clipping", "uploading", ["reserved", "released"]),
        ("Uploading", "uploading", ["reserved", "released"]),
    ],
)
def test_hours_that_end_in_the_middle_cost_nothing_twice(
    server: Server,
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    last: str,
    stands: str,
    charged: list[str],
) -> None:
    number = server.open_round(tmp_path, **PLAN)
    site.configure(policy=opened())
    evening = Evening(last)
    with monkeypatch.context() as patch, open_site(site.config) as here:
        patch.setattr(participate, "Guard", evening.guard)
        with pytest.raises(OutsideHours):
            participate.take_part(here, evening.step)

    assert site.round_state(number)[0] == stands
    assert [body["kind"] for body in site.ledger() if body.get("round") == number] == charged
    if last != "Uploading":  # so small an update may be there before anybody looks at a clock
        assert took_part(server, number) == []
    said = events(site)
    reached = max(place for place, one in enumerate(said) if one["event"] == "round" and one["state"] == stands)
    assert not [one for one in said[reached:] if one.get("path") == f"/v1/rounds/{number}"], "nobody is asked any more"
    with open_site(site.config) as here:
        assert participate.take_part(here, quietly).outcome == "uploaded"
    kinds = [body["kind"] for body in site.ledger() if body.get("round") == number]
    assert kinds == ["reserved", "released", "acknowledged"]


def test_a_round_that_was_missed_for_the_hours_is_told_of_within_them(
    server: Server, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missed = [server.open_round(tmp_path, **PLAN)]
    site.configure(policy=opened())
    for last in ("Training", "Clipping"):
        evening = Evening(last)
        with monkeypatch.context() as patch, open_site(site.config) as here:
            patch.setattr(participate, "Guard", evening.guard)
            with pytest.raises(OutsideHours):
                participate.take_part(here, evening.step)
        missed.append(server.open_round(tmp_path, plan=last.lower(), **PLAN))
    *missed, number = missed
    with open_site(site.config) as here:
        assert participate.take_part(here, quietly).data["round"] == number
    before, sent = (reports.round_report(server.federation, one) for one in missed)
    assert before["refused"] == [{"site": "site-a", "reason": "window"}]
    assert sent["late"] == [
        {"site": "site-a", "reason": "it was announced after the round had closed; it says: window"}
    ]
    told = [(one["round"], one["reason"]) for one in events(site) if one["event"] == "refusal told"]
    assert told[-2:] == [(one, "window") for one in missed], "each once"


def test_a_training_that_the_hours_have_cut_is_kept(
    server: Server, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_blobs(site)
    local = {"steps": 5, "batch_size": 1, "patch_voxels": [16, 16, 16]}
    plan = plan_file(tmp_path, local=local, rounds=PLAN["rounds"])
    site.ok("model", "init", str(plan), "-o", str(tmp_path / "model.safetensors"))
    number = server.open_series(plan, tmp_path / "model.safetensors")
    site.configure(policy=opened(), training={"checkpoint_minutes": 1e-9, "evaluate": False})
    evening = Evening("Training", far=3)
    with monkeypatch.context() as patch, open_site(site.config) as here:
        patch.setattr(participate, "Guard", evening.guard)
        with pytest.raises(OutsideHours):
            participate.take_part(here, evening.step)

    assert site.round_state(number)[0] == "fetched"
    assert (site.state / "checkpoints" / f"round-{number}.training.safetensors").is_file()
    assert site.ok("train-round")["outcome"] == "uploaded"


# --- the agreement --------------------------------------------------------------------------------------------------


def test_a_site_takes_part_until_the_day_that_it_has_named(server: Server, site: Site, tmp_path: Path) -> None:
    number = server.open_round(tmp_path, **PLAN)
    today = datetime.now(UTC).date()
    site.configure(policy={"agreement_until": today - timedelta(days=1), "time_zone": "UTC"})
    before = length(site)

    answer = site.run("train-round")

    assert (answer.code, answer.json["outcome"]) == (80, "refused")
    assert "policy.agreement_until" in answer.json["error"]["message"]
    assert [one["code"] for one in events(site, before) if one["event"] == "refused"] == ["policy-refused"]
    assert not [one for one in events(site, before) if one["event"] == "request"]
    site.configure(policy={"agreement_until": today})
    with open_site(site.config) as here:
        assert policy.agreement(here).status == "warning"
        assert participate.take_part(here, quietly).outcome == "uploaded"
    assert took_part(server, number) == ["site-a"]


def test_an_agreement_has_its_own_end(tmp_path: Path) -> None:
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    federations.make(tmp_path / "server", agreement_expires=end).database.close()
    server, site = Server(tmp_path / "server"), Site(tmp_path / "site")
    server.start()
    try:
        site.init()
        enrolled = site.enroll(server.invite("brief"))
        assert enrolled["data"]["agreement_expires"] == end.isoformat()
        while datetime.now(UTC) < end:
            pass
        answer = site.run("train-round")
    finally:
        server.stop()
    assert (answer.code, answer.json["error"]["code"]) == (80, "policy-refused")
    assert "the agreement's end" in answer.json["error"]["message"]
    assert any(one["event"] == "agreement accepted" and one["expires"] == end.isoformat() for one in events(site))


# --- approval -------------------------------------------------------------------------------------------------------


def test_a_person_agrees_before_a_new_plan_begins(server: Server, site: Site, tmp_path: Path) -> None:
    number = server.open_round(tmp_path, plan="winter", **PLAN)
    site.configure(policy={"approve_plans": True})
    waiting = site.run("train-round")
    assert (waiting.code, waiting.json["outcome"]) == (75, "pending")
    assert site.round_state(number)[0] == "offered"
    assert reports.round_report(server.federation, number)["refused"] == [], "it waits; it has not refused"
    with open_site(site.config) as here:
        assert participate.take_part(here, quietly, dry_run=True).outcome == "previewed", (
            "who is to agree may try it out"
        )

    shown = site.ok("approve", "winter")
    assert (shown["outcome"], shown["data"]["approved_by"]) == ("shown", None)
    assert shown["data"]["kind"][:16] in waiting.json["error"]["mend"]
    assert shown["data"]["asks"]["privacy"]["noise_multiplier"] == 0.1
    assert "gaussian-update, clip norm 1, noise multiplier 0.1" in site.say("approve", "winter").stdout
    with open_site(site.config) as here, pytest.raises(TryAgainLater):
        participate.take_part(here, quietly)  # to look is not to agree

    approved = site.ok("approve", shown["data"]["kind"][:16], "--by", "Ada Tester")
    assert (approved["outcome"], approved["data"]["approved_by"]) == ("approved", "Ada Tester")
    assert site.ok("approve", "winter", "--by", "Eve")["data"]["approved_by"] == "Ada Tester"
    assert site.ok("train-round")["outcome"] == "uploaded"


def test_only_what_asks_for_something_new_awaits_a_person(server: Server, site: Site, tmp_path: Path) -> None:
    site.configure(policy={"approve_plans": True})
    server.open_round(tmp_path, plan="spring", payload="float16", **PLAN)
    with open_site(site.config) as here:
        with pytest.raises(TryAgainLater, match="The plan spring"):
            participate.take_part(here, quietly)
        approve.approve(here, approve.find(here, "spring"), "Ada Tester")
        later = (datetime.now(UTC) + timedelta(days=90)).isoformat()
        again = PLAN | {"plan": "summer", "payload": "float16", "expires": later, "local": LOCAL | {"seed": 4}}
        server.open_round(tmp_path, **again)
        assert participate.take_part(here, quietly).outcome == "uploaded"

        less_noise = {"mechanism": "gaussian-update", "clip_norm": 1.0, "noise_multiplier": 0.09}
        server.open_round(tmp_path, **again, privacy=less_noise)
        with pytest.raises(TryAgainLater, match="The plan summer"):
            participate.take_part(here, quietly)
        assert policy.plans(here).status == "warning"

    assert site.run("approve", "summer").json["error"]["message"] == "Several plans are called summer."
    server.open_round(tmp_path, **again | {"plan": "autumn"})
    assert site.ok("approve", "spring", "--take-back")["outcome"] == "taken-back"
    with open_site(site.config) as here, pytest.raises(TryAgainLater):
        participate.take_part(here, quietly)
    said = [one["event"] for one in events(site) if one["event"].startswith("plan ")]
    assert said[-2:] == ["plan approved", "plan approval taken back"]


# --- caps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "key"),
    [
        ({"federations": ["others"]}, "policy.federations"),
        ({"maximum_upload_megabytes": 1e-4}, "policy.maximum_upload_megabytes"),
        ({"maximum_epochs": 0.01}, "policy.maximum_epochs"),
    ],
)
def test_a_plan_beyond_the_sites_caps_is_refused(
    server: Server, site: Site, tmp_path: Path, rules: dict[str, Any], key: str
) -> None:
    local = {"steps": 1, "batch_size": 2, "patch_voxels": [16, 16, 16]}
    number = server.open_round(tmp_path, local=local, rounds=PLAN["rounds"])
    good = site.config.read_text()
    site.configure(policy=rules)
    try:
        with open_site(site.config) as here, pytest.raises(PolicyRefused, match=re.escape(key)):
            participate.take_part(here, quietly)
    finally:
        site.config.write_text(good)
    assert reports.round_report(server.federation, number)["refused"] == [{"site": "site-a", "reason": "policy"}]
