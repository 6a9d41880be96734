"""A whole federation on one machine: three hospitals with three scanners, one server, and nothing pretended.

    scripts/demo [--out DIR] [--seed N]

Hospitals and patients are made up (make_hospitals.py); everything else is the real thing, through the installed
command: a server process with TLS, enrolment, one process per participation, clipping, noise, ledger, receipts.

    exports --> server --> three sites --> prepared data --> rounds --> a budget that is spent

With a handful of patients no useful model is private. The sites of this demo allow that, in words, in their
site.yaml; every epsilon is shown with what it is worth.
"""

import argparse
import hashlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import yaml
from commands import Fedsite, StepFailed, free_port, running_server, set_key
from make_hospitals import Hospital, make_hospitals
from rich.console import Console
from rich.table import Table

from fedsite.files import write_atomically
from fedsite.site.policy import WEAK_PRIVACY_SENTENCE

SITES = 3
PATIENTS = 16
LESION_ML = (8.0, 150.0)
HELD_OUT = 0.35
ROUNDS = 7
SPACING_MM = [3.0, 3.0, 3.0]
TASK = "stroke-dwi"
NETWORK = {"name": "unet", "settings": {"channels": [8, 16, 32, 64]}}
LOCAL_WORK = {
    "steps": 70,
    "batch_size": 2,
    "patch_voxels": [48, 48, 48],
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "foreground_fraction": 0.67,
}
CLIP_NORM = 3.0
NOISE_MULTIPLIER = 0.004
LARGEST_UPDATE = 10_000_000
"""Values in an update, at most: the noise's norm grows with their root, and the plan bounds what the server takes."""
DELTA = 1e-6
BUDGET_SPENT = 81
AGGREGATION_SECONDS = 60

Given = TypeVar("Given")
Made = TypeVar("Made")
console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Site:
    """One hospital that takes part: its export, the command in its operator's hands, and where it keeps things."""

    name: str
    hospital: Hospital
    fedsite: Fedsite
    config: Path


@dataclass(frozen=True)
class Coordinator:
    """Who runs the server: the command, and the federation's folder."""

    fedsite: Fedsite
    folder: Path


@dataclass(frozen=True)
class Exchange:
    """What the sites gave in one round, by site: the ledger's epsilon afterwards, the SHA-256 of what was sent."""

    epsilon: dict[str, float]
    uploads: dict[str, str]
    bytes_sent: int
    seconds: float


@dataclass(frozen=True)
class Round:
    """One round: what was exchanged, and how good its model is. Round 0 is the untrained model."""

    number: int
    exchange: Exchange
    dice: dict[str, float]

    @property
    def mean_dice(self) -> float:
        """Each site counts once, whatever the number of its held-out patients."""
        return statistics.fmean(self.dice.values())


def main() -> int:
    """The command line. Ends with 0 when the whole federation ran, with 1 at the first step that failed."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Runs a federation of three made-up hospitals.")
    parser.add_argument("--out", type=Path, help="where everything goes, and summary.json (default: a new folder)")
    parser.add_argument("--seed", type=int, default=0, help="which hospitals, patients and first weights")
    parser.add_argument("--lesions", type=Path, default=real_masks(), help="folder of stroke masks in MNI space")
    options = parser.parse_args()
    out = (options.out or Path(tempfile.mkdtemp(prefix="fedsite-demo-"))).absolute()
    out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped on the way out
    try:
        run(out, options.seed, options.lesions)
    except KeyboardInterrupt:
        return 130
    except StepFailed as failure:
        Console(stderr=True, highlight=False).print(f"\nThe demo stops here.\n{failure}", style="red", markup=False)
        return 1
    return 0


def run(out: Path, seed: int, lesions: Path | None) -> None:
    """The whole story."""
    started = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="run-", dir=out))
    console.print(f"Everything happens in {work}", markup=False)
    hospitals = export(work, seed, lesions)
    port = free_port()
    coordinator = found(work, port)
    with running_server(coordinator.folder, port, work / "server.log"):
        heading("Each hospital sets fedsite up, enrols, and prepares its data")
        join = partial(set_up, work=work, coordinator=coordinator, seed=seed, budget=budget_for_the_demo(coordinator))
        sites = side_by_side(join, hospitals)
        reports = side_by_side(prepare, sites)
        open_rounds(coordinator, work, seed)
        rounds = take_rounds(coordinator, sites)
        write_summary(out / "summary.json", rounds)
        heading("What came of it")
        console.print(as_table(rounds))
        for site in sites:
            told = site.fedsite.json("privacy", "show")["guarantee"]
            console.print(f"{site.name}: {told}", markup=False)
        spend_the_budget(sites[0], rounds[-1].exchange.epsilon[sites[0].name])
    heading("Where things lie")
    for name, place in {"Summary": out / "summary.json", "Server's log": work / "server.log", **dict(reports)}.items():
        console.print(f"{name:<24} {place}", markup=False)
    console.print(f"{time.monotonic() - started:.0f} seconds in all.")


# --- the steps ------------------------------------------------------------------------------------------------------


def export(work: Path, seed: int, lesions: Path | None) -> tuple[Hospital, ...]:
    """Makes what each radiology department hands over: DICOM, and the masks that an expert has drawn."""
    heading("Three hospitals export their stroke patients, none of whom exist")
    hospitals = make_hospitals(work / "hospitals", SITES, PATIENTS, seed, lesions, lesion_ml=LESION_ML)
    origin = "real masks of acute strokes" if lesions else "shapes grown in vascular territories"
    for hospital in hospitals:
        volumes = [patient.lesion_ml for patient in hospital.patients]
        console.print(
            f"{hospital.name:<8} {hospital.scanner:<8} {len(volumes)} patients, lesions of {min(volumes):.0f} to "
            f"{max(volumes):.0f} ml ({origin})"
        )
    return hospitals


def found(work: Path, port: int) -> Coordinator:
    """The coordinator makes the federation: its keys, its database, one folder."""
    heading("The coordinator founds a federation and starts its server")
    coordinator = Coordinator(Fedsite("coordinator", work), work / "server")
    address = ("--name", "127.0.0.1", "--url", f"https://127.0.0.1:{port}")
    ask(coordinator.fedsite, "server", "init", str(coordinator.folder), "--federation", "demo", *address)
    return coordinator


def set_up(hospital: Hospital, work: Path, coordinator: Coordinator, seed: int, budget: float) -> Site:
    """A hospital joins: its own configuration and ledger, then the one line of its invitation."""
    home = work / "sites" / hospital.name
    config = home / "site.yaml"
    site = Site(hospital.name, hospital, Fedsite(hospital.name, work, ("--config", str(config))), config)
    bring_pseudonyms(home / "state", f"{seed}/{hospital.name}")
    places = ("--state", str(home / "state"), "--data", str(home / "data"))
    terms = ("--epsilon", f"{budget:.0f}", "--delta", f"{DELTA:g}", "--nominal-patients", str(PATIENTS))
    ask(site.fedsite, "init", *places, "--task", TASK, *terms)
    set_key(config, "spacing_mm", SPACING_MM)
    set_key(config, "validation_fraction", HELD_OUT)
    set_key(config, "evaluate", "before")  # what a site's own training made is not shown here, and takes its time
    set_key(config, "weak_privacy", WEAK_PRIVACY_SENTENCE)
    told = ask(coordinator.fedsite, "server", "invite", site.name, "--dir", str(coordinator.folder))
    ask(site.fedsite, "enroll", "--invitation", "-", text=told["invitation"] + "\n")
    return site


def prepare(site: Site) -> tuple[str, str]:
    """Looks at the export, then turns it into cases; gives the report's title and place."""
    source, labels = site.hospital.source, site.hospital.labels
    volumes = ask(site.fedsite, "inspect", source)["series"]
    accepted = sum(volume["verdict"] == "accepted" for volume in volumes)
    told = ask(site.fedsite, "prepare-data", source, "--task", TASK, "--labels", labels)
    console.print(
        f"{site.name}: {accepted} of {len(volumes)} volumes are clean; {told['training']} cases to train on, "
        f"{told['validation']} held out"
    )
    return f"Data of {site.name}", str(told["report"])


def open_rounds(coordinator: Coordinator, work: Path, seed: int) -> None:
    """One signed plan for all rounds, and the model that nobody has trained yet. The last round is for the refusal."""
    heading(f"The coordinator opens {ROUNDS} rounds")
    plan, model = work / "plan.yaml", work / "model-0.safetensors"
    write_atomically(plan, yaml.safe_dump(plan_for(seed), sort_keys=False).encode())
    ask(coordinator.fedsite, "model", "init", str(plan), "-o", str(model), "--seed", str(seed))
    here, rounds = ("--dir", str(coordinator.folder)), str(ROUNDS + 1)
    ask(coordinator.fedsite, "server", "round", "open", str(plan), "--model", str(model), "--rounds", rounds, *here)


def take_rounds(coordinator: Coordinator, sites: Sequence[Site]) -> list[Round]:
    """Every site takes part in every round, one process each. A participation measures the model that it got."""
    heading("The sites take part")
    rounds: list[Round] = []
    exchange = Exchange(epsilon={site.name: 0.0 for site in sites}, uploads={}, bytes_sent=0, seconds=0.0)
    for number in range(1, ROUNDS + 1):
        started = time.monotonic()
        told = by_name(sites, side_by_side(partial(participate, number=number), sites))
        wait_until_aggregated(coordinator, number)
        dice = {name: one["evaluation"]["mean_dice"] for name, one in told.items()}
        rounds.append(reported(Round(number - 1, exchange, dice)))
        exchange = Exchange(
            epsilon={name: one["epsilon"] for name, one in told.items()},
            uploads={name: one["payload_sha256"] for name, one in told.items()},
            bytes_sent=sum(one["bytes_sent"] for one in told.values()),
            seconds=time.monotonic() - started,
        )
    told = by_name(sites, side_by_side(lambda site: ask(site.fedsite, "evaluate"), sites))
    rounds.append(reported(Round(ROUNDS, exchange, {name: one["mean_dice"] for name, one in told.items()})))
    return rounds


def participate(site: Site, number: int) -> dict[str, Any]:
    """`fedsite train-round`, which must be this round's and end with an upload."""
    told = site.fedsite.json("train-round")
    if told["outcome"] != "uploaded" or told["round"] != number:
        raise StepFailed(f"{site.fedsite.shown('train-round')}\n  answered {told} where round {number} was due")
    if told["evaluation"] is None:
        raise StepFailed(f"{site.name} has no held-out patient: try another --seed")
    return told


def wait_until_aggregated(coordinator: Coordinator, number: int) -> None:
    """The server averages at once when all updates are in; this waits until the next round is open."""
    show = ("server", "round", "show", str(number), "--dir", str(coordinator.folder))
    deadline = time.monotonic() + AGGREGATION_SECONDS
    while (status := coordinator.fedsite.json(*show)["status"]) != "aggregated":
        if time.monotonic() > deadline:
            raise StepFailed(f"{coordinator.fedsite.shown(*show)}\n  round {number} is still {status}")
        time.sleep(0.5)


def spend_the_budget(site: Site, spent: float) -> None:
    """One hospital decides that this was enough: its policy says so, and the next round gets nothing from it."""
    heading(f"{site.name} tightens its budget to what it has spent")
    set_key(site.config, "maximum_epsilon", float(f"{spent:.6g}"))
    answer = site.fedsite.run("train-round")
    console.print(f"{site.fedsite.shown('train-round')}\n{answer.stdout}{answer.stderr}", markup=False, end="")
    console.print(f"exit code {answer.exit_code} after {answer.seconds:.0f} s: nothing was trained, nothing left.")
    if answer.exit_code != BUDGET_SPENT:
        raise StepFailed(f"The budget was spent, yet the exit code is {answer.exit_code}, not {BUDGET_SPENT}.")


# --- what the steps need --------------------------------------------------------------------------------------------


def plan_for(seed: int) -> dict[str, Any]:
    """The plan that the coordinator writes."""
    largest_norm = CLIP_NORM * (1 + NOISE_MULTIPLIER * (LARGEST_UPDATE**0.5 + 6))
    return {
        "schema": 1,
        "federation": "demo",
        "plan": "stroke-dwi-demo",
        "task": TASK,
        "channels": ["dwi"],
        "preparation": {"input_state": "whole-head", "spacing_mm": SPACING_MM},
        "network": NETWORK,
        "algorithm": "fedavg",
        "local": {**LOCAL_WORK, "seed": seed},
        "privacy": {"mechanism": "gaussian-update", "clip_norm": CLIP_NORM, "noise_multiplier": NOISE_MULTIPLIER},
        "max_update_norm": round(1.01 * largest_norm, 3),
        "rounds": {"quorum": SITES, "enough": SITES, "deadline_seconds": 1800},
        "expires": datetime.now(UTC).replace(microsecond=0) + timedelta(days=1),
    }


def budget_for_the_demo(coordinator: Coordinator) -> float:
    """An epsilon that pays for all rounds and some more, by fedsite's own price (an update's sensitivity is 2C)."""
    price = ("--noise-multiplier", f"{NOISE_MULTIPLIER / 2:g}", "--steps", f"{ROUNDS + 4}", "--delta", f"{DELTA:g}")
    return float(ask(coordinator.fedsite, "privacy", "cost", *price)["epsilon_rdp"])


def bring_pseudonyms(state: Path, name: str) -> None:
    """Lets the seed decide who is held out: the split follows the pseudonyms, and their key is a secret of the site.

    `fedsite init` keeps a key that is there already, as when an operator brings one back. A real site lets it make one.
    """
    key = state / "identity" / "pseudonyms.key"
    key.parent.mkdir(mode=0o700, parents=True)
    write_atomically(key, hashlib.sha256(f"fedsite demo/{name}".encode()).hexdigest().encode(), mode=0o600)


def side_by_side(work: Callable[[Given], Made], items: Sequence[Given]) -> list[Made]:
    """Does the work for all items at the same time, a thread for each; the work is a process that it waits for."""
    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(work, items))


def by_name(sites: Sequence[Site], told: Sequence[Made]) -> dict[str, Made]:
    """What each site said, under its name."""
    return {site.name: one for site, one in zip(sites, told, strict=True)}


def real_masks() -> Path | None:
    """The folder of real stroke masks, where the test data are."""
    data = Path(os.environ.get("FEDSITE_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    masks = data / "labels_soop" / "lesions_mni"
    return masks if masks.is_dir() else None


def ask(fedsite: Fedsite, *arguments: str, text: str = "") -> dict[str, Any]:
    """Shows the command, runs it, gives what it answers."""
    console.print(fedsite.shown(*arguments), style="dim", markup=False)
    return fedsite.json(*arguments, text=text)


# --- what is shown --------------------------------------------------------------------------------------------------


def heading(text: str) -> None:
    """Begins a step of the story."""
    console.print(f"\n{text}", style="bold", markup=False)


def reported(done: Round) -> Round:
    """Says one line, as soon as a round's model has been measured."""
    by_site = ", ".join(f"{name} {dice:.2f}" for name, dice in done.dice.items())
    console.print(f"model after round {done.number}: mean Dice {done.mean_dice:.3f} on held-out patients ({by_site})")
    return done


def as_table(rounds: Sequence[Round]) -> Table:
    """All rounds at a glance."""
    names = list(rounds[0].dice)
    guarantee = f"epsilon per patient (add or remove one), delta {DELTA:g}: no meaningful guarantee"
    table = Table(title=f"Dice on held-out patients; {guarantee}", title_justify="left", box=None)
    for column in ("round", "sites", *names, "mean", "epsilon of each site", "bytes sent", "seconds"):
        table.add_column(column, justify="right")
    for one in rounds:
        epsilons = dict.fromkeys(f"{epsilon:,.0f}" for epsilon in one.exchange.epsilon.values())
        table.add_row(
            str(one.number),
            str(len(one.exchange.uploads)),
            *(f"{one.dice[name]:.3f}" for name in names),
            f"{one.mean_dice:.3f}",
            " / ".join(epsilons),
            f"{one.exchange.bytes_sent:,}",
            f"{one.exchange.seconds:.0f}",
        )
    return table


def write_summary(path: Path, rounds: Sequence[Round]) -> None:
    """The figures for programs; `uploads` are the SHA-256 of what each site sent."""
    rows = [
        {
            "round": one.number,
            "mean_dice": one.mean_dice,
            "dice": one.dice,
            "epsilon": one.exchange.epsilon,
            "bytes": one.exchange.bytes_sent,
            "seconds": round(one.exchange.seconds, 1),
            "uploads": one.exchange.uploads,
        }
        for one in rounds
    ]
    write_atomically(path, json.dumps({"rounds": rows}, indent=1).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
