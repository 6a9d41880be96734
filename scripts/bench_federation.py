"""What a round costs besides learning: seconds, memory and bytes of a server and its sites, on loopback.

Plans train nothing (steps: 0); the server is `fedsite server run`, over mutual TLS. Each figure stands against the
floor of the same run: TLS, SHA-256 and fsync of the same bytes down and up for each site, and NumPy's mean
(transfer/floor.py).

  transfer and aggregation   so many sites at once, each a thread of this process with the client of all sites, from the
                             first question until the next model is there; their update is sealed beforehand
  a round of train-round     so many `fedsite train-round` processes, at most 8 at once, from the start of the first
                             until the next model is there
  a participation            one such process alone, from its start to its end

Memory is the largest resident set (VmHWM) of each process, added up over a process and its children. With --peers DIR,
NVFlare and Flower do the same work in the mode in which they are deployed (transfer/peers.py says what DIR holds).
All of it takes up to 20 GB below $TMPDIR and ends within 20 minutes on two idle cores.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench_rows import Row, compare, report
from commands import Fedsite
from rich.console import Console
from transfer import peers
from transfer.floor import Job, floor
from transfer.lines import lines, play
from transfer.processes import Peaks, cpu_seconds
from transfer.relay import Relay, relaying
from transfer.setting import LOOPBACK, NETWORKS, Coordinator, Model, bare_site, sealed_update, whole_site
from transfer.wholes import AT_ONCE, Whole, play_whole

from fedsite.privacy.mechanism import Sealed
from fedsite.wire.transport import TlsIdentity

SITES, QUICK_SITES = "2,8,16,32,64", "2,8"
SIZES, QUICK_SIZES = "19MB,125MB", "19MB"
TRANSFER_TARGET, MEMORY_TARGET, PARTICIPATION_SECONDS = 1.5, 1.2, 2.0
PEER_SECONDS_TARGET, PEER_MEMORY_TARGET = 0.33, 0.2
ENCODINGS = ("float32", "float16", "int8")
SLOW_LINES = {"30 Mbit/s": 30e6 / 8, "4 Mbit/s": 4e6 / 8}
STALLS, SLOW_TARGET, BESIDE_TARGET = 0.05, 1.25, 2.0
MIB, HEAVY = 1 << 20, 50e6

console = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Turn:
    """What a round took by threads, and what its floor took: seconds, CPU seconds of all processes, server's memory."""

    seconds: float
    cpu: float
    floor_seconds: float
    floor_cpu: float
    server_bytes: int


@dataclass
class Bench:
    """A federation, and what has been measured of it."""

    coordinator: Coordinator
    quick: bool
    identities: list[TlsIdentity] = field(default_factory=list)
    whole: list[Fedsite] = field(default_factory=list)
    models: dict[str, Model] = field(default_factory=dict)
    updates: dict[str, Sealed] = field(default_factory=dict)
    gate_seconds: dict[str, float] = field(default_factory=dict)
    turns: dict[tuple[str, int], Turn] = field(default_factory=dict)
    participation_seconds: dict[str, float] = field(default_factory=dict)

    def prepare(self, sizes: Sequence[str], sites: Sequence[int]) -> None:
        """Models and sealed updates of all sizes; sites with certificates, and some that are whole."""
        for size in sizes:
            say(f"model 0 of {size}, and the gate")
            self.models[size] = self.coordinator.model(size)
            taken = []
            for _ in range(1 if self.quick or self.models[size].bytes > 500e6 else 3):
                began = time.perf_counter()
                self.updates[size] = sealed_update(self.models[size])
                taken.append(time.perf_counter() - began)
            self.gate_seconds[size] = statistics.median(taken)
        bare = max(*sites, 1 + len(SLOW_LINES))
        whole = min(sites) if self.quick else max(one for one in (1, *sites) if one <= AT_ONCE)
        say(f"{bare} sites with a certificate, {whole} with a ledger too")
        with self.coordinator.server(), ThreadPoolExecutor(2) as pool:
            self.identities = [bare_site(self.coordinator, f"line-{number:02}") for number in range(bare)]
            self.whole = list(pool.map(lambda number: whole_site(self.coordinator, f"site-{number}"), range(whole)))

    def transfer_rows(self, size: str, sites: int) -> list[Row]:
        """So many sites at once by threads, taking turns with the floor."""
        say(f"{size}, {sites} sites: transfer and aggregation")
        turn = self.turns[size, sites] = self._turn(size, sites)
        few = min(count for name, count in self.turns if name == size)
        target = None if sites == few else MEMORY_TARGET
        least, memory = self.turns[size, few].server_bytes, turn.server_bytes
        told = f"floor, {turn.floor_seconds:.2f} s"
        what = f"{size}, {sites} sites: transfer and aggregation"
        return [
            compare(what, turn.seconds, "s", told, turn.floor_seconds, TRANSFER_TARGET),
            compare("  CPU of all processes", turn.cpu, "s", f"floor, {turn.floor_cpu:.2f} s", turn.floor_cpu),
            compare("  server's peak memory", memory / MIB, "MiB", f"with {few} sites", least / MIB, target),
        ]

    def _turn(self, size: str, sites: int) -> Turn:
        model, keys = self.models[size], self.coordinator.folder / "keys"
        paths = (self.updates[size].path, "float32", keys / "server.pem", keys / "ca.pem")
        identities, moved = self.identities[:sites], 2 * sites * model.bytes
        turns = 1 if moved > 4e9 else 2 if self.quick or moved > 1e9 else 5
        costs = []
        with ExitStack() as stack:
            pid, peaks = stack.enter_context(self.coordinator.server()), Peaks()
            least = stack.enter_context(floor(Job(self.coordinator.work, model.path, model.layout, *paths)))
            peaks.watch(pid)
            self.coordinator.open_rounds(model, sites, turns)
            for _ in range(turns):
                cost = least.measure(identities)
                with lines([self.coordinator.url] * sites, identities) as joined:
                    before = cpu_seconds(pid) + cpu_seconds(os.getpid())
                    seconds = play(self.coordinator, joined, self.updates[size]).seconds
                    cpu = cpu_seconds(pid) + cpu_seconds(os.getpid()) - before
                costs.append((seconds, cpu, cost.seconds, cost.cpu))
            peaks.look()
            seconds, cpu, least_seconds, least_cpu = map(statistics.median, zip(*costs, strict=True))
            return Turn(seconds, cpu, least_seconds, least_cpu, peaks.of(pid))

    def round_rows(self, size: str, sites: int) -> list[Row]:
        """A round of whole processes."""
        say(f"{size}, {sites} sites: train-round")
        heavy = sites * self.models[size].bytes > 500e6
        found = self._whole(size, sites, 1 if self.quick or heavy else 3)
        least, model = self.turns[size, sites].floor_seconds, self.models[size].bytes / MIB
        what = f"{size}, {sites} sites: a round of train-round"
        return [
            compare(what, found.seconds, "s", f"floor, {least:.2f} s", least),
            compare("  server's peak memory", found.server_bytes / MIB, "MiB", "the model", model),
            compare("  a site's peak memory", found.site_bytes / MIB, "MiB", "the model", model),
        ]

    def participation_rows(self, size: str) -> list[Row]:
        """One participation alone, its gate apart."""
        say(f"{size}: a participation")
        found, gate = self._whole(size, 1, 2 if self.quick else 5), self.gate_seconds[size]
        self.participation_seconds[size] = found.seconds
        asked, limit = f"{PARTICIPATION_SECONDS:g} s", 1.0 if size == "19MB" else None
        return [
            compare(
                f"{size}: a participation but for the gate",
                found.seconds - gate,
                "s",
                asked,
                PARTICIPATION_SECONDS,
                limit,
            ),
            compare("  the gate", gate, "s", asked, PARTICIPATION_SECONDS),
            compare("  CPU of both", found.cpu, "s", asked, PARTICIPATION_SECONDS),
        ]

    def _whole(self, size: str, sites: int, rounds: int) -> Whole:
        return play_whole(self.coordinator, self.models[size], self.whole[:sites], rounds)

    def encoding_rows(self, size: str) -> list[Row]:
        """What goes over the wire in a participation, by encoding, as a relay counts it: TLS included."""
        rows, model = [], self.models[size]
        for encoding in ENCODINGS:
            say(f"{size}: bytes as {encoding}")
            update = self.updates[size] if encoding == "float32" else sealed_update(model, encoding)
            with self.coordinator.server(), relaying((LOOPBACK, self.coordinator.port)) as between:
                self.coordinator.open_rounds(model, 1, 1, encoding)
                with lines([address(between)], self.identities[:1]) as joined:
                    play(self.coordinator, joined, update)
            content, what = (model.bytes + update.size) / 1e6, f"{size}, {encoding}: bytes on the wire"
            rows += [
                compare(what, between.passed / 1e6, "MB", f"model and update, {content:.1f} MB", content, 1.02),
                compare("  the update", update.size / 1e6, "MB", "as float32", self.updates[size].size / 1e6),
            ]
        return rows

    def slow_rows(self, size: str) -> list[Row]:
        """Sites behind slow lines that stall, and a fast one beside them, in one round."""
        say(f"{size}: slow lines")
        update, target = self.updates[size], (LOOPBACK, self.coordinator.port)
        with self.coordinator.server(), ExitStack() as stack:
            self.coordinator.open_rounds(self.models[size], 1, 1)
            with lines([self.coordinator.url], self.identities[:1]) as joined:
                (alone,) = play(self.coordinator, joined, update).sites
            slow = [stack.enter_context(relaying(target, rate, STALLS)) for rate in SLOW_LINES.values()]
            servers = [self.coordinator.url, *map(address, slow)]
            joined = stack.enter_context(lines(servers, self.identities[: len(servers)]))
            self.coordinator.open_rounds(self.models[size], len(servers), 1)
            beside, *taken = play(self.coordinator, joined, update).sites
        rows = [compare(f"{size}: a fast site beside slow ones", beside, "s", "alone", alone, BESIDE_TARGET)]
        for name, line, seconds in zip(SLOW_LINES, slow, taken, strict=True):
            what, told = f"{size}: {name}, {STALLS:.0%} stalls", f"the line itself, {line.needed:.1f} s"
            rows.append(compare(what, seconds, "s", told, line.needed, SLOW_TARGET))
        broken = sum(len(line.broken) for line in joined)
        return [*rows, compare("  requests that broke off", broken, "", "none", 1, 0.0)]

    def peer_rows(self, folder: Path, size: str) -> list[Row]:
        """Rounds of two sites, and participations, against those of the peers; targets are against the faster one."""
        turn, model = self.turns[size, 2], self.models[size]
        rounds = 2 if model.bytes > HEAVY else 4
        found = [peers.a_round(folder, peer, model.layout.values, rounds, say) for peer in peers.here(folder)]
        done = sorted((one for one in found if one is not None), key=lambda one: one.seconds)
        what, rows = f"{size}, 2 sites: transfer and aggregation", []
        for place, one in enumerate(done):
            in_time, in_memory = (None, None) if place else (PEER_SECONDS_TARGET, PEER_MEMORY_TARGET)
            told, memory = f"{one.name}, {one.seconds:.2f} s", one.server_bytes / MIB
            rows += [
                compare(what, turn.seconds, "s", told, one.seconds, in_time),
                compare(
                    "  server's peak memory", turn.server_bytes / MIB, "MiB", f"{memory:.0f} MiB", memory, in_memory
                ),
            ]
        if size in self.participation_seconds:
            for peer in peers.here(folder):
                if shot := peers.one_shot(folder, peer, model.layout.values, say):
                    what, own = f"{size}: a participation, gate included", self.participation_seconds[size]
                    rows.append(compare(what, own, "s", f"{shot.name}, {shot.seconds:.1f} s", shot.seconds))
        return rows


def say(text: str) -> None:
    """How far the bench is."""
    console.print(f"{time.strftime('%H:%M:%S')} {text}")


def address(line: Relay) -> str:
    """Where a site finds the server behind a relay."""
    return f"https://{LOOPBACK}:{line.port}"


def run(work: Path, options: argparse.Namespace) -> list[Row]:
    """All rows, in their order."""
    sizes, sites = options.sizes.split(","), [int(one) for one in options.sites.split(",")]
    slow = "0.3MB" if options.quick else sizes[0]
    bench = Bench(Coordinator(work), options.quick)
    bench.prepare(list(dict.fromkeys([*sizes, slow])), sites)
    rows = []
    for size in sizes:
        for count in sites:
            rows += bench.transfer_rows(size, count)
        for count in sites:
            if count <= AT_ONCE and not (options.quick and count > 2):
                rows += bench.round_rows(size, count)
        rows += bench.participation_rows(size)
    rows += bench.encoding_rows(sizes[0])
    rows += bench.slow_rows(slow)
    if not peers.here(options.peers):
        say("no peers: --peers DIR names a folder with their scripts and virtual environments")
    elif 2 in sites:
        for size in sizes:
            rows += bench.peer_rows(options.peers, size)
    return rows


def main() -> int:
    """The command line. The exit code is 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_SIZES}, {QUICK_SITES} sites; ends within a minute"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to FILE")
    parser.add_argument("--sites", metavar="N,N", help=f"default: {SITES}")
    parser.add_argument("--sizes", metavar="SIZE,SIZE", help=f"of {', '.join(NETWORKS)}; default: {SIZES}")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="where NVFlare and Flower are set up")
    options = parser.parse_args()
    options.sites = options.sites or (QUICK_SITES if options.quick else SITES)
    options.sizes = options.sizes or (QUICK_SIZES if options.quick else SIZES)
    if not set(options.sizes.split(",")) <= set(NETWORKS):
        parser.error(f"sizes are {', '.join(NETWORKS)}")
    with tempfile.TemporaryDirectory() as work:
        return report(run(Path(work).resolve(), options), options.json)


if __name__ == "__main__":
    sys.exit(main())
