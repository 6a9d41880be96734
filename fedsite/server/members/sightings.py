"""When sites were last here: for the coordinator, who asks why a hospital has gone silent."""

import threading
from datetime import datetime, timedelta

from sqlalchemy import select

from fedsite.errors import FedsiteError
from fedsite.server.federation import Federation
from fedsite.server.store.storage import SightingRow

PAUSE = timedelta(minutes=1)
"""What a site does within it is one sighting: a write for each request would be many, and nobody asks for seconds."""


class Sightings:
    """Writes down that a site was here; of a process, which remembers what it wrote. Safe in several threads."""

    def __init__(self, federation: Federation) -> None:
        self._federation, self._lock = federation, threading.Lock()
        self._written: dict[str, datetime] = {}

    def note(self, site: str) -> None:
        """A site has shown its certificate. That it cannot be written down is no reason to refuse the site."""
        now = self._federation.clock()
        with self._lock:
            before = self._written.get(site)
            if before is not None and now - before < PAUSE:
                return
            self._written[site] = now
        try:
            with self._federation.database.writing() as session:
                session.merge(SightingRow(site=site, seen=now))
        except FedsiteError:
            with self._lock:
                self._written.pop(site, None)


def last_seen(federation: Federation) -> dict[str, datetime]:
    """When each site that was ever here was here last, to the minute."""
    with federation.database.reading() as session:
        return {row.site: row.seen for row in session.scalars(select(SightingRow))}
