"""Hash-chained records: what a record's hash covers, and what a chain must be to be believed.

A record's hash covers its sequence, its time, its body and the hash before it; so whoever alters, drops or reorders one
must rewrite all that follow. The audit mirrors the ledger: neither can be cut short without the other telling. What no
chain can tell by itself is that its end is gone: that takes an anchor, which remembers from outside how far it went.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fedsite.errors import RecordsDamaged

ZERO = "0" * 64
RULE = "SHA-256 of 'SEQUENCE\\nPREVIOUS\\nTIME\\nBODY' in UTF-8; PREVIOUS of the first record is 64 zeros"
Chain = Literal["ledger", "audit"]
CHAINS: tuple[Chain, ...] = ("ledger", "audit")
Row = Sequence[object]
"""Sequence, previous hash, time, body and hash, as stored: of whatever types a damaged store gives."""

_MIRROR = '"event":"ledger"'
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Record:
    """One link of a chain: `text` is the body as stored, byte for byte what `hash` covers."""

    sequence: int
    previous: str
    time: str
    text: str
    body: dict[str, Any]
    hash: str

    @property
    def is_intact(self) -> bool:
        """Whether the record is what its own hash covers."""
        return self.hash == hash_of(self.sequence, self.previous, self.time, self.text)


@dataclass(frozen=True)
class Head:
    """The end of a chain: how many records it has, and the hash of the last (64 zeros where there is none)."""

    sequence: int = 0
    hash: str = ZERO


@dataclass(frozen=True)
class Anchor:
    """What `witness` (a file, an export) remembers of the chains: ends that they must have reached."""

    witness: str
    heads: Mapping[Chain, Head]


def canonical_json(body: Mapping[str, Any]) -> str:
    """One spelling for one content: sorted keys, no spaces, no NaN."""
    return _CANONICAL.encode(body)


def hash_of(sequence: int, previous: str, time: str, text: str) -> str:
    """The hash of a record, by `RULE`."""
    return hashlib.sha256(f"{sequence}\n{previous}\n{time}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()


def verify(rows: Mapping[Chain, Iterable[Row]], anchors: Sequence[Anchor] = (), mend: str = "") -> dict[Chain, Head]:
    """Recomputes both chains, holds them against their mirror and the anchors, and gives their ends.

    Raises RecordsDamaged naming the first record that is altered, missing or out of order. Holds one record at a time
    and the hashes of the ledger, whatever the length of the audit.
    """
    hashes: dict[int, str] = {}
    mirrored: dict[int, str] = {}
    heads: dict[Chain, Head] = {}
    for chain in CHAINS:
        kept = [(anchor.witness, anchor.heads[chain]) for anchor in anchors]
        head = Head()
        for head, text in linked(chain, rows[chain], mend):
            if chain == "ledger":
                hashes[head.sequence] = head.hash
            elif _MIRROR in text:
                mirrored |= _mirror(head.sequence, text, mend)
            for witness, end in kept:
                if end.sequence == head.sequence and end.hash != head.hash:
                    raise RecordsDamaged(
                        f"Record {head.sequence} of the {chain} was altered: {witness} remembers another.",
                        mend,
                    )
        _require_ends(chain, head, kept, mend)
        heads[chain] = head
    _require_mirrored(hashes, mirrored, mend)
    return heads


def linked(chain: Chain, rows: Iterable[Row], mend: str = "") -> Iterator[tuple[Head, str]]:
    """Each record's place and hash, and its body's text, once it fits what came before. Raises RecordsDamaged."""
    last = Head()
    unread = iter(rows)
    while True:
        number = last.sequence + 1
        try:
            row = next(unread, None)
        except RecordsDamaged as error:
            raise RecordsDamaged(f"Record {number} of the {chain} cannot be read: {error.message}", mend) from error
        if row is None:
            return
        sequence, previous, time, text, digest = row
        if type(sequence) is not int or sequence != number:
            raise RecordsDamaged(f"Record {number} of the {chain} is missing.", mend)
        if not (isinstance(time, str) and isinstance(text, str)) or previous != last.hash:
            raise RecordsDamaged(f"Record {number} of the {chain} was altered.", mend)
        if digest != hash_of(number, last.hash, time, text):
            raise RecordsDamaged(f"Record {number} of the {chain} was altered.", mend)
        last = Head(number, str(digest))
        yield last, text


def _mirror(number: int, text: str, mend: str) -> dict[int, str]:
    """What an audit record says of a ledger record, if it is a mirror."""
    try:
        body = json.loads(text)
        return {body["ledger_sequence"]: body["ledger_hash"]} if body["event"] == "ledger" else {}
    except (ValueError, TypeError, KeyError) as error:
        raise RecordsDamaged(f"Record {number} of the audit was altered.", mend) from error


def _require_ends(chain: Chain, head: Head, kept: Sequence[tuple[str, Head]], mend: str) -> None:
    """Raises RecordsDamaged where the chain ends before somebody has seen it end."""
    for witness, end in kept:
        if end.sequence > head.sequence:
            missing = f"Record {end.sequence} of the {chain} is"
            if end.sequence > head.sequence + 1:
                missing = f"Records {head.sequence + 1} to {end.sequence} of the {chain} are"
            raise RecordsDamaged(f"{missing} missing, which {witness} remembers.", mend)


def _require_mirrored(hashes: Mapping[int, str], mirrored: Mapping[int, str], mend: str) -> None:
    for sequence in sorted(hashes.keys() | mirrored.keys()):
        if sequence not in hashes:
            raise RecordsDamaged(f"Record {sequence} of the ledger is missing.", mend)
        if hashes[sequence] != mirrored.get(sequence):
            raise RecordsDamaged(f"The audit record of ledger record {sequence} is missing.", mend)
