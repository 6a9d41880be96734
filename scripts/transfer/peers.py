"""NVFlare and Flower on the same work, in the mode in which they are deployed, where somebody has set them up.

A folder holds `bench_nvflare.py` and `bench_flower.py`, with virtual environments `venv-nvfl` and `venv-flwr` beside
them. Each script is called with the number of parameters, of rounds and of sites, and a mode (`normal`, `oneshot`); its
last line is JSON. Their memory is the resident set of the server's processes, added up ten times a second.
"""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SITES, LONGEST_RUN_SECONDS = 2, 300
MIB = 1 << 20


@dataclass(frozen=True)
class Peer:
    """A framework: its script, its environment, how its JSON names the version and the server."""

    name: str
    script: str
    environment: str
    version: str
    server: str


PEERS = (
    Peer("NVFlare", "bench_nvflare.py", "venv-nvfl", "nvflare", "server"),
    Peer("Flower", "bench_flower.py", "venv-flwr", "flwr", "superlink"),
)


@dataclass(frozen=True)
class Measured:
    """What a peer takes: seconds of a round, or of a participation; bytes of memory of its server's processes."""

    name: str
    seconds: float
    server_bytes: float


def here(folder: Path | None) -> list[Peer]:
    """Those that can be run."""
    if folder is None:
        return []
    return [one for one in PEERS if (folder / one.script).is_file() and _python(folder, one).exists()]


def a_round(folder: Path, peer: Peer, values: int, rounds: int, say: Callable[[str], None]) -> Measured | None:
    """A round of two sites once all run, the first one left out; None where the peer did not finish."""
    return _measured(folder, peer, ("normal", values, rounds), lambda told: told["round_s_steady"]["median"], say)


def one_shot(folder: Path, peer: Peer, values: int, say: Callable[[str], None]) -> Measured | None:
    """From the start of two sites' processes until their updates are accepted; None where the peer did not finish."""
    return _measured(folder, peer, ("oneshot", values, 1), lambda told: told["start_to_accepted_s"]["median"], say)


def _measured(
    folder: Path,
    peer: Peer,
    work: tuple[str, int, int],
    seconds: Callable[[dict[str, Any]], float],
    say: Callable[[str], None],
) -> Measured | None:
    mode, values, rounds = work
    say(f"{peer.name}: {mode}, {values:,} parameters")
    (folder / "runs").mkdir(exist_ok=True)
    command = [str(_python(folder, peer)), str(folder / peer.script), str(values), str(rounds), str(SITES), mode]
    environment = {**os.environ, "PEERS_ROOT": str(folder), "LIMIT": str(LONGEST_RUN_SECONDS // 2)}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LONGEST_RUN_SECONDS,
            check=True,
        )
        told = json.loads(done.stdout.strip().splitlines()[-1])
        memory = told["mem"][peer.server]["peak_tree_rss_mib"] * MIB
        return Measured(f"{peer.name} {told[peer.version]}", seconds(told), memory)
    except (subprocess.SubprocessError, LookupError, TypeError, ValueError) as error:
        say(f"{peer.name} did not finish: {type(error).__name__}")
        return None


def _python(folder: Path, peer: Peer) -> Path:
    return folder / peer.environment / "bin" / "python"
