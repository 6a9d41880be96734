"""How pages are written and where they lie: self-contained HTML without scripts and without network.

Most are for this site's people alone. They show loss, Dice and pictures of patients by pseudonym, all of which stays at
home (privacy.md): they lie below the state folder, for its user alone, and those with pictures go when a patient is
withdrawn.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsite import __version__
from fedsite.errors import CannotWrite
from fedsite.files import PRIVATE_FILE, PRIVATE_FOLDER, atomic_writer, make_folder
from fedsite.site.state import State

if TYPE_CHECKING:
    from fedsite.training.summary import Estimate

FOLDER = "reports"
EVALUATION, ROUNDS, ATTACKS, PARTICIPATION = "evaluation.html", "rounds.html", "attacks.html", "participation.html"


def place(state: State, name: str) -> Path:
    """Where a page lies. Its folder is made if need be. Raises CannotWrite."""
    make_folder(state.folder / FOLDER, PRIVATE_FOLDER)
    return state.folder / FOLDER / name


def forget_pictures(state: State) -> None:
    """Removes the pages that hold pictures of patients: one of them was withdrawn."""
    for name in (EVALUATION, ATTACKS):
        (state.folder / FOLDER / name).unlink(missing_ok=True)


def write(path: Path, template: str, **content: Any) -> None:
    """Writes a page from one of the templates. Raises CannotWrite."""
    if not path.parent.is_dir():
        raise CannotWrite(
            f"Cannot write the report: there is no folder {path.parent}.", "Make it, or name another --report."
        )
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader("fedsite.jobs.pages"), PackageLoader("fedsite.dataset")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["estimate"] = _estimate
    page = environment.get_template(template).generate(version=__version__, **content)
    with atomic_writer(path, PRIVATE_FILE) as file:
        for piece in page:
            file.write(piece.encode())


def _estimate(value: "Estimate", digits: int) -> tuple[str, str]:
    """A mean, and its interval where there is one."""
    if value.mean is None:
        return "not defined", ""
    between = "" if value.low is None else f"{value.low:.{digits}f} to {value.high:.{digits}f}"
    return f"{value.mean:.{digits}f}", between
