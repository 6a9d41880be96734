"""A Dask cluster on this machine: a scheduler and workers as processes of their own, over TLS."""

import importlib
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trustme
from support import processes
from support.processes import SITE, Process

START_SECONDS = 60


@dataclass
class Cluster:
    """What runs: the address to give to --dask, and the settings by which Dask finds its certificates."""

    address: str
    tls: dict[str, str]
    scheduler: Process
    workers: list[Process] = field(default_factory=list)

    def logs(self, folder: Path) -> str:
        """What scheduler and workers said."""
        return "\n".join(path.read_text() for path in sorted(folder.glob("*.log")))


@contextmanager
def running(folder: Path, workers: int = 2) -> Iterator[Cluster]:
    """A scheduler and its workers; their logs and certificates lie in the folder. Killed at the end."""
    tls = _certificates(folder)
    options = ["--protocol", "tls", "--no-dashboard", "--host", "127.0.0.1"]
    options += [part for name, path in tls.items() for part in (f"--tls-{name}", path)]
    place = folder / "scheduler.json"
    started: list[Process] = []
    try:
        scheduler = _start(folder, "scheduler", [*options, "--port", "0", "--scheduler-file", str(place)])
        started.append(scheduler)
        cluster = Cluster(_address(place, scheduler), tls, scheduler)
        for number in range(workers):
            own = [cluster.address, *options, "--no-nanny", "--nthreads", "2", "--local-directory", str(folder)]
            cluster.workers.append(_start(folder, "worker", own, f"worker{number}"))
            started.append(cluster.workers[-1])
        yield cluster
    finally:
        for process in started:
            process.send_signal(signal.SIGKILL)
            process.wait()


def _start(folder: Path, kind: str, options: list[str], name: str = "") -> Process:
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "COVERAGE_PROCESS_CONFIG") if key in os.environ}
    script = importlib.import_module(f"distributed.cli.dask_{kind}").__file__
    with (folder / f"{name or kind}.log").open("wb") as log, Path(os.devnull).open() as nothing:
        streams = [nothing.fileno(), log.fileno(), log.fileno()]
        return processes.begin([str(script), *options], kept | {"OMP_NUM_THREADS": "1"}, streams, SITE)


def _address(place: Path, scheduler: Process) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and scheduler.poll() is None:
        if place.exists() and place.stat().st_size:
            address: str = json.loads(place.read_text())["address"]
            return address
        time.sleep(0.05)
    raise AssertionError("no scheduler came up")


def _certificates(folder: Path) -> dict[str, str]:
    """One authority, and one certificate that all show."""
    authority = trustme.CA()
    paths = {name: folder / f"{name}.pem" for name in ("ca-file", "cert", "key")}
    authority.cert_pem.write_to_path(paths["ca-file"])
    own = authority.issue_cert("127.0.0.1", "localhost")
    own.cert_chain_pems[0].write_to_path(paths["cert"])
    own.private_key_pem.write_to_path(paths["key"])
    return {name: str(path) for name, path in paths.items()}
