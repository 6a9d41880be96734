"""Holds what the server says against what each site remembers: every round has an end, every charge its counterpart."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from fedsite.wire.messages import Arrival
from fedsite.wire.signing import digest

LIFE_OF_A_CHARGE = ["reserved", "released", "acknowledged"]
UNFINISHED = ("", "offered", "fetched", "trained", "reserved", "abandoned")
SITE_STATES = {
    "took_part": ("acknowledged",),
    "left_out": ("acknowledged",),
    "rejected": ("rejected",),
    "refused": ("", "offered", "abandoned"),
    "late": ("late",),
    "dropped": (*UNFINISHED, "late"),
    "absent": ("",),
}
"""What the server's report says of a site in a round, and what the site may then remember of it; empty: nothing."""


def of_charges(site: str, arrivals: Sequence[Arrival], ledger: Iterable[Mapping[str, Any]]) -> list[str]:
    """Where the server's receipts and a site's ledger do not agree; empty when they do, charge by charge."""
    charges: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for body in ledger:
        if "round" in body:
            charges[body["round"]].append(body)
    found, had = [], {one.round: one for one in arrivals}
    if len(had) != len(arrivals):
        found.append(f"{site}: the server has two updates of one round")
    for number in sorted(charges.keys() | had.keys()):
        found += [f"{site}, round {number}: {what}" for what in _of_charge(charges.get(number, []), had.get(number))]
    sent = [body["payload_sha256"] for bodies in charges.values() for body in bodies if body["kind"] == "released"]
    if len(set(sent)) != len(sent):
        found.append(f"{site}: the same bytes were released for two rounds")
    return found


def _of_charge(bodies: Sequence[Mapping[str, Any]], arrival: Arrival | None) -> list[str]:
    kinds = [body["kind"] for body in bodies]
    if kinds != LIFE_OF_A_CHARGE[: len(kinds)]:
        return [f"its ledger says {', '.join(kinds)}"]
    by_kind = dict(zip(kinds, bodies, strict=True))
    released, acknowledged = by_kind.get("released"), by_kind.get("acknowledged")
    if arrival is None:
        return ["it holds a receipt, and the server no update"] if acknowledged else []
    found = []
    if released is None or released["payload_sha256"] != arrival.update_sha256:
        found.append("the server has an update that its ledger has not released")
    receipt = arrival.receipt and digest(arrival.receipt)
    if receipt != (acknowledged and acknowledged["receipt_sha256"]):
        found.append("the server's receipt is not the one in its ledger")
    return found


def of_round(report: Mapping[str, Any], states: Mapping[str, str]) -> list[str]:
    """What is wrong with a round that should have ended: `report` as the server has it, `states` as the sites do."""
    number, found = report["round"], []
    if report["status"] not in ("aggregated", "failed") or not report["reason"]:
        found.append(f"round {number} is {report['status']} ({report['reason'] or 'without a reason'})")
    places = outcomes(report)
    if missing := states.keys() - places.keys():
        found.append(f"round {number} has no word of {', '.join(sorted(missing))}")
    for site, place in places.items():
        if states[site] not in SITE_STATES[place]:
            found.append(f"round {number}: {site} is {place} at the server, and says {states[site] or 'nothing'}")
    return found


def outcomes(report: Mapping[str, Any]) -> dict[str, str]:
    """What became of each site in a round, in the words of the server's report."""
    return {one["site"]: place for place in SITE_STATES for one in report[place]}


def of_lineage(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where a round of a series does not begin with the model that the one before it has made, or left as it was."""
    found = []
    for before, after in pairwise(reports):
        left = before["result_sha256"] or before["model_sha256"]
        if before["plan_sha256"] == after["plan_sha256"] and after["model_sha256"] != left:
            found.append(f"round {after['round']} does not begin with the model of round {before['round']}")
    return found


def count(words: Iterable[str]) -> dict[str, int]:
    """How often each word comes, the most frequent first."""
    return dict(Counter(words).most_common())
