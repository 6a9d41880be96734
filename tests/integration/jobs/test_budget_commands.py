"""What the budget still pays, and the ledger as a file: by the installed command, against a real server."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.federation import Server
from support.site import Site

from fedsite.errors import BudgetSpent, DataNotFit, RecordsDamaged, SourceMissing
from fedsite.jobs.audit import ledger_file
from fedsite.jobs.privacy.forecast import MOST_ROUNDS, _largest
from fedsite.privacy import accountant
from fedsite.privacy.ledger import Ledger, charge_of
from fedsite.site.chain import ZERO, hash_of

LOCAL = {"steps": 0, "patch_voxels": [16, 16, 16]}
PRIVACY = {"mechanism": "gaussian-update", "clip_norm": 1.0, "noise_multiplier": 40.0}
PLAN = {"local": LOCAL, "privacy": PRIVACY, "rounds": {"quorum": 1, "enough": 9, "deadline_seconds": 600}}


@pytest.fixture(scope="module")
def spender(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site that has taken part in two rounds, with a budget for some more."""
    folder = tmp_path_factory.mktemp("spender")
    site = Site(folder / "site")
    site.init(epsilon=2.0)
    site.enroll(server.invite("spender"))
    assert site.run("privacy", "forecast").code == 77, "no round yet, no plan to forecast"
    for _ in range(2):
        server.open_round(folder, **PLAN)
        site.ok("train-round")
    return site


def fits(site: Site, times: int, noise: float) -> bool:
    with site.open_state() as state:
        ledger = Ledger(state)
        last = charge_of(ledger.charges()[-1].body)
        release = accountant.release_of(last.mechanism, noise, last.sampling_rate, last.steps)
        try:
            return ledger.price(Charged(last, noise, release), times).epsilon_noised <= ledger.terms.epsilon
        except BudgetSpent:
            return False


def Charged(charge: Any, noise: float, release: accountant.Release) -> Any:  # noqa: N802 - reads as what it makes
    from dataclasses import replace

    return replace(charge, round=99, noise_multiplier=noise, release=release)


def test_the_forecast_is_what_the_ledger_will_do(spender: Site) -> None:
    found = spender.ok("privacy", "forecast", "--rounds", "200")["data"]
    left, noise = found["rounds_left"], found["noise_multiplier_for_rounds"]
    assert left > 1
    assert fits(spender, left, 40.0)
    assert not fits(spender, left + 1, 40.0)
    assert fits(spender, 200, noise)
    assert not fits(spender, 200, noise * 0.995)
    assert found["budget_of"] == "the ledger"
    told = spender.say("privacy", "forecast", "--rounds", "200").stdout
    assert f"{left:,} more rounds within epsilon 2" in told
    assert f"noise multiplier of {noise:g}" in told
    assert found["guarantee_after"] in told


def test_the_policy_shortens_the_forecast(spender: Site) -> None:
    whole = spender.ok("privacy", "forecast")["data"]["rounds_left"]
    spender.configure(policy={"maximum_epsilon": 1.5})
    try:
        found = spender.ok("privacy", "forecast")["data"]
        assert found["rounds_left"] < whole
        assert found["budget_of"] == "policy.maximum_epsilon"
    finally:
        spender.configure(policy={"maximum_epsilon": None})


@pytest.mark.parametrize("bound", [0, 1, 2, 3, 7, 8, 9, 1000, MOST_ROUNDS - 1, MOST_ROUNDS, MOST_ROUNDS + 5])
def test_the_largest_number_is_found(bound: int) -> None:
    assert _largest(lambda number: number <= bound, MOST_ROUNDS) == min(bound, MOST_ROUNDS)


def test_a_plan_for_either_mechanism(spender: Site) -> None:
    whole = ("privacy", "plan", "--rounds", "20", "--epsilon", "8", "--delta", "1e-6")
    update = spender.ok(*whole, "--mechanism", "gaussian-update")["data"]
    noise = update["noise_multiplier"]
    order = accountant.best_order(8.0, 1e-6)
    divergence = 20 * accountant.renyi(accountant.gaussian_update(noise), order)
    assert update["epsilon"] == accountant.filter_epsilon(divergence, order, 1e-6)
    assert 7.9 < update["epsilon"] <= 8
    assert update["epsilon_of_sequence"] < update["epsilon"]
    asked = ("--batch-patients", "8", "--nominal-patients", "200", "--steps", "100")
    steps = spender.ok(*whole, *asked)["data"]
    assert steps["sampling_rate"] == 0.04
    assert 7.9 < steps["epsilon"] <= 8
    cost = spender.ok(
        *("privacy", "cost", "--noise-multiplier", str(steps["noise_multiplier"])),
        *("--sampling-rate", "0.04", "--steps", "2000", "--delta", "1e-6"),
    )["data"]
    assert cost["epsilon"] == pytest.approx(steps["epsilon_of_sequence"], rel=1e-3)
    told = spender.say(*whole, *asked).stdout
    assert steps["guarantee"] in told
    assert "for this fixed sequence" in told


@pytest.mark.parametrize(
    "asked",
    [
        ("--epsilon", "8"),
        ("--epsilon", "0", "--mechanism", "gaussian-update"),
        ("--epsilon", "8", "--mechanism", "gaussian-update", "--steps", "9"),
        ("--epsilon", "8", "--batch-patients", "9", "--nominal-patients", "8", "--steps", "9"),
    ],
)
def test_a_plan_that_makes_no_sense_is_a_matter_of_usage(spender: Site, asked: tuple[str, ...]) -> None:
    assert spender.run("privacy", "plan", "--rounds", "20", *asked).code == 2


def test_the_calendar_of_spending(spender: Site) -> None:
    found = spender.ok("privacy", "history", "--calendar")["data"]["calendar"]
    assert sum(month["releases"] for month in found) == 2
    assert found[-1]["epsilon"] == spender.ok("privacy", "show")["data"]["epsilon"]
    told = spender.say("privacy", "history", "--calendar").stdout
    assert found[-1]["month"] in told
    assert "epsilon per patient (add or remove one), delta 1e-06" in told
    assert "delta 1e-06" in spender.say("privacy", "history").stdout


# --- the auditor's file ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(spender: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("auditor") / "ledger.json"
    found = spender.ok("privacy", "export", "--out", str(path))["data"]
    assert (found["charges"], found["receipts"]) == (2, 2)
    assert path.stat().st_mode & 0o777 == 0o600
    return path


def test_an_auditor_verifies_it_without_the_site(spender: Site, exported: Path, tmp_path: Path) -> None:
    nobody = Site(tmp_path / "nobody")
    found = nobody.ok("audit", "verify", str(exported))["data"]
    assert found["guarantee"] == spender.ok("privacy", "show")["data"]["guarantee"]
    assert found["head"] == list(json.loads(exported.read_text())["records"])[-1]["hash"]
    assert "add up to" in nobody.say("audit", "verify", str(exported)).stdout


def chained(document: dict[str, Any], change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Changes the records' bodies and makes the chain fit again, as whoever holds the file can."""
    bodies = [json.loads(record["body"]) for record in document["records"]]
    change(bodies)
    previous, records = ZERO, []
    for number, (body, record) in enumerate(zip(bodies, document["records"], strict=True), start=1):
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        digest = hash_of(number, previous, record["time"], text)
        records.append(record | {"sequence": number, "previous": previous, "body": text, "hash": digest})
        previous = digest
    document["records"] = records


def quieter(bodies: list[dict[str, Any]]) -> None:
    charge = next(body for body in bodies if body["kind"] == "reserved")
    charge["noise_multiplier"], charge["effective"]["sigma"] = 400.0, 200.0


def cheaper(bodies: list[dict[str, Any]]) -> None:
    last = [body for body in bodies if body["kind"] == "reserved"][-1]
    last["after"]["epsilon"] = last["after"]["epsilon_noised"] = 0.1


def other_payload(bodies: list[dict[str, Any]]) -> None:
    next(body for body in bodies if body["kind"] == "released")["payload_sha256"] = "0" * 64


def no_body(bodies: list[dict[str, Any]]) -> None:
    bodies[-1] = []


def no_totals(bodies: list[dict[str, Any]]) -> None:
    next(body for body in bodies if body["kind"] == "reserved")["after"] = 1


HARMS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a byte": lambda document: document["records"][1].update(
        body=document["records"][1]["body"].replace("40.0", "41.0")
    ),
    "a record less": lambda document: document["records"].pop(2),
    "the last less": lambda document: document["records"].pop(),
    "less noise said than asked for": lambda document: chained(document, quieter),
    "a lower total": lambda document: chained(document, cheaper),
    "another payload": lambda document: chained(document, other_payload),
    "a list for a record": lambda document: chained(document, no_body),
    "a number for totals": lambda document: chained(document, no_totals),
    "another guarantee": lambda document: document.update(guarantee="epsilon 0.1"),
    "another summary": lambda document: document["spent"].update(releases=1),
    "a forged key": lambda document: document.update(plan_keys=["0" * 64]),
    "no records": lambda document: document.update(records=[]),
    "no plans": lambda document: document.update(plans={}),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_changed_file_is_told(exported: Path, tmp_path: Path, harm: str) -> None:
    document = json.loads(exported.read_text())
    HARMS[harm](document)
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(document))
    if harm == "the last less":  # the acknowledgement: what is charged is the same, and the head is another
        assert ledger_file.verify(changed)["receipts"] == 1
    else:
        with pytest.raises(RecordsDamaged):
            ledger_file.verify(changed)


def test_what_is_no_exported_ledger(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "other").write_text("{}")
    for name, error in (("text", DataNotFit), ("other", DataNotFit), ("absent", SourceMissing)):
        with pytest.raises(error):
            ledger_file.verify(tmp_path / name)
