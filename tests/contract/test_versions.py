"""This version's server and the sites of released ones, this version's site and their servers, and their records.

Each folder beside this file is what a release has said and kept (scripts/record_messages). `today` is this version's
own recording, made anew: it says that the recorder works, and that this version would be held to what it says now.
"""

import base64
import copy
import json
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import record_messages
from cryptography import x509
from support import conversation, old_records
from support.conversation import Conversation, Said, to_bytes

from fedsite.errors import FedsiteError, RecordsDamaged, ServerBrokeProtocol, TryAgainLater
from fedsite.jobs.plan import verification
from fedsite.privacy.ledger import Ledger, Spent
from fedsite.site import migrations
from fedsite.site.identity import Pinned
from fedsite.site.state import NotOurs, State
from fedsite.wire import enrolment, signing
from fedsite.wire.client import FederationClient
from fedsite.wire.messages import Result
from fedsite.wire.payload import tensors_of

RELEASES = sorted(Path(__file__).parent.glob("v*"))
LATER_FIELDS = {
    # An older site refuses it (76) where a newer one says 74: either way nothing leaves.
    "POST /v1/participation": {"ledger_sequence"},
}
"""What a release does not know and may be told all the same, since it must stop then."""
PASSING = {"last-modified", "content-length", "date"}
LATER_ROUTES = {"v0.1.0": ["GET /v1/updates?after=0"]}
"""What this version's site asks and the server of a release does not know: it is answered 404, and goes without."""


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("today") / "recording"
    record_messages.record(folder)
    return folder


@pytest.fixture(params=["today", *(path.name for path in RELEASES)])
def release(request: pytest.FixtureRequest, today: Path) -> Path:
    return today if request.param == "today" else Path(__file__).parent / request.param


@pytest.fixture
def recorded(release: Path) -> Conversation:
    return Conversation.load(release / "messages.json")


@pytest.fixture
def oldest() -> Conversation:
    return Conversation.load(RELEASES[0] / "messages.json")


def test_there_is_a_release_to_be_held_to() -> None:
    assert RELEASES
    assert sum(path.stat().st_size for folder in RELEASES for path in folder.iterdir()) < 100_000 * len(RELEASES)


# --- this version's server, and the site of a release ---------------------------------------------------------------


def test_this_server_answers_the_site_of_a_release(recorded: Conversation, tmp_path: Path) -> None:
    """Byte for byte what it said; the answers hold what its own server's held, and nothing that it does not know."""
    count = 0
    for one, answer in conversation.replay(tmp_path, recorded):
        line, was = one["request"]["line"], one["answer"]
        assert answer["status"] == was["status"], line
        assert without(answer["headers"], PASSING) == without(was["headers"], PASSING), line
        if "/est/" in line:
            assert names_of(answer) == names_of(was), line
        elif answer["body"] != was["body"]:
            assert meaning(answer, LATER_FIELDS.get(line, set())) == meaning(was), line
        count += 1
    assert count > 20


def without(headers: Said, names: set[str]) -> Said:
    return {name: value for name, value in headers.items() if name not in names}


def names_of(answer: Said) -> list[tuple[str, bool]]:
    """Whose certificates these are; their bytes are others each time."""
    found = enrolment.decode_certificates(to_bytes(answer["body"]))
    return [(one.subject.rfc4514_string(), bool(one.extensions)) for one in found]


def meaning(answer: Said, but: Collection[str] = ()) -> Any:
    """What an answer says, without what changes with each byte (digests, signatures) or is for people (a title)."""
    content = json.loads(to_bytes(answer["body"]))
    return _meaning({name: value for name, value in content.items() if name not in but})


def _meaning(content: Any) -> Any:
    if isinstance(content, list):
        return [_meaning(one) for one in content]
    if not isinstance(content, dict):
        return content
    if "payloadType" in content:
        keys = [one["keyid"] for one in content["signatures"]]
        return content["payloadType"], keys, _meaning(json.loads(base64.b64decode(content["payload"])))
    changing = {name for name in content if name.endswith("_sha256") or name in ("title", "previous_ticket")}
    return {name: None if name in changing else _meaning(value) for name, value in content.items()}


def questions(oldest: Conversation, line: str, message: Said) -> Conversation:
    """Of an older site no more than its enrolment, and one question with another message."""
    enrolled = [one for one in oldest.exchanges if "/est/simpleenroll" in one["request"]["line"]]
    asked = copy.deepcopy(next(one for one in oldest.exchanges if one["request"]["line"] == line))
    asked["request"]["body"] = {"text": json.dumps(json.loads(to_bytes(asked["request"]["body"])) | message)}
    return replace(oldest, said=[*enrolled, asked])


@pytest.mark.parametrize(
    ("line", "message", "kind", "said"),
    [
        ("POST /v1/participation", {"from_the_future": 1}, "malformed", "from_the_future"),
        ("POST /v1/rounds/2/refusal", {"from_the_future": 1}, "malformed", "from_the_future"),
        ("POST /v1/participation", {"protocol": 99}, "protocol-version", "the server must be upgraded"),
        ("POST /v1/participation", {"protocol": 0}, "protocol-version", "the site must be upgraded"),
    ],
)
def test_what_this_server_does_not_know_is_refused(
    oldest: Conversation, tmp_path: Path, line: str, message: Said, kind: str, said: str
) -> None:
    """As protocol.md has it: a message is closed; what a later version adds, it adds where that was agreed on."""
    [_, (_, answer)] = conversation.replay(tmp_path, questions(oldest, line, message))
    problem = json.loads(to_bytes(answer["body"]))
    assert (answer["status"], problem["type"]) == (400, kind)
    assert said in problem["title"]


# --- this version's site, and the server of a release ---------------------------------------------------------------


def test_this_site_understands_the_server_of_a_release(release: Path, recorded: Conversation, tmp_path: Path) -> None:
    shapes = {name: tuple(shape) for name, shape in recorded.given["shapes"].items()}
    with conversation.answering(recorded, tmp_path) as (site, missed):
        heard = conversation.talk(site, tmp_path, shapes, lambda does: None)
    trust, offered, ticket = heard["trust"], heard["offered"], heard["ticket"]
    keys = tuple(key.ed25519 for key in trust.plan_keys)
    pinned = Pinned("", trust.site, trust.federation, keys, trust.plan_threshold, trust.agreement_sha256)
    offer = verification.verify_offer(pinned, offered.plan, offered.ticket, now=None)
    assert (offer.plan.plan, offer.ticket.round, heard["stands"].status) == ("test-plan", 1, "open")
    assert heard["stands"].ticket_sha256 == offer.ticket_sha256
    assert heard["tickets"].tickets == [offered.ticket]
    assert tensors_of(tmp_path / "fetched.safetensors").keys() == shapes.keys()
    update = conversation.sha256_of(tmp_path / "update")
    for receipt in (heard["receipt"], heard["again"], *heard["rolled back"].receipts):
        verification.verify_receipt(receipt, offer, "site-a", update, 4)
    result = signing.open_envelope(heard["result"], Result, signing.RESULT, [offer.plan.round_key])
    assert (result.round, result.contributions, result.model_bytes) == (1, 1, ticket.model_bytes)
    assert heard["idle"].retry_after
    assert heard["no result"] is None
    errors = [type(heard[name]) for name in ("another update", "closed", "no such round")]
    assert errors == [RecordsDamaged, TryAgainLater, TryAgainLater]
    assert isinstance(heard["version"], ServerBrokeProtocol)
    assert missed == LATER_ROUTES.get(release.name, [])
    assert (heard["sent"] is None) is bool(missed)


def test_this_site_takes_the_certificates_of_a_release(recorded: Conversation) -> None:
    authority = enrolment.decode_certificates(to_bytes(recorded.answer("GET /.well-known/est/cacerts")["body"]))
    for route in ("simpleenroll", "simplereenroll"):
        line = f"POST /.well-known/est/{route}"
        asked = next(one["request"] for one in recorded.exchanges if one["request"]["line"] == line)
        key = x509.load_der_x509_csr(base64.b64decode(to_bytes(asked["body"]))).public_key()
        given = enrolment.decode_certificates(to_bytes(recorded.answer(line)["body"]))
        shown = enrolment.own_chain([*given, *authority], key, enrolment.to_pem(authority))
        assert x509.load_pem_x509_certificates(shown)[0].public_key() == key


ASKED: dict[str, Callable[[FederationClient], object]] = {
    "GET /v1/trust": lambda site: site.trust(),
    "POST /v1/participation": lambda site: conversation.participate(site, 0),
    "GET /v1/tickets?after=0": lambda site: site.tickets(0),
    "GET /v1/rounds/1": lambda site: site.round_answer(1),
    "GET /v1/results/latest": lambda site: site.result(),
}


@pytest.fixture
def changed(oldest: Conversation, tmp_path: Path) -> Callable[..., FedsiteError]:
    """What this version's site says of a recorded server whose answers were changed."""

    def told(line: str, **answers: bytes) -> FedsiteError:
        said = copy.deepcopy(oldest)
        names = {"federation": "GET /v1/federation", "asked": line}
        for one in said.exchanges:
            for name, body in answers.items():
                if one["request"]["line"] == names[name]:
                    one["answer"] |= {"status": 404 if b"not-found" in body else 200, "body": {"text": body.decode()}}
        with conversation.answering(said, tmp_path) as (site, _):
            return conversation.refused(lambda: ASKED[line](site))

    return told


@pytest.mark.parametrize("line", ASKED)
def test_a_field_that_this_site_does_not_know_is_refused(
    oldest: Conversation, changed: Callable[..., FedsiteError], line: str
) -> None:
    known = [
        one["answer"] for one in oldest.exchanges if one["request"]["line"] == line and one["answer"]["status"] == 200
    ]
    message = json.loads(to_bytes(known[0]["body"]))
    error = changed(line, asked=json.dumps(message | {"from_the_future": 1}).encode())
    assert isinstance(error, ServerBrokeProtocol)
    assert "from_the_future" in error.message


@pytest.mark.parametrize(
    ("speaks", "side"),
    [("[2]", "This site must be upgraded"), ("[2, 3]", "This site must"), ("[0]", "The server must be upgraded"),
     ("[]", "The server must be"), ("[1, 2]", "Tell the coordinator")],
)  # fmt: skip
def test_this_site_names_the_side_that_is_too_old(changed: Callable[..., FedsiteError], speaks: str, side: str) -> None:
    """The server of another protocol has none of this one's routes; which it speaks it tells anybody."""
    gone = to_bytes(conversation.NOT_FOUND["body"])
    error = changed("GET /v1/trust", asked=gone, federation=b'{"protocol_versions":%s}' % speaks.encode())
    assert error.exit_code == 76
    assert error.mend.startswith(side)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (signing.PLAN.replace("v1", "v2"), "of form 2, this fedsite reads form 1: this fedsite must be upgraded"),
        (signing.PLAN.replace("v1", "v0"), "of form 0, this fedsite reads form 1: its signer's fedsite must be"),
        (signing.TICKET, "does not hold application/vnd.fedsite.plan.v1"),
        ("application/json", "does not hold application/vnd.fedsite.plan.v1"),
    ],
)
def test_a_plan_of_another_form_is_refused_by_its_number(oldest: Conversation, kind: str, said: str) -> None:
    offers = [one["answer"] for one in oldest.exchanges if one["request"]["line"] == "POST /v1/participation"]
    [offer] = [found for found in (json.loads(to_bytes(one["body"])) for one in offers) if found.get("plan")]
    plan, ticket = (signing.Envelope.model_validate(offer[name]) for name in ("plan", "ticket"))
    pinned = Pinned("", "site-a", "test-federation", ("0" * 64,), 1, "")
    with pytest.raises(ServerBrokeProtocol) as refused:
        verification.open_offer(pinned, plan.model_copy(update={"payloadType": kind}), ticket)
    assert said in refused.value.message


# --- what a site of a release keeps ---------------------------------------------------------------------------------


def test_the_records_of_a_release_are_brought_up_to_date(release: Path, tmp_path: Path) -> None:
    folder = old_records.restored(release, tmp_path / "state")
    with State.open(folder) as state:
        ledger, upgraded = Ledger(state), state.newest("records upgraded")
        assert state.verify()["ledger"] == 6
        assert ledger.terms == old_records.TERMS
        spent = ledger.spent()
        assert (spent.releases, spent.epsilon) == (2, spent.epsilon_noised)
        assert spent.epsilon_noised == pytest.approx(3.8954566664972363, rel=1e-6)
        assert ledger.reserve(old_records.charge(2)).body["after"] == vars(spent), "paid for by the version before"
        assert Spent(**ledger.reserve(old_records.charge(3)).body["after"]).releases == 3
        assert [record.state for record in state.rounds("test-federation")] == ["released", "released"]
        assert state.evaluations() == {"f" * 64: {"mean_dice": 0.5}}
    assert (upgraded is None) is (
        f"PRAGMA user_version = {migrations.VERSION};" in (release / "records.sql").read_text()
    )


@pytest.mark.parametrize("body", [{"kind": "merged", "rounds": [1]}, {"kind": "reserved", "after": {"gross": 1.0}}, {}])
def test_a_ledger_that_is_not_understood_prices_nothing(today: Path, tmp_path: Path, body: dict[str, Any]) -> None:
    """A newer fedsite may know another kind of charge: to pass over it would be to promise too much."""
    with State.open(old_records.restored(today, tmp_path / "state")) as state:
        ledger = Ledger(state)
        state.append("ledger", {"kind": None} | body)
        for act in (
            ledger.spent,
            lambda: ledger.price(old_records.charge(3)),
            lambda: ledger.reserve(old_records.charge(3)),
            lambda: ledger.released(next(ledger.records())),
        ):
            with pytest.raises(NotOurs, match="Record 7 of the ledger is of a kind that this fedsite does not") as told:
                act()
        assert "install that one again" in told.value.mend
        assert told.value.exit_code == 74
