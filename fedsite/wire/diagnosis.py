"""Why a connection failed, so that a person can mend it: at which step, between whom, and what was shown there.

What may pass by itself becomes a `Trouble`; what no repetition can mend is raised at once, and so is a login that a
proxy refused: a few more tries may lock an account.
"""

import errno
import re
import socket
import ssl
from dataclasses import dataclass
from http import HTTPStatus

import httpx

from fedsite.errors import ConfigurationError, FedsiteError, ServerBrokeProtocol, Unreachable
from fedsite.wire.route import Journey
from fedsite.wire.shown import clean, refused_proxy, refused_server

# What OpenSSL says (ssl.SSLError.reason) when the other side answers in another protocol than TLS, or in an old one.
_NO_TLS = {
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "HTTPS_PROXY_REQUEST",
    "RECORD_LAYER_FAILURE",
    "PACKET_LENGTH_TOO_LONG",
}
_OLD_TLS = {"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION"}
# What web servers answer to CONNECT.
_NO_PROXY = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.NOT_IMPLEMENTED,
}

_CUT = "A firewall may cut what it cannot read, or another service has this port: ask the network's operators."
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
# tinyproxy says 401 where the password is wrong, though that is for servers (RFC 9110, 15.5.2).
_NO_LOGIN = (HTTPStatus.PROXY_AUTHENTICATION_REQUIRED, HTTPStatus.UNAUTHORIZED)
_SCHEME = re.compile(r"(?:^|,\s*)(basic|digest|ntlm|negotiate|kerberos|bearer)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Trouble:
    """What failed and may yet pass (a clause without its full stop), and what a person can do about it."""

    what: str
    mend: str = ""


def reason(error: httpx.TransportError) -> Trouble:
    """Where a connection failed, and why.

    Raises what trying again cannot mend: ServerBrokeProtocol where something else than the server answers,
    ConfigurationError where the proxy is another than site.yaml says or refuses its login, Unreachable where it
    forbids the way.
    """
    journey = error.request.extensions.get("trace")
    if not isinstance(journey, Journey):
        journey = Journey(error.request.url)
    cause = _cause(error)
    if journey.step == "reach":
        return _unreached(journey, cause)
    if journey.step == "tunnel":
        return _untunnelled(journey, error, cause)
    handshake = journey.step != "request"
    if handshake and isinstance(cause, ssl.SSLError) and (refused := _refused(journey, cause)):
        raise refused from error
    return _broken(journey, cause)


def in_short(error: httpx.TransportError) -> str:
    """What the operating system, OpenSSL or a proxy said, and nothing beside."""
    return _said(_cause(error))


def _cause(error: BaseException) -> BaseException:
    """What the operating system or OpenSSL said, below the layers of httpx; the error itself where neither did."""
    below: BaseException | None = error
    while below is not None and not isinstance(below, OSError):
        below = below.__cause__ or below.__context__
    return below or error


# --- the connection -----------------------------------------------------------------------------------------------


def _unreached(journey: Journey, cause: BaseException) -> Trouble:
    """No connection: the name, the way, or the port."""
    who, proxy = journey.partner, journey.proxy
    ask = f"Ask the network's operators whether this machine may reach {journey.place}"
    mend = f"{ask}; where only a proxy may, name it in network.proxy."
    if proxy:
        mend = f"Is {proxy.said_by} what the network's operators say?"
    if isinstance(cause, socket.gaierror):
        host = httpx.URL(proxy.url).host if proxy else journey.server.host
        said = "gives no answer about" if cause.errno == socket.EAI_AGAIN else "does not know"
        return Trouble(f"the name server (DNS) {said} {host}", mend)
    if isinstance(cause, TimeoutError):
        return Trouble(f"nothing answers at {who}; a firewall may swallow what is sent there", mend)
    number = cause.errno if isinstance(cause, OSError) else None
    if number == errno.ECONNREFUSED:
        mend = mend if proxy else f"Ask the coordinator whether the server runs and this is its port. {ask}."
        return Trouble(f"{who} refuses connections: nothing listens there, or a firewall forbids it", mend)
    if number in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return Trouble(f"there is no route to {who}", f"Is this machine's network up? {mend}")
    return Trouble(f"{who} cannot be reached ({_said(cause)})", mend)


def _refused(journey: Journey, error: ssl.SSLError) -> FedsiteError | None:
    """What TLS says once and for all; None where the line was cut."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return refused_proxy(journey, error) if journey.step == "proxy-tls" else refused_server(journey, error)
    if error.reason not in _NO_TLS | _OLD_TLS:
        return None
    if journey.proxy and journey.step == "proxy-tls":
        mend = f"Write http:// in {journey.proxy.said_by}."
        return ConfigurationError(f"{_at_start(journey.partner)} speaks no TLS.", mend)
    what = "no TLS: it is another service, or plain HTTP" if error.reason in _NO_TLS else "no TLS later than 1.1"
    return ServerBrokeProtocol(
        f"What answers at {journey.place} speaks {what}.", "Ask the coordinator for the server's address and port."
    )


def _broken(journey: Journey, cause: BaseException) -> Trouble:
    """There was a connection, and it ended or fell silent."""
    handshake = journey.step != "request"
    if isinstance(cause, TimeoutError):
        silent = "takes the connection, but does not answer its TLS" if handshake else "has fallen silent"
        return Trouble(f"{journey.partner} {silent}", _CUT if handshake else "")
    if handshake:
        return Trouble(f"{journey.partner} ends the connection while TLS begins ({_said(cause)})", _CUT)
    return Trouble(f"{journey.partner}: {_said(cause)}")


# --- the proxy ----------------------------------------------------------------------------------------------------


def _untunnelled(journey: Journey, error: httpx.TransportError, cause: BaseException) -> Trouble:
    """The proxy is there, but opens no way to the server (RFC 9110, 9.3.6)."""
    who, status = journey.partner, journey.status
    if status in _NO_LOGIN:
        raise _login_refused(journey) from error
    if status == HTTPStatus.FORBIDDEN:
        raise Unreachable(
            f"{_at_start(who)} forbids the way to {journey.place} ({_answer(journey)}).",
            f"Ask the network's operators to allow CONNECT to {journey.place}; many proxies allow port 443 alone.",
        ) from error
    if status in _NO_PROXY:
        raise _no_proxy(journey, _answer(journey)) from error
    ask = f"Ask the network's operators whether it may reach {journey.place}."
    if status:
        return Trouble(f"{who} does not get through to {journey.place} ({_answer(journey)})", ask)
    if isinstance(cause, TimeoutError):
        return Trouble(f"{who} was asked for {journey.place}, and has fallen silent", ask)
    if isinstance(error, httpx.RemoteProtocolError) and "disconnected" not in str(error):
        raise _no_proxy(journey, "it speaks another protocol") from error
    return Trouble(f"{who} ends the connection without an answer", _is_it_right(journey))


def _no_proxy(journey: Journey, said: str) -> ConfigurationError:
    return ConfigurationError(
        f"What answers as {journey.partner} is no proxy for HTTPS ({said}).", _is_it_right(journey)
    )


def _is_it_right(journey: Journey) -> str:
    source = journey.proxy.said_by if journey.proxy else ""
    return f"Is {source} what the network's operators say? If the proxy speaks TLS itself, write https:// there."


def _login_refused(journey: Journey) -> ConfigurationError:
    """The proxy's 407 or 401: no login, a wrong one, or one of a kind that we do not speak (RFC 9110, 11.7.1)."""
    assert journey.proxy
    who = _at_start(journey.partner)
    lines = journey.headers.get_list("Proxy-Authenticate")
    schemes = {scheme.lower(): scheme for line in lines for scheme in _SCHEME.findall(_QUOTED.sub("", line))}
    if schemes and "basic" not in schemes:
        return ConfigurationError(
            f"{who} asks for a login by {' or '.join(schemes.values())}, which fedsite does not speak.",
            "Let cntlm or px run on this machine: it logs in for fedsite. Then name it:"
            " network.proxy: http://127.0.0.1:3128. Or ask the network's operators to let this machine through.",
        )
    if journey.proxy.login is None:
        return ConfigurationError(
            f"{who} asks for a user and a password.",
            "Name it in network.proxy, and in network.proxy_login a file (chmod 600) that holds USER:PASSWORD.",
        )
    place = "the file of network.proxy_login" if journey.proxy.said_by == "network.proxy" else journey.proxy.said_by
    return ConfigurationError(
        f"{who} refuses the user or the password of {place}.",
        "Mend it before the next run: some proxies lock an account after a few tries. This one was tried once.",
    )


def _answer(journey: Journey) -> str:
    """What the proxy said, squid's own word for it included."""
    try:
        phrase = f"{journey.status} {HTTPStatus(journey.status).phrase}"
    except ValueError:
        phrase = str(journey.status)
    return ", ".join(part for part in (phrase, clean(journey.headers.get("X-Squid-Error", ""))) if part)


def _said(cause: BaseException) -> str:
    text = (cause.strerror if isinstance(cause, OSError) else None) or str(cause) or type(cause).__name__
    return clean(text).rstrip(".")


def _at_start(text: str) -> str:
    return text[0].upper() + text[1:]
