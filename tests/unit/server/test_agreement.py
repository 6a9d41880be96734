"""A federation's data-use agreement, and its end: what `server init` was told is what sites pin."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError
from support.federation import make
from typer.testing import CliRunner

from fedsite.cli.main import app
from fedsite.cli.output import Output
from fedsite.errors import UsageError
from fedsite.server.federation import open_federation
from fedsite.server.members import enrolment
from fedsite.wire.messages import MalformedMessage, PublicKey, Trust, parse

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def test_an_agreement_without_an_end_says_nothing_of_one(tmp_path: Path) -> None:
    """So that a site that knows no such field can read what it pins."""
    trust = enrolment.trust(make(tmp_path / "federation"), "north")
    assert trust.agreement_expires is None
    assert "agreement_expires" not in json.loads(trust.to_bytes())
    assert trust.agreement_sha256 == hashlib.sha256(b"Be kind.").hexdigest()


def test_an_end_is_told_to_whoever_enrols(tmp_path: Path) -> None:
    end = NOW + timedelta(days=365)
    trust = enrolment.trust(make(tmp_path / "federation", lambda: NOW, agreement_expires=end), "north")
    assert parse(Trust, trust.to_bytes()).agreement_expires == end


@pytest.mark.parametrize("settings", [{"agreement": ""}, {"agreement_expires": NOW}])
def test_an_end_needs_an_agreement_and_lies_ahead(tmp_path: Path, settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="must lie ahead"):
        make(tmp_path / "federation", lambda: NOW, **({"agreement_expires": NOW + timedelta(days=1)} | settings))
    assert not (tmp_path / "federation").exists()


def test_the_last_day_is_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "agreement.txt").write_text("Be kind.")
    words = ["server", "init", str(tmp_path / "made"), "--federation", "strokes", "--name", "localhost"]
    words += ["--agreement", str(tmp_path / "agreement.txt"), "--agreement-until", "2040-12-31"]
    assert CliRunner().invoke(app, words, obj=Output(command="server init")).exit_code == 0
    assert open_federation(tmp_path / "made").agreement_expires == datetime(2041, 1, 1, tzinfo=UTC)


def test_no_site_waits_for_more_signers_than_there_are() -> None:
    """The same key twice is one signer: a site that pinned it could never be asked for anything."""
    key = PublicKey(id="0" * 16, ed25519="a" * 64)
    given = {"federation": "strokes", "site": "north", "agreement": "", "agreement_sha256": "0" * 64}
    Trust(**given, plan_keys=[key, PublicKey(id="1" * 16, ed25519="b" * 64)], plan_threshold=2)
    with pytest.raises(ValidationError, match="more signatures than there are different keys"):
        Trust(**given, plan_keys=[key, key], plan_threshold=2)
    twice = given | {"plan_keys": [key.model_dump()] * 2, "plan_threshold": 2}
    with pytest.raises(MalformedMessage):
        parse(Trust, json.dumps(twice).encode())
