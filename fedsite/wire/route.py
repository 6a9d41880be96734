"""The way to a server: directly, or by CONNECT through a hospital's forward proxy; and how far a request has come."""

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from fedsite.errors import ConfigurationError

Step = Literal["reach", "proxy-tls", "tunnel", "tls", "request"]

# The steps as httpcore names them in its events (httpx's request extension `trace`).
_DIRECT: dict[str, Step] = {
    "connection.connect_tcp.started": "reach",
    "connection.start_tls.started": "tls",
    "connection.start_tls.complete": "request",
}
_PROXIED: dict[str, Step] = {
    "connection.connect_tcp.started": "reach",
    "connection.connect_tcp.complete": "tunnel",
    "connection.start_tls.started": "proxy-tls",
    "connection.start_tls.complete": "tunnel",
    "proxy.start_tls.started": "tls",
    "proxy.start_tls.complete": "request",
}


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy through which the server is reached by CONNECT (RFC 9110, 9.3.6).

    `url` is http://HOST:PORT, or https:// where the proxy itself speaks TLS; it holds no login, so it may be shown.
    `said_by` is the setting or variable that names it. `login` is user and password for Basic authentication
    (RFC 7617). `ca` is the PEM certificate of whoever vouches for a proxy that speaks TLS; without one the operating
    system's are asked.
    """

    url: str
    said_by: str
    login: tuple[str, str] | None = field(default=None, repr=False)
    ca: bytes | None = field(default=None, repr=False)

    def for_httpx(self) -> httpx.Proxy:
        """The same, as httpx takes it. Raises ConfigurationError when it cannot be used."""
        context = self._context() if self.url.startswith("https://") else None
        return httpx.Proxy(usable(self.url), auth=self.login, ssl_context=context)

    def _context(self) -> ssl.SSLContext:
        if self.ca is None:
            return ssl.create_default_context()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(cadata=self.ca.decode("ascii"))
        except (ssl.SSLError, ValueError):
            raise ConfigurationError(
                "The file of network.proxy_ca holds no certificate in PEM.",
                "It begins with -----BEGIN CERTIFICATE-----; ask the network's operators for it.",
            ) from None
        return context


def usable(url: str) -> httpx.URL:
    """A server's or proxy's address that a connection can be made to. Raises ConfigurationError."""
    try:
        found = httpx.URL(url)
        found.host.encode("idna")  # as the name server will be asked; ".." and long labels end here
    except (httpx.InvalidURL, UnicodeError):
        found = httpx.URL()
    if not found.host or not 0 < (found.port or 1) < 1 << 16:
        raise ConfigurationError(f"The address {url!r} cannot be used.", "It must be SCHEME://HOST:PORT.")
    return found


@dataclass
class Journey:
    """How far a request has come. httpcore calls it at each step; a line that was kept open is past the first ones."""

    server: httpx.URL
    proxy: Proxy | None = None
    step: Step = "request"
    status: int = 0
    headers: httpx.Headers = field(default_factory=httpx.Headers)
    """What the proxy said to CONNECT."""
    told: Callable[[str, Mapping[str, Any]], None] = lambda event, facts: None
    """Who else wants to hear of the events."""

    def __call__(self, event: str, facts: Mapping[str, Any]) -> None:
        """One event of httpcore's: what it is about, and whether it started, is complete, or failed."""
        self.told(event, facts)
        self.step = (_PROXIED if self.proxy else _DIRECT).get(event, self.step)
        if self.step == "tunnel" and event == "http11.receive_response_headers.complete":
            _, self.status, _, headers, *_ = facts["return_value"]
            self.headers = httpx.Headers(headers)

    @property
    def place(self) -> str:
        """HOST:PORT of the server."""
        return self.server.netloc.decode() + ("" if self.server.port else ":443")

    @property
    def partner(self) -> str:
        """Whom the present step is with."""
        if self.proxy and self.step in ("reach", "proxy-tls", "tunnel"):
            return f"the proxy {self.proxy.url}"
        return f"the server {self.place}"
