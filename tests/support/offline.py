"""A federation's folder in this process, without HTTP."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from support.federation import draft, model_file, update_file

from fedsite.files import sha256_of
from fedsite.server.exchange import uploads
from fedsite.server.federation import Federation
from fedsite.server.rounds import series
from fedsite.server.store.storage import UploadRow
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
