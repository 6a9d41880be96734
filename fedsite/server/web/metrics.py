"""What the server's operators watch, for Prometheus: text format 0.0.4, on this machine alone, on a port of its own.

Written by hand: three lines a metric, read from the database when asked, are less than the client library, whose
registry and collectors are made for counters that a process keeps.
"""

import logging
import resource
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Literal

from sqlalchemy import func, select
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import fedsite
from fedsite.errors import CannotWrite
from fedsite.server.federation import Federation
from fedsite.server.members.enrolment import SiteStanding, standings
from fedsite.server.rows import UNFINISHED, counted, plan_of, series_of
from fedsite.server.store.storage import RoundRow

HOST, PATH = "127.0.0.1", "/metrics"
TEXT = "text/plain; version=0.0.4; charset=utf-8"
SILENCE_SECONDS = 5.0
"""How long one who asks may take over it: one is answered after the other."""

log = logging.getLogger("fedsite.server")


@dataclass(frozen=True)
class Metric:
    """A metric and its samples: labels, and the value."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    samples: Sequence[tuple[Mapping[str, str], float]]

    def __str__(self) -> str:
        lines = [f"# HELP {self.name} {self.help}", f"# TYPE {self.name} {self.kind}"]
        lines += [f"{self.name}{_labelled(labels)} {value!r}" for labels, value in self.samples]
        return "\n".join(lines) + "\n"


class Tally:
    """Counts the server's answers by their status, as ASGI middleware around the whole application."""

    def __init__(self) -> None:
        self.answers: Counter[int] = Counter()

    def around(self, app: ASGIApp) -> ASGIApp:
        """The application, counted."""

        async def counted_app(scope: Scope, receive: Receive, send: Send) -> None:
            async def counting(message: Message) -> None:
                if message["type"] == "http.response.start":
                    self.answers[message["status"]] += 1
                await send(message)

            await app(scope, receive, counting)

        return counted_app


def text(federation: Federation, tally: Tally, started: float) -> str:
    """All metrics; `started` is when the process began (seconds since the epoch)."""
    found = [
        _plain("fedsite_build_info", "The federation, and the version of its server.", 1.0, _about(federation)),
        _plain("process_start_time_seconds", "When the server began.", started),
        _plain("process_cpu_seconds_total", "CPU time of the server.", time.process_time(), kind="counter"),
        _plain("process_resident_memory_bytes", "Memory of the server.", _resident_bytes()),
        _plain("fedsite_disk_free_bytes", "Free in the federation's folder.", _free_bytes(federation)),
        _plain("fedsite_authority_expires_timestamp_seconds", "When the authority ends.", _authority_ends(federation)),
        Metric(
            "fedsite_answers_total",
            "counter",
            "Answers to sites since the server began, by HTTP status.",
            [({"code": str(code)}, float(count)) for code, count in sorted(tally.answers.items())],
        ),
        *_of_rounds(federation),
        *_of_sites(standings(federation)),
    ]
    return "".join(map(str, found))


@contextmanager
def listener(federation: Federation, tally: Tally, port: int) -> Iterator[str]:
    """Answers on this machine's port (0 takes a free one) until the end of the block; gives the address.

    Raises CannotWrite when the port cannot be had.
    """
    started = time.time()
    try:
        server = _Listener(port, lambda: text(federation, tally, started))
    except OSError as error:
        raise CannotWrite(
            f"Cannot listen on {HOST}:{port}: {error.strerror}.", "Choose another --metrics-port."
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}{PATH}"
    finally:
        server.shutdown()
        server.server_close()


class _Listener(HTTPServer):
    def __init__(self, port: int, made: Callable[[], str]) -> None:
        super().__init__((HOST, port), _Handler)
        self.made = made


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    timeout = SILENCE_SECONDS

    def do_GET(self) -> None:
        """All metrics, at one path."""
        if self.path != PATH:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        try:
            body = self.server.made().encode()
        except Exception:
            log.exception("metrics cannot be told")
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", TEXT)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Whoever scrapes does it every few seconds: nothing for the log."""


def _plain(
    name: str,
    about: str,
    value: float,
    labels: Mapping[str, str] | None = None,
    kind: Literal["gauge", "counter"] = "gauge",
) -> Metric:
    return Metric(name, kind, about, [(labels or {}, value)])


def _about(federation: Federation) -> dict[str, str]:
    return {"federation": federation.name, "version": fedsite.__version__}


def _of_rounds(federation: Federation) -> Iterator[Metric]:
    with federation.database.reading() as session:
        by_status = session.execute(select(RoundRow.status, func.count()).group_by(RoundRow.status)).tuples().all()
        newest = session.scalars(select(RoundRow).order_by(RoundRow.number.desc()).limit(1)).first()
        rounds = [({"status": status}, float(count)) for status, count in sorted(by_status)]
        yield Metric("fedsite_rounds", "gauge", "Rounds by their state.", rounds)
        if newest is None:
            return
        series = series_of(session, newest)
        quorum = plan_of(federation, series).rounds.quorum
        updates = len(counted(session, newest.number))
    yield _plain("fedsite_round_number", "The newest round.", float(newest.number))
    yield _plain("fedsite_round_unfinished", "1 until it has ended.", float(newest.status in UNFINISHED))
    yield _plain("fedsite_round_held", "1 while its screen waits for a person.", float(newest.status == "held"))
    yield _plain("fedsite_series_paused", "1 while a person must let it go on.", float(series.state == "paused"))
    yield _plain("fedsite_round_updates", "Its updates that count.", float(updates))
    yield _plain("fedsite_round_quorum", "How many it needs.", float(quorum))
    yield _plain("fedsite_round_expires_timestamp_seconds", "Its deadline.", newest.expires.timestamp())


def _of_sites(sites: Sequence[SiteStanding]) -> Iterator[Metric]:
    statuses = Counter(one.status for one in sites)
    by_status = [({"status": status}, float(count)) for status, count in sorted(statuses.items())]
    yield Metric("fedsite_sites", "gauge", "Sites by their standing.", by_status)
    seen = [(_site(one), one.seen.timestamp()) for one in sites if one.seen]
    yield Metric("fedsite_site_seen_timestamp_seconds", "gauge", "When a site was last here, to the minute.", seen)
    ends = [(_site(one), one.certificate_expires.timestamp()) for one in sites if one.certificate_expires]
    yield Metric("fedsite_site_certificate_expires_timestamp_seconds", "gauge", "When its certificate ends.", ends)
    counts: dict[str, tuple[str, Callable[[SiteStanding], int]]] = {
        "contributions": ("Its updates that have a receipt.", lambda one: one.contributions),
        "refusals": ("Rounds that it has declined.", lambda one: one.refusals),
        "rejected": ("Its updates that were not admitted.", lambda one: one.rejected),
    }
    for name, (about, count) in counts.items():
        yield Metric(f"fedsite_site_{name}_total", "counter", about, [(_site(one), float(count(one))) for one in sites])


def _site(standing: SiteStanding) -> dict[str, str]:
    return {"site": standing.site}


def _labelled(labels: Mapping[str, str]) -> str:
    """Labels in braces; backslash, quote and line feed are escaped, as the format says."""
    escapes = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
    inside = ",".join(f'{name}="{value.translate(escapes)}"' for name, value in labels.items())
    return f"{{{inside}}}" if inside else ""


def _resident_bytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return float(pages * resource.getpagesize())


def _free_bytes(federation: Federation) -> float:
    return float(shutil.disk_usage(federation.folder).free)


def _authority_ends(federation: Federation) -> float:
    return federation.authority.ends.timestamp()
