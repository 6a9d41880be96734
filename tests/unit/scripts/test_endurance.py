"""What the soak holds against each other: each way in which server and sites may differ is seen."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from endurance import accounts, figures
from endurance.chance import Chance
from endurance.verdict import Verdict, after_the_end, unforeseen
from endurance.world import Run

from fedsite.wire.messages import Arrival, Envelope
from fedsite.wire.signing import RECEIPT, digest, sign

KEY = Ed25519PrivateKey.generate()
HERE, ELSEWHERE = "a" * 64, "b" * 64


def receipt(number: int) -> Envelope:
    return sign(f'{{"round":{number}}}'.encode(), RECEIPT, [KEY])


def arrival(number: int, sha256: str = HERE, *, receipted: bool = True) -> Arrival:
    found = receipt(number) if receipted else None
    return Arrival(round=number, update_sha256=sha256, ledger_sequence=3 * number, receipt=found)


def charge(number: int, sha256: str = HERE, until: str = "acknowledged", **changes: Any) -> list[dict[str, Any]]:
    """What a ledger holds of a round, up to some kind of record."""
    facts: Mapping[str, dict[str, Any]] = {
        "reserved": {},
        "released": {"payload_sha256": sha256},
        "acknowledged": {"receipt_sha256": digest(receipt(number))},
    }
    kinds = accounts.LIFE_OF_A_CHARGE[: accounts.LIFE_OF_A_CHARGE.index(until) + 1]
    return [{"kind": kind, "round": number, **facts[kind], **changes} for kind in kinds]


MISSED = "Warning: Round 12 ended while this site was at work (trained); nothing was sent."
CREATED = {"kind": "created", "epsilon": 8.0}


def test_accounts_that_agree() -> None:
    ledger = [
        *(CREATED, *charge(1), *charge(2, ELSEWHERE)),
        *(*charge(3, "c" * 64, "released"), *charge(4, until="reserved"), *charge(5, "d" * 64, "released")),
    ]
    had = [arrival(1), arrival(2, ELSEWHERE), arrival(3, "c" * 64, receipted=False)]
    assert accounts.of_charges("a", had, ledger) == []


@pytest.mark.parametrize(
    ("had", "ledger", "word"),
    [
        ([arrival(1), arrival(1)], charge(1), "two updates of one round"),
        ([arrival(1)], charge(1) + charge(1), "its ledger says reserved, released, acknowledged, reserved"),
        ([arrival(1)], charge(1)[1:], "its ledger says released"),
        ([], charge(1), "the server no update"),
        ([arrival(1)], [], "has not released"),
        ([arrival(1)], charge(1, until="reserved"), "has not released"),
        ([arrival(1, ELSEWHERE)], charge(1), "has not released"),
        ([arrival(1)], charge(1, until="released"), "not the one in its ledger"),
        ([arrival(1, receipted=False)], charge(1), "not the one in its ledger"),
        ([arrival(1)], charge(1)[:2] + charge(2)[2:] + charge(2)[:0], "not the one in its ledger"),
        ([arrival(1), arrival(2)], charge(1) + charge(2), "the same bytes"),
    ],
)
def test_accounts_that_differ(had: list[Arrival], ledger: list[dict[str, Any]], word: str) -> None:
    assert word in "\n".join(accounts.of_charges("a", had, ledger))


def report(status: str = "aggregated", reason: str = "deadline", **places: list[str]) -> dict[str, Any]:
    named = {place: [{"site": site} for site in places.get(place, [])] for place in accounts.SITE_STATES}
    return {"round": 1, "status": status, "reason": reason, **named}


def test_a_round_that_is_accounted_for() -> None:
    told = report(took_part=["a"], late=["b"], dropped=["c", "d"], absent=["e"], refused=["f"])
    states = {"a": "acknowledged", "b": "late", "c": "reserved", "d": "", "e": "", "f": "offered"}
    assert accounts.of_round(told, states) == []
    assert accounts.of_round(report("failed", took_part=["a"]), {"a": "acknowledged"}) == []


@pytest.mark.parametrize(
    ("told", "state", "word"),
    [
        (report("closing", took_part=["a"]), "acknowledged", "round 1 is closing"),
        (report(reason="", took_part=["a"]), "acknowledged", "without a reason"),
        (report(), "acknowledged", "no word of a"),
        (report(took_part=["a"]), "uploading", "says uploading"),
        (report(dropped=["a"]), "acknowledged", "dropped at the server, and says acknowledged"),
        (report(absent=["a"]), "offered", "absent at the server"),
        (report(late=["a"]), "released", "says released"),
    ],
)
def test_a_round_that_is_not(told: dict[str, Any], state: str, word: str) -> None:
    assert word in "\n".join(accounts.of_round(told, {"a": state}))


def test_each_round_begins_with_what_the_last_has_made() -> None:
    def one(number: int, begins: str, made: str | None, plan: str = "p") -> dict[str, Any]:
        return {"round": number, "model_sha256": begins, "result_sha256": made, "plan_sha256": plan}

    good = [one(1, "m0", "m1"), one(2, "m1", None), one(3, "m1", "m2"), one(4, "other", "m3", "q")]
    assert accounts.of_lineage(good) == []
    assert accounts.of_lineage([one(1, "m0", "m1"), one(2, "m0", "m2")]) != []


def test_the_same_seed_makes_the_same_choices() -> None:
    def choices(seed: int) -> list[object]:
        chance = Chance(seed, 100_000, 0.3, 5)
        sites = [f"site-{number}" for number in range(8)]
        return [
            (chance.fault(turn, site, 1), chance.sleeps(turn, site), chance.server_fault(turn))
            for turn in range(1, 40)
            for site in sites
        ]

    once = choices(1)
    assert once == choices(1)
    assert once != choices(2)
    kinds = {fault.kind for fault, _, _ in once}
    assert kinds == {"none", "killed", "terminated", "cut", "twice"}
    asleep = sum(sleeps for _, sleeps, _ in once) / len(once)
    assert 0.02 < asleep < 0.25


def test_what_a_process_takes() -> None:
    own = figures.process(os.getpid())
    assert own.number == os.getpid()
    assert 10_000_000 < own.memory <= own.peak
    with Path(__file__).open():
        assert figures.process(os.getpid()).descriptors == own.descriptors + 1


def test_what_is_left_over_is_seen(tmp_path: Path) -> None:
    folder, scratch = tmp_path / "federation", tmp_path / "federation" / "tmp"
    scratch.mkdir(parents=True)
    tidy = Verdict()
    after_the_end(tidy, folder, scratch)
    assert tidy.wrong == []
    (folder / ".round-1.safetensors.x.tmp").touch()
    (scratch / "forgotten").touch()
    bare, named = {"PATH": os.environ["PATH"]}, {"PATH": os.environ["PATH"], "TMPDIR": str(scratch)}
    found = Verdict()
    with (folder / "server.log").open("w") as log:
        processes = [
            subprocess.Popen(["sleep", "60"], env=named),
            subprocess.Popen(["sleep", "61"], env=bare, stderr=log),
            subprocess.Popen(["sleep", "62"], env=bare),
        ]
    try:
        after_the_end(found, folder, scratch)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [row.value for row in found.rows] == [2, 2]
    assert set(found.wrong[:2]) == {"sleep 60", "sleep 61"}


@pytest.mark.parametrize(
    ("fault", "code", "said", "disturbed", "foreseen"),
    [
        ("none", 0, "", False, True),
        ("none", 0, "Warning: something", False, False),
        ("none", 0, MISSED, False, True),
        ("none", 0, f"{MISSED}\nWarning: something", False, False),
        ("cut", 0, "Warning: something", False, True),
        ("killed", -9, "", False, True),
        ("none", -9, "", False, False),
        ("terminated", 143, "Error: Terminated.", False, True),
        ("none", 69, "Error: No progress", False, False),
        ("none", 69, "Error: No progress", True, True),
        ("twice", 75, "", False, True),
        ("none", 75, "Error: The moon is full.", False, False),
        ("none", 1, "Error: A bug in fedsite: KeyError.", True, False),
        ("none", 81, "Error: This round would bring the ledger to", False, False),
    ],
)
def test_ends_that_nobody_foresaw(fault: str, code: int, said: str, *, disturbed: bool, foreseen: bool) -> None:
    run = Run(1, "a", fault, code, 1.0, said, disturbed)
    assert (list(unforeseen([run], over_budget=["b"])) == []) is foreseen
