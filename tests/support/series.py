"""A series of two rounds between a real server and the library's clients, whose updates are the same whenever it runs.

The server is the installed command, in a process that is forked; whoever supervises it starts it again when it dies.
A plan with a screen that drops an outlier and with Adam's moments leaves out none of what a server does in a round.
"""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
from support import faulty
from support.faulty import Fault, forked
from support.federation import Server, environment, make, model_file, plan_file, tensors, update_file
from support.processes import FEDSITE, SERVER, Running

from fedsite.errors import TryAgainLater
from fedsite.files import sha256_of
from fedsite.server.rounds import reports
from fedsite.wire.client import FederationClient, TlsIdentity
from fedsite.wire.messages import Envelope, ParticipationRequest, Result, Ticket
from fedsite.wire.signing import unverified

SITES = ("a", "b", "outlier")
ROUNDS = 2
PLAN = {
    "screen": {"rule": "drop"},
    "server_adam": {"learning_rate": 0.01},
    "rounds": {"quorum": 2, "enough": 3, "deadline_seconds": 3600},
}
Found = TypeVar("Found")
NEVER = Fault("kill-before", nth=1 << 30)


@dataclass
class Supervised(Server):
    """A server that starts again whenever it dies. `fault` is that of its first process."""

    fault: Fault = NEVER
    deaths: list[int] = field(default_factory=list)
    _ending: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def supervised(self) -> Iterator[None]:
        """Runs until the end of the block."""
        self.command = [faulty.SCRIPT]
        self.start()
        supervisor = threading.Thread(target=self._supervise)
        supervisor.start()
        try:
            yield
        finally:
            self._ending.set()
            supervisor.join()
            self.stop(signal.SIGKILL)

    def start(self) -> None:
        """Starts it; once more where it dies before it listens."""
        try:
            super().start()
        except AssertionError:
            assert self.process is not None
            if self.process.poll() != -signal.SIGKILL:
                raise
            self.deaths.append(-signal.SIGKILL)
            super().start()

    def _begin(self, args: list[str], log: IO[str]) -> Running:
        with Path(os.devnull).open() as nothing:
            streams = [nothing.fileno(), log.fileno(), log.fileno()]
            begun = Running([*self.command, *args], environment() | self.fault.environment, streams, SERVER)
        self.command = [FEDSITE]
        return begun

    def _supervise(self) -> None:
        while not self._ending.wait(0.02):
            assert self.process is not None
            code = self.process.poll()
            if code is not None:
                self.deaths.append(code)
                self.start()


@dataclass(frozen=True)
class Ended:
    """What came of the series: the models, round by round, and the receipts, by round and site."""

    models: tuple[str, ...]
    receipts: Mapping[tuple[int, str], Envelope]


@dataclass(frozen=True)
class Bench:
    """A federation with its sites, of which each play gets a copy; what its sites send, and what they begin with."""

    folder: Path
    identities: Mapping[str, TlsIdentity]
    updates: Mapping[str, Path]

    def play(
        self, server: Server, scratch: Path, rounds: int = ROUNDS, url: str = "", *, mortal: bool = False
    ) -> Ended:
        """The coordinator opens the series, all sites take part, and each asks for its receipts again at the end.

        Those that are `mortal` die at whatever they send, one thing later in each of their lives.
        """
        server.open_series(self.folder / "plan.yaml", self.folder / "model.safetensors", rounds)
        receipts: dict[tuple[int, str], Envelope] = {}
        with ExitStack() as stack:
            clients = {
                site: stack.enter_context(FederationClient(url or server.url, tls, patience=60))
                for site, tls in self.identities.items()
            }
            models = []
            for number in range(1, rounds + 1):
                for site, client in clients.items():
                    attend = self._attend_dying if mortal else self._attend
                    attend(client, site, number, scratch)
                    receipts[number, site] = self._send(client, site, number)
                models.append(_result(client, number))
            for (number, site), receipt in receipts.items():
                assert self._send(clients[site], site, number) == receipt, "asked again, it is the same receipt"
            for site, client in clients.items():
                known = {one.round: one.receipt for one in client.updates() or ()}
                assert known == {number: receipts[number, site] for number in known}
                assert len(known) == rounds, "nothing twice, nothing lost"
        return Ended(tuple(models), receipts)

    def _attend(self, client: FederationClient, site: str, number: int, scratch: Path) -> None:
        """What a site does in a round; one that has the model goes on from there."""
        file = scratch / f"{site}.{number}.safetensors"
        if not file.exists():
            ticket = _offered(client, number)
            model = ticket.model_sha256, ticket.model_bytes, file
            in_some_run(lambda: client.download_model(*model))
        self._send(client, site, number)

    def _attend_dying(self, client: FederationClient, site: str, number: int, scratch: Path) -> None:
        def live() -> None:
            with FederationClient(client._server, self.identities[site], patience=60) as own:
                self._attend(own, site, number, scratch)

        deaths = 0
        while forked(Fault("kill-within", deaths + 1, "send *"), live) != 0:
            deaths += 1
        assert deaths > 3

    def _send(self, client: FederationClient, site: str, number: int) -> Envelope:
        update = self.updates[site]
        return in_some_run(lambda: client.upload(number, update, sha256_of(update), number))

    def assert_whole(self, server: Server, ended: Ended) -> None:
        """In each round each site once, the outlier left out; beside models, controls and moments no file is left."""
        federation = server.federation
        for number, model in enumerate(ended.models, start=1):
            report = reports.round_report(federation, number)
            assert report["status"] == "aggregated"
            assert [one["site"] for one in report["took_part"]] == ["a", "b"]
            assert [one["site"] for one in report["left_out"]] == ["outlier"]
            assert report["result_sha256"] == model
        wait_for(lambda: not _files(server.folder / "updates") and not _files(server.folder / "incoming"))
        models = _files(server.folder / "models")
        assert {sha256_of(server.folder / "models" / name) for name in models} == set(models), "no draft, no damage"
        assert len(models) == 1 + len(ended.models) + 2, "the first model, each round's, and the newest moments"
        federation.database.close()


def bench(folder: Path, **settings: str) -> Bench:
    """A federation with its sites in `folder`/server, and what they need beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    make(folder / "server", **settings).database.close()
    server = Supervised(folder / "server")
    with server.supervised():
        identities = {site: server.enrol(site, folder / site) for site in SITES}
    common = tensors(100, scale=0.01)
    updates = {}
    for seed, site in enumerate(SITES):
        own, size = tensors(seed, scale=0.005), 100 if site == "outlier" else 1
        values = {name: (size * (value + own[name])).astype(np.float32) for name, value in common.items()}
        updates[site] = update_file(folder / f"{site}.update", values)
    plan_file(folder, **PLAN)
    model_file(folder / "model.safetensors")
    return Bench(folder, identities, updates)


def copied(bench: Bench, to: Path, database: str = "") -> Path:
    """The federation once more, as a folder of its own; `database` is a copy of its PostgreSQL's."""
    shutil.copytree(bench.folder / "server", to)
    if database:
        (to / "database.url").write_text(database)
    return to


def _offered(client: FederationClient, number: int) -> Ticket:
    """The ticket of a round, as soon as it is due."""

    def asked() -> Ticket | None:
        answer = client.participate(ParticipationRequest(protocol=1, ledger_sequence=number - 1))
        return unverified(answer.ticket, Ticket) if answer.ticket else None

    ticket = wait_for(lambda: in_some_run(asked))
    assert ticket.round == number
    return ticket


def _result(client: FederationClient, number: int) -> str:
    wait_for(lambda: client.round_answer(number).status == "aggregated")
    envelope = client.result()
    assert envelope is not None
    result = unverified(envelope, Result)
    assert (result.round, result.contributions) == (number, 2)
    return result.model_sha256


def in_some_run(act: Callable[[], Found]) -> Found:
    """A site whose server asks it to come back later does so in its next run, which need not be awaited here."""
    for _ in range(5):
        with suppress(TryAgainLater):
            return act()
    return act()


def wait_for(look: Callable[[], Found | None]) -> Found:
    """Looks until there is something; generously."""
    end = time.monotonic() + 90
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.02)
    raise AssertionError("it never came")


def _files(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]
