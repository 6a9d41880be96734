"""A federation under test: its folder, a real server process with real TLS, sites that enrol with our client.

The folder is shared with the running server, as it is in life, so tests may invite and open rounds in this process.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import numpy as np
import yaml
from support import processes
from support.processes import FEDSITE, SERVER, Process

from fedsite.errors import UsageError
from fedsite.server import federation as federations
from fedsite.server.federation import Federation
from fedsite.server.members import enrolment as admissions
from fedsite.server.rounds import reports, rounds, series
from fedsite.wire import enrolment
from fedsite.wire.client import FederationClient, TlsIdentity
from fedsite.wire.enrolment import Invitation
from fedsite.wire.messages import utc_now
from fedsite.wire.payload import Layout, Tensor, write_model
from fedsite.wire.plans import PlanDraft, read_draft

NAME = "test-federation"
SHAPES = {"first.weight": (40, 30), "first.bias": (40,), "last.weight": (7, 5, 3)}


def plan(**changes: Any) -> dict[str, Any]:
    """A plan as a coordinator writes it; `changes` replace whole sections."""
    return {
        "schema": 1,
        "federation": NAME,
        "plan": "test-plan",
        "task": "stroke-dwi",
        "channels": ["dwi"],
        "preparation": {"input_state": "whole-head", "spacing_mm": [3.0, 3.0, 3.0]},
        "network": {"name": "unet", "settings": {"channels": [4, 8]}},
        "algorithm": "fedavg",
        "local": {"steps": 1, "patch_voxels": [16, 16, 16]},
        "privacy": {"mechanism": "gaussian-update", "clip_norm": 1.0, "noise_multiplier": 0.1},
        "max_update_norm": 1e6,
        "rounds": {"quorum": 1, "enough": 2, "deadline_seconds": 600},
        "expires": (datetime.now(UTC) + timedelta(days=30)).isoformat(timespec="seconds"),
    } | changes


def dp_sgd(**changes: Any) -> dict[str, Any]:
    """A plan's `privacy` under dp-sgd, for sites that typed some tens of patients."""
    asked = {"mechanism": "dp-sgd", "clip_norm": 1.0, "noise_multiplier": 1.0, "batch_patients": 2}
    return asked | changes


def plan_file(folder: Path, **changes: Any) -> Path:
    """The same, as `plan.yaml` in `folder`."""
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan(**changes)))
    return path


def draft(folder: Path, **changes: Any) -> PlanDraft:
    """The same, read as fedsite reads it."""
    return read_draft(plan_file(folder, **changes))


def tensors(seed: int = 0, shapes: Mapping[str, tuple[int, ...]] = SHAPES, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Random tensors, float32."""
    random = np.random.default_rng(seed)
    return {name: (scale * random.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}


def model_file(path: Path, seed: int = 0, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> Path:
    """A model of random tensors."""
    write_model(path, tensors(seed, shapes))
    return path


def update_file(path: Path, values: Mapping[str, np.ndarray], encoding: str = "float32") -> Path:
    """An update in the form that a plan's payload asks for."""
    layout = Layout(tuple(Tensor(name, value.shape) for name, value in values.items()), encoding)
    path.write_bytes(layout.header + b"".join(value.astype(layout.dtype).tobytes() for value in values.values()))
    return path


def make(folder: Path, clock: Any = utc_now, **settings: Any) -> Federation:
    """A federation's folder, opened."""
    given: dict[str, Any] = {"name": NAME, "hosts": ["localhost", "127.0.0.1"], "url": "https://localhost:8443"}
    federations.init(folder, **(given | {"agreement": "Be kind.", "now": clock()} | settings))
    return federations.open_federation(folder, clock)


@dataclass
class Server:
    """`fedsite server run` as a process of its own, on a port that the system chose and that restarts keep."""

    folder: Path
    command: list[str] = field(default_factory=lambda: [FEDSITE])
    port: int = 0
    process: Process | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    """What its processes find in their environment, beside what is usual."""

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def federation(self) -> Federation:
        """The folder, opened in this process."""
        return federations.open_federation(self.folder)

    @property
    def log(self) -> str:
        """What the server has said."""
        return self.folder.with_suffix(".log").read_text()

    def start(self) -> None:
        """Starts it and waits until it listens."""
        with self.folder.with_suffix(".log").open("a") as log:
            seen = log.tell()
            self.process = self._begin(["server", "run", "--dir", str(self.folder), "--port", str(self.port)], log)
        end = time.monotonic() + 300
        while not (found := re.search(r"Serving \S+ on https://[\d.]+:(\d+)", self.log[seen:])):
            assert self.process.poll() is None, self.log
            assert time.monotonic() < end, self.log
            time.sleep(0.02)
        self.port = int(found.group(1))

    def _begin(self, args: list[str], log: IO[str]) -> Process:
        if self.command != [FEDSITE]:
            return subprocess.Popen([*self.command, *args], stderr=log, env=self._environment)
        with Path(os.devnull).open() as nothing:
            streams = [nothing.fileno(), log.fileno(), log.fileno()]
            return processes.begin([FEDSITE, *args], self._environment, streams, SERVER)

    @property
    def _environment(self) -> dict[str, str]:
        return environment() | dict(self.variables)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Ends it (SIGKILL: without a chance to tidy up) and gives its exit code."""
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(timeout=120)

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Runs `fedsite ARGS --dir FOLDER`."""
        if self.command == [FEDSITE]:
            done = processes.run([FEDSITE, *args, "--dir", str(self.folder)], self._environment, parent=SERVER)
            return subprocess.CompletedProcess(args, done.code, done.stdout, done.stderr)
        return subprocess.run(
            [*self.command, *args, "--dir", str(self.folder)],
            env=self._environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    def invite(self, site: str, hours: float = 24) -> str:
        """An invitation's line."""
        return admissions.invite(self.federation, site, timedelta(hours=hours), self.url).encode()

    def enrol(self, site: str, folder: Path) -> TlsIdentity:
        """Invites and enrols a site; its identity lies in `folder`."""
        return enrol(Invitation.decode(self.invite(site)), folder)

    def open_round(
        self, scratch: Path, count: int = 1, shapes: Mapping[str, tuple[int, ...]] = SHAPES, **changes: Any
    ) -> int:
        """Opens a series on a random model, which lies in `scratch`; gives the first round's number."""
        model = model_file(scratch / "model.safetensors", shapes=shapes)
        return self.open_series(plan_file(scratch, **changes), model, count)

    def open_series(self, plan: Path, model: Path, count: int = 1) -> int:
        """Ends what the tests before have left running and opens a series; gives the first round's number."""
        self.close_rounds()
        return series.open_series(self.federation, read_draft(plan), model, count).number

    def wait_for(self, number: int, status: str = "open") -> None:
        """Until a round has the status: the server closes and opens rounds by itself."""
        end, federation = time.monotonic() + 30, self.federation
        while time.monotonic() < end:
            if any(one["round"] == number and one["status"] == status for one in reports.rounds(federation)):
                return
            time.sleep(0.05)
        raise AssertionError(f"round {number} did not become {status}")

    def close_rounds(self) -> None:
        """Closes rounds until none follows."""
        federation = self.federation
        while still := [one["round"] for one in reports.rounds(federation) if one["status"] in ("open", "closing")]:
            with suppress(UsageError):  # the server has closed it by itself in the meantime
                rounds.close_now(federation, still[0])

    def client(self, tls: TlsIdentity, patience: float = 20) -> FederationClient:
        """A client of this server."""
        return FederationClient(self.url, tls, patience=patience)


@contextmanager
def running(folder: Path, command: list[str] | None = None, **settings: Any) -> Iterator[Server]:
    """A new federation in `folder`, served by a real process until the end of the block."""
    make(folder, **settings).database.close()
    server = Server(folder, command or [FEDSITE])
    server.start()
    try:
        yield server
    finally:
        assert server.process is not None
        if server.process.poll() is None:
            server.stop()


def enrol(invitation: Invitation, folder: Path) -> TlsIdentity:
    """What `fedsite enroll` does, without a site: CA by fingerprint, a new key, a certificate."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = enrolment.fetch_ca(invitation.server, invitation.ca_sha256)
    key = enrolment.new_key()
    certificate = enrolment.enroll(invitation, authority, key)
    return write_identity(folder, certificate, enrolment.key_to_pem(key, "a passphrase"), authority)


def write_identity(folder: Path, certificate: bytes, key: bytes, authority: bytes) -> TlsIdentity:
    """An identity as files; the key's passphrase is `a passphrase`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("site.pem", certificate), ("site.key", key), ("ca.pem", authority)):
        (folder / name).write_bytes(content)
    return TlsIdentity(folder / "site.pem", folder / "site.key", "a passphrase", folder / "ca.pem")


def environment() -> dict[str, str]:
    """What a process under test inherits: no proxy, no configuration of whoever runs the tests."""
    kept = ("PATH", "HOME", "TMPDIR", "COVERAGE_PROCESS_CONFIG")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"OMP_NUM_THREADS": "1"}
