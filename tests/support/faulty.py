"""Faults at the steps of a process that last: what it writes, fsyncs, names, removes, commits, and sends over TLS.

Steps are counted as they come, whichever thread takes them, so that a fault can be had at each of them in turn:

    kill-before, kill-after   SIGKILL on either side of the step
    kill-within               half of a write, or of what is sent, and then SIGKILL
    power-cut                 before the step: what no fsync has made durable is lost, names and contents, then SIGKILL
    eio, full                 an fsync, or whatever needs room, fails as on a bad or a full disk; SQLite says so itself

A step is named `KIND WHAT`: `fsync outbox/round-1.safetensors`, `send PATCH /v1/uploads/...`, and a commit by all that
was said in its transaction. What SQLite and libpq do within a commit is theirs. As a script this runs the fedsite
command with the fault of $FAULT; `forked` does the same to what a test calls.
"""

import builtins
import errno
import functools
import io
import json
import os
import re
import shutil
import signal
import sqlite3
import ssl
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn

SCRIPT = __file__
KINDS = {
    "kill-within": {"write", "send"},
    "eio": {"fsync", "commit"},
    "full": {"create", "write", "mkdir", "commit"},
}
"""What can be done to some kinds of steps alone; the others to all."""
FAILS = {"eio": errno.EIO, "full": errno.ENOSPC}
CHANGES = ("insert", "update", "delete", "replace", "create", "drop", "alter")

_PATCHED = ("open", "mkdir", "rmdir", "unlink", "link", "rename", "replace", "fsync", "pwrite")
_SYSTEM = {name: getattr(os, name) for name in _PATCHED}
_open, _send = io.open, ssl.SSLSocket.send


@dataclass(frozen=True)
class Fault:
    """What happens at the `nth` of those steps whose names match `pattern` (fnmatch's, in any case).

    `told` is a file that gets the step's name, for who wants to know whether and where it was hit. Commits of
    PostgreSQL's count where `postgresql` says so: its driver takes long to import.
    """

    what: str
    nth: int = 1
    pattern: str = "*"
    told: str = ""
    postgresql: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """What a process that runs this script must be given."""
        return {"FAULT": json.dumps(asdict(self))}


NAMED = {
    "record": ("kill-after", "fsync */journal.jsonl"),
    "line": ("kill-within", "write */journal.jsonl"),
    "store": ("kill-within", "write cases/*"),
    "commit": ("kill-before", "rename */manifest.json"),
    "sweep": ("kill-after", "rename */manifest.json"),
    "report": ("kill-within", "write */.report.html*"),
    "withdrawn": ("kill-after", "commit *patient-withdrawn*"),
    "upload": ("kill-within", "send * bytes"),
    "step": ("kill-after", "rename checkpoints/*.training.safetensors*"),
}
"""Kills at places of a site's work that have a name: `record:2` is once the second study is in the journal."""


def named(place: str) -> Fault:
    """A kill at one of these, or `before:STATE` or `after:STATE`: around the commit of a round's state."""
    name, _, which = place.partition(":")
    if name in ("before", "after"):
        return Fault(f"kill-{name}", pattern=f"commit *insert into rounds values (*, '{which}', *")
    what, pattern = NAMED[name]
    return Fault(what, int(which or 1), pattern)


def forked(fault: Fault, act: Callable[[], object]) -> int:
    """Does something in a process of its own, under a fault: minus a signal's number, a FedsiteError's exit code, 0."""
    from fedsite.errors import FedsiteError

    process = os.fork()
    if process == 0:
        code = 0
        try:
            arm(fault)
            act()
        except FedsiteError as error:
            print(f"{error} {error.mend}", file=sys.stderr)  # for whoever looks into a test that fails
            code = error.exit_code
        except BaseException:  # noqa: BLE001 - the child must not go on as a test
            traceback.print_exc()
            code = 1
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert code != 1, "its error stands above"
    return code


class Unsynced:
    """What a power cut would undo: contents since a file's last fsync, names since their folder's."""

    def __init__(self) -> None:
        self._contents: dict[tuple[int, int], tuple[int, bytes]] = {}
        self._names: list[tuple[Path, Callable[[], object]]] = []

    def changing(self, descriptor: int) -> None:
        """The contents of a file are about to change."""
        status, file = os.fstat(descriptor), Path(f"/proc/self/fd/{descriptor}")
        if (status.st_dev, status.st_ino) not in self._contents and file.is_file():
            self._contents[status.st_dev, status.st_ino] = _SYSTEM["open"](file, os.O_RDWR), _bytes_of(file)

    def naming(self, path: Path, undo: Callable[[], object]) -> None:
        """A name is about to come, go or change."""
        self._names.append((path.parent, undo))

    def synced(self, descriptor: int) -> None:
        """A file's contents, or a folder's names, have become durable."""
        status, folder = os.fstat(descriptor), _path_of(descriptor)
        self._contents.pop((status.st_dev, status.st_ino), None)
        self._names = [one for one in self._names if one[0] != folder]

    def lose(self) -> None:
        """Undoes it all, the last first."""
        for descriptor, content in self._contents.values():
            os.ftruncate(descriptor, 0)
            _SYSTEM["pwrite"](descriptor, content, 0)
        for _, undo in reversed(self._names):
            undo()


class Steps:
    """Counts the steps of this process, and does what the fault says at the one that it names."""

    def __init__(self, fault: Fault) -> None:
        self.unsynced = Unsynced()
        self._fault, self._left, self._lock, self._done = fault, fault.nth, threading.RLock(), False

    def take(self, kind: str, what: str, act: Callable[[], Any], half: Callable[[], object] | None = None) -> Any:
        """Takes one step, or what becomes of it. Raises OSError where the disk is at fault."""
        with self._lock:
            if not self._done and self._is_hit(kind, f"{kind} {what}"):
                self._done = True
                self._strike(f"{kind} {what}", act, half)
            return act()

    def _is_hit(self, kind: str, name: str) -> bool:
        if kind in KINDS.get(self._fault.what, {kind}) and fnmatchcase(name.lower(), self._fault.pattern.lower()):
            self._left -= 1
        return self._left == 0

    def _strike(self, name: str, act: Callable[[], Any], half: Callable[[], object] | None) -> NoReturn:
        if self._fault.told:
            with _open(self._fault.told, "w") as told:
                told.write(name)
        if self._fault.what in FAILS:
            number = FAILS[self._fault.what]
            raise OSError(number, os.strerror(number))
        before: dict[str, Callable[[], object] | None] = {
            "kill-after": act,
            "kill-within": half,
            "power-cut": self.unsynced.lose,
        }
        if first := before.get(self._fault.what):
            first()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError  # nobody lives to see it


steps = Steps(Fault("kill-before", nth=1 << 62))
"""Those of this process, once it is armed."""


def arm(fault: Fault) -> None:
    """From here on this process counts its steps."""
    global steps
    steps = Steps(fault)
    os.mkdir, os.fsync, os.pwrite, os.open = _mkdir, _fsync, _pwrite, _create_or_open
    os.rmdir, os.unlink, os.remove = (functools.partial(_remove, name) for name in ("rmdir", "unlink", "unlink"))
    os.rename, os.replace = (functools.partial(_rename, name) for name in ("rename", "replace"))
    io.open = builtins.open = _open_file
    ssl.SSLSocket.send = _sent  # type: ignore[method-assign]
    sqlite3.connect = sqlite3.dbapi2.connect = functools.partial(sqlite3.connect, factory=_Connection)
    if fault.postgresql:
        import psycopg

        commit = psycopg.Connection.commit
        psycopg.Connection.commit = lambda self: steps.take("commit", "postgresql", lambda: commit(self))


# --- names: `shutil` and `pathlib` go through these, too ----------------------------------------------------------


def _mkdir(path: Any, *args: Any, **named: Any) -> None:
    place = _place(path, named.get("dir_fd"))
    if os.path.lexists(place):  # it fails in its own words
        _SYSTEM["mkdir"](path, *args, **named)
    steps.unsynced.naming(place, lambda: shutil.rmtree(place, ignore_errors=True))
    steps.take("mkdir", _short(place), lambda: _SYSTEM["mkdir"](path, *args, **named))


def _remove(name: str, path: Any, **named: Any) -> None:
    place = _place(path, named.get("dir_fd"))
    if not os.path.lexists(place):
        _SYSTEM[name](path, **named)
    content = _bytes_of(place) if place.is_file() else None

    def act() -> None:
        _SYSTEM[name](path, **named)
        undo = functools.partial(_SYSTEM["mkdir"], place) if content is None else lambda: _write(place, content)
        steps.unsynced.naming(place, undo)

    steps.take("remove", _short(place), act)


def _rename(name: str, source: Any, target: Any, **named: Any) -> None:
    before, after = _place(source, named.get("src_dir_fd")), _place(target, named.get("dst_dir_fd"))
    old = _bytes_of(after) if after.is_file() else None
    apart = before.parent != after.parent

    def undo() -> None:
        if apart:
            _SYSTEM["unlink"](after)
        else:
            _SYSTEM["rename"](after, before)
        if old is not None:
            _write(after, old)

    def act() -> None:
        _SYSTEM[name](source, target, **named)
        steps.unsynced.naming(after, undo)
        if apart:
            steps.unsynced.naming(before, lambda: os.path.lexists(before) or _SYSTEM["link"](after, before))

    steps.take("rename", _short(after), act)


def _create(place: Path, act: Callable[[], Any]) -> Any:
    steps.unsynced.naming(place, lambda: os.path.lexists(place) and _SYSTEM["unlink"](place))
    return steps.take("create", _short(place), act)


# --- contents: each write(2), and fsync ---------------------------------------------------------------------------


def _create_or_open(path: Any, flags: int, *args: Any, **named: Any) -> int:
    place, act = _place(path, named.get("dir_fd")), functools.partial(_SYSTEM["open"], path, flags, *args, **named)
    if flags & os.O_CREAT and not os.path.lexists(place):
        return int(_create(place, act))
    if flags & os.O_TRUNC:
        _about_to_change(place)
    return int(act())


class _File(io.FileIO):
    """A file that is opened for writing: its buffer, if it has one, writes through it."""

    def __init__(self, file: Any, mode: str, closefd: bool, opener: Any) -> None:
        act = functools.partial(super().__init__, file, mode, closefd, opener)
        if isinstance(file, int) or opener is not None:  # tempfile opens a folder, for a file without a name
            act()
        elif os.path.lexists(file):
            _about_to_change(_place(file))
            act()
        else:
            _create(_place(file), act)

    def write(self, data: Any, /) -> int:
        steps.unsynced.changing(self.fileno())
        write, half = super().write, data[: len(data) // 2]
        what = _short(_path_of(self.fileno()))
        return int(steps.take("write", what, lambda: write(data), lambda: write(half)))

    def truncate(self, size: int | None = None, /) -> int:
        steps.unsynced.changing(self.fileno())
        return super().truncate(size)


def _open_file(
    file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None, newline: Any = None,
    closefd: bool = True, opener: Any = None,
) -> Any:  # fmt: skip
    if not set("wax+") & set(mode):
        return _open(file, mode, buffering, encoding, errors, newline, closefd, opener)
    raw = _File(file, re.sub("[bt]", "", mode), closefd, opener)
    if buffering == 0:
        return raw
    size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
    buffer = io.BufferedRandom(raw, size) if "+" in mode else io.BufferedWriter(raw, size)
    return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding, errors, newline, buffering == 1)


def _fsync(file: Any) -> None:
    descriptor = file if isinstance(file, int) else file.fileno()

    def act() -> None:
        _SYSTEM["fsync"](descriptor)
        steps.unsynced.synced(descriptor)

    steps.take("fsync", _short(_path_of(descriptor)), act)


def _pwrite(descriptor: int, data: bytes, offset: int) -> int:
    steps.unsynced.changing(descriptor)
    act, half = (
        functools.partial(_SYSTEM["pwrite"], descriptor, part, offset) for part in (data, data[: len(data) // 2])
    )
    return int(steps.take("write", _short(_path_of(descriptor)), act, half))


def _about_to_change(place: Path) -> None:
    with _open(place, "rb") as before:
        steps.unsynced.changing(before.fileno())


# --- what is sent, and what is committed --------------------------------------------------------------------------


def _sent(self: ssl.SSLSocket, data: Any, flags: int = 0) -> int:
    begin = bytes(data[:60]).split(b"\r\n")[0]
    what = "message" if begin.startswith(b"{") else f"{len(data)} bytes"
    if re.match(rb"[A-Z]+ /", begin):
        what = begin.decode("ascii")
    act, half = (functools.partial(_send, self, part, flags) for part in (data, data[: len(data) // 2] or data))
    return int(steps.take("send", what, act, half))


class _Connection(sqlite3.Connection):
    """Remembers what was changed since the last commit."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.said: list[str] = []
        self.set_trace_callback(self._hear)

    def _hear(self, statement: str) -> None:
        if statement.lower().startswith(CHANGES):
            self.said.append(statement)

    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(_Cursor)

    def execute(self, statement: str, *values: Any) -> Any:  # type: ignore[override]
        return self.cursor().execute(statement, *values)

    def commit(self) -> None:
        if self.in_transaction:
            self.durably(super().commit)

    def rollback(self) -> None:
        self.said.clear()
        super().rollback()

    def durably(self, act: Callable[[], Any], statement: str = "") -> Any:
        """A commit, unless nothing was changed: whoever only reads ends a transaction, too."""
        if not (self.said or statement):
            return act()
        try:
            return steps.take("commit", "; ".join([*self.said, statement]), act)
        except OSError as error:
            self.rollback()
            raise _as_sqlite_says(error) from None
        finally:
            self.said.clear()


class _Cursor(sqlite3.Cursor):
    connection: _Connection  # type: ignore[assignment]

    def execute(self, statement: str, *values: Any) -> Any:  # type: ignore[override]
        act, word = functools.partial(super().execute, statement, *values), statement.split(maxsplit=1)[0].lower()
        if word == "rollback":
            self.connection.said.clear()
        if word == "commit":
            return self.connection.durably(act)
        if word in CHANGES and not self.connection.in_transaction:
            return self.connection.durably(act, statement)
        return act()


def _as_sqlite_says(error: OSError) -> sqlite3.OperationalError:
    full = error.errno == errno.ENOSPC
    said = sqlite3.OperationalError("database or disk is full" if full else "disk I/O error")
    said.sqlite_errorcode = sqlite3.SQLITE_FULL if full else sqlite3.SQLITE_IOERR
    return said


# --- paths ---------------------------------------------------------------------------------------------------------


def _place(path: Any, folder: int | None = None) -> Path:
    return (_path_of(folder) if folder is not None else Path.cwd()) / os.fspath(path)


def _path_of(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def _short(path: Path) -> str:
    """Its name and that of its folder."""
    return "/".join(path.parts[-2:])


def _bytes_of(path: Path) -> bytes:
    with _open(path, "rb") as file:
        content: bytes = file.read()
        return content


def _write(path: Path, content: bytes) -> None:
    descriptor = _SYSTEM["open"](path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with _open(descriptor, "wb") as file:
        file.write(content)


if __name__ == "__main__":
    arm(Fault(**json.loads(os.environ["FAULT"])))
    from fedsite.cli.main import main

    if "server" in sys.argv:
        from fedsite.server.web import run

        run.AFTER_FAILURE_SECONDS = 0.5  # who walks through a hundred failing disks does not wait for minutes

    sys.argv[0] = "fedsite"
    main()
