"""Certificates that are shown at a server's address and are not what they should be: whose they are, in words."""

import ssl
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from fedsite.errors import ConfigurationError, ServerBrokeProtocol
from fedsite.wire.route import Journey

PROBE_SECONDS = 10.0
# X509_verify_cert(3): not yet valid, expired; made for another name, for another address.
WRONG_DATES, WRONG_NAME = (9, 10), (62, 64)
_UNREADABLE = (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError)


class OutOfDate(ServerBrokeProtocol):
    """The server's certificate is not valid by this machine's clock: one of the two is wrong."""


def refused_server(journey: Journey, error: ssl.SSLCertVerificationError) -> ServerBrokeProtocol:
    """What a certificate means that is not the federation's, or not for this server and time."""
    place, shown = journey.place, look(journey)
    if error.verify_code in WRONG_DATES:
        dates = (
            f"from {_minute(shown.not_valid_before_utc)} to {_minute(shown.not_valid_after_utc)}"
            if shown
            else "at another time"
        )
        return OutOfDate(
            f"The certificate of {place} is valid {dates}; by this machine's clock it is {_minute(datetime.now(UTC))}.",
            "Compare this machine's clock with the true time. If it is right, tell the coordinator.",
        )
    if error.verify_code in WRONG_NAME:
        return ServerBrokeProtocol(
            f"The certificate that is shown at {place} is made for {_whom(shown)}.",
            "Ask the coordinator for the name by which sites reach the server.",
        )
    if shown and journey.server.host.lower() in names(shown):
        return ServerBrokeProtocol(
            f"TLS to {place} is opened on the way (TLS inspection): the certificate that is shown for it is"
            f" {described(shown)}, not this federation's ({error.verify_message}).",
            f"Ask the network's operators to exempt {place} from inspection; nothing was sent.",
        )
    return ServerBrokeProtocol(
        f"What answers at {place} is not this federation's server: its certificate is"
        f" {described(shown)} ({error.verify_message}).",
        "Another service has this address, or a device on the way answers in its place: ask the coordinator, and"
        " the network's operators; nothing was sent.",
    )


def refused_proxy(journey: Journey, error: ssl.SSLCertVerificationError) -> ConfigurationError:
    """What it means that the certificate of a proxy that speaks TLS cannot be trusted."""
    return ConfigurationError(
        f"The certificate of {journey.partner} is not trusted: {described(look(journey))} ({error.verify_message}).",
        "Name the certificate of the authority that vouches for the proxy in network.proxy_ca, as the network's"
        " operators give it.",
    )


class _Shown(Exception):
    """Ends a connection as soon as the certificate is there."""

    def __init__(self, der: bytes) -> None:
        self.der = der


def look(journey: Journey) -> x509.Certificate | None:
    """The certificate that is shown at the step where a journey ended, whoever shows it; None where none came.

    The handshake alone is made once more, without verification; not a byte of a request is sent.
    """
    proxy = journey.proxy
    wanted = "proxy.start_tls.complete" if proxy and journey.step == "tls" else "connection.start_tls.complete"

    def stop(event: str, facts: dict[str, Any]) -> None:
        if event == wanted:
            stream = facts["return_value"]
            der = stream.get_extra_info("ssl_object").getpeercert(True)
            stream.close()
            raise _Shown(der or b"")

    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.check_hostname = False
    anyone.verify_mode = ssl.CERT_NONE
    through = proxy.for_httpx() if proxy else None
    if through and journey.step == "proxy-tls":
        through.ssl_context = anyone
    http = httpx.Client(verify=anyone, proxy=through, timeout=PROBE_SECONDS, trust_env=False)
    with http, suppress(httpx.TransportError, ValueError):
        try:
            http.get(journey.server, extensions={"trace": stop})
        except _Shown as found:
            return x509.load_der_x509_certificate(found.der)
    return None


def described(certificate: x509.Certificate | None) -> str:
    """Who issued a certificate, and its fingerprint, as a person compares them."""
    if certificate is None:
        return "not to be seen"
    sha256 = certificate.fingerprint(hashes.SHA256()).hex(":").upper()
    return f"issued by {_issuer(certificate)}, SHA-256 {sha256}"


def names(certificate: x509.Certificate) -> set[str]:
    """The names and addresses that a certificate is for (RFC 5280, 4.2.1.6)."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except _UNREADABLE:
        return set()
    addresses = found.get_values_for_type(x509.IPAddress)
    return {name.lower() for name in found.get_values_for_type(x509.DNSName)} | {str(one) for one in addresses}


def _whom(certificate: x509.Certificate | None) -> str:
    found = sorted(names(certificate)) if certificate else []
    return ", ".join(clean(name) for name in found[:10]) or "another name"


def _issuer(certificate: x509.Certificate) -> str:
    """The issuer's name as OpenSSL writes it."""
    try:
        name = certificate.issuer.rfc4514_string()
    except ValueError:
        name = "a name that cannot be read"
    return clean(name) or "nobody"


def _minute(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"


def clean(text: str) -> str:
    """What another machine said, without what could draw on a terminal, and not too much of it."""
    return "".join(sign if sign.isprintable() else "?" for sign in text.strip())[:200]
