"""The same server on a real PostgreSQL: started here, restarted under its hands, backed up, moved."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, text
from support.federation import (
    NAME,
    SHAPES,
    Server,
    draft,
    environment,
    make,
    model_file,
    plan_file,
    tensors,
    update_file,
)
from support.postgresql import PostgreSQL, postgresql
from support.processes import FEDSITE

from fedsite.errors import CannotWrite, TryAgainLater, Unreachable, UsageError
from fedsite.files import sha256_of
from fedsite.server.exchange import uploads
from fedsite.server.federation import Federation, open_federation
from fedsite.server.keeping import backups, upgrades
from fedsite.server.rounds import rounds, series
from fedsite.server.rounds.reports import round_report
from fedsite.server.store import database
from fedsite.server.store.database import Database, postgresql_url
from fedsite.server.store.storage import CertificateRow, FederationRow, RoundRow, SeriesRow
from fedsite.wire.client import TlsIdentity

LARGE = {"weight": (1024, 2304)}  # of 9 MB: more than is made durable at once
TWO = {"rounds": {"quorum": 2, "enough": 2, "deadline_seconds": 600}}
SITES = ("site1", "site_1")  # bytes order them so, dictionaries the other way


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgreSQL]:
    with postgresql() as server:
        yield server


@pytest.fixture(scope="module")
def server(postgres: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Made and run by the installed command."""
    by_itself = [sys.executable, FEDSITE]  # not forked: what stands in its command line is looked at
    server = Server(tmp_path_factory.mktemp("server") / "federation", by_itself)
    names = ("--federation", NAME, "--name", "localhost", "--database", postgres.database("served"))
    made = subprocess.run(
        [FEDSITE, "server", "init", str(server.folder), *names],
        env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    server.start()
    yield server
    assert server.stop() == 0, server.log


@pytest.fixture(scope="module")
def sites(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TlsIdentity]:
    folder = tmp_path_factory.mktemp("sites")
    return {name: server.enrol(name, folder / name) for name in SITES}


@pytest.fixture
def federation(postgres: PostgreSQL, tmp_path: Path) -> Iterator[Federation]:
    """One in this process, on a database of its own."""
    made = make(tmp_path / "own", database=postgres.database(f"own_{tmp_path.name.replace('-', '_')}"))
    yield made
    made.database.close()


def updates(folder: Path, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> dict[str, Path]:
    return {name: update_file(folder / name, tensors(seed, shapes)) for seed, name in enumerate(SITES, 1)}


def deliver(federation: Federation, number: int, sent: dict[str, Path]) -> None:
    """What sites do, without a server."""
    for site, update in sent.items():
        said = uploads.Announcement(sha256_of(update), update.stat().st_size, number, None)
        part = uploads.Part(federation, upload := uploads.announce(federation, site, number, said), 0)
        part.write(update.read_bytes())
        part.close()
        uploads.conclude(federation, site, upload.id)
    rounds.advance(federation)


def undisturbed(folder: Path, model: Path, sent: dict[str, Path]) -> str:
    """The model that two rounds of the same updates make on SQLite."""
    federation = make(folder / "undisturbed")
    series.open_series(federation, draft(folder, **TWO), model, 2)
    for number in (1, 2):
        deliver(federation, number, sent)
    result: str = round_report(federation, 2)["result_sha256"]
    federation.database.close()
    return result


def test_migrations_lead_to_the_tables_of_the_models(postgres: PostgreSQL) -> None:
    made, migrated = (Database(postgresql_url(postgres.database(name))) for name in ("made", "migrated"))
    with closing(made), closing(migrated):
        made.create(lambda session: None)
        upgrades.migrate(migrated)
        assert migrated.revision() == made.revision()
        assert postgres.schema("migrated") == postgres.schema("made")
        with pytest.raises(UsageError, match="holds a federation already"):
            made.create(lambda session: None)


@pytest.mark.fault(
    part="server",
    what="PostgreSQL is restarted, and crashes, in the middle of a round",
    where="while bytes come in; between a receipt and the next update",
    promised="the model is byte-equal to the undisturbed one's, receipts the same",
)
def test_a_round_ends_rightly_though_postgresql_is_restarted_in_its_middle(
    postgres: PostgreSQL, server: Server, sites: dict[str, TlsIdentity], tmp_path: Path
) -> None:
    """Once shut down while bytes come in, once crashed between a receipt and the next update."""
    sent, model = updates(tmp_path, LARGE), model_file(tmp_path / "model", shapes=LARGE)
    number = server.open_series(plan_file(tmp_path, **TWO), model, 2)
    receipts, back = {}, threading.Timer(1.5, postgres.start)

    def shut_down(done: int, total: int) -> None:
        if done > total // 2 and not back.is_alive() and not back.finished.is_set():
            postgres.stop(signal.SIGINT)
            back.start()

    with server.client(sites["site1"]) as first, server.client(sites["site_1"]) as second:
        for client, name, progress in ((first, "site1", shut_down), (second, "site_1", lambda done, total: None)):
            digest = sha256_of(sent[name])
            receipts[name] = client.upload(number, sent[name], digest, 1, progress=progress)
            assert client.upload(number, sent[name], digest, 1) == receipts[name]
        back.join()
        server.wait_for(number, "aggregated")
        first.upload(number + 1, sent["site1"], sha256_of(sent["site1"]), 2)
        postgres.stop(signal.SIGQUIT)
        postgres.start()
        second.upload(number + 1, sent["site_1"], sha256_of(sent["site_1"]), 2)
        server.wait_for(number + 1, "aggregated")
    report = round_report(server.federation, number + 1)
    assert [one["site"] for one in report["took_part"]] == list(SITES)
    assert report["result_sha256"] == undisturbed(tmp_path, model, sent)
    assert "database cannot be reached" in server.log
    assert "Traceback" not in server.log


@pytest.mark.fault(
    part="server",
    what="PostgreSQL is away",
    where="it is stopped while sites ask",
    promised="they are asked to come back (503), and told nothing of it",
)
def test_while_it_is_away_sites_are_told_to_come_back_and_nothing_of_it(
    postgres: PostgreSQL, server: Server, sites: dict[str, TlsIdentity]
) -> None:
    postgres.stop()
    try:
        with server.client(sites["site1"], patience=0) as client, pytest.raises(Unreachable, match="503") as told:
            client.round_answer(1)
        assert "postgres" not in str(told.value).lower()
        away = server.run("server", "round", "list", "--json")
        assert away.returncode == 75
        assert "PostgreSQL says" in away.stdout
    finally:
        postgres.start()


def test_the_password_is_nowhere(postgres: PostgreSQL, server: Server) -> None:
    assert server.process is not None
    command_line = Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
    surroundings = Path(f"/proc/{server.process.pid}/environ").read_bytes()
    files = [path.read_bytes() for path in server.folder.rglob("*") if path.is_file()]
    for content in (command_line, surroundings, server.log.encode(), *files):
        assert postgres.password.encode() not in content
    assert (server.folder / "database.url").stat().st_mode & 0o777 == 0o600
    assert not (server.folder / "federation.db").exists()


def test_a_wrong_password_is_told_without_it(postgres: PostgreSQL, tmp_path: Path) -> None:
    url = postgres.database("locked")
    wrong = tmp_path / "pgpass"
    wrong.write_text("*:*:*:admin:a-guess\n")
    wrong.chmod(0o600)
    with pytest.raises(TryAgainLater, match="password authentication failed") as told:
        make(tmp_path / "federation", database=url.replace(str(postgres.passfile), str(wrong)))
    assert "a-guess" not in str(told.value)
    assert not (tmp_path / "federation").exists()


def test_init_takes_an_empty_database_or_leaves_nothing(
    postgres: PostgreSQL, federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = (federation.folder / "database.url").read_text().strip()
    with pytest.raises(UsageError, match="holds a federation already"):
        make(tmp_path / "second", database=url)
    assert not (tmp_path / "second").exists()
    empty = postgres.database("empty")

    def fails(*args: object) -> None:
        raise CannotWrite("No space.")

    monkeypatch.setattr("fedsite.server.federation.write_atomically", fails)
    with pytest.raises(CannotWrite):
        make(tmp_path / "second", database=empty)
    assert postgres.say("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", "empty").strip() == "0"


def test_writers_take_turns_and_readers_see_one_moment(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    name, seen = federation.name, threading.Event()

    def count_on() -> None:
        with federation.database.writing() as session:
            row = session.get_one(FederationRow, name)
            seen.wait(0.05)  # long enough for the others to have read the same, were they let in
            row.hosts = str(int(row.hosts) + 1)

    with federation.database.writing() as session:
        session.get_one(FederationRow, name).hosts = "0"
    writers = [threading.Thread(target=count_on) for _ in range(6)]
    with federation.database.reading() as reader:
        assert reader.scalar(select(FederationRow.hosts)) == "0"
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert reader.scalar(select(FederationRow.hosts)) == "0"
    with federation.database.reading() as reader:
        row = reader.get_one(FederationRow, name)
        assert (row.hosts, row.created.tzinfo) == ("6", UTC)

    monkeypatch.setattr(database, "LOCK_SECONDS", 0.1)
    with federation.database.writing() as first:
        first.scalar(select(FederationRow.name))
        with pytest.raises(TryAgainLater, match="Another process"), federation.database.writing() as second:
            second.scalar(select(FederationRow.name))


def test_a_commit_is_on_the_disk_whatever_the_databases_default(postgres: PostgreSQL, federation: Federation) -> None:
    with federation.database.reading() as session:
        name = session.scalar(text("SELECT current_database()"))
    postgres.say(f"ALTER DATABASE {name} SET synchronous_commit = off", "postgres")
    federation.database.close()
    shown = text("SHOW synchronous_commit")
    with federation.database.reading() as reader, federation.database.writing() as writer:
        assert (reader.scalar(shown), writer.scalar(shown)) == ("off", "on")


def test_a_full_disk_and_a_bug_are_two_things(federation: Federation) -> None:
    raising = "DO $$ BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = '{}'; END $$"
    with pytest.raises(CannotWrite), federation.database.writing() as session:
        session.execute(text(raising.format("53100")))
    with pytest.raises(Exception, match="division by zero") as bug, federation.database.writing() as session:
        session.execute(text("SELECT 1/0"))
    assert not isinstance(bug.value, TryAgainLater)


def test_a_backup_of_one_kind_is_restored_on_the_other(
    postgres: PostgreSQL, federation: Federation, tmp_path: Path
) -> None:
    sent = updates(tmp_path)
    series.open_series(federation, draft(tmp_path, **TWO), model_file(tmp_path / "model"), 3)
    deliver(federation, 1, sent)
    deliver(federation, 2, {"site1": sent["site1"]})
    with federation.database.writing() as session:
        days = federation.clock(), federation.clock() + timedelta(days=90)
        session.add(
            CertificateRow(sha256="a", site="site1", spki_sha256="b", der=b"\0c", issued=days[0], expires=days[1])
        )
    size = 5 << 30
    with federation.database.writing() as session:
        session.execute(text(f"UPDATE models SET size = {size} WHERE round IS NULL"))

    assert backups.backup(federation, tmp_path / "backup") == backups.Made(files=3, copied=3)
    assert backups.restore(tmp_path / "backup", tmp_path / "sqlite") == 2
    light = open_federation(tmp_path / "sqlite")
    backups.backup(light, tmp_path / "again")
    backups.restore(tmp_path / "again", tmp_path / "moved", postgres.database("moved"))
    moved = open_federation(tmp_path / "moved")
    assert (light.database.is_postgresql, moved.database.is_postgresql) == (False, True)
    results = set()
    for one in (federation, light, moved):
        deliver(one, 2, {"site_1": sent["site_1"]})
        results.add(round_report(one, 2)["result_sha256"])
        with one.database.writing() as session:
            assert session.scalar(text("SELECT max(size) FROM models")) == size
            certificate = session.get_one(CertificateRow, 1)
            assert (certificate.der, certificate.issued) == (b"\0c", days[0])
            session.add(SeriesRow(plan_sha256="p", plan="p", rounds=1, changed=days[0]))
            session.flush()
            assert session.scalar(select(func.max(SeriesRow.id))) == 2
            assert session.scalar(select(func.max(RoundRow.number))) == 3
    assert len(results) == 1
    light.database.close()
    moved.database.close()
