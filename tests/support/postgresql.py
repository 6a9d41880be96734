"""A real PostgreSQL under test: Debian's, as an unprivileged user, on a unix socket in a folder of its own."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

OWNER = "postgres"  # Debian's package makes this user; only root needs another one than himself


@dataclass
class PostgreSQL:
    """A cluster in `folder`. `password` is that of its superuser, who is known by nothing else."""

    folder: Path
    programs: Path
    password: str = field(default_factory=lambda: secrets.token_hex(12))
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def passfile(self) -> Path:
        """Where libpq finds the password."""
        return self.folder / "pgpass"

    def url(self, database: str) -> str:
        """As a coordinator writes it."""
        return f"postgresql://admin@/{database}?host={self.folder}&passfile={self.passfile}"

    def make(self) -> None:
        """A new cluster."""
        for name, text in (("password", self.password), ("pgpass", f"*:*:*:admin:{self.password}")):
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o600)
        owned = self.folder / "password"
        if os.geteuid() == 0:
            os.chown(self.folder, *_owner())
            os.chown(owned, *_owner())
        settings = ("--auth=scram-sha-256", "--locale=C.UTF-8", "--no-sync", f"--pwfile={owned}", "--username=admin")
        self._run("initdb", "--pgdata", str(self.folder / "data"), *settings)

    def start(self) -> None:
        """Starts it and waits until it answers."""
        command = [
            *(str(self.programs / "postgres"), "-D", str(self.folder / "data"), "-k", str(self.folder)),
            *("-c", "listen_addresses=", "-c", "shared_buffers=16MB", "-c", "TimeZone=Asia/Kolkata"),
            *("-c", "fsync=off"),  # this machine does not crash, only PostgreSQL does
        ]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log, **_as_owner())
        end = time.monotonic() + 30
        while subprocess.run([self.programs / "pg_isready", "-q", "-h", self.folder], check=False).returncode:
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < end, "PostgreSQL does not answer"
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Ends it: SIGINT cuts off whoever is connected, SIGQUIT is a crash."""
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(timeout=30)

    def database(self, name: str) -> str:
        """A new database; gives its URL."""
        self.say(f"CREATE DATABASE {name} LOCALE_PROVIDER icu ICU_LOCALE 'en' TEMPLATE template0", "postgres")
        return self.url(name)

    def say(self, statement: str, database: str) -> str:
        """What psql answers."""
        return self._client("psql", "--no-psqlrc", "-At", "-c", statement, self.url(database))

    def schema(self, database: str) -> list[str]:
        """The statements that make a database's tables, by pg_dump."""
        dumped = self._client("pg_dump", "--schema-only", self.url(database))
        return [line for line in dumped.splitlines() if line and not line.startswith(("--", "\\"))]

    def _client(self, program: str, *args: str) -> str:
        done = subprocess.run([self.programs / program, *args], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _run(self, program: str, *args: str) -> None:
        done = subprocess.run(
            [self.programs / program, *args], capture_output=True, text=True, check=False, timeout=60, **_as_owner()
        )
        assert done.returncode == 0, done.stderr


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """A running PostgreSQL until the end of the block."""
    programs = _programs()
    if programs is None:
        message = "PostgreSQL is not here (scripts/setup --test-tools)"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as name:  # a socket's path has at most 107 bytes
        server = PostgreSQL(Path(name), programs)
        server.make()
        server.start()
        try:
            yield server
        finally:
            if server.process is not None and server.process.poll() is None:
                server.stop(signal.SIGQUIT)


def _programs() -> Path | None:
    """Debian keeps them out of PATH, by version."""
    found = shutil.which("initdb")
    places: Sequence[Path] = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda one: int(one.parent.name))
    usable = [place for place in places if (place / "initdb").exists() and (place / "pg_dump").exists()]
    return usable[-1] if usable else Path(found).resolve().parent if found else None


def _owner() -> tuple[int, int]:
    entry = pwd.getpwnam(OWNER)
    return entry.pw_uid, entry.pw_gid


def _as_owner() -> dict[str, object]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {"cwd": "/"}
    user, group = _owner()
    return {"user": user, "group": group, "extra_groups": [], "cwd": "/"}
