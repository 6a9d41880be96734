"""Series to cases: a whole source into one prepared folder, resumable, idempotent, replaced in one step."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fedsite import __version__
from fedsite.dataset import cluster, folder, identity, pool
from fedsite.dataset.convert import Result, Settings, Work
from fedsite.dataset.folder import Outcome, PreparedFolder, withdrawal
from fedsite.dataset.manifest import CaseRecord, Exclusion, InputState, Manifest, Remark, Split, Triple
from fedsite.dataset.pictures import Look
from fedsite.dataset.rules import finding
from fedsite.dataset.studies import Collected, Progress, Pseudonyms, Study, exclusion
from fedsite.dicom.checks import Finding
from fedsite.dicom.volume.patients import RULE as DOUBTFUL
from fedsite.errors import DataNotFit, SourceMissing, UsageError
from fedsite.tasks.description import Task

DEFAULT_VALIDATION_FRACTION = 0.2
Withdrawn = Callable[[], Collection[str]]
_OTHER_STATE = "input-state-other"
_SEE_REPORT = "With --check-only a report tells about each study."
# What may have been the fault of the disk, the network or another study is tried again, even where no file changed.
_TRIED_AGAIN = frozenset({"image-unreadable", "label-unreadable", "undecodable-pixels", "worker-lost", DOUBTFUL})


@dataclass(frozen=True)
class Request:
    """How to prepare: the task, its grid (mm), the share of patients held out, and what to do with them.

    `input_state` selects what to keep where a source mixes whole heads and skull-stripped images; `workers` are
    processes here, or with `cluster` those of the Dask cluster at that address; `require_deidentified` is the site's
    policy.
    """

    task: Task
    spacing_mm: Triple
    validation_fraction: float = DEFAULT_VALIDATION_FRACTION
    input_state: InputState | None = None
    workers: int = 1
    cluster: str = ""
    require_deidentified: bool = False


@dataclass(frozen=True)
class Prepared:
    """What came of it: the manifest, whether it differs from the one before, and how many of its cases do.

    `new` cases were not there before, or are others than before; `removed` ones are no longer in the source.
    """

    manifest: Manifest
    changed: bool
    new: int
    unchanged: int
    removed: int


class NothingUsable(DataNotFit):
    """No case remains, or they do not go together. What was found out about each study comes with it."""

    def __init__(self, message: str, mend: str, excluded: Sequence[Exclusion], findings: Sequence[Remark]) -> None:
        super().__init__(message, mend)
        self.excluded = tuple(excluded)
        self.findings = tuple(findings)
        self.data = {
            "excluded": [study.model_dump(exclude={"fingerprint"}) for study in excluded],
            "findings": [remark.model_dump() for remark in findings],
        }


def prepare(
    collected: Collected,
    out: Path,
    request: Request,
    pseudonyms: Pseudonyms,
    progress: Progress = lambda done, total: None,
    withdrawn: Withdrawn = frozenset,
) -> Prepared:
    """Prepares every study into the folder `out`, so that it holds exactly what the source does.

    Studies that neither changed at their source nor in the settings are not done again. A run that ends early, by
    whatever cause, leaves the folder's manifest and cases as they were, and its progress for the next one.
    Whoever is withdrawn is left out; that is asked again at the end, for it may happen during the run.
    Raises NothingUsable, SourceMissing, CannotWrite, TryAgainLater, UsageError (the folder is another task's).
    """
    with folder.hold(out) as held:
        before = held.manifest
        _refuse_other_task(before, request.task)
        works = _works(collected.studies, request, pseudonyms, withdrawn())
        outcomes = _reusable(held, works, request.input_state)
        settings = Settings(request.task, request.spacing_mm, out.absolute())
        todo = [work for work in works if work.study.id not in outcomes]
        with closing(_results(todo, settings, request)) as results:
            for result in results:
                held.record(result.outcome)
                outcomes[result.outcome.id] = result.outcome
                progress(len(outcomes), len(works))
        try:
            manifest = _assemble(collected, outcomes.values(), request, withdrawn())
        except NothingUsable:
            if not any(isinstance(outcome, CaseRecord) for outcome in outcomes.values()):
                held.discard_progress()
            raise
        held.commit(manifest)
    old = {case.id: case.sha256 for case in before.cases} if before else {}
    unchanged = sum(old.get(case.id) == case.sha256 for case in manifest.cases)
    return Prepared(
        manifest=manifest,
        changed=manifest != before,
        new=len(manifest.cases) - unchanged,
        unchanged=unchanged,
        removed=len(old.keys() - {case.id for case in manifest.cases}),
    )


def check(
    collected: Collected,
    request: Request,
    pseudonyms: Pseudonyms,
    progress: Progress = lambda done, total: None,
    withdrawn: Withdrawn = frozenset,
    keep: Callable[[str, Look], None] = lambda case, look: None,
) -> Prepared:
    """Does everything that `prepare` does, stores nothing, and gives `keep` a look at each case.

    Raises NothingUsable, SourceMissing.
    """
    works = _works(collected.studies, request, pseudonyms, withdrawn())
    outcomes: list[Outcome] = []
    settings = Settings(request.task, request.spacing_mm, None)
    with closing(_results(works, settings, request)) as results:
        for result in results:
            outcomes.append(result.outcome)
            if result.look:
                keep(result.outcome.id, result.look)
            progress(len(outcomes), len(works))
    manifest = _assemble(collected, outcomes, request, withdrawn())
    return Prepared(manifest, True, new=len(manifest.cases), unchanged=0, removed=0)


def _results(works: Sequence[Work], settings: Settings, request: Request) -> Generator[Result, None, None]:
    """What becomes of each study, as it comes."""
    if request.cluster:
        return cluster.run(works, settings, request.cluster)
    return pool.run(works, settings, request.workers)


def _refuse_other_task(before: Manifest | None, task: Task) -> None:
    if before and before.task != task.name:
        raise UsageError(
            f"The folder holds data prepared for the task {before.task}.", "Choose another folder with --out."
        )


# --- what is to be done ---------------------------------------------------------------------------------------------


def _works(
    studies: Iterable[Study], request: Request, pseudonyms: Pseudonyms, withdrawn: Collection[str]
) -> list[Work]:
    settings = json.dumps(
        {
            # Another version may prepare differently, and a set must not hold both: it is made anew.
            "fedsite": __version__,
            "task": request.task.name,
            "preprocessing": request.task.preprocessing_version,
            "inputs": request.task.inputs,
            "labels": sorted(request.task.labels),
            "spacing_mm": request.spacing_mm,
        },
        sort_keys=True,
    )
    return [
        Work(study, _split(study.patient, request, pseudonyms), _fingerprint(study, settings, pseudonyms))
        for study in studies
        if study.patient not in withdrawn
    ]


def _split(patient: str, request: Request, pseudonyms: Pseudonyms) -> Split:
    """By the patient alone: who else is there, or comes later, moves nobody."""
    return "validation" if pseudonyms.fraction(patient) < request.validation_fraction else "training"


def _fingerprint(study: Study, settings: str, pseudonyms: Pseudonyms) -> str:
    """A digest of all that a case is made of, keyed: it tells nothing.

    That is the settings; what the headers said of each image (so also whether it is to be resampled); what the mask's
    values stand for; and path, size and time of change of every file.
    """
    parts = [settings, *(remark.message for remark in study.remarks)]
    if study.mask:
        parts.append(repr(sorted(study.mask.label_values.items())))
    for image in study.images:
        parts += [image.channel, image.id, *(remark.message for remark in image.findings)]
    for file in study.files:
        try:
            status = file.stat()
        except FileNotFoundError:
            raise SourceMissing(
                "A file of the source vanished.", "See that the source is mounted; run the command again."
            ) from None
        name = os.fsencode(file.absolute()).decode("latin-1")
        parts.append(pseudonyms.path(f"{name}\n{status.st_size}\n{status.st_mtime_ns}"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _reusable(held: PreparedFolder, works: Iterable[Work], wanted: InputState | None) -> dict[str, Outcome]:
    """What earlier runs found out and still holds; the split follows the present fraction."""
    known = held.outcomes()
    reusable: dict[str, Outcome] = {}
    for work in works:
        outcome = known.get(work.study.id)
        if outcome is None or outcome.fingerprint != work.fingerprint:
            continue
        if isinstance(outcome, CaseRecord):
            reusable[outcome.id] = outcome.model_copy(update={"split": work.split})
        elif _still_holds(outcome, held.manifest, wanted):
            reusable[outcome.id] = outcome
    return reusable


def _still_holds(study: Exclusion, before: Manifest | None, wanted: InputState | None) -> bool:
    """Whether a study that was left out would be again: with its files unchanged, and its fingerprint equal."""
    rules = {remark.id for remark in study.findings}
    if _OTHER_STATE in rules:
        return before is not None and wanted in (None, before.input_state)
    return rules.isdisjoint(_TRIED_AGAIN)


# --- what came of it ------------------------------------------------------------------------------------------------


def _assemble(
    collected: Collected, outcomes: Iterable[Outcome], request: Request, withdrawn: Collection[str]
) -> Manifest:
    """The manifest, in an order that depends on nothing but the pseudonyms. Raises NothingUsable."""
    decided: list[Outcome] = [*collected.excluded, *outcomes]
    cases = [study for study in decided if isinstance(study, CaseRecord) and study.patient not in withdrawn]
    excluded = [study for study in decided if isinstance(study, Exclusion) and study.patient not in withdrawn]
    everyone: list[Study | Exclusion] = [*collected.studies, *collected.excluded]
    excluded += [withdrawal(study.id, study.patient) for study in everyone if study.patient in withdrawn]
    remarks = [Remark.of(remark) for remark in collected.findings]
    twins = identity.twins(cases)
    excluded += [
        exclusion(case.id, case.patient, twins[case.id], case.fingerprint) for case in cases if case.id in twins
    ]
    cases = [case for case in cases if case.id not in twins]
    state = _common_state(cases, excluded, remarks, request)
    kept = sorted((case for case in cases if case.input_state == state), key=lambda case: case.id)
    excluded += [_exclude_other_state(case, state) for case in cases if case.input_state != state]
    if not kept:
        raise _nothing_usable(excluded, remarks)
    remarks += [Remark.of(remark) for remark in _check_splits(kept, request)]
    return Manifest(
        fedsite=__version__,
        task=request.task.name,
        channels=tuple(channel.name for channel in request.task.channels),
        source=collected.kind,
        spacing_mm=request.spacing_mm,
        input_state=state,
        validation_fraction=request.validation_fraction,
        cases=tuple(kept),
        excluded=tuple(sorted(excluded, key=lambda study: study.id)),
        findings=tuple(remarks),
    )


def _common_state(
    cases: Sequence[CaseRecord], excluded: Sequence[Exclusion], remarks: Sequence[Remark], request: Request
) -> InputState:
    """The one input state of a set: that which was asked for, else that which all have. Raises NothingUsable."""
    if request.input_state:
        return request.input_state
    counts = Counter(case.input_state for case in cases if case.input_state in request.task.input_states)
    if not counts:
        raise _nothing_usable(excluded, remarks)
    if len(counts) > 1:
        raise NothingUsable(
            f"Of the studies {counts['whole-head']} are whole-head and {counts['skull-stripped']} skull-stripped.",
            "A model learns from one kind only: say with --input-state which to keep (nothing is done again).",
            excluded,
            remarks,
        )
    return counts.most_common(1)[0][0]


def _exclude_other_state(case: CaseRecord, kept: InputState) -> Exclusion:
    problem = finding(_OTHER_STATE, case.id, state=case.input_state, kept=kept)
    return exclusion(case.id, case.patient, [problem], case.fingerprint)


def _check_splits(cases: Sequence[CaseRecord], request: Request) -> list[Finding]:
    splits = {case.split for case in cases}
    if "training" not in splits:
        return [finding("no-training-patient")]
    if "validation" not in splits and request.validation_fraction > 0:
        return [finding("no-validation-patient", one_in=round(1 / request.validation_fraction))]
    return []


def _nothing_usable(excluded: Sequence[Exclusion], remarks: Sequence[Remark]) -> NothingUsable:
    """Counts by reason, the commonest first, and its mend."""
    reasons = Counter(study.reason.id for study in excluded)
    mends = {study.reason.id: study.reason.mend for study in excluded}
    if not reasons:
        return NothingUsable(
            "The source holds no study for this task.", "See with fedsite inspect what it holds.", excluded, remarks
        )
    counted = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common())
    mend = " ".join([*dict.fromkeys(mends[reason] for reason, _ in reasons.most_common(2)), _SEE_REPORT])
    return NothingUsable(f"None of {len(excluded)} studies can be used ({counted}).", mend, excluded, remarks)
