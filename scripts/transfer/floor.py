"""What a round cannot do without: mutual TLS, SHA-256 and fsync of the same bytes down and up, and NumPy's mean.

One process for the server and one for the sites, as where `lines` are measured; in both a thread for each site, all at
once; bytes go from file to file in blocks of 1 MiB. The mean is summed in float64 over slices of the files, and the
model that it makes is hashed and made durable too. There is no HTTP, no database, no signature, no check of what came.
"""

import hashlib
import os
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from commands import SERVER_STOP_SECONDS

from fedsite.server.authority.context import server_context
from fedsite.wire.payload import Layout, chunks, read_values
from fedsite.wire.transport import TlsIdentity
from transfer.processes import cpu_seconds
from transfer.setting import LOOPBACK

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Job:
    """What is moved: a model down, an update up, and what the server shows and trusts."""

    folder: Path
    model: Path
    layout: Layout
    update: Path
    encoding: str
    certificate: Path
    ca: Path


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock, and of CPU in both processes."""

    seconds: float
    cpu: float


class Floor:
    """The two processes; `measure` plays one round."""

    def __init__(self, job: Job, pid: int, pipe: Connection) -> None:
        self._job, self._pid, self._pipe = job, pid, pipe
        self._port: int = pipe.recv()

    def measure(self, identities: Sequence[TlsIdentity]) -> Cost:
        """One round of so many sites."""
        contexts = [identity.context() for identity in identities]
        size = self._job.model.stat().st_size
        before, began = self._cpu(), time.perf_counter()
        self._pipe.send(len(contexts))

        def site(number: int) -> None:
            with contexts[number].wrap_socket(
                socket.create_connection((LOOPBACK, self._port)), server_hostname=LOOPBACK
            ) as line:
                model = self._job.folder / f"floor-model-{number}"
                _receive(line, model, size)
                _send(line, self._job.update)
                line.recv(hashlib.sha256().digest_size)
                model.unlink()

        with ThreadPoolExecutor(len(contexts)) as pool:
            list(pool.map(site, range(len(contexts))))
        self._pipe.recv()
        return Cost(time.perf_counter() - began, self._cpu() - before)

    def _cpu(self) -> float:
        return cpu_seconds(self._pid) + cpu_seconds(os.getpid())


@contextmanager
def floor(job: Job) -> Iterator[Floor]:
    """The server's process stands by while the block runs."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(job, there), daemon=True)
    process.start()
    assert process.pid is not None
    try:
        yield Floor(job, process.pid, here)
    finally:
        here.send(0)
        process.join(SERVER_STOP_SECONDS)


def _serve(job: Job, pipe: Connection) -> None:
    """Plays the server's part of each round that it is told of, until it is told of one without sites."""
    context = server_context(job.certificate, job.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server((LOOPBACK, 0), backlog=256) as bound:
        pipe.send(bound.getsockname()[1])
        while sites := pipe.recv():
            paths = [job.folder / f"floor-update-{number}" for number in range(sites)]
            with ThreadPoolExecutor(sites) as pool:
                for done in [pool.submit(_attend, job, context, bound.accept()[0], path) for path in paths]:
                    done.result()
            _average(job, paths)
            for path in paths:
                path.unlink()
            pipe.send(None)


def _attend(job: Job, context: ssl.SSLContext, connection: socket.socket, path: Path) -> None:
    with context.wrap_socket(connection, server_side=True) as line:
        _send(line, job.model)
        line.sendall(_receive(line, path, job.update.stat().st_size))


def _average(job: Job, paths: Sequence[Path]) -> None:
    """The next model, as the server of fedsite writes it."""
    encoded, digest = job.layout.encoded(job.encoding), hashlib.sha256(job.layout.header)
    with (job.folder / "floor-next").open("wb") as file:
        file.write(job.layout.header)
        for part in chunks(job.layout.values):
            total = np.zeros(part.stop - part.start)
            for path in paths:
                total += read_values(path, encoded, part)
            block = (read_values(job.model, job.layout, part) + total / len(paths)).astype(np.float32).tobytes()
            digest.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())


def _send(line: ssl.SSLSocket, path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK_BYTES):
            line.sendall(block)


def _receive(line: ssl.SSLSocket, path: Path, size: int) -> bytes:
    """Writes so many bytes durably; gives their SHA-256."""
    digest, block = hashlib.sha256(), memoryview(bytearray(BLOCK_BYTES))
    with path.open("wb", buffering=0) as file:
        while size:
            filled, wanted = 0, min(size, BLOCK_BYTES)
            while filled < wanted:
                got = line.recv_into(block[filled:wanted])
                if not got:
                    raise ConnectionError("the line was cut")
                filled += got
            digest.update(block[:wanted])
            file.write(block[:wanted])
            size -= wanted
        os.fsync(file.fileno())
    return digest.digest()
