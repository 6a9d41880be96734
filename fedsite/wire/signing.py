"""Ed25519 signatures (RFC 8032) in DSSE envelopes (https://github.com/secure-systems-lab/dsse, v1.0)."""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedsite.wire.messages import Envelope, MalformedMessage, Message, PublicKey, Signature, parse

PLAN = "application/vnd.fedsite.plan.v1+json"
TICKET = "application/vnd.fedsite.ticket.v1+json"
RESULT = "application/vnd.fedsite.result.v1+json"
RECEIPT = "application/vnd.fedsite.receipt.v1+json"


def public_key(key: Ed25519PrivateKey) -> PublicKey:
    """The public half as it travels."""
    return pinned_key(key.public_key().public_bytes_raw().hex())


def pinned_key(ed25519: str) -> PublicKey:
    """A public key from its 64 hexadecimal digits, as a site pinned them."""
    return PublicKey(id=hashlib.sha256(bytes.fromhex(ed25519)).hexdigest()[:16], ed25519=ed25519)


def sign(message: bytes, kind: str, keys: Iterable[Ed25519PrivateKey]) -> Envelope:
    """Wraps the bytes of a message in an envelope, signed by each key."""
    signed = _pre_authentication_encoding(kind, message)
    signatures = [Signature(keyid=public_key(key).id, sig=base64.b64encode(key.sign(signed)).decode()) for key in keys]
    return Envelope(payload=base64.b64encode(message).decode(), payloadType=kind, signatures=signatures)


def digest(envelope: Envelope) -> str:
    """The SHA-256 of the signed bytes: the name by which plans, tickets and receipts refer to each other."""
    return hashlib.sha256(_decode(envelope.payload)).hexdigest()


def unverified(envelope: Envelope, message: type[Message]) -> Message:
    """What an envelope says before anybody has looked at its signatures: to know whose keys to look with.

    Raises MalformedMessage.
    """
    return parse(message, _decode(envelope.payload))


def open_envelope(
    envelope: Envelope, message: type[Message], kind: str, keys: Iterable[PublicKey], threshold: int = 1
) -> Message:
    """The message inside, once `threshold` distinct ones of `keys` have signed it.

    Raises MalformedMessage on a wrong type, too few good signatures, or bytes that are no such message.
    """
    if envelope.payloadType != kind:
        raise MalformedMessage(_is_no(kind, envelope.payloadType))
    content = _decode(envelope.payload)
    signed = _pre_authentication_encoding(kind, content)
    pinned = {key.ed25519 for key in keys}
    good = {key for key in pinned if any(_verifies(key, one.sig, signed) for one in envelope.signatures)}
    if threshold < 1 or len(good) < threshold:
        raise MalformedMessage(f"{len(good)} of {threshold} needed signatures are good")
    return parse(message, content)


def _is_no(kind: str, found: str) -> str:
    """What is wrong with an envelope of another type; of another form of the same, whose fedsite is too old."""
    (known, number), other = _form(kind), _form(found)
    if other[0] != known or other[1] == number:
        return f"the envelope does not hold {kind}"
    whose = "this fedsite must be upgraded" if other[1] > number else "its signer's fedsite must be upgraded"
    return f"it is of form {other[1]}, this fedsite reads form {number}: {whose}"


def _form(kind: str) -> tuple[str, int]:
    """A payload's type without the number of its form, and that number; 0 where it has none."""
    found = re.fullmatch(r"(application/vnd\.fedsite\.[a-z]+)\.v([0-9]{1,4})\+json", kind)
    return (found[1], int(found[2])) if found else (kind, 0)


def _pre_authentication_encoding(kind: str, content: bytes) -> bytes:
    """DSSE's PAE: the type is signed with the content, lengths first, so that neither can be shifted."""
    return b"DSSEv1 %d %s %d %s" % (len(kind.encode()), kind.encode(), len(content), content)


def _verifies(key: str, signature: str, signed: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(_decode(signature), signed)
    except (InvalidSignature, MalformedMessage, ValueError):
        return False
    return True


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedMessage("not base64") from None
