"""TLS for the application: the peer's certificate in the ASGI scope.

uvicorn gives an application no peer certificate. Both of its HTTP/1.1 protocols read `self.app` for every request,
so a wrapper put there when a connection is made can add ASGI's TLS extension
(https://asgi.readthedocs.io/en/latest/specs/tls.html) to the scope of each.
"""

import asyncio
import ssl
from asyncio import sslproto
from typing import Protocol, runtime_checkable

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from fedsite.server.web.limits import BoundedHeadH11, BoundedHeadHttpTools

BUFFER_BYTES = 1 << 16
"""Of a connection, each way: asyncio's own sizes add up to a megabyte and more, for each of many sites at once."""


@runtime_checkable
class TlsTransport(Protocol):
    """What asyncio's transports over TLS have besides those of plain sockets."""

    def set_read_buffer_limits(self, high: int) -> None:
        """How much may wait to be taken before the line is told to pause."""
        ...

    def set_write_buffer_limits(self, high: int) -> None:
        """How much may wait to be sent before the application is told to pause."""
        ...


class PeerCertificate(asyncio.Protocol):
    """What is added to uvicorn's protocols: it comes before one of them in the bases of a class."""

    app: ASGIApp

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wraps the application for this connection."""
        super().connection_made(transport)
        if isinstance(transport, TlsTransport):
            transport.set_read_buffer_limits(high=BUFFER_BYTES)
            transport.set_write_buffer_limits(high=BUFFER_BYTES)
        self.app = with_peer(self.app, transport)


class H11WithPeer(PeerCertificate, BoundedHeadH11, H11Protocol):
    """uvicorn's protocol in pure Python, with the peer's certificate."""


def protocol() -> type[asyncio.Protocol]:
    """The fast protocol of uvicorn with the peer's certificate; the pure Python one without its parser."""
    sslproto.SSLProtocol.max_size = BUFFER_BYTES
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ImportError:
        return H11WithPeer

    class HttpToolsWithPeer(PeerCertificate, BoundedHeadHttpTools, HttpToolsProtocol):
        """The fast one."""

    return HttpToolsWithPeer


def with_peer(app: ASGIApp, transport: asyncio.BaseTransport) -> ASGIApp:
    """The application, told of the certificate that TLS has verified on this connection."""
    tls = transport.get_extra_info("ssl_object")
    certificate = tls.getpeercert(binary_form=True) if tls is not None else None
    chain = [ssl.DER_cert_to_PEM_cert(certificate)] if certificate else []

    async def told(scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("extensions", {})["tls"] = {"client_cert_chain": chain}
        await app(scope, receive, send)

    return told
