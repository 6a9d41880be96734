"""`fedsite audit export --report`, for an ethics board: what left, when, under which guarantee, at what cost.

Made from the two chains alone, once they are found whole. It holds nothing that depends on a patient's data (no loss,
no Dice, no picture); so unlike the other pages it may be handed out.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from fedsite.jobs import trail
from fedsite.jobs.audit import checkpoints
from fedsite.jobs.pages import writing
from fedsite.jobs.pages.curves import HEIGHT, WIDTH, Chart, Shape, path_of
from fedsite.jobs.site import Site, open_site
from fedsite.privacy.ledger import CHARGES, Spent, Terms
from fedsite.privacy.statement import guarantee
from fedsite.site.chain import Record
from fedsite.site.identity import Pinned
from fedsite.site.state import RoundRecord, State
from fedsite.wire import signing
from fedsite.wire.messages import Envelope
from fedsite.wire.plans import Plan

RETENTION_YEARS = 6
"""As 45 CFR 164.316(b)(2)(i) asks for records of this kind; hospitals' own rules may ask for more."""

_ERRANDS = (
    (r"/v1/rounds/\d+/updates|/v1/uploads/.*", "sent an update"),
    (r"/v1/participation", "asked whether something is due"),
    (r"/v1/models/.*", "fetched a model"),
    (r"/v1/rounds/\d+/refusal", "said that it does not take part"),
    (r"/\.well-known/est/.*", "asked for a certificate"),
    (r".*", "asked for plans, tickets, receipts and names"),
)

DECISIONS = {
    "initialised": ("instead_of",),
    "enrolled": ("site", "server", "key_storage", "certificate_sha256"),
    "certificate requested": ("site", "key_storage"),
    "certificate renewed": ("certificate_sha256", "not_after"),
    "identity retired": ("site", "federation"),
    "federation pinned": ("federation", "plan_keys"),
    "agreement accepted": ("by", "sha256", "expires"),
    "plan approved": ("by", "plan", "kind"),
    "plan approval taken back": ("plan", "kind"),
    trail.POLICY: (),
    checkpoints.NEW_KEY: ("key",),
    "patient-withdrawn": (),
    "tickets compared": ("other_site", "rounds"),
    "receipt forgotten": ("round",),
    "unknown receipts": ("count",),
    "charges recovered": ("rounds",),
    "records made anew": ("damage",),
    "audit exported": (),
    "ledger exported": (),
}
"""Events that somebody decided or had to mend, and what of them the page tells."""


@dataclass(frozen=True)
class Left:
    """One charge of the ledger, and what became of it."""

    round: int
    charged: str
    mechanism: str
    noise_multiplier: float | None
    clip_norm: float | None
    task: str
    after: Spent
    released: str = ""
    payload_sha256: str = ""
    payload_bytes: int | None = None
    receipt: str = ""


@dataclass(frozen=True)
class Event:
    """Something that was written down: when, by whom, and in words."""

    time: str
    operator: str
    what: str
    details: str = ""


@dataclass
class Errand:
    """Requests of one kind: how many, how many without a good answer, and body bytes each way."""

    requests: int = 0
    failed: int = 0
    sent: int = 0
    received: int = 0


@dataclass(frozen=True)
class Account:
    """All that the page says."""

    made: str
    since: str
    until: str
    pinned: Pinned | None
    terms: Terms
    spent: Spent
    guarantee: str
    releases: tuple[Left, ...]
    decisions: tuple[Event, ...]
    refusals: tuple[Event, ...]
    errands: dict[str, Errand]
    clock: tuple[int, int]
    records: dict[str, int]
    heads: dict[str, str]
    key: str
    chart: Chart | None

    @property
    def bytes_left(self) -> int:
        """Bytes of all updates that were released."""
        return sum(one.payload_bytes or 0 for one in self.releases)

    @property
    def left(self) -> int:
        """How many updates were released."""
        return sum(1 for one in self.releases if one.payload_sha256)

    @property
    def keep_until(self) -> str:
        """The day until which these records are to be kept at least: six years after the last of them."""
        last = date.fromisoformat(self.until[:10])
        return (last.replace(day=min(last.day, 28), year=last.year + RETENTION_YEARS)).isoformat()


def write(config_path: Path | None, destination: Path) -> Account:
    """Writes the page (0600), once the records are whole. Raises RecordsDamaged, CannotWrite."""
    with open_site(config_path) as site:
        account = account_of(site)
    writing.write(destination, "audit.html.j2", account=account)
    return account


def account_of(site: Site) -> Account:
    """Reads both chains from their beginning to their end."""
    state, terms = site.state, site.ledger.terms
    lengths = state.verify()
    pinned = site.pinned if site.files.federation.is_file() else None
    key = checkpoints.public_key(state)
    releases = _releases(list(site.ledger.records()), _tasks(state, pinned))
    events, spent = _Events().read(state), site.ledger.spent()
    return Account(
        made=datetime.now(UTC).isoformat(timespec="minutes"),
        since=events.first,
        until=events.last,
        pinned=pinned,
        terms=terms,
        spent=spent,
        guarantee=guarantee(spent.epsilon, terms.delta),
        releases=releases,
        decisions=tuple(events.decisions),
        refusals=tuple(events.refusals),
        errands=events.errands,
        clock=(events.compared, events.furthest),
        records={str(chain): length for chain, length in lengths.items()},
        heads={str(chain): end.hash for chain, end in state.heads().items()},
        key=key,
        chart=spent_chart(releases, terms.epsilon),
    )


def spent_chart(releases: Sequence[Left], budget: float) -> Chart | None:
    """What the ledger had spent after each charge, and its budget; None where nothing was charged."""
    if not releases:
        return None
    spent = [0.0, *(one.after.epsilon_noised for one in releases)]
    high, wide = max(budget, *spent), WIDTH / len(releases)

    def down(epsilon: float) -> float:
        return HEIGHT * (1 - epsilon / high)

    steps = "".join(f"V{down(after):.1f}h{wide:.1f}" for after in spent[1:])
    shapes = (
        Shape("line", 0, f"M0 {HEIGHT}{steps}"),
        Shape("line", 1, path_of([(0, down(budget)), (WIDTH, down(budget))])),
    )
    every = max(1, len(releases) // 10)
    along = tuple(((place + 0.5) / len(releases), str(one.round)) for place, one in enumerate(releases))[::every]
    return Chart("Privacy spent", ("spent", "the budget for ever"), shapes, "0", f"epsilon {high:.3g}", along, "round")


def _releases(records: Sequence[Record], tasks: dict[int, str]) -> tuple[Left, ...]:
    found: dict[int, Left] = {}
    for record in records:
        body = record.body
        if body["kind"] in CHARGES:
            found[record.sequence] = Left(
                round=body["round"],
                charged=record.time,
                mechanism=body.get("mechanism") or "not known",
                noise_multiplier=body.get("noise_multiplier"),
                clip_norm=body.get("clip_norm"),
                task=tasks.get(body["round"], ""),
                after=Spent(**body["after"]),
                released=record.time if body.get("payload_sha256") else "",
                payload_sha256=body.get("payload_sha256") or "",
                receipt=record.time if body.get("receipt_sha256") else "",
            )
        elif body["kind"] == "released":
            sha256, size = body["payload_sha256"], body.get("payload_bytes")
            found[body["reservation"]] = replace(
                found[body["reservation"]], released=record.time, payload_sha256=sha256, payload_bytes=size
            )
        elif body["kind"] == "acknowledged":
            found[body["reservation"]] = replace(found[body["reservation"]], receipt=record.time)
    return tuple(found.values())


def _tasks(state: State, pinned: Pinned | None) -> dict[int, str]:
    """What each round was to learn, as the plan that it was offered under says."""
    rounds = state.rounds(pinned.federation) if pinned else []
    return {one.round: _task(one) for one in rounds if one.body.get("plan")}


def _task(record: RoundRecord) -> str:
    return signing.unverified(Envelope.model_validate(record.body["plan"]), Plan).task


class _Events:
    """The audit chain, sorted into what the page tells."""

    def __init__(self) -> None:
        self.first = self.last = ""
        self.decisions: list[Event] = []
        self.refusals: list[Event] = []
        self.errands = {errand: Errand() for _, errand in _ERRANDS}
        self.compared = self.furthest = 0

    def read(self, state: State) -> "_Events":
        """Takes in every record."""
        for record in state.records("audit"):
            self.first, self.last = self.first or record.time, record.time
            event = record.body["event"]
            if event == trail.REQUEST:
                self._request(record.body)
            elif event == trail.REFUSED:
                what = Event(record.time, record.body["operator"], record.body["message"], record.body["code"])
                self.refusals.append(what)
            elif event in DECISIONS:
                self.decisions.append(Event(record.time, record.body["operator"], event, _said(record.body)))
        self.errands = {errand: found for errand, found in self.errands.items() if found.requests}
        return self

    def _request(self, body: dict[str, Any]) -> None:
        path = body["path"].partition("?")[0]
        errand = self.errands[next(errand for form, errand in _ERRANDS if re.fullmatch(form, path))]
        errand.requests += 1
        errand.failed += not 200 <= body["status"] < 400
        errand.sent += body["sent"]
        errand.received += body["received"]
        if body["ahead"] is not None:
            self.compared += 1
            self.furthest = max(self.furthest, abs(body["ahead"]))


def _said(body: dict[str, Any]) -> str:
    """The facts of a decision, in words."""
    if body["event"] == trail.POLICY:
        shown = body["changed"] or [key for key, value in body["policy"].items() if value]
        return "; ".join(f"{key.replace('_', ' ')}: {_plain(body['policy'].get(key))}" for key in shown)
    facts = [(name, body[name]) for name in DECISIONS[body["event"]] if body.get(name) not in (None, "", [])]
    return ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in facts)


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "not set" if value is None else str(value)
