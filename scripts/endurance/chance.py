"""Which faults happen, drawn from a seed: the same seed makes the same choices, though not to the millisecond."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal

Kind = Literal["none", "killed", "terminated", "cut", "twice"]

KINDS: Mapping[Kind, float] = {"none": 0.62, "killed": 0.16, "terminated": 0.06, "cut": 0.11, "twice": 0.05}
"""How often a run is disturbed, and how. `twice`: the schedule has started it a second time."""

SIGNALS: Mapping[Kind, signal.Signals] = {"killed": signal.SIGKILL, "terminated": signal.SIGTERM}
KILLED_OF_ENDS = 0.8
"""Of the server's ends, how many are kills; the others are restarts in good order."""

COMES_AGAIN = 0.75
FALLS_ASLEEP = 0.03
OUTAGE = 0.03
"""How often a site whose run broke off tries once more before the round ends, falls silent for some rounds, and how
often a round finds most of them silent."""

MOST_BREAKS = 3


@dataclass(frozen=True)
class Fault:
    """What happens to one run. `moment`: when, as a share of the time that an undisturbed one takes; `breaks`: after
    how many bytes its first connections break.
    """

    kind: Kind = "none"
    moment: float = 0.0
    breaks: tuple[int, ...] = ()


NO_FAULT = Fault()


@dataclass(frozen=True)
class ServerFault:
    """What happens to the server, and when, as a share of the time that a run takes."""

    how: signal.Signals
    moment: float


class Chance:
    """The draws of one run of the soak. Each draw has a generator of its own, so none depends on what came before."""

    def __init__(self, seed: int, model_bytes: int, server_ends: float, longest_sleep: int) -> None:
        """`server_ends`: in which share of the turns the server is killed or restarted while sites are at work;
        `longest_sleep`: for how many turns a site falls silent at most.
        """
        self._seed, self._model_bytes = seed, model_bytes
        self._server_ends, self._longest_sleep = server_ends, longest_sleep

    def fault(self, turn: int, site: str, attempt: int) -> Fault:
        """What happens to a site's run in a turn."""
        random = self._random("fault", turn, site, attempt)
        [kind] = random.choices(list(KINDS), list(KINDS.values()))
        if kind == "cut":
            most = 2 * self._model_bytes + 40_000
            breaks = [int(200 * (most / 200) ** random.random()) for _ in range(random.randint(1, MOST_BREAKS))]
            return Fault(kind, breaks=tuple(breaks))
        return Fault(kind, moment=random.uniform(0.05, 1.0))

    def server_fault(self, turn: int) -> ServerFault | None:
        """What happens to the server in a turn."""
        random = self._random("server", turn)
        if random.random() >= self._server_ends:
            return None
        how = signal.SIGKILL if random.random() < KILLED_OF_ENDS else signal.SIGTERM
        return ServerFault(how, random.uniform(0.0, 2.0))

    def jitter(self, turn: int) -> float:
        """A factor of the time between two scheduled runs."""
        return self._random("jitter", turn).uniform(0.9, 1.1)

    def comes_again(self, turn: int, site: str) -> bool:
        """Whether a site whose run broke off tries again in the same turn."""
        return self._random("again", turn, site).random() < COMES_AGAIN

    def sleeps(self, turn: int, site: str) -> bool:
        """Whether a site is silent in a turn: it has fallen asleep for longer, or most of them are silent."""
        if not self._longest_sleep:
            return False
        if self._random("outage", turn).random() < OUTAGE and self._random("outage", turn, site).random() < 0.8:
            return True
        first = max(1, turn - self._longest_sleep + 1)
        return any(self._falls_asleep(one, site) > turn - one for one in range(first, turn + 1))

    def _falls_asleep(self, turn: int, site: str) -> int:
        """For how many turns a site falls asleep in this one."""
        random = self._random("sleep", turn, site)
        return random.randint(1, self._longest_sleep) if random.random() < FALLS_ASLEEP else 0

    def _random(self, *what: object) -> Random:
        return Random("/".join(str(one) for one in (self._seed, *what)))
