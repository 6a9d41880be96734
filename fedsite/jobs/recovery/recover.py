"""`fedsite privacy recover`: what left this site and is not in its ledger is charged; damaged records are made anew.

A state folder that was brought back from an older copy is whole, and knows too little: the server tells what it has had
of this site since. One whose records are damaged or gone gets a new `state.db` under the same terms, with what can be
read of the old one, which is kept for the auditor. Whatever has no provable price takes all that the budget has left.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsite.files import PRIVATE_FOLDER, make_folder
from fedsite.jobs import tasks, trail
from fedsite.jobs.lock import only_run
from fedsite.jobs.recovery import arrivals
from fedsite.jobs.recovery.arrivals import Proofs
from fedsite.jobs.round.state_machine import FINAL
from fedsite.jobs.site import Site, Warn, client_of, open_site, require_same_terms, unheard
from fedsite.privacy.ledger import CHARGES, Charge, Ledger, Lost, Terms, charge_of, require_understood, terms_of
from fedsite.site import config as configuration
from fedsite.site import identity, salvage
from fedsite.site.config import SiteConfig
from fedsite.site.identity import IdentityFiles, Pinned
from fedsite.site.salvage import Salvage
from fedsite.site.state import Record, State
from fedsite.site.withdrawals import WITHDRAWN
from fedsite.wire.client import FederationClient
from fedsite.wire.messages import Arrival, Envelope
from fedsite.wire.transport import Exchange


@dataclass(frozen=True)
class Recovery:
    """What was done. `damage` says what was wrong with the records, `kept` where they are now."""

    charged: tuple[dict[str, Any], ...]
    damage: str = ""
    kept: Path | None = None
    withdrawals_known: bool = True
    asked: bool = True


def recover(config_path: Path | None, warn: Warn = unheard) -> Recovery:
    """Brings the ledger up to what the server knows; makes the records anew first where they are damaged.

    Raises ConfigurationError when the old ledger had other terms, Unreachable and ServerBrokeProtocol; nothing is
    changed then.
    """
    config = configuration.load(config_path)
    tasks.add_own(config.paths.tasks)
    folder = config.paths.state
    make_folder(folder, PRIVATE_FOLDER)
    with only_run(folder):
        if not (folder / "state.db").exists() and not (folder / "identity").exists():
            return _begin_anew(config)
        if wrong := salvage.damage(folder):
            return _make_anew(config, wrong)
        with open_site(config_path, warn) as site, site.client() as client:
            had = arrivals.of_site(site.pinned, client)
            return Recovery(tuple(charge_unknown(site, site.pinned, client, had)))


def charge_unknown(site: Site, pinned: Pinned, client: FederationClient, had: list[Arrival]) -> list[dict[str, Any]]:
    """Charges what the server has had of this site and its ledger does not know; gives that, for people.

    The records must be whole. Rounds that a lost copy of this folder has released are closed: they cannot be released
    again.
    """
    proofs = Proofs(pinned, client)
    found = arrivals.lost(had, proofs, site.ledger.terms)
    return _charge(site.state, site.ledger, found, proofs, had)


def _charge(
    state: State, ledger: Ledger, found: list[Lost], proofs: Proofs | None, had: list[Arrival]
) -> list[dict[str, Any]]:
    receipts = {one.round: one.receipt for one in had}
    with state.transaction():
        charged = ledger.recover(found)
        for lost, _ in charged:
            _close(state, lost, proofs, receipts.get(lost.round))
        if charged:
            state.audit("charges recovered", rounds=[lost.round for lost, _ in charged])
    return [_told(lost, record) for lost, record in charged]


def _close(state: State, lost: Lost, proofs: Proofs | None, receipt: Envelope | None) -> None:
    """Its round is over for this site, wherever it stood here."""
    known = state.round(lost.federation, lost.round)
    proof = proofs.of(lost.round) if proofs else None
    if proof and (known is None or known.state not in FINAL):
        body = {**(known.body if known else {}), **proof.body}
        body["reason"] = "a lost copy of this state folder has released it"
        if receipt is not None and lost.receipt_sha256 is not None:
            body["receipt"] = receipt.model_dump()
        state.put_round(lost.federation, lost.round, "recovered", body)


def _told(lost: Lost, record: Record) -> dict[str, Any]:
    return {
        "round": lost.round,
        "federation": lost.federation,
        "receipt": lost.receipt_sha256 is not None,
        "mechanism": record.body.get("mechanism"),
        "priced": record.body.get("priced", True),
        "reserved_before": record.body["kind"] == "released",
    }


# --- records made anew ----------------------------------------------------------------------------------------------


def _begin_anew(config: SiteConfig) -> Recovery:
    """A state folder where there is none: the configuration has outlived it. Its identity must be enrolled again."""
    with State.create(config.paths.state) as state:
        identity.create_pseudonyms(IdentityFiles(state.folder / "identity"))
        state.audit("initialised", instead_of="a state folder that was lost")
        Ledger.create(state, _as_configured(config))
    return Recovery((), "There was no state folder.", None, withdrawals_known=False, asked=False)


def _make_anew(config: SiteConfig, wrong: str) -> Recovery:
    files = IdentityFiles(config.paths.state / "identity")
    if not (files.federation.is_file() and files.certificate.is_file()):
        return _replace(config, wrong, None, [])
    pinned = identity.pinned(files)
    asked: list[Exchange] = []  # the records that could hold them are still to be made
    with client_of(files, config, pinned.server, asked.append, files.current) as client:
        return _replace(config, wrong, Proofs(pinned, client), asked)


def _replace(config: SiteConfig, wrong: str, proofs: Proofs | None, asked: list[Exchange]) -> Recovery:
    """Asks first and writes then. Without `proofs` (nobody is enrolled here) only the old records are heard."""
    old = salvage.read(config.paths.state)
    terms = _terms(config, old)
    had = arrivals.of_site(proofs.pinned, proofs.client) if proofs else []
    found = arrivals.lost(had, proofs, terms) if proofs else []
    found += _charged_before(old, {one.round for one in found}, proofs, terms)
    told: list[dict[str, Any]] = []

    def fill(state: State) -> None:
        with state.transaction():
            state.audit("records made anew", damage=wrong)
            ledger = Ledger.create(state, terms)
            _carry_over(state, old, {one.round for one in found})
            told.extend(_charge(state, ledger, found, proofs, had))
            for exchange in asked:
                trail.write_request(state, exchange)

    kept = salvage.replace(config.paths.state, fill)
    return Recovery(tuple(told), wrong, kept, withdrawals_known=bool(old.audit), asked=proofs is not None)


def _terms(config: SiteConfig, old: Salvage) -> Terms:
    """The old ledger's terms where its first record is whole, else those of the configuration."""
    first = next((one for one in old.ledger if one.sequence == 1 and one.is_intact), None)
    if first is not None and first.body.get("kind") == "created":
        terms = terms_of(first.body)
        require_same_terms(config.privacy, terms)
        return terms
    return _as_configured(config)


def _as_configured(config: SiteConfig) -> Terms:
    privacy = config.privacy
    return Terms.chosen(privacy.epsilon, privacy.delta, privacy.nominal_patients)


def _carry_over(state: State, old: Salvage, charged: set[int]) -> None:
    """Withdrawals, ended rounds and evaluations. A round under way is given up; what it cost is charged."""
    for patient in dict.fromkeys(one.body.get("patient") for one in old.audit if one.body.get("event") == WITHDRAWN):
        state.audit(WITHDRAWN, patient=patient)
    for record in old.rounds:
        if record.state in FINAL:
            state.put_round(record.federation, record.round, record.state, record.body)
        elif record.round not in charged:
            state.put_round(record.federation, record.round, "abandoned", record.body)
    for model_sha256, body in old.evaluations:
        state.put_evaluation(model_sha256, body)


def _charged_before(old: Salvage, arrived: set[int], proofs: Proofs | None, terms: Terms) -> list[Lost]:
    """What the old ledger had charged and the server has had nothing of: it is not refunded."""
    charges: list[tuple[str, int, Record]] = []
    payloads: dict[tuple[str, int], str] = {}
    for record in old.ledger:
        if record.is_intact:
            require_understood(record)
        body = record.body
        federation, number = body.get("federation"), body.get("round")
        if not isinstance(federation, str) or not isinstance(number, int):
            continue  # no charge, or altered beyond use: what arrived of it is told by the server
        if body.get("kind") in CHARGES and number not in arrived:
            charges.append((federation, number, record))
        if body.get("payload_sha256"):
            payloads[federation, number] = body["payload_sha256"]
    found = []
    for federation, number, record in charges:
        proof = proofs.of(number) if proofs else None
        charge = proof.charge(terms) if proof else _own_word(record, terms)
        payload, receipt = payloads.get((federation, number)), record.body.get("receipt_sha256")
        found.append(Lost(federation, number, payload, receipt, None, charge))
    return found


def _own_word(record: Record, terms: Terms) -> Charge | None:
    """The charge that a record names, if it is as it was written, and under these terms."""
    body = record.body
    believed = record.is_intact and (body["delta"], body["order"]) == (terms.delta, terms.order)
    return charge_of(body) if believed and body.get("priced", True) else None
