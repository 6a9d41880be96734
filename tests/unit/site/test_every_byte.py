"""One bit flipped in any byte of the stored records, in the file itself: `verify` names the record."""

from pathlib import Path

from fedsite.errors import RecordsDamaged
from fedsite.site.chain import CHAINS, Chain
from fedsite.site.state import State

HEADER = 12  # of a cell of these sizes: payload (2), row (1), header (1), and the types of five columns (1, 2, 1, 2, 2)
LENGTH = 2  # of these the payload's: where that is wrong, SQLite may not be able to read the whole page


def places(content: bytes, state: State) -> dict[tuple[Chain, int], range]:
    """Where each record lies in the file: SQLite stores a row's columns side by side, behind the cell's header."""
    found = {}
    for chain in CHAINS:
        for record in state.records(chain):
            stored = f"{record.previous}{record.time}{record.text}{record.hash}".encode()
            assert content.count(stored) == 1
            assert len(record.text) >= 58, "else the type of its column has one byte less"
            start = content.index(stored)
            found[chain, record.sequence] = range(start - HEADER, start + len(stored))
    return found


def test_a_bit_flipped_in_any_byte_of_a_record_names_it(state: State) -> None:
    state.audit("initialised", instead_of="a state folder that was lost")
    for number in (1, 2):
        state.append("ledger", {"kind": "reserved", "round": number, "federation": "example", "delta": 1e-6})
    state.audit("request", method="GET", path="/v1/participation", status=200, sent=10, received=10, ahead=None)
    state._database.execute("pragma wal_checkpoint(truncate)")
    path = state.folder / "state.db"
    content = path.read_bytes()
    records = places(content, state)
    state.close()
    assert len(records) == 6
    for (chain, sequence), where in records.items():
        for place in where:
            told = damage(path, content, place, 1 << place % 8)
            names_it = f"ecord {sequence} of the {chain}" in told
            names_it |= place - where.start < LENGTH and "of the ledger cannot be read" in told
            assert names_it, (chain, sequence, place - where.start, told)
    path.write_bytes(content)
    with State.open(state.folder) as whole:
        assert whole.verify() == {"ledger": 2, "audit": 4}


def damage(path: Path, content: bytes, place: int, bit: int) -> str:
    """What `verify` says of the file with one bit changed."""
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes([content[place] ^ bit]))
    try:
        with State.open(path.parent) as state:
            state.verify()
    except RecordsDamaged as error:
        return error.message
    finally:
        with path.open("r+b") as file:
            file.seek(place)
            file.write(content[place : place + 1])
    return "nothing"
