"""What a site remembers survives a crash, is seen by its owner alone, and tells when it was tampered with."""

import json
import os
import pwd
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records import alter

from fedsite.errors import CannotWrite, NotAuthorised, RecordsDamaged, TryAgainLater
from fedsite.site import chain as chains
from fedsite.site import head
from fedsite.site import state as module
from fedsite.site.operator import operator
from fedsite.site.state import FOLDERS, State


def filled(state: State, ledger: int = 4) -> None:
    """Ledger records with their mirrors, between audit records of other things."""
    state.audit("initialised")
    for number in range(1, ledger + 1):
        state.append("ledger", {"kind": "reserved", "round": number})
        state.audit("round", round=number, state="reserved")


def tampered(state: State, *statements: str) -> State:
    """A copy of the state folder into which somebody wrote with SQL, triggers dropped."""
    copy = state.folder.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    state._database.execute("pragma wal_checkpoint(truncate)")
    copy.mkdir(mode=0o700)
    for name in ("state.db", head.NAME):
        shutil.copy(state.folder / name, copy)
    alter(copy / "state.db", *statements)
    return State.open(copy)


# --- append-only, chained -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chain", ["ledger", "audit"])
@pytest.mark.parametrize(
    "statement",
    ["update {} set body = '{{}}'", "update {} set time = 'x' where sequence = 1", "delete from {}"],
)
def test_the_database_itself_forbids_change(state: State, chain: str, statement: str) -> None:
    filled(state)
    with (
        sqlite3.connect(state.folder / "state.db") as database,
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
    ):
        database.execute(statement.format(chain))
    database.close()
    assert state.verify() == {"ledger": 4, "audit": 9}


@pytest.mark.fault(
    part="records",
    what="a line of the audit or ledger is altered, cut off or left out",
    where="SQL, past the triggers",
    promised="the first record that is wrong is named (exit 74)",
)
@pytest.mark.parametrize(
    ("statements", "complaint"),
    [
        (['update ledger set body = \'{"kind":"reserved","round":9}\' where sequence = 2'], "2 of the ledger was al"),
        (["update audit set time = '2001-01-01T00:00:00+00:00' where sequence = 3"], "Record 3 of the audit was alte"),
        (["update ledger set hash = previous where sequence = 1"], "Record 1 of the ledger was altered"),
        (["update ledger set previous = hash where sequence = 3"], "Record 3 of the ledger was altered"),
        (["delete from ledger where sequence = 2"], "Record 2 of the ledger is missing"),
        (["delete from audit where sequence = 1"], "Record 1 of the audit is missing"),
        (["delete from ledger where sequence = 4"], "Record 4 of the ledger is missing"),
        (["delete from audit where sequence >= 8"], "Records 8 to 9 of the audit are missing"),
        (["delete from audit where sequence = 9"], "Record 9 of the audit is missing"),
        (["delete from audit"], "Records 1 to 9 of the audit are missing"),
        (["delete from ledger"], "Records 1 to 4 of the ledger are missing"),
        (
            ["delete from ledger where sequence > 2", "delete from audit where sequence > 5"],
            "Records 3 to 4 of the led",
        ),
        (
            [
                "update ledger set sequence = -1 where sequence = 2",
                "update ledger set sequence = 2 where sequence = 3",
                "update ledger set sequence = 3 where sequence = -1",
            ],
            "Record 2 of the ledger was altered",
        ),
        (["update audit set sequence = sequence + 100 where sequence = 9"], "Record 9 of the audit is missing"),
        (["update audit set sequence = 0 where sequence = 1"], "Record 1 of the audit is missing"),
        (["update ledger set body = 'no json' where sequence = 3"], "Record 3 of the ledger was altered"),
        (["update ledger set body = '[]' where sequence = 3"], "Record 3 of the ledger was altered"),
        (
            ["update ledger set body = cast(x'ff7b' as text) where sequence = 3"],
            "Record 3 of the ledger cannot be read",
        ),
    ],
)
def test_verify_names_what_is_wrong(state: State, statements: list[str], complaint: str) -> None:
    filled(state)
    with tampered(state, *statements) as damaged, pytest.raises(RecordsDamaged, match=complaint) as raised:
        damaged.verify()
    assert raised.value.exit_code == 74
    assert raised.value.mend


def test_a_whole_rewritten_ledger_record_is_told_by_its_mirror(state: State) -> None:
    """Whoever recomputes the hashes of the ledger's last record must rewrite the audit from there on, too."""
    filled(state)
    last = state.last("ledger")
    text = json.dumps({"kind": "reserved", "round": 99})
    digest = chains.hash_of(last.sequence, last.previous, last.time, text)
    rewritten = f"update ledger set body = '{text}', hash = '{digest}' where sequence = 4"
    with tampered(state, rewritten) as damaged:
        with pytest.raises(
            RecordsDamaged, match=r"Record 4 of the ledger was altered: records\.head remembers another"
        ):
            damaged.verify()
        head.write(damaged.folder, damaged.heads())
        with pytest.raises(RecordsDamaged, match="audit record of ledger record 4"):
            damaged.verify()


@pytest.mark.parametrize("chain", ["ledger", "audit"])
def test_a_record_rewritten_with_its_hash_is_told_by_the_next(state: State, chain: str) -> None:
    """A hash that fits its record is not enough: the next record names the hash that was there."""
    filled(state)
    old = next(iter(state.records(chain)))
    text = json.dumps({"kind": "reserved", "event": "nothing", "round": 99})
    digest = chains.hash_of(old.sequence, old.previous, old.time, text)
    rewritten = f"update {chain} set body = '{text}', hash = '{digest}' where sequence = 1"
    with tampered(state, rewritten) as damaged, pytest.raises(RecordsDamaged, match=f"Record 2 of the {chain} was alt"):
        damaged.verify()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[State]:
    with State.create(tmp_path_factory.mktemp("flip") / "state") as state:
        filled(state)
        yield state


@settings(max_examples=100, deadline=None)
@given(
    chain=st.sampled_from(["ledger", "audit"]),
    column=st.sampled_from(["body", "hash", "time", "previous"]),
    record=st.integers(0, 3),
    place=st.integers(0, 500),
    bit=st.integers(0, 6),
)
def test_a_flipped_bit_anywhere_is_found(
    template: State, chain: str, column: str, record: int, place: int, bit: int
) -> None:
    row = [*template.records(chain)][record]
    old = {"body": row.text, "hash": row.hash, "time": row.time, "previous": row.previous}[column].encode()
    new = bytearray(old)
    new[place % len(old)] ^= 1 << bit
    change = f"update {chain} set {column} = cast(x'{new.hex()}' as text) where sequence = {row.sequence}"
    with tampered(template, change) as damaged, pytest.raises(RecordsDamaged):
        damaged.verify()


def test_a_record_is_what_its_hash_covers(state: State) -> None:
    first = state.append("ledger", {"kind": "b", "a": [1, 2.5, None], "é": "ü"})
    second = state.append("ledger", {"kind": "c"})
    assert (first.sequence, first.previous) == (1, "0" * 64)
    assert (second.sequence, second.previous) == (2, first.hash)
    assert list(state.records("ledger")) == [first, second]
    assert state.last("ledger") == second
    assert list(state.records("ledger", after=1)) == [second]
    mirrors = [record.body for record in state.records("audit")]
    assert [mirror["ledger_hash"] for mirror in mirrors] == [first.hash, second.hash]


def test_an_empty_state_is_whole(state: State) -> None:
    assert state.verify() == {"ledger": 0, "audit": 0}
    assert state.last("audit") is None


def test_what_is_no_json_number_is_not_stored(state: State) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        state.audit("x", value=float("nan"))
    assert state.verify() == {"ledger": 0, "audit": 0}


# --- the end of the chains ------------------------------------------------------------------------------------------


@pytest.mark.fault(
    part="records",
    what="a ledger loses its end",
    where="an older state.db, one without its write-ahead log",
    promised="noticed before anything is written after it",
)
def test_an_older_copy_of_the_database_is_told_by_the_head(state: State) -> None:
    """Whole in itself: only what remembers from outside how far it went can tell."""
    filled(state, 2)
    state._database.execute("pragma wal_checkpoint(truncate)")
    older = (state.folder / "state.db").read_bytes()
    state.append("ledger", {"kind": "reserved", "round": 3})
    state.close()
    (state.folder / "state.db").write_bytes(older)
    with State.open(state.folder) as restored:
        with pytest.raises(RecordsDamaged, match=r"Record 3 of the ledger is missing, which records\.head"):
            restored.verify()
        with pytest.raises(RecordsDamaged, match=r"Record 3 of the ledger, which records\.head remembers, is missing"):
            restored.audit("after")
        assert [record.body["event"] for record in restored.records("audit")][-1] == "round", "nothing was buried"


def test_a_head_that_stayed_behind_harms_nothing(state: State) -> None:
    """A kill between the commit and the head."""
    state.audit("one")
    early = (state.folder / head.NAME).read_bytes()
    state.audit("two")
    (state.folder / head.NAME).write_bytes(early)
    assert state.verify() == {"ledger": 0, "audit": 2}
    state.audit("three")
    assert state.verify() == {"ledger": 0, "audit": 3}
    assert head.read(state.folder, "")["audit"] == state.heads()["audit"]


def test_a_head_that_is_gone_or_altered_is_told(state: State) -> None:
    filled(state)
    path = state.folder / head.NAME
    content = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(RecordsDamaged):
            state.verify()
    path.unlink()
    for act in (state.verify, lambda: state.audit("after")):
        with pytest.raises(RecordsDamaged, match="gone"):
            act()


def test_an_anchor_tells_what_the_head_was_made_to_forget(state: State) -> None:
    """Who rewrites the head as well is told by whoever holds an earlier export."""
    filled(state)
    anchor = chains.Anchor("the earlier export", state.heads())
    assert state.verify([anchor]) == {"ledger": 4, "audit": 9}
    with tampered(state, "delete from audit where sequence = 9") as cut:
        head.write(cut.folder, cut.heads())
        assert cut.verify() == {"ledger": 4, "audit": 8}
        with pytest.raises(RecordsDamaged, match="Record 9 of the audit is missing, which the earlier export"):
            cut.verify([anchor])
        cut.audit("another")
        with pytest.raises(RecordsDamaged, match="Record 9 of the audit was altered: the earlier export remembers"):
            cut.verify([anchor])


def test_what_is_verified_is_of_one_moment(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process that writes between the two chains does not look like a forgery."""
    filled(state)
    rows = State.rows

    def slow(self: State, chain: chains.Chain, after: int = 0) -> Iterator[chains.Row]:
        yield from rows(self, chain, after)
        if chain == "ledger":
            with State.open(state.folder) as other:
                other.append("ledger", {"kind": "reserved"})

    monkeypatch.setattr(State, "rows", slow)
    assert state.verify() == {"ledger": 4, "audit": 9}
    monkeypatch.undo()
    assert state.verify() == {"ledger": 5, "audit": 10}


def test_who_ran_it_stands_in_every_audit_record(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    user = pwd.getpwuid(os.geteuid()).pw_name
    for sudo, told in (("", user), ("alice", f"{user}, by sudo of alice"), ("a b\n" * 99, user)):
        monkeypatch.setenv("SUDO_USER", sudo)
        operator.cache_clear()
        assert state.audit("x").body["operator"] == told
    monkeypatch.setattr(os, "geteuid", lambda: 3_999_999_999)
    operator.cache_clear()
    assert operator() == "uid 3999999999"
    operator.cache_clear()


def test_the_newest_record_of_an_event(state: State) -> None:
    assert state.newest("policy") is None
    state.audit("policy", number=1)
    state.audit("policy", number=2)
    state.audit("other", text={"event": "policy"})
    found = state.newest("policy")
    assert found is not None
    assert found.body["number"] == 2


# --- transactions ---------------------------------------------------------------------------------------------------


def test_a_transaction_is_all_or_nothing(state: State) -> None:
    with pytest.raises(RuntimeError), state.transaction():  # noqa: PT012
        state.audit("one")
        state.append("ledger", {"kind": "x"})
        state.put_round("f", 1, "offered", {})
        raise RuntimeError
    assert state.verify() == {"ledger": 0, "audit": 0}
    assert state.rounds("f") == []
    with state.transaction():
        state.audit("one")
        with state.transaction():
            state.audit("two")
    assert state.verify() == {"ledger": 0, "audit": 2}


def test_a_write_is_durable_before_it_returns(state: State) -> None:
    """synchronous=FULL in WAL mode: SQLite fsyncs the log at every commit."""
    assert state._database.execute("pragma synchronous").fetchone() == (2,)
    assert state._database.execute("pragma journal_mode").fetchone() == ("wal",)


def test_a_locked_database_is_named_and_nothing_is_lost(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    state._database.execute("pragma busy_timeout = 50")
    other = sqlite3.connect(state.folder / "state.db", isolation_level=None)
    other.execute("begin immediate")
    with pytest.raises(TryAgainLater, match="Another process"):
        state.audit("one")
    other.execute("rollback")
    other.close()
    state.audit("one")
    assert state.verify()["audit"] == 1


def test_a_full_disk_keeps_what_is_there(state: State) -> None:
    filled(state)
    pages = state._database.execute("pragma page_count").fetchone()[0]
    state._database.execute(f"pragma max_page_count = {pages}")
    with pytest.raises(CannotWrite, match="full"):
        state.audit("large", text="x" * 100_000)
    state._database.execute("pragma max_page_count = 100000")
    assert state.verify() == {"ledger": 4, "audit": 9}
    state.audit("after")


WRITER = """
import sys, time
from pathlib import Path
from fedsite.site.state import State
with State.open(Path(sys.argv[1])) as state:
    for number in range(100_000):
        with state.transaction():
            record = state.append("ledger", {"kind": "reserved", "writer": sys.argv[2], "round": number})
            state.put_round("f-" + sys.argv[2], number, "reserved", {"sequence": record.sequence})
        print(record.sequence, flush=True)
        time.sleep(0.005)  # SQLite queues nobody: without a pause one of two writers may never get its turn
"""


def writer(state: State, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(state.folder), name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_kill_loses_nothing_that_was_acknowledged(state: State) -> None:
    process = writer(state, "one")
    assert process.stdout is not None
    for _ in range(20):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    acknowledged = 20 + len([line for line in process.stdout.read().splitlines() if line])
    process.wait()
    process.stdout.close()
    with State.open(state.folder) as reopened:
        lengths = reopened.verify()
        assert lengths["ledger"] in (acknowledged, acknowledged + 1)
        assert len(reopened.rounds("f-one")) == lengths["ledger"]


def test_two_processes_write_one_chain(state: State) -> None:
    processes = [writer(state, name) for name in ("one", "two")]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        writers = {record.body["writer"] for record in state.records("ledger")}
        if len(writers) == 2 and state.last("ledger").sequence > 30:
            break
        time.sleep(0.05)
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()
    assert writers == {"one", "two"}
    lengths = state.verify()
    # Each ledger record has its mirror, and one more audit record for the round's new state.
    assert lengths["audit"] == 2 * lengths["ledger"] > 60


# --- creating and opening -------------------------------------------------------------------------------------------


def test_the_state_folder_is_its_owners_alone(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        with State.create(tmp_path / "state") as state:
            state.audit("one")
            for path in [state.folder, *(state.folder / name for name in FOLDERS)]:
                assert path.stat().st_mode & 0o777 == 0o700, path
            for path in state.folder.glob("state.db*"):
                assert path.stat().st_mode & 0o777 == 0o600, path
    finally:
        os.umask(previous)


def test_an_open_folder_is_narrowed_when_it_becomes_a_state_folder(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    with State.create(tmp_path / "state"):
        assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o770])
def test_a_state_folder_that_others_can_enter_is_refused(state: State, mode: int) -> None:
    state.folder.chmod(mode)
    with pytest.raises(RecordsDamaged, match="not this user's alone") as refused:
        State.open(state.folder)
    assert refused.value.exit_code == 74
    assert "chmod 700" in refused.value.mend


def test_another_users_state_folder_is_refused(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(RecordsDamaged, match="not this user's alone"):
        State.open(state.folder)


def test_a_state_folder_that_cannot_even_be_looked_into_is_refused(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", denied)
    with pytest.raises(RecordsDamaged, match="not this user's alone"):
        State.open(state.folder)


def test_a_linked_state_folder_is_the_folder_that_it_names(state: State, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(state.folder)
    with State.open(tmp_path / "link") as linked:
        assert linked.verify() == {"ledger": 0, "audit": 0}


def test_no_state_folder_says_init(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("absent", "empty"):
        with pytest.raises(NotAuthorised, match="fedsite init"):
            State.open(tmp_path / folder)


def test_a_second_create_is_refused_and_harms_nothing(state: State) -> None:
    filled(state)
    with pytest.raises(CannotWrite, match="in use already"):
        State.create(state.folder)
    assert state.verify() == {"ledger": 4, "audit": 9}


@pytest.mark.parametrize("content", [b"", b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_what_is_no_database_of_ours_is_refused(state: State, content: bytes) -> None:
    state.close()
    (state.folder / "state.db").write_bytes(content)
    with pytest.raises(RecordsDamaged, match=r"state\.db") as refused:
        State.open(state.folder)
    assert refused.value.exit_code == 74


@pytest.mark.fault(
    part="records",
    what="pages of state.db are damaged",
    where="bytes of the file",
    promised="named (exit 74)",
)
def test_damaged_pages_are_named(state: State) -> None:
    for _ in range(300):
        state.audit("x", text="hello" * 20)
    state.close()
    path = state.folder / "state.db"
    content = bytearray(path.read_bytes())
    for place in range(4096 * 6, len(content)):
        content[place] ^= 0x55
    path.write_bytes(content)
    with State.open(state.folder) as damaged, pytest.raises(RecordsDamaged):
        damaged.verify()


class _Dies:
    """A connection that kills its process when it is asked for a given statement."""

    def __init__(self, real: sqlite3.Connection, at: str) -> None:
        self._real, self._at = real, at

    def _check(self, statement: str) -> None:
        if self._at in statement:
            os.kill(os.getpid(), signal.SIGKILL)

    def execute(self, statement: str) -> sqlite3.Cursor:
        self._check(statement)
        return self._real.execute(statement)

    def executescript(self, statement: str) -> None:
        self._check(statement)
        self._real.executescript(statement)

    def close(self) -> None:
        self._check("close")
        self._real.close()


@pytest.mark.parametrize("at", ["begin;", "wal_checkpoint", "close"])
def test_an_interrupted_create_leaves_no_half_database(
    tmp_path: Path, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect: Callable[[Path], sqlite3.Connection] = module._connect
    child = os.fork()
    if child == 0:
        module._connect = lambda path: _Dies(connect(path), at)
        State.create(tmp_path / "state")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert not (tmp_path / "state" / "state.db").exists()
    with State.create(tmp_path / "state") as state:
        filled(state)
        assert state.verify() == {"ledger": 4, "audit": 9}


# --- rounds and evaluations -----------------------------------------------------------------------------------------


def test_rounds_are_kept_and_their_changes_audited(state: State) -> None:
    state.put_round("f", 2, "offered", {"a": 1})
    state.put_round("f", 1, "offered", {})
    state.put_round("f", 2, "offered", {"a": 2})
    state.put_round("f", 2, "fetched", {"a": 3})
    assert [(record.round, record.state) for record in state.rounds("f")] == [(1, "offered"), (2, "fetched")]
    assert state.round("f", 2).body == {"a": 3}
    assert state.round("f", 3) is None
    assert state.rounds("g") == []
    changes = [(one.body["round"], one.body["state"]) for one in state.records("audit")]
    assert changes == [(2, "offered"), (1, "offered"), (2, "fetched")]


def test_a_damaged_round_is_named(state: State) -> None:
    state.put_round("f", 1, "offered", {})
    with tampered(state, "update rounds set body = '{'") as damaged, pytest.raises(RecordsDamaged, match="Round 1"):
        damaged.rounds("f")


def test_evaluations_stay_at_home_and_are_replaced(state: State) -> None:
    assert state.evaluation("a") is None
    state.put_evaluation("a", {"mean_dice": 0.1})
    state.put_evaluation("a", {"mean_dice": 0.2})
    assert state.evaluation("a") == {"mean_dice": 0.2}
    assert state.verify()["audit"] == 0
