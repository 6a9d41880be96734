"""Which URLs are taken, and what is made of them. What PostgreSQL does: tests/integration/server/test_postgresql.py."""

import pytest
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError
from support.federation import make

from fedsite.errors import ConfigurationError, UsageError
from fedsite.server.store import database
from fedsite.server.store.database import Database, postgresql_url
from fedsite.server.store.storage import InvitationRow


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://admin:hunter2@db.example.org/federation",
        "postgresql://admin:@db.example.org/federation",
        "postgresql://db.example.org/federation?user=admin&password=hunter2",
        "postgresql://db.example.org/federation?sslpassword=hunter2",
    ],
)
def test_a_password_in_the_url_is_refused_and_not_repeated(tmp_path, url: str) -> None:
    with pytest.raises(UsageError, match="must not stand in the database's URL") as told:
        make(tmp_path / "federation", database=url)
    assert "hunter2" not in str(told.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["", "federation.db", "mysql://admin@db/federation", "sqlite:///x", "postgresql+pg8000://db/x"]
)
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(UsageError, match="postgresql://USER@HOST/DATABASE"):
        postgresql_url(url)


@pytest.mark.parametrize(
    ("url", "verified"),
    [
        ("postgresql://admin@db.example.org/federation", "verify-full"),
        ("postgresql:///federation?host=db.example.org", "verify-full"),
        ("postgresql:///federation?host=/run/postgresql,db.example.org", "verify-full"),
        ("postgresql:///federation?host=/run/postgresql&host=db.example.org", "verify-full"),
        ("postgresql:///?service=federation", "verify-full"),
        ("postgresql://db.example.org/federation?sslmode=disable", "disable"),
        ("postgresql://admin@localhost/federation", None),
        ("postgresql://[::1]/federation", None),
        ("postgresql:///federation?host=/run/postgresql", None),
        ("postgresql:///federation", None),
    ],
)
def test_another_machines_certificate_is_verified(url: str, verified: str | None) -> None:
    found = postgresql_url(url)
    assert found.query.get("sslmode") == verified
    assert postgresql_url(found.render_as_string()) == found, "what is written into database.url is read again"


def test_every_wait_for_another_machine_has_an_end_unless_the_url_sets_another() -> None:
    url = postgresql_url("postgresql://db.example.org/federation?connect_timeout=3")
    arguments = Database(url)._reader.dialect.create_connect_args(url)[1]
    assert arguments["connect_timeout"] == "3"
    assert "connect_timeout" in database._WAITS


def test_a_driver_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: object, **kwargs: object) -> None:
        raise ModuleNotFoundError("psycopg")

    monkeypatch.setattr(database, "create_engine", missing)
    with pytest.raises(ConfigurationError, match="psycopg"):
        Database(postgresql_url("postgresql:///federation"))


def test_what_a_statement_was_given_is_in_no_traceback(tmp_path) -> None:
    federation = make(tmp_path / "federation")
    rows = [{"secret_sha256": "a secret's digest", "site": "site-a"}]
    with pytest.raises(IntegrityError) as told, federation.database.writing() as session:
        session.execute(insert(InvitationRow), rows)
    assert "INSERT INTO invitations" in str(told.value)
    assert "a secret's digest" not in str(told.value)
