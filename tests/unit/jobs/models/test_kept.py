"""What is in force of what a site keeps: by the newest acknowledged round of a plan, and by whom it has seen."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedsite.errors import RecordsDamaged
from fedsite.jobs.models import kept
from fedsite.site import withdrawals
from fedsite.site.state import State

PLAN, OTHER = "a" * 64, "b" * 64
FEDERATION = "strokes"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State.create(tmp_path / "state") as state:
        yield state


def put(state: State, number: int, kind: str = "control", to: str = "acknowledged", plan: str = PLAN) -> Path:
    """A round that left a file here."""
    file = kept._place(state, kind, number)
    file.write_bytes(f"{kind} {number}".encode())
    body: dict[str, Any] = {"plan_sha256": plan, kept.SHA256: hashlib.sha256(file.read_bytes()).hexdigest()}
    if kind == "layers":
        body[kept.WITHDRAWN] = kept.withdrawn_now(state)
    state.put_round(FEDERATION, number, to, body)
    return file


def current(state: State, plan: str = PLAN) -> Path | None:
    return kept.current(state, FEDERATION, plan)


def test_nothing_is_in_force_before_a_receipt(state: State) -> None:
    assert current(state) is None
    for to in ("trained", "reserved", "released", "uploading", "late", "rejected", "abandoned"):
        put(state, 1, to=to)
        assert current(state) is None


def test_the_newest_acknowledged_round_counts_and_each_plan_has_its_own(state: State) -> None:
    first, second, other = put(state, 1), put(state, 2), put(state, 3, plan=OTHER)
    put(state, 4, to="released")
    state.put_round(FEDERATION, 5, "acknowledged", {"plan_sha256": PLAN})  # a round that kept nothing
    assert (current(state), current(state, OTHER)) == (second, other)
    assert first.exists()


@pytest.mark.parametrize("damage", ["gone", "altered"])
def test_what_is_gone_or_altered_stops_the_site(state: State, damage: str) -> None:
    file = put(state, 1)
    file.unlink() if damage == "gone" else file.write_bytes(b"else")
    with pytest.raises(RecordsDamaged, match=r"since round 1 is gone or damaged \(kept/control-1"):
        current(state)


def test_layers_that_have_seen_a_withdrawn_patient_begin_anew(state: State) -> None:
    withdrawals.withdraw(state, "p-before")
    layers, control = put(state, 1, "layers"), put(state, 2, plan=OTHER)
    assert current(state) == layers
    withdrawals.withdraw(state, "p-after")
    kept.forget_layers(state)
    assert not layers.exists()
    assert current(state) is None
    assert current(state, OTHER) == control, "a control holds nothing that has not left"
    later = put(state, 3, "layers")
    assert current(state) == later


def offer(number: int, algorithm: str) -> Any:
    settings = {"plan_sha256": PLAN, "ticket": SimpleNamespace(round=number, control_sha256=None)}
    local, privacy = SimpleNamespace(steps=1), SimpleNamespace(noise_multiplier=0)
    plan = SimpleNamespace(federation=FEDERATION, algorithm=algorithm, local=local, privacy=privacy)
    return SimpleNamespace(plan=plan, **settings)


def test_a_new_beginning_is_audited(state: State) -> None:
    def events() -> list[str]:
        return [record.body["event"] for record in state.records("audit")]

    assert kept.for_training(state, offer(1, "fedbn")).own is None
    layers = put(state, 1, "layers")
    assert kept.for_training(state, offer(2, "fedbn")).own == layers
    assert "layers at home begin anew" not in events()
    withdrawals.withdraw(state, "p-one")
    carried = kept.for_training(state, offer(2, "fedbn"))
    assert (carried.own, carried.layers) == (None, layers.with_name("layers-2.safetensors"))
    assert events()[-1] == "layers at home begin anew"


def test_tidying_leaves_what_some_round_needs(state: State) -> None:
    needed = [put(state, 2), put(state, 3, plan=OTHER), put(state, 4, to="late"), put(state, 5, "layers", to="trained")]
    gone = [put(state, 1), put(state, 6, to="rejected"), kept._place(state, "control", 2).with_name("half.tmp")]
    gone[-1].write_bytes(b"")
    kept.tidy(state, FEDERATION, frozenset({4, 5}))
    assert all(file.exists() for file in needed)
    assert not any(file.exists() for file in gone)


def test_the_folder_is_its_owners_alone(state: State) -> None:
    assert put(state, 1).parent.stat().st_mode & 0o077 == 0
