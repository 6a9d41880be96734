"""`fedsite personalize`: the global model fits this site better afterwards, or nothing changes; and it stays here."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.federation import plan_file
from support.site import Site, prepare_blobs

from fedsite.errors import DataNotFit, RecordsDamaged, TryAgainLater
from fedsite.files import sha256_of
from fedsite.jobs.data import prepared as withdrawing
from fedsite.jobs.lock import only_run
from fedsite.jobs.models import choice, initial, personal
from fedsite.jobs.models.personal import Gain, Record
from fedsite.jobs.models.personalize import Asked, Personalised, divided, gained, personalise
from fedsite.jobs.progress import silent_steps
from fedsite.jobs.site import open_site
from fedsite.site.state import State
from fedsite.wire.plans import read_draft

QUICK = Asked(steps=10, learning_rate=0.02)
# So small that nothing becomes better, or worse.
IDLE = Asked(steps=1, learning_rate=1e-30)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site with six patients to train on and two held out."""
    site = Site(tmp_path_factory.mktemp("site"))
    site.set_up()
    prepare_blobs(site, patients=6, held_out=2, size=24)
    return site


@pytest.fixture
def run(prepared: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Asked], Personalised]]:
    """Personalises a model that a server is said to have made; the site has no personalised one before and after."""
    draft = read_draft(plan_file(tmp_path))
    path = tmp_path / "global.safetensors"
    initial.init(draft, path, seed=5)
    model = choice.Model(path, sha256_of(path), draft, "global", after_round=3)
    monkeypatch.setattr(choice, "newest", lambda site, step: model)

    def personalised(asked: Asked) -> Personalised:
        with open_site(prepared.config) as site:
            return personalise(site, asked, silent_steps)

    yield personalised
    with State.open(prepared.state) as state:
        personal.discard(state)


@contextmanager
def state_of(site: Site) -> Iterator[State]:
    with State.open(site.state) as state:
        yield state


def everything_but_personal(site: Site) -> dict[str, bytes]:
    return {
        str(path.relative_to(site.state)): path.read_bytes()
        for path in sorted(site.state.rglob("*"))
        if path.is_file()
        and personal.FOLDER not in path.parts
        and not path.name.startswith(("state.db", "records.head", "lock"))
    }


def test_it_learns_from_its_own_and_stays_at_home(prepared: Site, run: Callable[[Asked], Personalised]) -> None:
    before = everything_but_personal(prepared)
    found = run(QUICK)
    assert found.kept
    gain = found.record.gain
    assert gain.patients == 2
    assert gain.after > gain.before
    assert gain.difference == pytest.approx(gain.after - gain.before)
    assert (gain.low, gain.high) == (None, None), "two patients are no interval"
    assert everything_but_personal(prepared) == before
    with state_of(prepared) as state:
        model = personal.kept(state)
        assert list(state.records("ledger"))[1:] == [], "nothing was charged: nothing leaves"
    assert (model.kind, model.after_round, model.sha256) == ("personalised", 3, found.record.sha256)
    assert model.plan.task == "stroke-dwi"
    assert {path.name for path in model.path.parent.iterdir()} == {model.path.name, personal.RECORD}
    assert {path.stat().st_mode & 0o777 for path in model.path.parent.iterdir()} == {0o600}
    assert model.path.parent.stat().st_mode & 0o777 == 0o700
    choice.network_of(model)
    assert run(QUICK).record.sha256 == found.record.sha256, "one seed, one model"


def test_one_that_does_no_better_is_not_kept(prepared: Site, run: Callable[[Asked], Personalised]) -> None:
    better = run(QUICK)
    assert not run(IDLE).kept
    with state_of(prepared) as state:
        assert personal.kept(state).sha256 == better.record.sha256, "the one before stays"
        assert {path.suffix for path in (state.folder / personal.FOLDER).iterdir()} == {".json", ".safetensors"}


@pytest.fixture
def by_hand(prepared: Site, tmp_path: Path) -> Path:
    """The file of a personalised model that nobody trained."""
    with state_of(prepared) as state:
        place = personal.file_of(state, "candidate")
        place.write_bytes(b"weights")
        sha256 = sha256_of(place)
        path = place.rename(personal.file_of(state, sha256))
        gain = Gain(patients=1, before=0, after=1, difference=1, low=None, high=None)
        made = {"base_sha256": sha256, "after_round": 1, "data_sha256": sha256, "gain": gain}
        draft = read_draft(plan_file(tmp_path))
        personal.keep(state, Record(sha256=sha256, plan=draft, steps=1, learning_rate=1, seed=0, **made))
        assert personal.kept(state).plan == draft
    return path


def test_a_withdrawn_patient_takes_it_along(prepared: Site, by_hand: Path) -> None:
    withdrawing.withdraw(prepared.config, "p-aaaaaaaaaaaaaaaz")
    assert list(by_hand.parent.iterdir()) == []
    with state_of(prepared) as state, pytest.raises(TryAgainLater, match="no personalised model yet"):
        personal.kept(state)


def test_a_damaged_one_is_not_used(prepared: Site, by_hand: Path) -> None:
    by_hand.write_bytes(b"weight")
    with state_of(prepared) as state, pytest.raises(RecordsDamaged, match="damaged"):
        personal.kept(state)
    by_hand.with_name(personal.RECORD).write_text("{}")
    with state_of(prepared) as state, pytest.raises(RecordsDamaged):
        personal.kept(state)


def test_a_training_that_was_cut_off_goes_on(
    prepared: Site, run: Callable[[Asked], Personalised], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(QUICK).record.sha256
    from fedsite.training import loop

    kept = loop.Checkpoints.keep
    monkeypatch.setattr(loop.Checkpoints, "due", property(lambda self: True))

    class Killed(BaseException):
        pass

    def killed_after(checkpoints: "loop.Checkpoints", losses: list[float], seconds: float) -> None:
        kept(checkpoints, losses, seconds)
        if len(losses) == 6:
            raise Killed

    monkeypatch.setattr(loop.Checkpoints, "keep", killed_after)
    with pytest.raises(Killed):
        run(QUICK)
    assert (prepared.state / personal.FOLDER / "candidate.training.safetensors").exists()
    assert run(QUICK).record.sha256 == whole


def test_nothing_to_compare_on(prepared: Site, run: Callable[[Asked], Personalised], tmp_path: Path) -> None:
    lonely = Site(tmp_path / "lonely")
    lonely.set_up()
    prepare_blobs(lonely, patients=2, held_out=0, size=24)
    with open_site(lonely.config) as site, pytest.raises(DataNotFit, match="held-out"):
        personalise(site, QUICK, silent_steps)


def test_one_run_at_a_time(prepared: Site, run: Callable[[Asked], Personalised]) -> None:
    with only_run(prepared.state), pytest.raises(TryAgainLater):
        run(QUICK)


def records(*patients: str) -> list[SimpleNamespace]:
    return [SimpleNamespace(patient=patient) for patient in patients]


def test_training_stops_by_patients_that_it_does_not_learn_from() -> None:
    cases = records(*"aabbccddeeff", *"ghij")
    learning, stopping = divided(cases, seed=0)
    assert len(learning) + len(stopping) == len(cases)
    assert len({one.patient for one in stopping}) == 2
    assert {one.patient for one in learning}.isdisjoint(one.patient for one in stopping)
    assert divided(cases, seed=0) == (learning, stopping)
    assert any(divided(cases, seed)[1] != stopping for seed in range(1, 4))
    assert divided(records("a", "a", "b", "c", "d"), seed=0)[1] == [], "four patients are too few to spare one"


def test_the_gain_is_paired_by_patient() -> None:
    def measured(*dice: float) -> list[SimpleNamespace]:
        return [SimpleNamespace(patient=patient, dice=value) for patient, value in zip("aabcd", dice, strict=True)]

    # Better in each patient, though patients differ far more than models do.
    before, after = measured(0.1, 0.3, 0.5, 0.7, 0.9), measured(0.2, 0.3, 0.54, 0.76, 0.95)
    gain = gained(before, after)
    assert (gain.patients, gain.before, gain.after) == (4, pytest.approx(0.575), pytest.approx(0.625))
    assert gain.difference == pytest.approx(0.05)
    assert gain.low is not None
    assert 0.03 < gain.low < 0.05 < gain.high < 0.07
