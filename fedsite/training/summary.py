"""What measures of cases come to: means with intervals over patients, by lesion size and by scanner.

The unit is the patient, as it is for privacy: a patient's studies are averaged first, and the bootstrap draws
patients, since two studies of one patient are not two observations.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from fedsite.training.metrics import CaseMeasures, Measures

CONFIDENCE = 0.95
RESAMPLES = 4_000
# An interval from fewer patients would say more than they know.
LEAST_PATIENTS = 3
_SEED = 0
_EDGES_ML = (1.0, 10.0, 100.0)


@dataclass(frozen=True)
class MeasuredCase:
    """One case's measures, whose it is, and on which scanner it was made ("" where nobody knows)."""

    id: str
    patient: str
    scanner: str
    measures: CaseMeasures

    @property
    def dice(self) -> float:
        """Dice, averaged over the structures."""
        return fmean(found.dice for found in self.measures.values())


@dataclass(frozen=True)
class Estimate:
    """A mean over patients with its 95% interval; None where there is nothing to average, or too few patients.

    `undefined` counts the cases for which there is no value. They are in no mean.
    """

    mean: float | None
    low: float | None
    high: float | None
    patients: int
    undefined: int = 0


@dataclass(frozen=True)
class Row:
    """The measures of one group of cases, for one structure. Precision and recall are lesion-wise, as F1 is."""

    group: str
    cases: int
    patients: int
    dice: Estimate
    hd95_mm: Estimate
    f1: Estimate
    precision: Estimate
    recall: Estimate
    volume_difference_ml: Estimate
    absolute_volume_difference_ml: Estimate


@dataclass(frozen=True)
class Detection:
    """How many of the lesions of a size were found; they are counted one by one, not by case."""

    group: str
    lesions: int
    found: int


@dataclass(frozen=True)
class Summary:
    """One structure over all cases, by the volume of what is drawn of it, and by scanner; and its lesions by size."""

    structure: str
    all: Row
    by_size: tuple[Row, ...]
    by_scanner: tuple[Row, ...]
    lesions_by_size: tuple[Detection, ...]


def summarise(cases: Sequence[MeasuredCase]) -> tuple[Summary, ...]:
    """A summary of each structure that was measured, in the task's order; none without cases."""
    return tuple(_summary(cases, structure) for structure in (cases[0].measures if cases else ()))


def mean_dice(cases: Sequence[MeasuredCase]) -> Estimate:
    """One number for a model: the mean over patients of Dice, which is averaged over a case's structures first."""
    return estimate((case.patient, case.dice) for case in cases)


def estimate(values: Iterable[tuple[str, float | None]]) -> Estimate:
    """The mean over patients of (patient, value) pairs, one a case, with its interval.

    The bootstrap's interval is the bias-corrected and accelerated one (Efron 1987, JASA 82:171), by scipy, from a
    fixed seed.
    """
    of_patient: dict[str, list[float]] = {}
    undefined = 0
    for patient, value in values:
        if value is None:
            undefined += 1
        else:
            of_patient.setdefault(patient, []).append(value)
    means = np.array([fmean(found) for _, found in sorted(of_patient.items())])
    if not len(means):
        return Estimate(None, None, None, 0, undefined)
    low, high = _interval(means)
    return Estimate(float(means.mean()), low, high, len(means), undefined)


def _interval(means: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float | None, float | None]:
    from scipy import stats

    if len(means) < LEAST_PATIENTS:
        return None, None
    if np.ptp(means) == 0:
        return float(means[0]), float(means[0])
    found = stats.bootstrap(
        (means,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return float(found.low), float(found.high)


def _summary(cases: Sequence[MeasuredCase], structure: str) -> Summary:
    def size(case: MeasuredCase) -> str:
        return size_of(case.measures[structure].drawn_ml)

    def scanner(case: MeasuredCase) -> str:
        return case.scanner or "not stated"

    lesions: dict[str, list[bool]] = {}
    for case in cases:
        for lesion in case.measures[structure].lesions:
            lesions.setdefault(size_of(lesion.ml), []).append(lesion.found)
    return Summary(
        structure,
        _row("all", cases, structure),
        _rows(cases, structure, size, SIZES),
        _rows(cases, structure, scanner, sorted({scanner(case) for case in cases})),
        tuple(Detection(name, len(lesions[name]), sum(lesions[name])) for name in SIZES if name in lesions),
    )


def size_of(ml: float) -> str:
    """The group that a volume belongs to, one of SIZES."""
    return SIZES[1 + bisect_right(_EDGES_ML, ml)] if ml > 0 else SIZES[0]


def _size_names() -> tuple[str, ...]:
    low, middle, high = (f"{edge:g}" for edge in _EDGES_ML)
    return "none", f"< {low} ml", f"{low} to {middle} ml", f"{middle} to {high} ml", f"\u2265 {high} ml"


SIZES = _size_names()


def _rows(
    cases: Sequence[MeasuredCase], structure: str, group_of: Callable[[MeasuredCase], str], names: Sequence[str]
) -> tuple[Row, ...]:
    groups: dict[str, list[MeasuredCase]] = {name: [] for name in names}
    for case in cases:
        groups[group_of(case)].append(case)
    return tuple(_row(name, group, structure) for name, group in groups.items() if group)


def _row(group: str, cases: Sequence[MeasuredCase], structure: str) -> Row:
    def over_patients(value_of: Callable[[Measures], float | None]) -> Estimate:
        return estimate((case.patient, value_of(case.measures[structure])) for case in cases)

    return Row(
        group=group,
        cases=len(cases),
        patients=len({case.patient for case in cases}),
        dice=over_patients(lambda found: found.dice),
        hd95_mm=over_patients(lambda found: found.hd95_mm),
        f1=over_patients(lambda found: found.f1),
        precision=over_patients(lambda found: found.precision),
        recall=over_patients(lambda found: found.recall),
        volume_difference_ml=over_patients(lambda found: found.volume_difference_ml),
        absolute_volume_difference_ml=over_patients(lambda found: abs(found.volume_difference_ml)),
    )
