"""Bytes from the network become a message or a MalformedMessage: nothing else, and quickly."""

import json
import math
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedsite.wire import messages
from fedsite.wire.messages import (
    MAX_MESSAGE_BYTES,
    Envelope,
    MalformedMessage,
    Participation,
    ParticipationRequest,
    Receipt,
    Refusal,
    Signature,
    Ticket,
    Tickets,
    parse,
)
from fedsite.wire.plans import Plan

KEY = {"id": "0" * 16, "ed25519": "0" * 64}
PLAN: dict[str, Any] = {
    "schema": 1,
    "federation": "strokes",
    "plan": "first",
    "task": "stroke-dwi",
    "channels": ["dwi"],
    "preparation": {"input_state": "whole-head", "spacing_mm": [3.0, 3.0, 3.0]},
    "network": {"name": "unet", "settings": {"channels": [8, 16, 32]}},
    "algorithm": "fedavg",
    "local": {"steps": 8},
    "privacy": {"mechanism": "gaussian-update", "clip_norm": 1.0, "noise_multiplier": 0.5},
    "max_update_norm": 1000.0,
    "rounds": {"quorum": 2, "deadline_seconds": 600},
    "expires": "2030-01-01T00:00:00Z",
    "round_key": KEY,
    "receipt_key": KEY,
}


def changed(path: str, value: object) -> bytes:
    """The plan as JSON with one value replaced, added or (Ellipsis) removed."""
    plan = json.loads(json.dumps(PLAN))
    *parents, last = path.split(".")
    place = plan
    for parent in parents:
        place = place[parent]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(plan).encode()


def test_a_good_plan_is_read_and_written_back() -> None:
    plan = parse(Plan, json.dumps(PLAN).encode())
    assert plan.local.patch_voxels == (40, 40, 40)
    assert parse(Plan, plan.to_bytes()) == plan
    assert parse(Plan, plan.to_bytes()).to_bytes() == plan.to_bytes()


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b'{"reason":"policy","reason":"budget"}', "a key appears twice"),
        (b'{"a":{"b":1,"b":1}}', "a key appears twice"),
        (b'{"reason":NaN}', "NaN is no JSON number"),
        (b'{"reason":Infinity}', "Infinity is no JSON number"),
        (b'{"reason":-Infinity}', "-Infinity is no JSON number"),
        (b'{"reason":1e999}', "a number is too large"),
        (b'{"reason":-1e999}', "a number is too large"),
        (b"[" * 17 + b"]" * 17, "nested deeper than 16"),
        (b'{"a":' * 100_000, "nested deeper than 16"),
        (b"[" * 900_000, "nested deeper than 16"),
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"reason":"policy"} {}', "not JSON"),
        (b'{"reason":' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"reason":"policy"', "not JSON"),
        (b"[]", "Refusal: the message"),
        (b"null", "Refusal: the message"),
        (b"{}", "Refusal: reason is missing"),
        (b'{"reason":"data"}', "Refusal: reason"),
        (b'{"reason":"policy","more":1}', "Refusal: more: Extra inputs"),
        ('{"reason":"policy"}'.encode("utf-16"), "Refusal"),
    ],
)
def test_what_is_no_message_is_named_by_its_rule(content: bytes, rule: str) -> None:
    with pytest.raises(MalformedMessage) as refused:
        parse(Refusal, content)
    assert rule in str(refused.value)


def test_brackets_in_strings_are_no_nesting() -> None:
    deep = json.dumps({"a": '[{"' * 50, "b\\": "]]\\", 'c"[[[[[[[[[[[[[[[[[[': 1}).encode()
    messages.check_json(deep)


@pytest.mark.parametrize(
    "content",
    [b'"' + b'\\"' * 500_000, b'"' * 1_000_000, b'"\\' * 500_000, b"\\" * 1_000_000, b'"' + b"[" * 1_000_000],
)
def test_hostile_strings_are_refused_in_linear_time(content: bytes) -> None:
    started = time.process_time()
    with pytest.raises(MalformedMessage):
        messages.check_json(content)
    assert time.process_time() - started < 5


def test_what_is_too_large_is_not_even_looked_at() -> None:
    with pytest.raises(MalformedMessage, match="Refusal is larger than 1048576 bytes"):
        parse(Refusal, b"\xff" * (MAX_MESSAGE_BYTES + 1))
    with pytest.raises(MalformedMessage, match="larger than 10 bytes"):
        parse(Refusal, b'{"reason":"policy"}', limit=10)


def test_a_refusal_never_repeats_what_was_sent() -> None:
    with pytest.raises(MalformedMessage) as refused:
        parse(Refusal, b'{"reason":"DOE^JANE 1957-03-12"}')
    assert "DOE" not in str(refused.value)
    assert refused.value.__cause__ is None
    with pytest.raises(MalformedMessage) as named:
        parse(Refusal, json.dumps({"reason": "policy", "\x1b[31m\n" + "x" * 10_000: 1}).encode())
    assert str(named.value).isprintable()
    assert len(str(named.value)) < 250


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("extra", 1),
        ("local.extra", 1),
        ("round_key", ...),
        ("schema", 2),
        ("schema", "1"),
        ("federation", "Strokes"),
        ("federation", "a/b"),
        ("federation", ".hidden"),
        ("federation", ""),
        ("federation", "a" * 64),
        ("federation", "a\n"),
        ("algorithm", "scaffold"),
        ("algorithm", "os.system"),
        ("channels", []),
        ("channels", "dwi"),
        ("channels", ["dwi"] * 9),
        ("preparation.input_state", "headless"),
        ("preparation.spacing_mm", [3.0, 3.0]),
        ("preparation.spacing_mm", [3.0, 3.0, 0.0]),
        ("preparation.spacing_mm", ["3", "3", "3"]),
        ("network.name", "../unet"),
        ("network.settings", {"a": "text"}),
        ("network.settings", {"a": None}),
        ("network.settings", {"a": {"b": 1}}),
        ("network.settings", {"a": [1] * 17}),
        ("network.settings", {"A b": 1}),
        ("network.settings", {f"k{number}": 1 for number in range(33)}),
        ("local.steps", -1),
        ("local.steps", 100_001),
        ("local.steps", 1.0),
        ("local.steps", "8"),
        ("local.steps", True),
        ("local.batch_size", 0),
        ("local.patch_voxels", [40, 40, 41]),
        ("local.patch_voxels", [8, 40, 40]),
        ("local.patch_voxels", [520, 40, 40]),
        ("local.patch_voxels", [40, 40]),
        ("local.patch_voxels", [40.5, 40, 40]),
        ("local.optimizer", "lbfgs"),
        ("local.learning_rate", 0.0),
        ("local.seed", 1 << 63),
        ("local.seed", -1),
        ("privacy.mechanism", "none"),
        ("privacy.clip_norm", 0.0),
        ("privacy.clip_norm", -1.0),
        ("privacy.clip_norm", 1e7),
        ("privacy.noise_multiplier", -0.1),
        ("privacy.noise_multiplier", None),
        ("privacy.sampling_rate", 0.5),
        ("privacy.steps", 2),
        ("max_update_norm", 0),
        ("weights", "counted"),
        ("maximum_weight", 0),
        ("payload", "int4"),
        ("rounds.quorum", 0),
        ("rounds.enough", 1),
        ("rounds.deadline_seconds", 0),
        ("expires", "2030-01-01T00:00:00"),
        ("expires", 1893456000),
        ("expires", "soon"),
        ("round_key.ed25519", "0" * 63),
        ("round_key.ed25519", "G" * 64),
        ("round_key.id", "0" * 64),
    ],
)
def test_a_plan_outside_its_schema_is_refused(path: str, value: object) -> None:
    with pytest.raises(MalformedMessage, match="Plan"):
        parse(Plan, changed(path, value))


@pytest.mark.parametrize("number", [0, 1_000_001, -1, 1.5, "1", True, None])
def test_a_ticket_counts_rounds_from_one(number: object) -> None:
    ticket = {
        "federation": "f",
        "plan_sha256": "0" * 64,
        "round": number,
        "previous_ticket": None,
        "model_sha256": "0" * 64,
        "model_bytes": 1,
        "opened": "2026-01-01T00:00:00Z",
        "expires": "2026-01-01T00:00:00Z",
    }
    with pytest.raises(MalformedMessage, match=r"Ticket: round"):
        parse(Ticket, json.dumps(ticket).encode())
    assert parse(Ticket, json.dumps(ticket | {"round": 1}).encode()).round == 1


def test_messages_are_immutable_and_closed_in_python_too() -> None:
    refusal = Refusal(reason="policy")
    with pytest.raises(ValidationError, match="frozen"):
        refusal.reason = "budget"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        Refusal(reason="policy", more=1)  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        ParticipationRequest(protocol=1, ledger_sequence=math.nan)  # type: ignore[arg-type]


def _largest_envelope(message: messages.Closed) -> Envelope:
    payload = messages.parse(type(message), message.to_bytes()).to_bytes()
    encoded = "A" * (4 * math.ceil(len(payload) / 3))
    kind = "application/vnd.fedsite.receipt.v1+json"
    return Envelope(payload=encoded, payloadType=kind, signatures=[Signature(keyid="0" * 16, sig="A" * 88)])


def test_the_longest_answers_fit_into_a_message() -> None:
    """A thousand tickets or receipts are what one answer may hold: a site that was away for long must get them."""
    name, sha256, instant = "n" * 63, "f" * 64, datetime(2026, 1, 1, tzinfo=UTC)
    ticket = Ticket(
        federation=name, plan_sha256=sha256, round=1_000_000, previous_ticket=sha256, model_sha256=sha256,
        model_bytes=1 << 40, opened=instant, expires=instant,
    )  # fmt: skip
    receipt = Receipt(
        federation=name, site=name, round=1_000_000, plan_sha256=sha256, ticket_sha256=sha256, update_sha256=sha256,
        update_bytes=1 << 40, ledger_sequence=1 << 52, received=instant,
    )  # fmt: skip
    assert len(Tickets(tickets=[_largest_envelope(ticket)] * 1000).to_bytes()) <= MAX_MESSAGE_BYTES
    assert len(Participation(receipts=[_largest_envelope(receipt)] * 1000).to_bytes()) <= MAX_MESSAGE_BYTES


# --- anything at all ------------------------------------------------------------------------------------------------

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(content=st.binary(max_size=200) | st.text(alphabet='{}[]":,\\0e9-.trufalsn\x00é', max_size=80).map(str.encode))
def test_any_bytes_are_a_message_or_malformed(content: bytes) -> None:
    for kind in (Plan, Envelope, Participation):
        try:
            parse(kind, content)
        except MalformedMessage as error:
            assert str(error).isprintable()  # noqa: PT017 - either ending is right, this one has a form


@settings(max_examples=300, deadline=None)
@given(
    path=st.sampled_from([*PLAN, "local.steps", "privacy.clip_norm", "network.settings", "rounds.quorum"]),
    value=_json,
)
def test_any_json_in_a_plan_is_valid_or_malformed(path: str, value: object) -> None:
    try:
        plan = parse(Plan, changed(path, value))
    except MalformedMessage:
        return
    assert parse(Plan, plan.to_bytes()) == plan


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, 600), insert=st.binary(max_size=4))
def test_a_damaged_plan_is_valid_or_malformed(cut: int, insert: bytes) -> None:
    content = json.dumps(PLAN).encode()
    try:
        parse(Plan, content[:cut] + insert + content[cut + len(insert) :])
    except MalformedMessage:
        return
