"""Signed checkpoints: this site's word, under a key of its own, on how far its records go.

The key signs nothing else. It is made with the records and outlives every certificate; `fedsite identity show` tells
its public half, which whoever verifies an export compares by another way than the export came.
"""

import base64
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import AwareDatetime, Field

from fedsite.site import identity
from fedsite.site.chain import Anchor, Chain, Head, canonical_json
from fedsite.site.identity import IdentityFiles
from fedsite.site.secrets import create_secret
from fedsite.site.state import State
from fedsite.wire import signing
from fedsite.wire.messages import Closed, Envelope, MalformedMessage, Name, Sha256, Signature, parse, utc_now

KIND = "application/vnd.fedsite.audit-checkpoint.v1+json"
SEED = "audit.key"
NEW_KEY = "audit key"


class End(Closed):
    """Where a chain ends: how many records it has, and the hash of the last."""

    records: Annotated[int, Field(ge=0, le=1 << 53)]
    head: Sha256


class Checkpoint(Closed):
    """Signed by the site's audit key (64 hexadecimal digits): its records ended so, at that time."""

    site: Name | None
    federation: Name | None
    exported: AwareDatetime
    ledger: End
    audit: End
    key: Sha256

    def anchor(self, witness: str) -> Anchor:
        """What it says of the two chains."""
        ends: dict[Chain, End] = {"ledger": self.ledger, "audit": self.audit}
        return Anchor(witness, {chain: Head(end.records, end.head) for chain, end in ends.items()})


def public_key(state: State) -> str:
    """The public half of the site's audit key, 64 hexadecimal digits; the key is made where there is none."""
    return signing.public_key(_key(state)).ed25519


def sign(state: State) -> Envelope:
    """A checkpoint of the records as they are."""
    files, key, ends = IdentityFiles(state.folder / "identity"), _key(state), state.heads()
    pinned = identity.pinned(files) if files.federation.is_file() else None
    checkpoint = Checkpoint(
        site=pinned.site if pinned else None,
        federation=pinned.federation if pinned else None,
        exported=utc_now(),
        ledger=End(records=ends["ledger"].sequence, head=ends["ledger"].hash),
        audit=End(records=ends["audit"].sequence, head=ends["audit"].hash),
        key=signing.public_key(key).ed25519,
    )
    return signing.sign(checkpoint.to_bytes(), KIND, [key])


def to_text(envelope: Envelope) -> str:
    """An envelope as one line of JSON."""
    return canonical_json(envelope.model_dump())


def read(text: str) -> Checkpoint:
    """The checkpoint of a line that `to_text` has written, once its signature by the key that it names holds.

    Raises MalformedMessage, also where the line says the same in other bytes.
    """
    envelope = parse(Envelope, text.encode())
    named = signing.pinned_key(signing.unverified(envelope, Checkpoint).key)
    checkpoint = signing.open_envelope(envelope, Checkpoint, KIND, [named])
    respelled = Envelope(
        payload=_respelled(envelope.payload),
        payloadType=KIND,
        signatures=[Signature(keyid=named.id, sig=_respelled(envelope.signatures[0].sig))],
    )
    if to_text(respelled) != text:
        raise MalformedMessage("the checkpoint is spelled in another way than fedsite spells it")
    return checkpoint


def _respelled(text: str) -> str:
    return base64.b64encode(base64.b64decode(text)).decode()


def _key(state: State) -> Ed25519PrivateKey:
    """The key, written down in the audit when it is new to it."""
    secret = create_secret(state.folder / "identity" / SEED)
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret.decode()))
    public, known = signing.public_key(key).ed25519, state.newest(NEW_KEY)
    if known is None or known.body["key"] != public:
        state.audit(NEW_KEY, key=public)
    return key
