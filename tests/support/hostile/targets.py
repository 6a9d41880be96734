"""What is fuzzed on the wire and in files: how hostile bytes are made, and how it is judged what becomes of them.

A judge lets the promised error pass and nothing else: any other exception is a find. What is accepted must be what
was said, so it is held against what it is written back as.
"""

import json
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import strategies as st
from support.federation import plan
from support.hostile.documents import bytes_like, json_like, yaml_like

from fedsite.errors import ConfigurationError, UsageError
from fedsite.server.authority.authority import Authority
from fedsite.server.members import enrolment as admissions
from fedsite.server.problems import Refused
from fedsite.site.config import SiteConfig, load
from fedsite.wire import payload, signing
from fedsite.wire.enrolment import (
    Invitation,
    decode_certificates,
    encode_certificates,
    new_key,
    new_secret,
    signing_request,
)
from fedsite.wire.messages import (
    Closed,
    Envelope,
    MalformedMessage,
    Participation,
    ParticipationRequest,
    Trust,
    parse,
    utc_now,
)
from fedsite.wire.payload import Layout, Tensor
from fedsite.wire.plans import Plan, read_draft

PLAN_KEY, ROUND_KEY = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2))


@dataclass(frozen=True)
class Target:
    """`judge` is given the bytes and tells whether they were accepted; it raises whatever is wrong with that."""

    hostile: st.SearchStrategy[bytes]
    judge: Callable[[bytes], bool]


def _message(kind: type[Closed]) -> Callable[[bytes], bool]:
    def judge(content: bytes) -> bool:
        try:
            found = parse(kind, content)
        except MalformedMessage:
            return False
        assert parse(kind, found.to_bytes()) == found
        assert all(math.isfinite(number) for number in _numbers(found.model_dump()))
        return True

    return judge


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _numbers(inner)


def _envelope(content: bytes) -> bool:
    """Whatever has been done to an envelope: what it opens to is what was signed."""
    try:
        envelope = parse(Envelope, content)
        opened = signing.open_envelope(envelope, Plan, signing.PLAN, [signing.public_key(PLAN_KEY)])
    except MalformedMessage:
        return False
    assert opened == parse(Plan, _signed_plan())
    return True


def _header(content: bytes) -> bool:
    """A file is in our form to the byte, or malformed; and no update unless it has the model's header."""
    path = _scratch() / "update"
    path.write_bytes(content)
    try:
        layout = payload.layout_of(path)
    except MalformedMessage:
        layout = None
    else:
        assert content.startswith(layout.header)
        assert len(content) == layout.file_bytes
        assert sum(values.size for values in payload.tensors_of(path).values()) == layout.values
    try:
        payload.check_file(path, LAYOUT)
    except MalformedMessage:
        assert layout != LAYOUT
        return False
    assert layout == LAYOUT
    return True


def _configuration(content: bytes) -> bool:
    path = _scratch() / "site.yaml"
    path.write_bytes(content)
    path.chmod(0o600)
    try:
        found = load(path, {})
    except ConfigurationError:
        return False
    assert isinstance(found, SiteConfig)
    assert all(math.isfinite(number) for number in _numbers(found.model_dump()))
    return True


def _draft(content: bytes) -> bool:
    path = _scratch() / "plan.yaml"
    path.write_bytes(content)
    try:
        found = read_draft(path)
    except ConfigurationError:
        return False
    assert parse(type(found), found.to_bytes()) == found
    return True


def _certificates(content: bytes) -> bool:
    try:
        found = decode_certificates(content)
    except MalformedMessage:
        return False
    assert decode_certificates(encode_certificates(found)) == found
    return True


def _signing_request(content: bytes) -> bool:
    try:
        admissions._requested_key(content)
    except Refused:
        return False
    return True


def _invitation(content: bytes) -> bool:
    try:
        found = Invitation.decode(content.decode("utf-8", "replace"))
    except UsageError:
        return False
    assert Invitation.decode(found.encode()) == found
    return True


def _signed_plan() -> bytes:
    keys = {name: signing.public_key(ROUND_KEY).model_dump() for name in ("round_key", "receipt_key")}
    return json.dumps(plan(expires="2026-12-31T00:00:00Z") | keys).encode()


@cache
def _scratch() -> Path:
    """A folder of this process."""
    folder = tempfile.TemporaryDirectory(prefix="fedsite-hostile-")
    _KEPT.append(folder)
    return Path(folder.name)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []
LAYOUT = Layout((Tensor("a", (2, 3)), Tensor("b", ())))
_SMALL = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "F32", "shape": [], "data_offsets": [24, 28]},
}
_ENVELOPE = signing.sign(_signed_plan(), signing.PLAN, [PLAN_KEY])
_TRUST = {
    "federation": "strokes",
    "site": "north",
    "plan_keys": [signing.public_key(PLAN_KEY).model_dump()],
    "plan_threshold": 1,
    "agreement": "Be kind.",
    "agreement_sha256": "0" * 64,
}
_SITE = yaml.safe_load((Path(__file__).parents[3] / "sample_configs" / "site.yaml").read_text())


def _file(header: bytes) -> bytes:
    """An update with a header that was tampered with; its length is told truly or not."""
    text = header + b" " * (-len(header) % 8)
    return len(text).to_bytes(8, "little") + text + bytes(28)


def targets() -> dict[str, Target]:
    """All of them, by name."""
    headers = json_like(_SMALL)
    compact = json.dumps(_SMALL, separators=(",", ":")).encode()
    certificates = encode_certificates(list(Authority.create("strokes", utc_now()).chain))
    request = signing_request(new_key(), "north").public_bytes(Encoding.DER)
    invitation = Invitation("https://server:8443", "north", new_secret(), "0" * 64).encode().encode()
    participation = {"plan": _ENVELOPE.model_dump(), "ticket": _ENVELOPE.model_dump(), "receipts": [], "retry_after": 5}
    return {
        "plan": Target(json_like(json.loads(_signed_plan())), _message(Plan)),
        "draft": Target(yaml_like(plan(expires="2026-12-31T00:00:00Z")), _draft),
        "envelope": Target(json_like(_ENVELOPE.model_dump()), _envelope),
        "trust": Target(json_like(_TRUST), _message(Trust)),
        "participation": Target(json_like(participation), _message(Participation)),
        "question": Target(json_like({"protocol": 1, "ledger_sequence": 0}), _message(ParticipationRequest)),
        "update-header": Target(headers.map(_file) | bytes_like(_file(compact)), _header),
        "configuration": Target(yaml_like(_SITE), _configuration),
        "certificates": Target(bytes_like(certificates), _certificates),
        "signing-request": Target(bytes_like(request), _signing_request),
        "invitation": Target(bytes_like(invitation), _invitation),
    }
