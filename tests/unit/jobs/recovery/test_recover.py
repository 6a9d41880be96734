"""Records made anew where nobody can be asked, and what a server's word on a price is worth."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from example_site import make_site
from support.federation import dp_sgd, draft
from support.records import alter

from fedsite.errors import RecordsDamaged
from fedsite.jobs.recovery import recover
from fedsite.jobs.recovery.arrivals import Proofs, lost
from fedsite.jobs.site import open_site
from fedsite.privacy.accountant import Release
from fedsite.privacy.ledger import Ledger, Spent, Terms
from fedsite.site import salvage, withdrawals
from fedsite.site.identity import IdentityFiles, Pinned
from fedsite.site.state import State
from fedsite.wire import signing
from fedsite.wire.messages import Arrival, Envelope, Tickets
from fedsite.wire.plans import complete


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A site of three rounds, with a withdrawn patient, whose identity is gone: there is nobody to ask."""
    config = make_site(tmp_path, rounds=3, cases=2)
    with State.open(tmp_path / "state") as state:
        withdrawals.withdraw(state, "p-somebody")
        state.put_round("example", 4, "trained", {"ticket_sha256": "0" * 64})
    IdentityFiles(tmp_path / "state" / "identity").certificate.unlink()
    return config


def spent(config: Path) -> Spent:
    with open_site(config) as site:
        site.state.verify()
        return site.ledger.spent()


def changed(*statements: str) -> Callable[[Path], None]:
    return lambda path: alter(path, *statements)


@pytest.mark.parametrize(
    ("harm", "known"),
    [
        pytest.param(changed("delete from audit where sequence = 1"), 3, id="audit cut"),
        pytest.param(changed("delete from ledger where sequence = 4"), 3, id="an acknowledgement gone"),
        pytest.param(changed("update ledger set body = 'x' where sequence = 4"), 3, id="no JSON"),
        pytest.param(changed("delete from ledger where sequence = 1"), 3, id="the beginning gone"),
        pytest.param(changed("delete from ledger"), 0, id="emptied"),
    ],
)
def test_what_can_be_read_is_charged_anew(config: Path, harm: Callable[[Path], None], known: int) -> None:
    before, folder = spent(config), config.parent / "state"
    harm(folder / "state.db")
    with pytest.raises(RecordsDamaged, match="fedsite privacy recover"), open_site(config) as site:
        site.state.verify()
    found = recover.recover(config)
    assert found.damage
    assert found.kept is not None
    assert (found.kept / "state.db").is_file()
    assert (found.asked, found.withdrawals_known) == (False, True)
    assert len(found.charged) == known
    after = spent(config)
    assert after.releases == known
    assert after.epsilon == pytest.approx(before.epsilon if known else 0.0)
    with open_site(config) as site:
        assert withdrawals.withdrawn(site.state) == {"p-somebody"}
        assert [record.state for record in site.state.rounds("example")] == ["acknowledged"] * 3 + ["abandoned"]


@pytest.mark.parametrize("content", [b"", b"x" * 9000, None], ids=["no bytes", "no database", "gone"])
def test_what_cannot_be_read_begins_anew(config: Path, content: bytes | None) -> None:
    path = config.parent / "state" / "state.db"
    for file in path.parent.glob("state.db-*"):
        file.unlink()
    if content is None:
        IdentityFiles(path.parent / "identity").certificate.write_text(
            "once"
        )  # it was enrolled: then a missing ledger was lost
        (path.parent / "identity" / "federation.json").unlink()
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(RecordsDamaged), open_site(config):
        pass
    found = recover.recover(config)
    assert (found.charged, found.withdrawals_known) == ((), False)
    assert spent(config) == Spent()


def test_an_altered_charge_takes_all_that_is_left(config: Path) -> None:
    """Its own word is not believed, and there is nobody to ask."""
    alter = "update ledger set body = replace(body, '60.0', '6000.0') where sequence = 2"
    changed(alter)(config.parent / "state" / "state.db")
    found = recover.recover(config)
    assert [one["priced"] for one in found.charged].count(False) == 1
    assert spent(config).epsilon >= 8.0


def test_records_of_a_newer_fedsite_are_left_alone(config: Path) -> None:
    with sqlite3.connect(config.parent / "state" / "state.db") as database:
        database.execute("pragma user_version = 99")
    database.close()
    with pytest.raises(RecordsDamaged, match="version 99"):
        recover.recover(config)
    assert not (config.parent / "state" / "damaged").exists()


def test_a_crash_between_the_two_renames_loses_nothing(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, folder = spent(config), config.parent / "state"
    changed("delete from audit where sequence = 1")(folder / "state.db")
    rename = Path.replace

    def cut(self: Path, target: Path) -> Path:
        if self.parent.name == ".recovery" and self.name == "state.db":
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", cut)
        with pytest.raises(KeyboardInterrupt):
            recover.recover(config)
    assert not (folder / "state.db").exists()
    assert salvage.read(folder).ledger, "the old records are read where they were set aside"
    IdentityFiles(folder / "identity").certificate.write_text("once")
    (folder / "identity" / "federation.json").unlink()
    recover.recover(config)
    assert spent(config).epsilon == pytest.approx(before.epsilon)


# --- prices that a server can prove ---------------------------------------------------------------------------------

TERMS = Terms.chosen(8.0, 1e-6, 40)
PLAN_KEY, ROUND_KEY, STRANGER = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2, 5))


class Server:
    """Answers with one plan and one ticket."""

    def __init__(self, plan: Envelope | None, ticket: Envelope | None) -> None:
        self._plan, self._ticket = plan, ticket

    def plan(self, sha256: str) -> Envelope | None:
        return self._plan

    def tickets(self, after: int) -> Tickets:
        return Tickets(tickets=[self._ticket] if self._ticket else [])


def signed(
    folder: Path, key: Ed25519PrivateKey = PLAN_KEY, number: int = 1, **privacy: Any
) -> tuple[Envelope, Envelope]:
    changes = {"privacy": dp_sgd(**privacy), "local": {"steps": 7, "patch_voxels": [16, 16, 16]}}
    keys = signing.public_key(ROUND_KEY), signing.public_key(ROUND_KEY)
    plan = signing.sign(complete(draft(folder, **changes), *keys).to_bytes(), signing.PLAN, [key])
    ticket = {"federation": "test-federation", "plan_sha256": signing.digest(plan), "round": number}
    ticket |= {"previous_ticket": None, "model_sha256": "0" * 64, "model_bytes": 4000}
    ticket |= {"opened": "2026-05-31T00:00:00Z", "expires": "2026-06-02T00:00:00Z"}
    return plan, signing.sign(json.dumps(ticket).encode(), signing.TICKET, [ROUND_KEY])


def priced(folder: Path, plan: Envelope | None, ticket: Envelope | None) -> Any:
    pinned = Pinned("https://s", "north", "test-federation", (signing.public_key(PLAN_KEY).ed25519,), 1, "0" * 64)
    with State.create(folder / "state") as state:
        terms = Ledger.create(state, TERMS).terms
    arrival = Arrival(round=1, update_sha256="d" * 64, ledger_sequence=3)
    (found,) = lost([arrival], Proofs(pinned, Server(plan, ticket)), terms)
    return found


def test_a_signed_plan_proves_the_price_of_dp_sgd(tmp_path: Path) -> None:
    found = priced(tmp_path, *signed(tmp_path, noise_multiplier=2.0))
    assert found.charge.release == Release(2.0, 2 / 40, 7)
    assert (found.sequence, found.receipt_sha256) == (3, None)


@pytest.mark.parametrize("what", ["a stranger's plan", "another round", "no plan", "no ticket", "too many patients"])
def test_what_is_not_proved_has_no_price(tmp_path: Path, what: str) -> None:
    plan, ticket = {
        "a stranger's plan": lambda: signed(tmp_path, STRANGER),
        "another round": lambda: signed(tmp_path, number=2),
        "no plan": lambda: (None, signed(tmp_path)[1]),
        "no ticket": lambda: (signed(tmp_path)[0], None),
        "too many patients": lambda: signed(tmp_path, batch_patients=41),
    }[what]()
    assert priced(tmp_path, plan, ticket).charge is None
