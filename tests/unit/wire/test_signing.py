"""DSSE envelopes: what is signed is what is read, by as many keys as it takes."""

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsite.wire import signing
from fedsite.wire.messages import Envelope, MalformedMessage, Refusal, RoundAnswer, Signature
from fedsite.wire.signing import PLAN, TICKET, open_envelope, public_key, sign

KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(1, 5)]
PUBLIC = [public_key(key) for key in KEYS]
MESSAGE = Refusal(reason="policy").to_bytes()


def test_pre_authentication_encoding_is_dsses() -> None:
    """The test vector of the DSSE specification (protocol.md): type and body of its `hello world` example."""
    encoded = signing._pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert signing._pre_authentication_encoding("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "


def test_a_signature_is_ed25519_over_that_encoding() -> None:
    """RFC 8032, 7.1, test 1 gives the key; the signature must verify with nothing of ours."""
    secret = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    key = Ed25519PrivateKey.from_private_bytes(secret)
    public = public_key(key)
    assert public.ed25519 == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert public.id == hashlib.sha256(bytes.fromhex(public.ed25519)).hexdigest()[:16]
    envelope = sign(MESSAGE, PLAN, [key])
    kind = PLAN.encode()
    signed = b"DSSEv1 " + str(len(kind)).encode() + b" " + kind + b" " + str(len(MESSAGE)).encode() + b" " + MESSAGE
    key.public_key().verify(base64.b64decode(envelope.signatures[0].sig), signed)
    assert base64.b64decode(envelope.payload) == MESSAGE
    assert envelope.signatures[0].keyid == public.id


def test_a_good_envelope_opens() -> None:
    envelope = sign(MESSAGE, PLAN, KEYS[:1])
    assert open_envelope(envelope, Refusal, PLAN, PUBLIC[:1]).reason == "policy"
    assert signing.digest(envelope) == hashlib.sha256(MESSAGE).hexdigest()


@pytest.mark.parametrize(
    ("signers", "pinned", "threshold", "opens"),
    [
        ([0], [0], 1, True),
        ([0], [1], 1, False),
        ([0], [], 1, False),
        ([0, 1], [0, 1, 2], 2, True),
        ([0], [0, 1, 2], 2, False),
        ([0, 0, 0], [0, 1, 2], 2, False),
        ([0, 3], [0, 1, 2], 2, False),
        ([0, 1, 3], [0, 1, 2], 2, True),
        ([0], [0, 0], 2, False),
        ([0, 0], [0, 0], 2, False),
        ([0, 1], [0, 1], 3, False),
        ([0], [0], 0, False),
        ([0], [0], -1, False),
    ],
)
def test_so_many_distinct_pinned_keys_must_sign(
    signers: list[int], pinned: list[int], threshold: int, opens: bool
) -> None:
    envelope = sign(MESSAGE, PLAN, [KEYS[number] for number in signers])
    keys = [PUBLIC[number] for number in pinned]
    if opens:
        open_envelope(envelope, Refusal, PLAN, keys, threshold)
    else:
        with pytest.raises(MalformedMessage, match="needed signatures are good"):
            open_envelope(envelope, Refusal, PLAN, keys, threshold)


def test_a_key_under_many_names_is_one_key() -> None:
    """Whoever holds one key may sign twice and call it two: the names in an envelope prove nothing."""
    once = sign(MESSAGE, PLAN, KEYS[:1]).signatures[0]
    named = [once, Signature(keyid=PUBLIC[1].id, sig=once.sig), Signature(keyid="", sig=once.sig)]
    envelope = Envelope(payload=base64.b64encode(MESSAGE).decode(), payloadType=PLAN, signatures=named)
    aliases = [PUBLIC[0], PUBLIC[0].model_copy(update={"id": "f" * 16}), PUBLIC[1]]
    with pytest.raises(MalformedMessage, match="1 of 2"):
        open_envelope(envelope, Refusal, PLAN, aliases, 2)
    # And a wrong name harms nobody: the key decides.
    assert open_envelope(envelope, Refusal, PLAN, PUBLIC[:1]).reason == "policy"


def test_the_type_is_signed_too() -> None:
    envelope = sign(MESSAGE, PLAN, KEYS[:1])
    with pytest.raises(MalformedMessage, match="does not hold"):
        open_envelope(envelope, Refusal, TICKET, PUBLIC[:1])
    relabelled = envelope.model_copy(update={"payloadType": TICKET})
    with pytest.raises(MalformedMessage, match="0 of 1"):
        open_envelope(relabelled, Refusal, TICKET, PUBLIC[:1])


def test_a_hostile_type_is_not_repeated() -> None:
    envelope = sign(MESSAGE, PLAN, KEYS[:1]).model_copy(update={"payloadType": "\x1b[31mDOE^JANE"})
    with pytest.raises(MalformedMessage) as refused:
        open_envelope(envelope, Refusal, PLAN, PUBLIC[:1])
    assert "DOE" not in str(refused.value)


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, len(MESSAGE) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_payload_is_found(place: int, bit: int) -> None:
    tampered = bytearray(MESSAGE)
    tampered[place] ^= 1 << bit
    envelope = sign(MESSAGE, PLAN, KEYS[:1]).model_copy(update={"payload": base64.b64encode(tampered).decode()})
    with pytest.raises(MalformedMessage, match="0 of 1"):
        open_envelope(envelope, Refusal, PLAN, PUBLIC[:1])


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 63), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_signature_is_found(place: int, bit: int) -> None:
    envelope = sign(MESSAGE, PLAN, KEYS[:1])
    tampered = bytearray(base64.b64decode(envelope.signatures[0].sig))
    tampered[place] ^= 1 << bit
    bad = Signature(keyid=PUBLIC[0].id, sig=base64.b64encode(tampered).decode())
    with pytest.raises(MalformedMessage, match="0 of 1"):
        open_envelope(envelope.model_copy(update={"signatures": [bad]}), Refusal, PLAN, PUBLIC[:1])


@pytest.mark.parametrize("garbage", ["", "====", "not base64!", "AAAA", "é", "A" * 88, "QUJD\n"])
def test_garbage_is_malformed(garbage: str) -> None:
    envelope = sign(MESSAGE, PLAN, KEYS[:1])
    with pytest.raises(MalformedMessage):
        open_envelope(
            envelope.model_copy(update={"signatures": [Signature(keyid="", sig=garbage)]}), Refusal, PLAN, PUBLIC[:1]
        )
    with pytest.raises(MalformedMessage):
        open_envelope(envelope.model_copy(update={"payload": garbage}), Refusal, PLAN, PUBLIC[:1])


def test_signed_bytes_that_are_no_such_message_are_malformed() -> None:
    """A signature says who, not what: the schema is asked all the same."""
    for content in (b"{}", b"", b'{"reason":"policy","reason":"policy"}', b"[" * 5000):
        with pytest.raises(MalformedMessage):
            open_envelope(sign(content, PLAN, KEYS[:1]), Refusal, PLAN, PUBLIC[:1])
    with pytest.raises(MalformedMessage):
        open_envelope(sign(MESSAGE, PLAN, KEYS[:1]), RoundAnswer, PLAN, PUBLIC[:1])
