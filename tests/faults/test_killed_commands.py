"""Commands that are killed, or cut off from power, at each step of theirs that lasts: all of it, or nothing.

Promised: what is there after it is whole, the same command again finishes it, and what has been told stays. What runs
is what the command calls, in a process that is forked.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from support.faulty import Fault, forked
from support.federation import NAME, draft, make, model_file, tensors
from support.offline import Bench, Clock

from fedsite.errors import ConfigurationError, SourceMissing, UsageError
from fedsite.files import sha256_of
from fedsite.jobs import init
from fedsite.jobs.site import open_site
from fedsite.server.exchange import participation
from fedsite.server.federation import Federation, open_federation
from fedsite.server.keeping import backups
from fedsite.server.rounds import reports, rounds, series

HOW = pytest.mark.parametrize("what", ["kill-before", "kill-within", "power-cut"])
TWO = {"rounds": {"quorum": 2, "enough": 2, "deadline_seconds": 600}}
Act = Callable[[Path], object]


@dataclass(frozen=True)
class Struck:
    """What a strike has left in `place`; `told`: whether the command had said that it was done."""

    place: Path
    step: str
    told: bool


def struck(what: str, scratch: Path, act: Act, least: int, ready: Act | None = None) -> Iterator[Struck]:
    """Does something again and again, each time in a new folder, which `ready` fills, and struck a step later.

    The end is a step, too: whoever is told of what was done must find it there after a power cut.
    """
    for nth in count(1):
        place, told = scratch / str(nth), scratch / f"{nth}.told"
        place.mkdir()
        if ready:
            ready(place)
        code = forked(Fault(what, nth, told=str(told)), partial(_and_say_so, act, place))
        if not told.exists():
            assert code == 0
            assert nth > (1 if what == "kill-within" else least), "it was to be struck more often"
            return
        assert code == -9
        step = told.read_text()
        yield Struck(place, step, told=step == f"create {nth}/told")


def _and_say_so(act: Act, place: Path) -> None:
    act(place)
    (place / "told").touch()


# --- a site ---------------------------------------------------------------------------------------------------------


@pytest.mark.exhaustive
@pytest.mark.fault(
    part="site",
    what="kill -9 of `fedsite init`, or a power cut",
    where="each step that lasts, half of each write; a power cut also once it is told",
    promised="run again with the same answers it is done: one ledger, one beginning, one key of pseudonyms",
)
@HOW
def test_init(tmp_path: Path, what: str) -> None:
    def initialise(place: Path) -> None:
        answers = init.Answers(place / "home" / "state", place / "home" / "data", ("stroke-dwi",), 8.0, 1e-6, 100)
        init.initialise(place / "home" / "site.yaml", answers)

    for one in struck(what, tmp_path, initialise, 30):
        home = one.place / "home"
        key = home / "state" / "identity" / "pseudonyms.key"
        before = key.read_bytes() if key.exists() else None
        is_done = (home / "site.yaml").exists()
        assert is_done or not one.told, one.step
        if is_done:
            with pytest.raises(ConfigurationError, match="exists already"):
                initialise(one.place)
        else:
            initialise(one.place)
        assert before in (None, key.read_bytes()), one.step
        with open_site(home / "site.yaml") as site:
            site.state.verify()
            assert [record.body["kind"] for record in site.state.records("ledger")] == ["created"], one.step
            events = [record.body["event"] for record in site.state.records("audit")]
            assert events.count("initialised") == 1, one.step


# --- a federation ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A federation in its second round: one model was made, one update has come. `before`: a backup from the first."""
    folder = tmp_path_factory.mktemp("coordinator")
    clock = Clock()
    bench = Bench(make(folder / "federation", clock), clock, folder)
    bench.open(count=2, **TWO)
    bench.deliver("a", 1, tensors(1))
    backups.backup(bench.federation, folder / "before")
    bench.deliver("b", 1, tensors(2))
    rounds.advance(bench.federation)
    bench.deliver("a", 2, tensors(3))
    backups.backup(bench.federation, folder / "after")
    bench.federation.database.close()
    return bench


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def federation_in(folder: Path) -> Federation | None:
    """The federation of a folder with everything that its rows name; None where there is none."""
    try:
        found = open_federation(folder)
    except SourceMissing:
        return None
    assert found.name == NAME
    for one in reports.rounds(found):
        assert sha256_of(found.models.path(one["model_sha256"])) == one["model_sha256"]
    return found


def assert_all_or_nothing(what: str, scratch: Path, act: Act, held: int) -> None:
    """A command that makes a federation, with so many rounds in it, in the folder that it is given."""

    def make_it(place: Path) -> None:
        act(place / "federation")

    for one in struck(what, scratch, make_it, 40):
        folder = one.place / "federation"
        made = federation_in(folder)
        assert made or not one.told, one.step
        if made:
            assert len(reports.rounds(made)) == held, one.step
            made.database.close()
        if folder.exists() and any(folder.iterdir()):
            with pytest.raises(UsageError, match="not empty"):
                make_it(one.place)
        else:
            make_it(one.place)


@pytest.mark.exhaustive
@pytest.mark.fault(
    part="server",
    what="kill -9 of `fedsite server init`, or a power cut",
    where="each step that lasts, half of each write; a power cut also once it is told",
    promised="a whole federation, or none, and its folder is not taken for one",
)
@HOW
def test_a_new_federation(tmp_path: Path, what: str) -> None:
    assert_all_or_nothing(what, tmp_path, make, held=0)


@pytest.mark.exhaustive
@pytest.mark.fault(
    part="server",
    what="kill -9 of `fedsite server restore`, or a power cut",
    where="each step that lasts, half of each write; a power cut also once it is told",
    promised="a whole federation, or none, and its folder is not taken for one; the backup is as it was",
)
@HOW
def test_a_restored_federation(coordinator: Bench, tmp_path: Path, what: str) -> None:
    backup = coordinator.folder / "after"
    before = {name: sha256_of(backup / name) for name in files(backup)}
    assert_all_or_nothing(what, tmp_path, partial(backups.restore, backup), held=2)
    assert {name: sha256_of(backup / name) for name in files(backup)} == before


def assert_finished_by_the_next(what: str, scratch: Path, coordinator: Bench, before: Path | None) -> None:
    """A backup into a new folder, or into a copy of the one of `before`."""
    own, done = coordinator.federation.folder, coordinator.folder / "after"

    def ready(place: Path) -> None:
        if before:
            shutil.copytree(before, place / "backup")

    def back_up(place: Path) -> None:
        federation = open_federation(own)
        backups.backup(federation, place / "backup")
        federation.database.close()

    for one in struck(what, scratch, back_up, 40, ready):
        to = one.place / "backup"
        if (to / backups.BACKUP).exists():
            newest = backups.restore(to, one.place / "between")
            assert newest == 2 or (newest == 1 and before and not one.told), one.step
        else:
            assert not before, one.step
            assert not one.told, one.step
        back_up(one.place)
        assert files(to) == files(done), one.step
        assert backups.restore(to, one.place / "at the end") == 2


@pytest.mark.exhaustive
@pytest.mark.fault(
    part="server",
    what="kill -9 of a first `fedsite server backup`, or a power cut",
    where="each step that lasts, half of each write; a power cut also once it is told",
    promised="a whole backup, or none; run again, it is whole and nothing else lies in its folder",
)
@HOW
def test_a_first_backup(coordinator: Bench, tmp_path: Path, what: str) -> None:
    assert_finished_by_the_next(what, tmp_path, coordinator, None)


@pytest.mark.exhaustive
@pytest.mark.fault(
    part="server",
    what="kill -9 of the next `fedsite server backup`, or a power cut",
    where="each step that lasts, half of each write; a power cut also once it is told",
    promised="a whole backup, of before or of now; run again, it is of now, and nothing else lies in its folder",
)
@HOW
def test_the_next_backup(coordinator: Bench, tmp_path: Path, what: str) -> None:
    assert_finished_by_the_next(what, tmp_path, coordinator, coordinator.folder / "before")


@pytest.mark.exhaustive
@pytest.mark.fault(
    part="server",
    what="kill -9 of `fedsite server round open`, or a power cut",
    where="each step that lasts, half of each write; a power cut also once it is told",
    promised="one round is open, or none; opened again it is one, from the whole model, and no half file stays",
)
@HOW
def test_opening_a_round(tmp_path: Path, what: str) -> None:
    make(tmp_path / "federation").database.close()
    model, plan = model_file(tmp_path / "model.safetensors"), draft(tmp_path, **TWO)

    def ready(place: Path) -> None:
        shutil.copytree(tmp_path / "federation", place / "federation")

    def open_round(place: Path) -> None:
        federation = open_federation(place / "federation")
        series.open_series(federation, plan, model, 2)
        federation.database.close()

    for one in struck(what, tmp_path, open_round, 6, ready):
        federation = open_federation(one.place / "federation")
        found = reports.rounds(federation)
        assert found or not one.told, one.step
        if found:
            with pytest.raises(UsageError, match="Round 1 has not ended"):
                open_round(one.place)
        else:
            open_round(one.place)
        assert [(row["round"], row["status"]) for row in reports.rounds(federation)] == [(1, "open")], one.step
        assert len(participation.tickets(federation, 0).tickets) == 1
        rounds.tidy(federation)
        assert files(federation.folder / "models") == {sha256_of(model)}, one.step
        assert federation_in(federation.folder)
        federation.database.close()
