"""The report of a preparation: one self-contained HTML page, without scripts and without network.

It shows what needs a look first: totals, what was left out and why, how the cases are spread, then every case with
pictures. Studies and patients appear by pseudonym only. Groups of cases are shown alone by style sheet, not by script:
so the page works where scripts are forbidden, and its policy forbids them all.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedsite import __version__
from fedsite.dataset import cases, figures, pictures
from fedsite.dataset.manifest import CaseRecord, Exclusion, InputState, Manifest, Remark, Triple
from fedsite.dataset.pictures import Look
from fedsite.dataset.studies import Progress
from fedsite.errors import CannotWrite
from fedsite.files import PRIVATE_FILE, atomic_writer
from fedsite.tasks.description import Task

Looks = Callable[[CaseRecord], Look]
# The page's digest stands within its first bytes.
_HEAD_BYTES = 1024


@dataclass(frozen=True)
class Content:
    """What a report tells. Without usable cases `input_state` is None, and `cases` empty."""

    task: Task
    spacing_mm: Triple
    input_state: InputState | None
    validation_fraction: float
    cases: Sequence[CaseRecord]
    excluded: Sequence[Exclusion]
    findings: Sequence[Remark]
    stored: bool

    @classmethod
    def of(cls, manifest: Manifest, task: Task, stored: bool = True) -> "Content":
        """The content for a prepared (or merely checked) set."""
        return cls(
            task=task,
            spacing_mm=manifest.spacing_mm,
            input_state=manifest.input_state,
            validation_fraction=manifest.validation_fraction,
            cases=manifest.cases,
            excluded=manifest.excluded,
            findings=manifest.findings,
            stored=stored,
        )

    @property
    def digest(self) -> str:
        """Tells one content from another; it stands in the page."""
        return hashlib.sha256(f"{__version__}\n{self!r}".encode()).hexdigest()


def stored_looks(folder: Path, spacing_mm: Triple) -> Looks:
    """Looks at the cases of a prepared folder, one at a time. Raises SourceMissing, DataNotFit."""

    def look(record: CaseRecord) -> Look:
        case = cases.open_case(folder / record.file)
        return pictures.look(case.image, case.label, spacing_mm)

    return look


def write_report(path: Path, content: Content, looks: Looks, progress: Progress = lambda done, total: None) -> None:
    """Writes the page (mode 0600), case by case, so that memory does not grow with their number.

    Raises CannotWrite, also when the folder is not there, and what `looks` raises.
    """
    if not path.parent.is_dir():
        raise CannotWrite(
            f"Cannot write the report: there is no folder {path.parent}.", "Make it, or name another --report."
        )
    environment = Environment(
        loader=PackageLoader("fedsite.dataset"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    noted = figures.noted(content.cases)
    page = environment.get_template("report.html.j2").generate(
        content=content,
        digest=content.digest,
        version=__version__,
        tiles=_tiles(content),
        reasons=figures.reasons(content.excluded),
        distributions=_distributions(content),
        choices=figures.choices(noted),
        cases=_looked_at(noted, looks, progress),
        bins=pictures.BINS,
        curve=_curve,
        millimetres=_millimetres,
    )
    with atomic_writer(path, PRIVATE_FILE) as file:
        for piece in page:
            file.write(piece.encode())


def is_current(path: Path, content: Content) -> bool:
    """Whether the page at `path` tells just this content."""
    try:
        with path.open("rb") as file:
            return content.digest.encode() in file.read(_HEAD_BYTES)
    except OSError:
        return False


def _looked_at(
    noted: Sequence[figures.Noted], looks: Looks, progress: Progress
) -> Iterator[tuple[figures.Noted, Look]]:
    for done, case in enumerate(noted, start=1):
        yield case, looks(case.record)
        progress(done, len(noted))


def _tiles(content: Content) -> list[tuple[str, str]]:
    """The totals: a figure and what it counts."""
    patients = {case.patient for case in content.cases}
    held_out = {case.patient for case in content.cases if case.split == "validation"}
    lesions = [case.lesion_ml for case in content.cases if case.lesion_ml > 0]
    return [
        (str(len(content.cases)), "case" if len(content.cases) == 1 else "cases"),
        (str(len(patients)), "patient" if len(patients) == 1 else "patients"),
        (f"{len(patients - held_out)} / {len(held_out)}", "patients for training / validation"),
        (f"{median(lesions):.1f} ml" if lesions else "none", "median lesion volume"),
        (str(sum(bool(case.findings) for case in content.cases)), "with a warning"),
        (str(len(content.excluded)), "left out"),
    ]


def _distributions(content: Content) -> list[tuple[str, Sequence[figures.Bar]]]:
    """How the cases are spread: a title, and what is counted."""
    optional = any(channel.optional for channel in content.task.channels)
    images = [("Images", figures.bars(_images(content.task, case) for case in content.cases))] if optional else []
    return [
        *images,
        ("Lesion volume in ml", figures.volumes(content.cases)),
        ("Dice ceiling", figures.ceilings(content.cases)),
        ("Voxel size as acquired in mm", figures.bars(_sides(case.source_spacing_mm) for case in content.cases)),
        ("Scanner", figures.bars(case.scanner or "not stated" for case in content.cases)),
    ]


def _images(task: Task, case: CaseRecord) -> str:
    """Which of the task's images a case has."""
    return " + ".join(channel.name for channel in task.channels if channel.name not in case.missing)


def _curve(counts: Sequence[int]) -> str:
    """A histogram as a closed path (SVG), one unit a bin, 100 high; by square roots, so that small counts show."""
    most = max(1, *counts)
    heights = [100 * (1 - (count / most) ** 0.5) for count in counts]
    return "M0 100" + "".join(f"V{height:.0f}h1" for height in heights) + "V100Z"


def _sides(spacing: Triple) -> str:
    return " \u00d7 ".join(f"{side:.2g}" if side < 10 else f"{side:.0f}" for side in spacing)


def _millimetres(spacing: Triple) -> str:
    return " \u00d7 ".join(f"{side:.3g}" for side in spacing) + " mm"
