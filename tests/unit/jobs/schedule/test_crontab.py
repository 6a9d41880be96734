"""Lines in a crontab that is somebody else's: found, replaced and removed, and every other byte left alone."""

import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from fedsite.errors import CannotWrite, ConfigurationError
from fedsite.jobs.schedule.crontab import DropIn, Table, lines
from fedsite.jobs.schedule.run import Run
from fedsite.jobs.schedule.times import Schedule

RUN = Run(
    Schedule(360, ("20:00-06:00",)),
    ("/opt/fed site/bin/fedsite", "--quiet", "train-round", "--config", "/etc/100%/it's.yaml"),
    Path("/var/lib/fedsite/state"),
    "hospital",
    {"CUDA_VISIBLE_DEVICES": "0"},
)
OTHERS = b'# caf\xe9\nMAILTO=""\nSHELL=/usr/bin/fish\n\n*/5 * * * * /bin/true \\%\n'
# As crontab(1) of Debian: a whole file in place of another, in one step.
PROGRAM = """#!/bin/sh
table={folder}/table
case "$1" in
-l) test -f $table || {{ echo "no crontab for nobody" >&2; exit 1; }}; exec cat $table;;
-r) rm $table;;
*)  {before}
    cp "$1" $table.new; mv $table.new $table
    {after};;
esac
"""


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that a crontab of this test's own keeps."""
    program(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "table"


def program(folder: Path, before: str = ":", after: str = ":") -> None:
    path = folder / "crontab"
    path.write_text(PROGRAM.format(folder=folder, before=before, after=after))
    path.chmod(0o755)


def test_a_line_is_whole_in_itself() -> None:
    (line,) = lines(RUN).splitlines()
    assert line.startswith("00 02,20 * * * /bin/sh -c ")
    command = line.split(" ", 5)[5]
    assert command.count("%") == command.count("\\%") == 1, "cron ends a command at a percent sign"
    assert lines(RUN, "hospital").startswith("00 02,20 * * * hospital /bin/sh -c ")


def test_the_shell_reads_it_as_it_is_meant(tmp_path: Path) -> None:
    """cron turns what is escaped back, and gives the rest to a shell with an almost empty environment."""
    show = tmp_path / "show it"
    show.write_text('#!/bin/sh\nprintf "%s\\n" "$CUDA_VISIBLE_DEVICES" "$@"\n')
    show.chmod(0o755)
    (line,) = lines(replace(RUN, command=(str(show), *RUN.command[1:]), schedule=Schedule(1440))).splitlines()
    command = line.split(" ", 5)[5].replace("\\%", "%").replace("/usr/bin/sleep $(", "echo late $(")
    done = subprocess.run(["/bin/sh", "-c", command], env={}, capture_output=True, text=True, check=True)
    late, *rest = done.stdout.splitlines()
    assert 0 <= int(late.removeprefix("late ")) <= Schedule(1440).jitter_seconds
    assert rest == ["0", *RUN.command[1:]]


def test_a_line_that_cron_would_not_take_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="longer than cron takes"):
        lines(replace(RUN, command=("/" + "x" * 1000,)))


def test_every_other_byte_stays(table: Path) -> None:
    place = Table()
    table.write_bytes(OTHERS)
    assert place.find(RUN.name) is None
    place.install(RUN)
    assert table.read_bytes().startswith(OTHERS)
    assert place.holds(RUN)
    table.write_bytes(table.read_bytes() + b"@reboot /bin/later\n")

    other = replace(RUN, schedule=Schedule(60))
    place.install(other)
    assert place.find(RUN.name).schedule == Schedule(60)
    assert table.read_bytes().startswith(OTHERS)
    assert table.read_bytes().endswith(b"@reboot /bin/later\n")
    place.remove(RUN.name)
    assert table.read_bytes() == OTHERS + b"@reboot /bin/later\n"


def test_two_sites_have_lines_of_their_own(table: Path) -> None:
    place, second = Table(), replace(RUN, state=Path("/var/lib/other"))
    place.install(RUN)
    place.install(second)
    place.remove(RUN.name)
    assert place.holds(second)
    place.remove(second.name)
    assert not table.exists(), "nothing is left of what nobody had before"


@pytest.mark.parametrize(("before", "after"), [("kill -9 $PPID; exit 1", ":"), (":", "kill -9 $PPID")])
def test_killed_half_way_nothing_is_lost(table: Path, before: str, after: str) -> None:
    table.write_bytes(OTHERS)
    program(table.parent, before, after)
    child = os.fork()
    if child == 0:
        Table().install(RUN)
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    program(table.parent)
    assert table.read_bytes().startswith(OTHERS)
    assert Table().holds(RUN) == (after != ":")
    Table().install(RUN)
    assert Table().holds(RUN)
    assert table.read_bytes().count(b"train-round") == 1


def test_what_was_changed_by_hand_is_seen_and_replaced(table: Path) -> None:
    place = Table()
    place.install(RUN)
    table.write_bytes(table.read_bytes().replace(b"00 02,20", b"30 03,21"))
    assert place.find(RUN.name).schedule is None
    place.install(RUN)
    assert place.find(RUN.name).schedule == RUN.schedule
    table.write_bytes(table.read_bytes().replace(f"{RUN.name} end".encode(), b"gone"))
    with pytest.raises(ConfigurationError, match="by hand"):
        place.find(RUN.name)


def test_a_crontab_that_cannot_be_read_is_not_taken_for_an_empty_one(table: Path) -> None:
    table.write_bytes(OTHERS)
    (table.parent / "crontab").write_text('#!/bin/sh\necho "you are not allowed to use this program" >&2; exit 1\n')
    with pytest.raises(CannotWrite, match="not allowed"):
        Table().install(RUN)
    assert table.read_bytes() == OTHERS


def test_what_is_not_there_afterwards_is_told(table: Path) -> None:
    program(table.parent, before="exit 0")
    with pytest.raises(CannotWrite):
        Table().install(RUN)


def test_a_file_of_the_systems(tmp_path: Path) -> None:
    place = DropIn(tmp_path)
    place.install(RUN)
    assert place.holds(RUN)
    text = Path(place.where(RUN.name)).read_text()
    assert " * * * hospital /bin/sh -c " in text
    Path(place.where(RUN.name)).write_text(text + "# mine\n")
    assert place.find(RUN.name).schedule is None
    place.remove(RUN.name)
    assert list(tmp_path.iterdir()) == []


def test_without_cron_there_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Table().find(RUN.name) is None
    with pytest.raises(ConfigurationError, match="no cron"):
        Table().install(RUN)
