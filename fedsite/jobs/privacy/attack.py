"""`fedsite privacy attack`: what somebody would learn who sees all that leaves this site, tried out at home.

Three attacks under the settings of a plan: an audit of the mechanism with patients made for it, the inversion of one
patient's gradient, and the question who took part. Nothing is sent, charged or kept but the page.
"""

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedsite.dataset import pictures
from fedsite.dataset.cases import open_case, verify_case
from fedsite.dataset.manifest import CaseRecord
from fedsite.errors import DataNotFit, FedsiteError, UsageError
from fedsite.jobs import places
from fedsite.jobs.models import choice
from fedsite.jobs.pages import writing
from fedsite.jobs.plan import algorithms, charging
from fedsite.jobs.privacy import attack_page
from fedsite.jobs.progress import Steps
from fedsite.jobs.site import Site
from fedsite.jobs.training import local_work
from fedsite.jobs.training.local_work import PreparedData
from fedsite.privacy import accountant, attacks, lower_bounds
from fedsite.privacy.attacks import Floats, Inversion, Membership, PatchGradient, SumRelease, UpdateRelease
from fedsite.privacy.dpsgd import Settings
from fedsite.privacy.ledger import Terms
from fedsite.privacy.lower_bounds import Accuracy, Area, LowerBound
from fedsite.privacy.mechanism import Gate, SystemNoise
from fedsite.privacy.statement import guarantee
from fedsite.tasks import networks, registry
from fedsite.tasks.description import Task
from fedsite.wire.plans import DpSgd, PlanDraft, read_draft

if TYPE_CHECKING:
    from torch import nn

    from fedsite.privacy.attacks import Loss

# What takes a few minutes on a CPU, and lets the audits see a factor of two to three.
RUNS = 3000
CANARIES = 2000
GAMES = 400
ITERATIONS = 150
YARDSTICKS = 8
PATCH_SIDE = 12
# Noise is drawn for each value alone, so the audit of an update needs no more of them.
AUDITED_VALUES = 4096
FEWEST_PATIENTS, MOST_PATIENTS = 4, 24
# Who knows the others takes them off a sum, so few of them do as well as many.
PATIENTS_OF_A_STEP = 4
GRADIENT_BYTES = 1 << 30


class StatementRefuted(FedsiteError):
    """An attack found more than what is stated of the mechanism allows. `data` is what was found."""

    code = "statement-refuted"
    exit_code = 1

    def __init__(self, message: str, mend: str, data: dict[str, object]) -> None:
        super().__init__(message, mend)
        self.data = data


@dataclass(frozen=True)
class Order:
    """Under which plan (default: the newest that this site has met), and for which weights (default: fresh ones).

    The page goes to `report`, else into the state folder. `seed` decides which patients and patches are attacked; noise
    and sampling are the system's, as in a round.
    """

    plan: Path | None = None
    model: Path | None = None
    report: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class Audit:
    """The lower bound that was found, and what is stated of one round: its epsilon (None: not private), and in words.

    `without` and `within` are the evidence on those who did not take part and those who did, on the `scale` in words.
    """

    bound: LowerBound
    accuracy: Accuracy
    epsilon: float | None
    stated: str
    delta: float
    without: Floats
    within: Floats
    scale: str

    @property
    def at_least(self) -> str:
        """The bound in words."""
        return f"at least {guarantee(self.bound.epsilon, self.delta)}"

    @property
    def refutes(self) -> bool:
        """Whether more was found than what is stated allows."""
        found_more = self.epsilon is not None and self.bound.epsilon > self.epsilon
        return found_more or self.accuracy.low > self.accuracy.allowed


@dataclass(frozen=True)
class Memberships:
    """Who took part: the scores, the areas under both ROC curves, and what one noisy release allows at most.

    `mu` is the Gaussian mechanism's parameter (infinite without noise), `batch` of how many patients an update is.
    """

    scores: Membership
    raw: Area
    released: Area
    mu: float
    batch: int

    @property
    def allowed(self) -> float:
        """The largest area that the mechanism allows."""
        return lower_bounds.gaussian_area(self.mu)

    @property
    def refutes(self) -> bool:
        """Whether more was found than the mechanism allows."""
        return self.released.low > self.allowed


@dataclass(frozen=True)
class Found:
    """What the attacks found, for which case the inversion, and how long they took."""

    plan: PlanDraft
    task: Task
    values: int
    audit: Audit
    case: CaseRecord
    inversion: Inversion
    membership: Memberships
    seconds: float
    report: Path

    @property
    def refuted(self) -> bool:
        """Whether an attack found more than what is stated allows."""
        return self.audit.refutes or self.membership.refutes


@dataclass(frozen=True)
class Target:
    """What is attacked: the plan's network as a round begins with it, and the gate that its gradients go through."""

    plan: PlanDraft
    task: Task
    network: "nn.Module"
    gate: Gate

    @property
    def mu(self) -> float:
        """The parameter of one noisy release as a Gaussian mechanism, for a patient added or removed."""
        reach = 1 if isinstance(self.plan.privacy, DpSgd) else 2
        return reach / self.gate.noise_multiplier if self.gate.noise_multiplier else math.inf

    @property
    def release(self) -> UpdateRelease | SumRelease:
        """What the plan's mechanism lets out of patients' gradients at a time: an update, or a step."""
        if isinstance(self.plan.privacy, DpSgd):
            return SumRelease(self.gate.values, _settings(self.plan.privacy, 1.0))
        return UpdateRelease(self.gate, SystemNoise())

    @property
    def loss(self) -> "Loss":
        """The task's loss."""
        return registry.module(self.task.module).loss()

    @property
    def sides(self) -> int:
        """The network takes patches whose sides are multiples of this, and at least twice it."""
        asked = self.plan.network
        return networks.divisor(asked.name, networks.validate(self.task, asked.name, asked.settings))


def attack_at_home(site: Site, order: Order, step: Steps) -> Found:
    """Attacks what this site would release under a plan, and writes the page.

    Raises StatementRefuted when an attack finds more than what is stated allows (after the page is written), UsageError
    without a plan, CannotWrite, and what `local_work.open_prepared` raises.
    """
    started = time.monotonic()
    if order.report is not None:
        places.require_writable(order.report.parent, "--report")
    plan = _plan(site, order)
    data = local_work.open_prepared(site, plan)
    _require_patients(data)
    target = _target(plan, order.model)
    audit = _audit(target, site.ledger.terms, order.seed, step)
    case, inverted = _inversion(target, data, order.seed, step)
    found = Found(
        plan=plan,
        task=target.task,
        values=target.gate.values,
        audit=audit,
        case=case,
        inversion=inverted,
        membership=_membership(target, data, site.device, order.seed, step),
        seconds=time.monotonic() - started,
        report=order.report or writing.place(site.state, writing.ATTACKS),
    )
    attack_page.write(found)
    if found.refuted:
        raise StatementRefuted(
            "An attack found more than what is stated of this mechanism allows.",
            f"Take part in no further round, and report this. What was found: {found.report}",
            summary(found),
        )
    return found


def summary(found: Found) -> dict[str, object]:
    """What was found, as JSON."""
    audit, inverted, who = found.audit, found.inversion, found.membership
    return {
        "mechanism": found.plan.privacy.model_dump(),
        "values": found.values,
        "delta": audit.delta,
        "stated": audit.stated,
        "stated_epsilon": audit.epsilon,
        "audit": {**asdict(audit.bound), "guarantee": audit.at_least, "accuracy": asdict(audit.accuracy)},
        "inversion": {
            "case": found.case.id,
            "raw": inverted.raw,
            "released": inverted.released,
            "noise": inverted.noise,
            "interval": inverted.interval,
            "within": inverted.within,
        },
        "membership": {
            "raw": asdict(who.raw),
            "released": asdict(who.released),
            "allowed": who.allowed,
            "batch": who.batch,
        },
        "refuted": found.refuted,
        "seconds": round(found.seconds, 1),
        "report": str(found.report),
    }


def _plan(site: Site, order: Order) -> PlanDraft:
    if order.plan is not None:
        return read_draft(order.plan)
    known = list(choice.accepted_plans(site).values())
    if not known:
        raise UsageError("This site has met no plan yet.", "Name one: --plan FILE.")
    return known[-1]


def _target(plan: PlanDraft, model: Path | None) -> Target:
    task = algorithms.check(plan)
    network, _ = local_work.network_of(plan, task, model, algorithms.NOTHING)
    values = sum(one.numel() for one in network.parameters() if one.requires_grad)
    return Target(plan, task, network, charging.gate_for(plan, values))


def _settings(asked: DpSgd, rate: float) -> Settings:
    return Settings(asked.clip_norm, asked.noise_multiplier, asked.batch_patients, rate)


def _audit(target: Target, terms: Terms, seed: int, step: Steps) -> Audit:
    """The two-worlds audit of an update, or the one-run audit of a whole training of noisy steps."""
    plan, delta = target.plan, terms.delta
    asked, release = plan.privacy, charging.release_for(plan, terms)
    epsilon = accountant.sequence_epsilon([release], delta) if release else None
    if isinstance(asked, DpSgd):
        rate = charging.sampling_rate(plan, terms)
        included = np.random.default_rng(seed).random(CANARIES) < 0.5
        with step("Hiding canaries in a training") as progress:
            ratios = attacks.canaries(_settings(asked, rate), plan.local.steps, included, progress=progress)
        without, within, scale = ratios[~included], ratios[included], "log-likelihood ratio of a canary"
        bound = lower_bounds.one_run(ratios, included, delta)
    else:
        gate = charging.gate_for(plan, min(target.gate.values, AUDITED_VALUES))
        with step("Releasing updates in two worlds") as progress:
            without, within = attacks.worlds(UpdateRelease(gate, SystemNoise()), RUNS, progress)
        scale = "place of a release between the worlds, in clip norms"
        bound = lower_bounds.two_worlds(without, within, delta)
    accuracy = lower_bounds.accuracy(without, within, release)
    return Audit(bound, accuracy, epsilon, guarantee(epsilon, delta), delta, without, within, scale)


def _inversion(target: Target, data: PreparedData, seed: int, step: Steps) -> tuple[CaseRecord, Inversion]:
    """The inversion of a patch around the lesion of one training case."""
    record = min(data.records("training"), key=lambda record: (not record.lesion_ml, record.id))
    _verify(data, [record])
    case = open_case(data.folder / record.file, target.task.inputs)
    middle = pictures.middle_of_lesion(case.label)
    region = tuple(_around(point, side) for point, side in zip(middle, case.label.shape, strict=True))
    patch, label = np.asarray(case.image[(slice(None), *region)], np.float64), np.asarray(case.label[region])
    sides = [target.sides * max(2, math.ceil(side / target.sides)) for side in label.shape]
    gradient = PatchGradient(target.network, target.loss, label, sides)
    with step("Inverting the gradient of a patch") as progress:
        found = attacks.inversion(
            gradient,
            patch,
            target.release,
            iterations=ITERATIONS,
            yardsticks=YARDSTICKS,
            seed=seed,
            progress=progress,
        )
    return record, found


def _verify(data: PreparedData, records: Sequence[CaseRecord]) -> None:
    """Whether these cases are what the manifest says."""
    for record in records:
        verify_case(data.folder / record.file, record.sha256)


def _require_patients(data: PreparedData) -> None:
    if len(data.patients("training")) < FEWEST_PATIENTS:
        raise DataNotFit(
            f"Guessing who took part needs at least {FEWEST_PATIENTS} training patients.", "Prepare more patients."
        )


def _around(point: int, side: int) -> slice:
    start = min(max(point - PATCH_SIDE // 2, 0), max(side - PATCH_SIDE, 0))
    return slice(start, start + PATCH_SIDE)


def _membership(target: Target, data: PreparedData, device: str, seed: int, step: Steps) -> Memberships:
    """Who took part in one release, by the gradients of some of this site's patients."""
    gradients = _gradients(target, data, device, seed, step)
    half = len(gradients) // 2
    batch = min(half, PATIENTS_OF_A_STEP) if isinstance(target.plan.privacy, DpSgd) else half
    with step("Guessing who took part") as progress:
        scores = attacks.membership(gradients, batch, target.release, GAMES, seed, progress)
    raw, released = (lower_bounds.area_under_curve(*pair) for pair in (scores.raw, scores.released))
    return Memberships(scores, raw, released, target.mu, batch)


def _gradients(target: Target, data: PreparedData, device: str, seed: int, step: Steps) -> NDArray[np.float32]:
    """The gradients of some training patients, [patients, d]: as many as fit into a GiB."""
    from fedsite.training.devices import choose_device
    from fedsite.training.sampling import PatchSampler

    asked, local = target.plan.privacy, target.plan.local
    patches = asked.patches_per_patient if isinstance(asked, DpSgd) else 1
    patients = data.patients("training")
    most = min(MOST_PATIENTS, max(FEWEST_PATIENTS, GRADIENT_BYTES // (4 * target.gate.values)))
    chosen = np.random.default_rng(seed).permutation(sorted(patients))[:most]
    _verify(data, [data.records("training")[place] for patient in chosen for place in patients[patient]])
    cases = data.cases("training", target.task.inputs)
    sampler = PatchSampler(cases, local.patch_voxels, patches, local.foreground_fraction, seed)
    where = choose_device(device)
    network = copy.deepcopy(target.network).to(where).train()
    found = np.empty((len(chosen), target.gate.values), np.float32)
    with step("Computing patients' gradients") as progress:
        for number, patient in enumerate(chosen):
            batch = sampler.batch([(number, place) for place in range(patches)], patients[patient]).to(where)
            found[number] = attacks.gradient_of(network, target.loss, batch.image.float(), batch.label).cpu().numpy()
            progress(number + 1, len(chosen))
    return found
