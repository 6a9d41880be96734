"""`fedsite privacy attack`: the page says what is stated and what the attacks found; nothing else changes."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.federation import plan_file
from support.site import Site, prepare_blobs

from fedsite.errors import CannotWrite, DataNotFit, NotAuthorised, PolicyRefused, UsageError
from fedsite.jobs.models import choice
from fedsite.jobs.pages import writing
from fedsite.jobs.privacy import attack
from fedsite.jobs.privacy.attack import Found, Order, StatementRefuted
from fedsite.jobs.progress import silent_steps
from fedsite.jobs.site import open_site
from fedsite.privacy import accountant, lower_bounds, mechanism
from fedsite.privacy.accountant import Release
from fedsite.privacy.statement import guarantee
from fedsite.wire.plans import read_draft

UPDATE = {"mechanism": "gaussian-update", "clip_norm": 1.0, "noise_multiplier": 4.0}
STEPS = {"mechanism": "dp-sgd", "clip_norm": 1.0, "noise_multiplier": 2.0, "batch_patients": 50}
LOCAL = {"steps": 6, "patch_voxels": [16, 16, 16]}
DELTA = 1e-6

Attack = Callable[..., Found]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site with six patients to train on; it never met a federation."""
    site = Site(tmp_path_factory.mktemp("site"))
    site.set_up()
    prepare_blobs(site, patients=6, held_out=1, size=24)
    return site


@pytest.fixture
def attacked(prepared: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attack:
    """Attacks a plan's mechanism in a few seconds."""
    for name, value in {"RUNS": 1000, "CANARIES": 500, "GAMES": 40, "ITERATIONS": 3, "YARDSTICKS": 2}.items():
        monkeypatch.setattr(attack, name, value)

    def run(privacy: dict[str, Any], **changes: Any) -> Found:
        plan = plan_file(tmp_path, privacy=privacy, local=LOCAL, **changes)
        with open_site(prepared.config) as site:
            return attack.attack_at_home(site, Order(plan, report=tmp_path / "page.html"), silent_steps)

    return run


def words(page: Path) -> str:
    """What a page says, without its markup."""
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page.read_text(), flags=re.DOTALL).split())


@pytest.mark.parametrize(
    ("privacy", "release", "mu"),
    [(UPDATE, Release(2.0), 0.5), (STEPS, Release(2.0, 0.5, 6), 0.5)],
    ids=["gaussian-update", "dp-sgd"],
)
def test_an_honest_mechanism_is_not_refuted(
    attacked: Attack, prepared: Site, privacy: dict[str, Any], release: Release, mu: float
) -> None:
    before = [record.hash for record in prepared.open_state().records("ledger")]
    found = attacked(privacy)
    stated = accountant.sequence_epsilon([release], DELTA)
    assert found.audit.stated == guarantee(stated, DELTA)
    assert 0 <= found.audit.bound.epsilon <= stated
    assert found.audit.accuracy.allowed == pytest.approx((1 + accountant.advantage(release)) / 2)
    assert found.membership.allowed == pytest.approx(lower_bounds.gaussian_area(mu))
    assert found.membership.released.low < found.membership.raw.low
    assert (found.membership.batch, found.refuted) == (3, False)
    text = words(found.report)
    for said in (found.audit.stated, found.audit.at_least, "It proves nothing", found.case.id, privacy["mechanism"]):
        assert said in text
    assert [record.hash for record in prepared.open_state().records("ledger")] == before
    assert list((prepared.state / "outbox").iterdir()) == []
    told = json.loads(json.dumps(attack.summary(found)))
    assert told["stated"] == found.audit.stated
    assert told["audit"]["guarantee"].startswith("at least epsilon ")


def test_the_page_needs_nothing_from_elsewhere(attacked: Attack) -> None:
    page = attacked(UPDATE).report.read_text()
    assert "default-src 'none'" in page
    assert re.findall(r"<script|https?://(?!www\.w3\.org)", page) == []
    assert page.count("data:image/png;base64,") == 4


def test_what_is_not_private_is_called_so(attacked: Attack) -> None:
    found = attacked(UPDATE | {"noise_multiplier": 0})
    assert found.audit.epsilon is None
    assert "not private" in words(found.report)
    assert found.audit.accuracy.right == found.audit.accuracy.guesses
    assert not found.refuted, "nothing was stated"


def test_too_little_noise_is_refuted(attacked: Attack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Weak(mechanism.SystemNoise):
        def standard_normal(self, count: int) -> np.ndarray:
            return super().standard_normal(count) / 3

    monkeypatch.setattr(mechanism, "SystemNoise", Weak)
    monkeypatch.setattr(attack, "SystemNoise", Weak)
    for privacy in (UPDATE, STEPS):
        with pytest.raises(StatementRefuted, match="found more than what is stated") as error:
            attacked(privacy)
        assert error.value.exit_code == 1
        assert error.value.data["refuted"] is True
        assert "More was found than what is stated allows." in words(tmp_path / "page.html")


def test_the_same_seed_attacks_the_same_patients(attacked: Attack, prepared: Site, tmp_path: Path) -> None:
    one, other = attacked(UPDATE), attacked(UPDATE)
    assert one.case == other.case
    assert np.array_equal(one.membership.scores.raw[1], other.membership.scores.raw[1])
    assert not np.array_equal(one.membership.scores.released[1], other.membership.scores.released[1]), "noise is new"


def test_what_is_frozen_is_not_attacked(attacked: Attack) -> None:
    assert attacked(STEPS, algorithm={"name": "personal", "keep": "decoder"}).values < attacked(STEPS).values


def test_few_patients_are_told_so(prepared: Site, tmp_path: Path) -> None:
    few = Site(tmp_path / "few")
    few.set_up()
    prepare_blobs(few, patients=3, held_out=1, size=24)
    with open_site(few.config) as site, pytest.raises(DataNotFit, match="at least 4 training patients"):
        attack.attack_at_home(site, Order(plan_file(tmp_path, privacy=UPDATE)), silent_steps)


def test_a_plan_is_needed(prepared: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with open_site(prepared.config) as site:
        with pytest.raises(NotAuthorised):
            attack.attack_at_home(site, Order(), silent_steps)
        monkeypatch.setattr(choice, "accepted_plans", lambda site: {})
        with pytest.raises(UsageError, match="met no plan"):
            attack.attack_at_home(site, Order(), silent_steps)
        newest = read_draft(plan_file(tmp_path, privacy=STEPS | {"batch_patients": 101}))
        monkeypatch.setattr(choice, "accepted_plans", lambda site: {"a digest": newest})
        with pytest.raises(PolicyRefused, match="101 patients a step"):
            attack.attack_at_home(site, Order(), silent_steps)


def test_the_page_goes_where_it_can(prepared: Site, tmp_path: Path) -> None:
    plan = plan_file(tmp_path)
    with open_site(prepared.config) as site, pytest.raises(CannotWrite):
        attack.attack_at_home(site, Order(plan, report=plan / "page.html"), silent_steps)


def test_a_withdrawal_takes_the_page(prepared: Site) -> None:
    with prepared.open_state() as state:
        page = writing.place(state, writing.ATTACKS)
        page.write_text("pictures")
        writing.forget_pictures(state)
    assert not page.exists()
