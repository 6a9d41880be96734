"""`fedsite privacy export`: the ledger as a file for an auditor, and what it takes to verify it, far from the site.

    {"format": ..., "hash": how each record's hash is made, "terms": ..., "guarantee": ...,
     "records": [{sequence, previous, time, body (a text, as stored), hash}],
     "plans", "tickets", "receipts": {SHA-256: DSSE envelope}, "plan_keys": those that the site has pinned}

A record's hash covers the one before; a plan is signed by the pinned keys, a ticket and a receipt by keys that the plan
names; a record of a charge names plan, ticket and payload by digest. A receipt also names the record that released the
payload, so whoever holds receipts can tell a ledger that was cut short. Nothing in it depends on patients' data.
"""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedsite import __version__
from fedsite.errors import DataNotFit, RecordsDamaged, SourceMissing
from fedsite.files import PRIVATE_FILE, write_atomically
from fedsite.jobs.site import Site, open_site
from fedsite.privacy.accountant import release_of
from fedsite.privacy.ledger import (
    CHARGES,
    Charge,
    Spent,
    Terms,
    charge_of,
    require_understood,
    spent_after,
    terms_of,
    with_nothing_left,
)
from fedsite.privacy.statement import guarantee
from fedsite.site import chain as chains
from fedsite.site.chain import Record
from fedsite.site.state import RoundRecord
from fedsite.wire import signing
from fedsite.wire.messages import Envelope, MalformedMessage, Receipt, Ticket, utc_now
from fedsite.wire.plans import Plan

_ASK_AGAIN = "Ask the site for it again, and compare the hash of its last record by telephone."
_NO_EXPORT = "Name a file that fedsite privacy export has written."
FORMAT = "fedsite privacy ledger 1"


def export(config_path: Path | None, destination: Path) -> dict[str, Any]:
    """Writes the file (0600), once the chains here are whole; gives what `verify` says of it."""
    with open_site(config_path) as site:
        site.state.verify()
        site.state.audit("ledger exported")
        document = _document(site)
    write_atomically(destination, json.dumps(document, indent=1).encode(), PRIVATE_FILE)
    return verify(destination)


def verify(path: Path) -> dict[str, Any]:
    """Recomputes an exported ledger: chain, mirrors, signatures, and every total from what was charged.

    Raises SourceMissing, DataNotFit when the file is no export, RecordsDamaged naming what does not hold.
    """
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise SourceMissing(f"{path} cannot be read.", _NO_EXPORT) from error
    except ValueError as error:
        raise DataNotFit(f"{path} is no JSON.", _NO_EXPORT) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise DataNotFit(f"{path} is no exported ledger.", _NO_EXPORT)
    try:
        return _verified(document)
    except (AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
        raise RecordsDamaged("The exported ledger is incomplete.", _ASK_AGAIN) from error


def _verified(document: dict[str, Any]) -> dict[str, Any]:
    records = _chain(document["records"])
    for record in records:
        require_understood(record)
    terms = terms_of(records[0].body)
    plans, receipts = _signed(document)
    spent = _totals(terms, [record for record in records if record.body["kind"] in CHARGES], plans)
    _demand(
        (document["terms"], document["spent"]) == (asdict(terms), asdict(spent)), "Its summary is not its ledger's."
    )
    _demand(document["guarantee"] == guarantee(spent.epsilon, terms.delta), "Its guarantee is not its ledger's.")
    return {
        "records": len(records),
        "charges": spent.releases,
        "receipts": _acknowledged(records, receipts),
        "head": records[-1].hash,
        "guarantee": document["guarantee"],
    }


def _chain(rows: list[dict[str, Any]]) -> list[Record]:
    stored = [[row[name] for name in ("sequence", "previous", "time", "body", "hash")] for row in rows]
    texts = [text for _, text in chains.linked("ledger", stored, _ASK_AGAIN)]
    return [
        Record(sequence, previous, time, text, json.loads(text), digest)
        for (sequence, previous, time, _, digest), text in zip(stored, texts, strict=True)
    ]


def _signed(document: dict[str, Any]) -> tuple[dict[str, Plan], dict[str, Receipt]]:
    """The plans and receipts, by digest, once every signature in the file holds."""
    keys, threshold = [signing.pinned_key(key) for key in document["plan_keys"]], document["plan_threshold"]
    plans: dict[str, Plan] = {}
    receipts: dict[str, Receipt] = {}
    try:
        for envelope in map(Envelope.model_validate, document["plans"].values()):
            plans[signing.digest(envelope)] = signing.open_envelope(envelope, Plan, signing.PLAN, keys, threshold)
        for envelope in map(Envelope.model_validate, document["tickets"].values()):
            plan = plans[signing.unverified(envelope, Ticket).plan_sha256]
            signing.open_envelope(envelope, Ticket, signing.TICKET, [plan.round_key])
        for envelope in map(Envelope.model_validate, document["receipts"].values()):
            plan = plans[signing.unverified(envelope, Receipt).plan_sha256]
            receipt = signing.open_envelope(envelope, Receipt, signing.RECEIPT, [plan.receipt_key])
            receipts[signing.digest(envelope)] = receipt
    except MalformedMessage as error:
        raise RecordsDamaged(f"A signature in the exported ledger does not hold: {error}.", _ASK_AGAIN) from error
    return plans, receipts


def _totals(terms: Terms, charges: list[Record], plans: dict[str, Plan]) -> Spent:
    """Adds up the charges anew, and holds every record's totals against the sum. The last record's totals."""
    total = told = Spent()
    for record in charges:
        body = record.body
        _demand(Spent(**body["before"]) == told, f"Record {record.sequence} goes on from other totals.")
        told = Spent(**body["after"])
        if body.get("priced", True):
            charge = charge_of(body)
            _demand(_is_as_asked(charge, plans), f"Record {record.sequence} charges another mechanism than its plan's.")
            total = spent_after(terms, total, charge)
        else:
            total = with_nothing_left(terms, total)
        _demand(_agree(total, told), f"The totals of record {record.sequence} are not the sum of the charges.")
    return told


def _is_as_asked(charge: Charge, plans: dict[str, Plan]) -> bool:
    """Whether a charge counts what it names, and what its plan asked for where that is known."""
    noise, mechanism = charge.noise_multiplier, charge.mechanism
    if noise and charge.release != release_of(mechanism, noise, charge.sampling_rate, charge.steps):
        return False
    plan = plans.get(charge.plan_sha256)
    asked = plan and (plan.privacy.mechanism, plan.privacy.clip_norm, plan.privacy.noise_multiplier)
    return asked is None or asked == (mechanism, charge.clip_norm, noise)


def _agree(total: Spent, told: Spent) -> bool:
    """Equal but for rounding: another version of the accountant may have summed them."""
    if (total.epsilon is None) != (told.epsilon is None) or total.releases != told.releases:
        return False
    pairs = [(total.divergence, told.divergence), (total.delta_tail, told.delta_tail)]
    pairs += [(total.epsilon_noised, told.epsilon_noised), (total.epsilon or 0.0, told.epsilon or 0.0)]
    return all(math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-12) for one, other in pairs)


def _acknowledged(records: list[Record], receipts: dict[str, Receipt]) -> int:
    """How many payloads have a signed receipt in the file, each for the payload that the ledger names."""
    released = {one.body["reservation"]: one.body for one in records if one.body["kind"] == "released"}
    count = 0
    for body in (one.body for one in records):
        receipt = receipts.get(body.get("receipt_sha256") or "")
        if receipt is not None:
            payload = released[body["reservation"]] if body["kind"] == "acknowledged" else body
            same = (receipt.round, receipt.update_sha256) == (body["round"], payload["payload_sha256"])
            _demand(same, f"The receipt of round {body['round']} is for another payload.")
            count += 1
    return count


def _document(site: Site) -> dict[str, Any]:
    records, spent, terms = list(site.ledger.records()), site.ledger.spent(), site.ledger.terms
    pinned = site.pinned if site.files.federation.is_file() else None
    return {
        "format": FORMAT,
        "fedsite": __version__,
        "exported": utc_now().isoformat(),
        "site": pinned and pinned.site,
        "federation": pinned and pinned.federation,
        "guarantee": guarantee(spent.epsilon, terms.delta),
        "terms": asdict(terms),
        "spent": asdict(spent),
        "hash": chains.RULE,
        "records": [
            {"sequence": one.sequence, "previous": one.previous, "time": one.time, "body": one.text, "hash": one.hash}
            for one in records
        ],
        "plan_keys": list(pinned.plan_keys) if pinned else [],
        "plan_threshold": pinned.plan_threshold if pinned else 1,
        **_envelopes(site.state.rounds(pinned.federation) if pinned else []),
    }


def _envelopes(rounds: list[RoundRecord]) -> dict[str, dict[str, Any]]:
    """What the server has signed for the rounds that this site has met, by digest."""
    found: dict[str, dict[str, Any]] = {"plans": {}, "tickets": {}, "receipts": {}}
    for record in rounds:
        for kind, envelopes in found.items():
            if content := record.body.get(kind.removesuffix("s")):
                envelopes[signing.digest(Envelope.model_validate(content))] = content
    return found


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise RecordsDamaged(f"The exported ledger is not whole. {otherwise}", _ASK_AGAIN)
