"""One POST to an address that the site has chosen: a webhook, a service that misses signs of life. Not the federation.

The same way out as the rounds', by the operating system's authorities, and nothing of the answer but its status.
"""

import ssl
from urllib.parse import urlsplit

import httpx

from fedsite.errors import Unreachable
from fedsite.wire.diagnosis import in_short
from fedsite.wire.route import Proxy
from fedsite.wire.transport import open_line


def post(address: str, content: bytes, content_type: str, proxy: Proxy | None) -> None:
    """Sends it once; a redirection is not followed, and no success. Raises Unreachable.

    No error names more of the address than its host: the rest of it is what lets somebody write there.
    """
    parts = urlsplit(address)
    base, path = f"{parts.scheme}://{parts.netloc}", f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    with open_line(base, ssl.create_default_context(), proxy) as line:
        try:
            with line.exchange("POST", path, {"Content-Type": content_type}, content) as answer:
                status = answer.status_code
        except httpx.TransportError as error:
            raise Unreachable(f"{parts.hostname}: {in_short(error)}.") from None
    if not httpx.codes.is_success(status):
        raise Unreachable(f"{parts.hostname} answered {status}.")


def host_of(address: str) -> str:
    """The part of an address that may be shown."""
    return urlsplit(address).hostname or ""


def below(address: str, name: str) -> str:
    """An address with a further part of its path, before whatever is asked."""
    parts = urlsplit(address)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl()
