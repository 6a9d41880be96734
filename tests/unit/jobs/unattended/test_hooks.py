"""This site's own programs around a round: which are run, with what, and what their failure means."""

import os
import select
from collections.abc import Callable
from pathlib import Path

import pytest
from example_site import make_site

from fedsite.errors import ConfigurationError, DataNotFit, Unreachable
from fedsite.jobs.site import Site, open_site
from fedsite.jobs.unattended import hooks
from fedsite.jobs.unattended.hooks import HookFailed
from fedsite.site import config as configuration

Program = Callable[[str], str]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site(tmp_path_factory.mktemp("site"), rounds=0, cases=1)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    def make(script: str) -> str:
        found = tmp_path / f"program{len(list(tmp_path.iterdir()))}"
        found.write_text(f"#!/bin/sh\n{script}\n")
        found.chmod(0o755)
        return str(found)

    return make


def around(path: Path, act: Callable[[], None] = lambda: None, **settings: object) -> list[str]:
    """A round between such hooks; gives what was warned of."""
    warned: list[str] = []
    with open_site(path, warned.append) as site:
        chosen = configuration.HookSettings.model_validate(settings)
        site = Site(site.config.model_copy(update={"hooks": chosen}), site.state, site.ledger, warned.append)
        with hooks.around(site, 7):
            act()
    return warned


def test_the_way_around(path: Path, program: Program, tmp_path: Path) -> None:
    told = program(f'echo "$FEDSITE_HOOK $FEDSITE_SITE $FEDSITE_ROUND $FEDSITE_OUTCOME $#" >> {tmp_path}/told')
    lines: list[str] = []
    around(path, lambda: lines.append((tmp_path / "told").read_text()), before_round=told, after_round=told)
    assert lines == ["before_round st-example 7  0\n"], "the round comes after the one and before the other"
    assert (tmp_path / "told").read_text().splitlines() == [
        "before_round st-example 7  0",
        "after_round st-example 7 done 0",
    ]


def test_the_rounds_own_error_goes_on(path: Path, program: Program, tmp_path: Path) -> None:
    told = program(f'echo "$FEDSITE_OUTCOME $FEDSITE_EXIT_CODE" >> {tmp_path}/told; exit 9')

    def fail() -> None:
        raise Unreachable("No progress.")

    with pytest.raises(Unreachable):
        around(path, fail, after_round=told)
    assert (tmp_path / "told").read_text() == "failed 69\n"
    with open_site(path) as site:
        newest = site.state.newest("hook")
    assert newest is not None
    assert (newest.body["hook"], newest.body["code"], newest.body["round"]) == ("after_round", 9, 7)


def test_what_it_has_started_ends_with_it(path: Path, program: Program, tmp_path: Path) -> None:
    slow = program(f"sleep 600 & echo $! > {tmp_path}/child; wait")
    with pytest.raises(HookFailed, match="took more than 1 seconds, and was killed"):
        around(path, before_round=slow, seconds=1)
    child = int((tmp_path / "child").read_text())
    assert ends(child, within_seconds=60), "it was told to before the hook's end was told; the system takes its time"


def ends(pid: int, within_seconds: float) -> bool:
    """Whether a process is gone, or nothing but a zombie, within that time (pidfd_open(2))."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], within_seconds)[0])
    finally:
        os.close(descriptor)


def test_a_program_that_others_may_change_is_not_run(path: Path, program: Program, tmp_path: Path) -> None:
    open_to_all = Path(program(f"touch {tmp_path}/ran"))
    for mode, words in ((0o757, "changed by every user"), (0o775, "its group"), (0o644, "no program that may be run")):
        open_to_all.chmod(mode)
        with pytest.raises(HookFailed, match=words):
            around(path, before_round=str(open_to_all))
    with pytest.raises(HookFailed, match="No such file"):
        around(path, before_round="/nowhere/at/all")
    with pytest.raises(HookFailed, match="no program that may be run"):
        around(path, before_round=str(tmp_path))
    if os.geteuid() == 0:
        open_to_all.chmod(0o755)
        os.chown(open_to_all, 12345, 0)
        with pytest.raises(HookFailed, match="belongs to another user"):
            around(path, before_round=str(open_to_all))
    assert not (tmp_path / "ran").exists()


def test_what_is_no_program_after_all(path: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\0\0")
    broken.chmod(0o755)
    with pytest.raises(HookFailed, match="cannot be run"):
        around(path, before_round=str(broken))


def test_nothing_named_nothing_run(path: Path) -> None:
    def fail() -> None:
        raise DataNotFit("Broken.")

    assert around(path) == []
    with pytest.raises(DataNotFit):
        around(path, fail)


def test_no_variable_names_a_hook_or_who_is_told(path: Path) -> None:
    for variable in ("FEDSITE_HOOKS__BEFORE_ROUND", "FEDSITE_NOTIFICATIONS__WEBHOOK"):
        with pytest.raises(ConfigurationError, match=variable):
            configuration.load(path, {variable: "/bin/true"})
