"""What `fedsite check` says of the way to the server: proxy, network, clock, the server itself, and how fast it goes.

`network` makes one attempt, and where it fails `check` leaves out the rows behind it: a proxy may lock the account of
who tries a wrong password often.
"""

import base64
import time
from datetime import timedelta

from fedsite.errors import NotAuthorised
from fedsite.jobs.checks.findings import Check
from fedsite.jobs.network import proxy_for
from fedsite.jobs.site import Site
from fedsite.site import identity
from fedsite.site.config import DIRECT
from fedsite.wire.client import FederationClient, ask_federation, require_common_version
from fedsite.wire.messages import FederationInfo, MalformedMessage, Ticket, parse
from fedsite.wire.transport import SET_CLOCK, TOLERATED_SKEW, off_by

WITHOUT_ROUNDS_BYTES = 100 * 10**6


def proxy(site: Site) -> Check:
    """Which way goes out, and who says so. Nothing is sent."""
    settings, server = site.config.network, site.pinned.server
    found = proxy_for(settings, server)
    if found is None:
        said = "network.proxy" if settings.proxy == DIRECT else "nothing names a proxy for it"
        return Check("proxy", "ok", f"The server is to be reached directly ({said}).")
    way = (
        f"The server is to be reached by {found.url} ({found.said_by}), {'with' if found.login else 'without'} a login."
    )
    if found.said_by.startswith("$"):
        return Check("proxy", "warning", way, "cron and systemd do not know this variable: set network.proxy as well.")
    return Check("proxy", "ok", way)


def network(site: Site) -> Check:
    """Names, connections, the proxy and TLS, as far as the server's own answer to anybody."""
    began = time.monotonic()
    require_common_version(_ask(site)[0].protocol_versions)
    taken = time.monotonic() - began
    return Check("network", "ok", f"{site.pinned.server} is the federation's server, and answers in {taken:.2f} s.")


def clock(site: Site) -> Check:
    """This machine's clock against the server's."""
    skew = _ask(site)[1]
    if skew is None:
        return Check("clock", "warning", "The server told no time; this machine's clock could not be compared.")
    if abs(skew) > TOLERATED_SKEW:
        return Check("clock", "error", off_by(skew), SET_CLOCK, NotAuthorised.exit_code)
    return Check("clock", "ok", f"This clock and the server's differ by {abs(skew):.0f} s.")


def server(site: Site) -> Check:
    """Whether the server knows this site by its certificate."""
    with site.client() as client:
        client.trust()
    return Check("server", "ok", "The server knows this site by its certificate.")


def upload(site: Site) -> Check:
    """How long one round's update takes to get there, at the bandwidth of now."""
    with site.client() as client:
        rate = client.upload_rate()
        if rate is None:
            return Check("upload", "skipped", "The server is too old to measure the way to it.")
        ticket = _newest_ticket(client)
    size = ticket.model_bytes if ticket else WITHOUT_ROUNDS_BYTES
    seconds = size / rate
    what = f"An update of one round (at most {_megabytes(size)} MB) takes"
    if ticket is None:
        what = f"No round has been opened yet; {_megabytes(size)} MB would take"
    words = f"{what} {_duration(seconds)} at {_megabytes(rate)} MB/s."
    if ticket and seconds > (ticket.expires - ticket.opened).total_seconds() / 2:
        return Check("upload", "warning", words, "That is more than half the time of a round: tell the coordinator.")
    return Check("upload", "ok", words)


def _ask(site: Site) -> tuple[FederationInfo, float | None]:
    where, files = site.pinned.server, site.files
    way = proxy_for(site.config.network, where)
    identity.authority_sha256(files)  # what is trusted must be there before anybody is asked
    return ask_federation(where, files.authority, proxy=way, patience=0, witness=site.witness)


def _newest_ticket(client: FederationClient) -> Ticket | None:
    """For its sizes alone: an estimate needs no signature."""
    tickets = client.tickets(after=0).tickets
    try:
        return parse(Ticket, base64.b64decode(tickets[-1].payload)) if tickets else None
    except (MalformedMessage, ValueError):
        return None


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.3g}" if size < 1e9 else f"{size / 1e6:,.0f}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds >= 0.1 else "under 0.1 s"
    return str(timedelta(seconds=round(seconds)))
