import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from support.federation import draft, make, model_file, update_file

from fedsite.files import sha256_of
from fedsite.server import enrolment, series, uploads
from fedsite.server.app import create_app
from fedsite.server.federation import Federation
from fedsite.server.limits import DEFAULT_LIMITS, Limits
from fedsite.server.storage import UploadRow
from fedsite.wire.enrolment import new_key, signing_request
from fedsite.wire.messages import utc_now


class Clock:
    """A clock that tests move by hand."""

    def __init__(self) -> None:
        self.now = utc_now()

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, **delta: float) -> None:
        self.now += timedelta(**delta)


@dataclass
class Bench:
    """A federation's folder in this process, without HTTP, and what a site would do to it."""

    federation: Federation
    clock: Clock
    folder: Path

    def open(self, count: int = 1, seed: int = 0, **changes: object) -> int:
        model = model_file(self.folder / "model.safetensors", seed)
        return series.open_series(self.federation, draft(self.folder, **changes), model, count).number

    def announce(self, site: str, number: int, update: Path, weight: float | None = None) -> UploadRow:
        said = uploads.Announcement(sha256_of(update), update.stat().st_size, number, weight)
        return uploads.announce(self.federation, site, number, said)

    def send(self, upload: UploadRow, content: bytes) -> None:
        part = uploads.Part(self.federation, upload, 0)
        part.write(content)
        part.close()

    def deliver(
        self,
        site: str,
        number: int,
        values: dict[str, np.ndarray],
        weight: float | None = None,
        encoding: str = "float32",
    ) -> UploadRow:
        update = update_file(self.folder / "update", values, encoding)
        upload = self.announce(site, number, update, weight)
        self.send(upload, update.read_bytes())
        return uploads.conclude(self.federation, site, upload.id)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    clock = Clock()
    federation = make(tmp_path / "federation", clock)
    yield Bench(federation, clock, tmp_path)
    federation.database.close()


@pytest.fixture
def site_app(bench: Bench) -> Callable[..., Any]:
    """The application as the enrolled site-a meets it, past TLS."""
    invitation = enrolment.invite(bench.federation, "site-a", timedelta(hours=1), bench.federation.url)
    request = signing_request(new_key(), "site-a").public_bytes(Encoding.DER)
    der = enrolment.enrol(bench.federation, "site-a", invitation.secret, request).public_bytes(Encoding.DER)

    def made(limits: Limits = DEFAULT_LIMITS) -> Any:
        app = create_app(bench.federation, lambda: None, limits=limits)

        async def with_peer(scope: Any, receive: Any, send: Any) -> None:
            scope.setdefault("extensions", {})["tls"] = {"client_cert_chain": [ssl.DER_cert_to_PEM_cert(der)]}
            await app(scope, receive, send)

        return with_peer

    return made
