"""The JSON messages of the wire: one source for the site's client, the server and its OpenAPI document.

Every model is closed (an unknown field is an error), typed and bounded; `parse` is the only way in for bytes
that came over the network: it refuses duplicate keys, NaN and infinity, deep nesting and oversize before
pydantic sees anything. Protocol: `/v1`; enrolment is EST (RFC 7030) and lives in `wire.enrolment`.
"""

import json
import math
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

PROTOCOL_VERSIONS = (1,)
MAX_MESSAGE_BYTES = 1 << 20
MAX_DEPTH = 16
MAX_AGREEMENT = 200_000

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RoundNumber = Annotated[int, Field(ge=1, le=1_000_000)]
Message = TypeVar("Message", bound="Closed")

# A string, whether it ends or not, or a bracket. Possessive and never failing once begun: linear in any input.
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
_UNPRINTABLE = re.compile(r"[^\w.-]", re.ASCII)

RefusalReason = Literal["policy", "budget", "window", "technical"]
RoundStatus = Literal["open", "closing", "aggregated", "failed"]


class MalformedMessage(ValueError):
    """Bytes that are no valid message; the text says which rule they break, never their content."""


class Closed(BaseModel):
    """A message: immutable, without room for unknown fields, without silent conversions.

    A field of a later version is left out at its default (`exclude_if`): who does not know it reads the message too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, ser_json_inf_nan="null")

    def to_bytes(self) -> bytes:
        """The message as JSON, one spelling for one content (fields in order, no spaces)."""
        return self.model_dump_json().encode()


def parse(kind: type[Message], content: bytes, limit: int = MAX_MESSAGE_BYTES) -> Message:
    """Reads a message of the given kind; raises MalformedMessage on anything that is not exactly one."""
    if len(content) > limit:
        raise MalformedMessage(f"{kind.__name__} is larger than {limit} bytes")
    check_json(content)
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        # A field's name is the sender's: it goes to terminals and logs.
        place = _UNPRINTABLE.sub("?", ".".join(str(part) for part in first["loc"]))[:100] or "the message"
        wrong = f"{place} is missing" if first["type"] == "missing" else f"{place}: {first['msg']}"
        raise MalformedMessage(f"{kind.__name__}: {wrong}") from None


def check_json(content: bytes) -> None:
    """Refuses what parsers read differently from each other: duplicate keys, NaN, infinity, deep nesting."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise MalformedMessage("a key appears twice")
        return found

    def constant(word: str) -> None:
        raise MalformedMessage(f"{word} is no JSON number")

    def finite(number: str) -> float:
        value = float(number)
        if not math.isfinite(value):
            raise MalformedMessage("a number is too large")
        return value

    if _is_nested_too_deeply(content):
        raise MalformedMessage(f"nested deeper than {MAX_DEPTH}")
    try:
        json.loads(content, object_pairs_hook=unique, parse_constant=constant, parse_float=finite)
    except MalformedMessage:
        raise
    except (ValueError, RecursionError):
        raise MalformedMessage("not JSON") from None


def _is_nested_too_deeply(content: bytes) -> bool:
    """Whether brackets nest too deep outside strings (counted before parsing: a parser may recurse)."""
    depth = 0
    for found in _STRING_OR_BRACKET.finditer(content):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(found[0], 0)
        if depth > MAX_DEPTH:
            return True
    return False


class PublicKey(Closed):
    """An Ed25519 public key (RFC 8032) as 64 hexadecimal digits; `id` is the first 16 of its SHA-256."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    ed25519: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Signature(Closed):
    """One signature of a DSSE envelope (base64)."""

    keyid: str
    sig: Annotated[str, Field(max_length=128)]


class Envelope(Closed):
    """A DSSE envelope (Dead Simple Signing Envelope, v1.0): the signed bytes, their type, the signatures."""

    payload: Annotated[str, Field(max_length=MAX_MESSAGE_BYTES)]
    payloadType: Annotated[str, Field(max_length=100)]  # noqa: N815 - DSSE's own spelling
    signatures: Annotated[list[Signature], Field(min_length=1, max_length=16)]


class FederationInfo(Closed):
    """`GET /v1/federation`, the one answer that needs no certificate."""

    protocol_versions: list[int]


class Trust(Closed):
    """`GET /v1/trust`: what an enrolled site pins. The agreement's text comes with its digest, and its end if any."""

    federation: Name
    site: Name
    plan_keys: Annotated[list[PublicKey], Field(min_length=1, max_length=16)]
    plan_threshold: Annotated[int, Field(ge=1, le=16)]
    agreement: Annotated[str, Field(max_length=MAX_AGREEMENT)]
    agreement_sha256: Sha256
    agreement_expires: Annotated[AwareDatetime | None, Field(exclude_if=lambda instant: instant is None)] = None

    @model_validator(mode="after")
    def _threshold_in_reach(self) -> "Trust":
        if self.plan_threshold > len({key.ed25519 for key in self.plan_keys}):
            raise ValueError("plan_threshold: more signatures than there are different keys")
        return self


class Ticket(Closed):
    """One round of a plan, signed by the round key; tickets form a chain by the digest of the one before.

    `control_sha256` names SCAFFOLD's control of the server, a file in the model's form; without it the control is zero.
    """

    federation: Name
    plan_sha256: Sha256
    round: RoundNumber
    previous_ticket: Sha256 | None
    model_sha256: Sha256
    model_bytes: Annotated[int, Field(gt=0, le=1 << 40)]
    control_sha256: Annotated[Sha256 | None, Field(exclude_if=lambda digest: digest is None)] = None
    opened: AwareDatetime
    expires: AwareDatetime


class ParticipationRequest(Closed):
    """`POST /v1/participation`: a site asks whether something is due and names its last ledger sequence."""

    protocol: Annotated[int, Field(json_schema_extra={"enum": [*PROTOCOL_VERSIONS]})]
    ledger_sequence: Annotated[int, Field(ge=0, lt=1 << 53)]


class Participation(Closed):
    """The answer: nothing due (ask again after `retry_after` seconds), or plan and ticket; always the receipts
    of this site whose ledger sequence lies beyond the one that it named. `ledger_sequence` is the furthest one that
    any of its updates has named, also one without a receipt, where that lies beyond.
    """

    retry_after: Annotated[int, Field(ge=0, le=30 * 86_400)] | None = None
    plan: Envelope | None = None
    ticket: Envelope | None = None
    receipts: Annotated[list[Envelope], Field(max_length=1000)] = []
    ledger_sequence: Annotated[int | None, Field(ge=1, le=1 << 53, exclude_if=lambda sequence: sequence is None)] = None


class Arrival(Closed):
    """An update that a site has sent, whole or in part, and the receipt if it was accepted."""

    round: RoundNumber
    update_sha256: Sha256
    ledger_sequence: Annotated[int, Field(ge=1, le=1 << 53)]
    receipt: Envelope | None = None


class Arrivals(Closed):
    """`GET /v1/updates?after=N`: the updates of the site that asks for rounds after N, in order (at most 1000)."""

    arrivals: Annotated[list[Arrival], Field(max_length=1000)]


class Tickets(Closed):
    """`GET /v1/tickets?after=N`: the chain of tickets after round N, in order (at most 1000)."""

    tickets: Annotated[list[Envelope], Field(max_length=1000)]


class ShownTickets(Closed):
    """What one site gives another to compare: the tickets that it was shown, and the plans that they belong to."""

    federation: Name
    site: Name
    plans: Annotated[list[Envelope], Field(max_length=1000)]
    tickets: Annotated[list[Envelope], Field(max_length=1000)]


class RoundAnswer(Closed):
    """`GET /v1/rounds/N`: whether the round still stands for this site."""

    round: RoundNumber
    status: RoundStatus
    ticket_sha256: Sha256


class Result(Closed):
    """`GET /v1/results/latest`, signed by the round key: the model that an aggregated round made."""

    federation: Name
    plan_sha256: Sha256
    round: RoundNumber
    ticket_sha256: Sha256
    model_sha256: Sha256
    model_bytes: Annotated[int, Field(gt=0, le=1 << 40)]
    contributions: Annotated[int, Field(ge=1)]


class Refusal(Closed):
    """`POST /v1/rounds/N/refusal`: one of four words, never anything derived from data."""

    reason: RefusalReason


class Receipt(Closed):
    """Signed by the receipt key: this update, of this site, for this ticket, is durably here."""

    federation: Name
    site: Name
    round: RoundNumber
    plan_sha256: Sha256
    ticket_sha256: Sha256
    update_sha256: Sha256
    update_bytes: Annotated[int, Field(gt=0)]
    ledger_sequence: Annotated[int, Field(ge=1)]
    received: AwareDatetime


class Problem(Closed):
    """An error answer (RFC 9457, `application/problem+json`): `type` is a stable word, `detail` for people."""

    type: str
    title: str
    status: int
    detail: str = ""


def utc_now() -> datetime:
    """The present instant, aware, in UTC, whole seconds (what messages carry)."""
    return datetime.now(UTC).replace(microsecond=0)
