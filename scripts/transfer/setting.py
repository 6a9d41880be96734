"""A federation to measure: founded, served and joined with the installed command."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from commands import Fedsite, StepFailed, free_port, running_server

from fedsite.files import write_atomically
from fedsite.privacy import mechanism
from fedsite.privacy.mechanism import Floats, Gate, Rounded, Sealed
from fedsite.server.federation import DATABASE, open_federation
from fedsite.server.members import enrolment as admissions
from fedsite.wire import enrolment, payload
from fedsite.wire.enrolment import Invitation
from fedsite.wire.norms import largest_honest_norm
from fedsite.wire.payload import Layout
from fedsite.wire.plans import read_draft
from fedsite.wire.transport import TlsIdentity

NAME, TASK, LOOPBACK = "bench", "stroke-dwi", "127.0.0.1"
NETWORKS: dict[str, dict[str, Any]] = {
    "0.3MB": {"name": "unet", "settings": {"channels": [8, 16, 32, 48]}},
    "19MB": {"name": "unet", "settings": {"channels": [24, 48, 96, 192, 412]}},
    "125MB": {"name": "unet", "settings": {"channels": [48, 96, 192, 384, 512, 512]}},
    "1GB": {"name": "segresnet", "settings": {"init_filters": 64, "blocks_down": [1, 1, 1, 2, 3]}},
}
CLIP_NORM, NOISE_MULTIPLIER = 1.0, 60.0
EPSILON, DELTA, PATIENTS = 15.0, 1e-6, 40
PASSPHRASE = "a passphrase"
LONGEST_ROUND_SECONDS = 1200.0
STATUS = "select status from rounds where number = ?"


@dataclass(frozen=True)
class Model:
    """Model 0 of a network of that size."""

    size: str
    path: Path
    layout: Layout

    @property
    def bytes(self) -> int:
        """Of its file."""
        return self.layout.file_bytes


class Coordinator:
    """Who runs the server: the installed command in their hands, and the federation's folder."""

    def __init__(self, work: Path) -> None:
        """Founds the federation."""
        self.work, self.folder, self.port = work, work / "server", free_port()
        self.url = f"https://{LOOPBACK}:{self.port}"
        self.fedsite, self._plans = Fedsite("coordinator", work), 0
        address = ("--name", LOOPBACK, "--url", self.url)
        self.fedsite.json("server", "init", str(self.folder), "--federation", NAME, *address)

    @contextmanager
    def server(self) -> Iterator[int]:
        """`fedsite server run` while the block runs; gives its process id."""
        with running_server(self.folder, self.port, self.work / "server.log") as process:
            yield process.pid

    def model(self, size: str) -> Model:
        """Has `fedsite model init` make model 0."""
        plan, path = self._plan(size, "float32", 1, 1.0), self.work / f"model-{size}.safetensors"
        self.fedsite.json("model", "init", str(plan), "-o", str(path))
        return Model(size, path, payload.layout_of(path))

    def open_rounds(self, model: Model, sites: int, rounds: int, encoding: str = "float32") -> int:
        """Opens rounds that train nothing, each of so many sites; gives the number of the first."""
        draft = read_draft(self._plan(model.size, encoding, sites, 1.0))
        norm = 1.001 * largest_honest_norm(draft, model.layout.values)
        plan = self._plan(model.size, encoding, sites, norm)
        opening = ("server", "round", "open", str(plan), "--model", str(model.path), "--rounds", str(rounds))
        return int(self.fedsite.json(*opening, "--dir", str(self.folder))["round"])

    def wait_for(self, number: int) -> None:
        """Until a round has its model: looks into the database, so that the server has no work with the question."""
        end = time.monotonic() + LONGEST_ROUND_SECONDS
        with closing(sqlite3.connect(f"file:{self.folder / DATABASE}?mode=ro", uri=True)) as database:
            while (found := database.execute(STATUS, (number,)).fetchone()) != ("aggregated",):
                if found == ("failed",) or time.monotonic() > end:
                    raise StepFailed(f"round {number} is {found}")
                time.sleep(0.01)

    def invitation(self, site: str) -> str:
        """The line that lets a site enrol."""
        federation = open_federation(self.folder)
        try:
            return admissions.invite(federation, site, timedelta(hours=24), self.url).encode()
        finally:
            federation.database.close()

    def _plan(self, size: str, encoding: str, sites: int, max_update_norm: float) -> Path:
        self._plans += 1
        path = self.work / f"plan-{self._plans}.yaml"
        plan = {
            "schema": 1,
            "federation": NAME,
            "plan": f"bench-{self._plans}",
            "task": TASK,
            "channels": ["dwi"],
            "preparation": {"input_state": "whole-head", "spacing_mm": [2.0, 2.0, 2.0]},
            "network": NETWORKS[size],
            "algorithm": "fedavg",
            "local": {"steps": 0, "patch_voxels": [64, 64, 64]},
            "privacy": {
                "mechanism": "gaussian-update",
                "clip_norm": CLIP_NORM,
                "noise_multiplier": NOISE_MULTIPLIER,
            },
            "max_update_norm": max_update_norm,
            "payload": encoding,
            "rounds": {"quorum": sites, "enough": sites, "deadline_seconds": 3600},
            "expires": datetime.now(UTC).replace(microsecond=0) + timedelta(days=1),
        }
        write_atomically(path, yaml.safe_dump(plan, sort_keys=False).encode())
        return path


def whole_site(coordinator: Coordinator, name: str) -> Fedsite:
    """A site with configuration, ledger and certificate: `fedsite init`, `fedsite enroll`."""
    home = coordinator.work / name
    site = Fedsite(name, coordinator.work, ("--config", str(home / "site.yaml")))
    terms = ("--epsilon", f"{EPSILON:g}", "--delta", f"{DELTA:g}", "--nominal-patients", f"{PATIENTS}")
    site.json("init", "--state", str(home / "state"), "--data", str(home / "data"), "--task", TASK, *terms)
    site.json("enroll", "--invitation", "-", text=coordinator.invitation(name) + "\n")
    return site


def bare_site(coordinator: Coordinator, name: str) -> TlsIdentity:
    """A site that has a certificate and nothing else."""
    invitation = Invitation.decode(coordinator.invitation(name))
    home, key = coordinator.work / name, enrolment.new_key()
    home.mkdir()
    found = TlsIdentity(home / "site.pem", home / "site.key", PASSPHRASE, home / "ca.pem")
    authority = enrolment.fetch_ca(invitation.server, invitation.ca_sha256)
    found.certificate.write_bytes(enrolment.enroll(invitation, authority, key))
    found.key.write_bytes(enrolment.key_to_pem(key, PASSPHRASE))
    found.ca.write_bytes(authority)
    return found


def sealed_update(model: Model, encoding: str = "float32") -> Sealed:
    """What the gate makes of an update of zeros, as of every site that trains nothing."""
    values, encoded = payload.map_values(model.path, model.layout), model.layout.encoded(encoding)

    def read(part: slice) -> Floats:
        difference: Floats = np.subtract(values[part], values[part], dtype=np.float64)
        return difference

    gate = Gate(CLIP_NORM, NOISE_MULTIPLIER, model.layout.values)
    form = Rounded(encoded.sizes) if encoded.scaled else encoded.dtype
    return mechanism.seal(read, gate, encoded.header, form, model.path.with_name(f"update-{model.size}-{encoding}"))
