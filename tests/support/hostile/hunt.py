"""Searches a target for bytes that are judged badly, and judges again what once was."""

import base64
import time
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, given, seed, settings
from support.hostile.targets import Target

CPU_SECONDS = 2.0
"""No bytes may cost more."""


@dataclass(frozen=True)
class Catch:
    """How many cases were judged and accepted; the smallest bytes that were found, and what came of them, if any."""

    cases: int
    accepted: int
    content: bytes = b""
    error: str = ""

    def line(self, name: str) -> str:
        """How a find is kept: the target's name and the bytes."""
        return f"{name} {base64.b64encode(self.content).decode()}"


def judged(target: Target, content: bytes) -> bool:
    """Whether the bytes were accepted; raises what is wrong with them, slowness included."""
    began = time.process_time()
    accepted = target.judge(content)
    taken = time.process_time() - began
    assert taken < CPU_SECONDS, f"{taken:.1f} s of CPU"
    return accepted


def hunt(target: Target, cases: int, number: int) -> Catch:
    """Judges so many cases, which `number` makes the same each time."""
    judged_so_far, accepted, last = 0, 0, b""

    @seed(number)
    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(target.hostile)
    def search(content: bytes) -> None:
        nonlocal judged_so_far, accepted, last
        last = content
        judged_so_far += 1
        accepted += judged(target, content)

    try:
        search()
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        return Catch(judged_so_far, accepted, last, f"{type(error).__name__}: {error}"[:500])
    return Catch(judged_so_far, accepted)
