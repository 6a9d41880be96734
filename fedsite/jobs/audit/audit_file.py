"""`fedsite audit export`: both chains as JSON Lines, and a signed checkpoint by which they are verified anywhere.

    {"audit": 9, "format": ..., "hash": how each record's hash is made, "ledger": 4}
    {"body": a text, as stored, "chain": "ledger" or "audit", "hash", "previous", "sequence", "time"}   one a record,
                                                                                                        ledger first
    {"payload", "payloadType", "signatures"}                                    the checkpoint in its DSSE envelope

Every line has one spelling (sorted keys, no spaces, ASCII), so that any changed byte is a changed record. Nothing in it
depends on patients' data: records hold digests, sizes, prices, reasons.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from fedsite.errors import DataNotFit, RecordsDamaged, SourceMissing
from fedsite.files import PRIVATE_FILE, atomic_writer
from fedsite.jobs.audit import checkpoints
from fedsite.jobs.audit.checkpoints import Checkpoint
from fedsite.jobs.site import open_state
from fedsite.site import chain as chains
from fedsite.site.chain import CHAINS, Chain, Row, canonical_json
from fedsite.wire.messages import MalformedMessage

FORMAT = "fedsite audit 1"
_MARK = b'"format":"fedsite audit'
_ASK_AGAIN = "Ask the site for it again, and for its audit key by telephone: fedsite identity show"
_NO_EXPORT = "Name a file that fedsite audit export or fedsite privacy export has written."
_LONGEST_LINE = 16 << 20
_LONGEST_CHECKPOINT = 64 << 10
_FIELDS = ("sequence", "previous", "time", "body", "hash")


def export(config_path: Path | None, destination: Path) -> dict[str, Any]:
    """Writes the file (0600), once the records here are whole; gives what `verify` says of it.

    Its last record is that of the export itself.
    """
    with open_state(config_path, looking=False) as state:
        state.verify()
        checkpoints.public_key(state)
        state.audit("audit exported")
        with state.at_one_moment(), atomic_writer(destination, PRIVATE_FILE) as file:
            lengths = {chain: end.sequence for chain, end in state.heads().items()}
            _write(file, _head_line(lengths))
            for chain in CHAINS:
                for row in state.rows(chain):
                    _write(file, _record_line(chain, row))
            _write(file, checkpoints.to_text(checkpoints.sign(state)))
    return verify(destination)


def is_one(path: Path) -> bool:
    """Whether a file looks like an exported audit. Raises SourceMissing."""
    try:
        with path.open("rb") as file:
            return _MARK in file.readline(1000)
    except OSError as error:
        raise SourceMissing(f"{path} cannot be read.", _NO_EXPORT) from error


def verify(path: Path, key: str = "", since: Path | None = None) -> dict[str, Any]:
    """Recomputes an exported audit: the checkpoint's signature, both chains, their mirror, their ends.

    `key` is the audit key that the site has told (64 hexadecimal digits), `since` an earlier export of the same site:
    its checkpoint must lie on these chains. Raises SourceMissing, DataNotFit when the file is no export, RecordsDamaged
    naming the record that does not hold.
    """
    checkpoint = checkpoint_of(path)
    lengths: dict[Chain, int] = {"ledger": checkpoint.ledger.records, "audit": checkpoint.audit.records}
    anchors = [checkpoint.anchor("the checkpoint")]
    _require_key(checkpoint, key)
    if since is not None:
        earlier = checkpoint_of(since)
        _require_key(checkpoint, earlier.key)
        anchors.append(earlier.anchor("the earlier export"))
    with path.open("rb") as file:
        if _line(file) != _head_line(lengths):
            raise RecordsDamaged("The first line was altered, or records are missing.", _ASK_AGAIN)
        ends = chains.verify({chain: _rows(file, chain, lengths[chain]) for chain in CHAINS}, anchors, _ASK_AGAIN)
        if _line(file) is None or file.read(1):
            raise RecordsDamaged("There is something between the records and their checkpoint.", _ASK_AGAIN)
    return {
        "site": checkpoint.site,
        "federation": checkpoint.federation,
        "exported": checkpoint.exported.isoformat(),
        "records": {chain: end.sequence for chain, end in ends.items()},
        "heads": {chain: end.hash for chain, end in ends.items()},
        "key": checkpoint.key,
    }


def checkpoint_of(path: Path) -> Checkpoint:
    """The signed checkpoint at the end of an export. Raises SourceMissing, DataNotFit, RecordsDamaged."""
    if not is_one(path):
        raise DataNotFit(f"{path} is no exported audit.", _NO_EXPORT)
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _LONGEST_CHECKPOINT))
        last = file.read().removesuffix(b"\n").rpartition(b"\n")[2]
    try:
        return checkpoints.read(last.decode("ascii"))
    except (MalformedMessage, ValueError) as error:
        raise RecordsDamaged(f"The checkpoint at the end was altered, or is missing: {error}.", _ASK_AGAIN) from error


def _head_line(lengths: Mapping[Chain, int]) -> str:
    counts = {str(chain): count for chain, count in lengths.items()}
    return canonical_json({"format": FORMAT, "hash": chains.RULE, **counts})


def _record_line(chain: Chain, row: Row) -> str:
    return canonical_json({**dict(zip(_FIELDS, row, strict=True)), "chain": chain})


def _rows(file: BinaryIO, chain: Chain, count: int) -> Iterator[Row]:
    for _ in range(count):
        line = _line(file)
        try:
            fields = json.loads(line or "")
            row = [fields[name] for name in _FIELDS]
            if _record_line(chain, row) != line:
                raise ValueError("spelled in another way")
        except (ValueError, TypeError, KeyError) as error:
            raise RecordsDamaged("its line is not as it was written.", _ASK_AGAIN) from error
        yield row


def _line(file: BinaryIO) -> str | None:
    """The next line; None where it is not one of ASCII with an end."""
    line = file.readline(_LONGEST_LINE)
    return line[:-1].decode() if line.endswith(b"\n") and line.isascii() else None


def _write(file: BinaryIO, line: str) -> None:
    file.write(line.encode("ascii") + b"\n")


def _require_key(checkpoint: Checkpoint, key: str) -> None:
    if key and key != checkpoint.key:
        raise RecordsDamaged(f"It is signed by another audit key, {checkpoint.key}.", _ASK_AGAIN)
