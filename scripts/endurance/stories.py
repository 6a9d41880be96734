"""What happens: fifty rounds in a row, or a year of nights in an hour."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from endurance import figures
from endurance.chance import NO_FAULT, Chance
from endurance.clock import Clock
from endurance.coordinator import Coordinator, Stuck
from endurance.figures import Folder, Process
from endurance.world import Member, Run, World

MOST_TURNS = 4
"""Turns for each round that is wanted: beyond, the federation gets nowhere."""


@dataclass(frozen=True)
class Mark:
    """What everything takes after so many rounds or turns. `served`: the turns that the server's process has seen."""

    after: int
    server: Process
    served: int
    database: int
    federation: Folder
    sites: tuple[Folder, ...]


@dataclass
class Told:
    """A story as it went."""

    runs: list[Run] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    asleep: int = 0
    server_certificates: set[bytes] = field(default_factory=set)
    _served: int = 0
    _process: int = 0

    def turn(self, world: World) -> None:
        """A turn is over."""
        self._served = self._served + 1 if self._process == world.server.process.pid else 1
        self._process = world.server.process.pid

    def mark(self, after: int, world: World) -> None:
        """Measures everything, while nothing happens."""
        folder = world.server.folder
        database = sum(path.stat().st_size for path in folder.glob("federation.db*"))
        sites = tuple(figures.folder(member.site.state) for member in world.members)
        process = figures.process(world.server.process.pid)
        self.marks.append(Mark(after, process, self._served, database, figures.folder(folder), sites))


def marks_of(count: int) -> set[int]:
    """When to measure: after the first, a fifth, half and all of so many."""
    return {1, max(1, count // 5), max(1, count // 2), count}


def soak(world: World, coordinator: Coordinator, chance: Chance, rounds: int) -> Told:
    """So many rounds to their end, with all that may happen.

    In the second half nothing happens to the server, so that one process's memory can be compared over many rounds.
    """
    told, turn, due = Told(), 0, marks_of(rounds)
    while (ended := coordinator.ended()) < rounds:
        turn += 1
        if turn > MOST_TURNS * rounds:
            raise Stuck(f"{ended} of {rounds} rounds have ended in {turn} turns")
        number = coordinator.opened(rounds - ended)
        fault = chance.server_fault(turn) if 2 * ended < rounds else None
        coming = [one for one in world.members if not chance.sleeps(turn, one.name)]
        told.asleep += len(world.members) - len(coming)
        runs = world.turn(turn, [(one, chance.fault(turn, one.name, 1)) for one in coming], fault)
        again = [one for one in coming if _broke_off(one, runs) and chance.comes_again(turn, one.name)]
        runs += world.turn(turn, [(one, chance.fault(turn, one.name, 2)) for one in again])
        coordinator.close(number)
        told.runs += runs
        told.turn(world)
        for one in sorted(due):
            if coordinator.ended() >= one:
                told.mark(one, world)
                due.remove(one)
    _settle(world, coordinator, told, turn + 1)
    return told


def year(world: World, coordinator: Coordinator, chance: Chance, clock: Clock, turns: int, every: timedelta) -> Told:
    """So many scheduled runs of each site, one every so often; what broke off goes on with the next one."""
    told, due = Told(), marks_of(turns)
    certificate = world.server.folder / "keys" / "server.pem"
    for turn in range(1, turns + 1):
        clock.forward(every * chance.jitter(turn))
        coordinator.opened(turns)
        coming = [one for one in world.members if not chance.sleeps(turn, one.name)]
        told.asleep += len(world.members) - len(coming)
        faults = [(one, chance.fault(turn, one.name, 1)) for one in coming]
        told.runs += world.turn(turn, faults, chance.server_fault(turn))
        told.server_certificates.add(certificate.read_bytes())
        told.turn(world)
        if turn in due:
            told.mark(turn, world)
    _settle(world, coordinator, told, turns + 1)
    return told


def _settle(world: World, coordinator: Coordinator, told: Told, turn: int) -> None:
    """All come once more, undisturbed: what was under way gets to its end, at the sites and then at the server."""
    told.runs += world.turn(turn, [(one, NO_FAULT) for one in world.members])
    coordinator.settled()


def _broke_off(member: Member, runs: Sequence[Run]) -> bool:
    return any(run.ended_early for run in runs if run.site == member.name)
