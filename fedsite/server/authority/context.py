"""What the server shows and whom it trusts, as TLS wants it."""

import ssl
from pathlib import Path


def server_context(certificate: Path, ca: Path) -> ssl.SSLContext:
    """TLS 1.2 or later. Client certificates are asked for; one that our root has not issued ends the handshake.

    Who shows none is let through to the application, which opens only enrolment to them.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate)
    context.load_verify_locations(ca)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context
