"""The report of a preparation: one self-contained HTML page, without scripts and without network.

It shows what needs a look first: findings, what was left out and why, then every case with a picture. Studies and
patients appear by pseudonym only.
"""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedsite import __version__
from fedsite.dataset import cases, pictures
from fedsite.dataset.manifest import CaseRecord, Exclusion, InputState, Manifest, Remark, Triple
from fedsite.errors import CannotWrite
from fedsite.files import PRIVATE_FILE, atomic_writer

Picture = Callable[[CaseRecord], bytes]


@dataclass(frozen=True)
class Content:
    """What a report tells. Without usable cases `input_state` is None, and `cases` empty."""

    task: str
    title: str
    spacing_mm: Triple
    input_state: InputState | None
    validation_fraction: float
    cases: Sequence[CaseRecord]
    excluded: Sequence[Exclusion]
    findings: Sequence[Remark]
    stored: bool

    @classmethod
    def of(cls, manifest: Manifest, title: str, stored: bool = True) -> "Content":
        """The content for a prepared (or merely checked) set."""
        return cls(
            task=manifest.task,
            title=title,
            spacing_mm=manifest.spacing_mm,
            input_state=manifest.input_state,
            validation_fraction=manifest.validation_fraction,
            cases=manifest.cases,
            excluded=manifest.excluded,
            findings=manifest.findings,
            stored=stored,
        )


def stored_picture(folder: Path, spacing_mm: Triple) -> Picture:
    """Draws a case's picture from the case store, reading the slice that it needs and its neighbours."""

    def draw(record: CaseRecord) -> bytes:
        case = cases.open_case(folder / record.file)
        return pictures.axial_png(case.image, case.label, spacing_mm)

    return draw


def write_report(path: Path, content: Content, picture: Picture) -> None:
    """Writes the page (mode 0600), case by case, so that memory does not grow with their number.

    Raises CannotWrite, also when the folder is not there.
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
    page = environment.get_template("report.html.j2").generate(
        content=content,
        version=__version__,
        tiles=_tiles(content),
        cases=sorted(content.cases, key=_needs_a_look),
        excluded=sorted(content.excluded, key=lambda study: (study.reason.id, study.id)),
        picture=lambda record: base64.b64encode(picture(record)).decode(),
        millimetres=_millimetres,
    )
    with atomic_writer(path, PRIVATE_FILE) as file:
        for piece in page:
            file.write(piece.encode())


def _needs_a_look(case: CaseRecord) -> tuple[int, float, str]:
    """Most warnings first, then the smallest lesion."""
    return -len(case.findings), case.lesion_ml, case.id


def _tiles(content: Content) -> list[tuple[str, str]]:
    """The totals: a figure and what it counts."""
    patients = {case.patient for case in content.cases}
    held_out = {case.patient for case in content.cases if case.split == "validation"}
    lesions = [case.lesion_ml for case in content.cases if case.lesion_ml > 0]
    return [
        (str(len(content.cases)), "cases"),
        (str(len(patients)), "patients"),
        (f"{len(patients - held_out)} / {len(held_out)}", "patients for training / validation"),
        (f"{median(lesions):.1f} ml" if lesions else "none", "median lesion volume"),
        (str(sum(bool(case.findings) for case in content.cases)), "cases with a warning"),
        (str(len(content.excluded)), "studies left out"),
    ]


def _millimetres(spacing: Triple) -> str:
    return " \u00d7 ".join(f"{side:.3g}" for side in spacing) + " mm"
