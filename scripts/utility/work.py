"""The pieces of work that the bench is made of. Each keeps its result in the cache folder: none is done twice.

A result's name is a digest of all that decides it, the code included. So a run that was cut goes on, one that was
changed begins anew where it must, and results of different code never meet.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import fedsite
from fedsite.files import write_atomically
from utility import recipes
from utility.patients import Split, make_cases
from utility.recipes import Recipe
from utility.sites import HOSPITALS, TRAINED, Hospital

if TYPE_CHECKING:
    from utility.federation import Cases, Tensors

Kind = Literal["lone", "central", "federated"]
Scores = dict[str, list[float]]
"""Each patient's Dice, by hospital."""

_HERE, _FEDSITE = Path(__file__).parents[1], Path(fedsite.__file__).parent
_MAKES_CASES = (_HERE / "hospitals", _HERE / "utility/patients.py", _FEDSITE / "tasks", _FEDSITE / "dataset/cases.py")
_TRAINS = (
    _HERE / "utility/federation.py",
    _FEDSITE / "training",
    _FEDSITE / "privacy/dpsgd.py",
    _FEDSITE / "privacy/mechanism.py",
    _FEDSITE / "server/rounds/aggregation.py",
    _FEDSITE / "wire",
)


@dataclass(frozen=True)
class Sizes:
    """How many patients each hospital has for each purpose; the edge of a prepared voxel in mm; and how much coarser
    scanners are, which saves time.
    """

    training: int = 32
    validation: int = 8
    test: int = 20
    spacing_mm: float = 4.0
    coarser: float = 1.0

    def of(self, split: Split) -> int:
        """The patients of a split."""
        return {"training": self.training, "validation": self.validation, "test": self.test}[split]


@dataclass(frozen=True)
class Work:
    """Where results are kept, how large everything is, and who is there: hospitals that train, and all."""

    folder: Path
    sizes: Sizes
    trained: tuple[Hospital, ...] = TRAINED
    hospitals: tuple[Hospital, ...] = HOSPITALS

    def cases(self, hospital: Hospital, split: Split, seed: int) -> list[Path]:
        """The prepared cases of a hospital's patients."""
        scanner = hospital.scanner.coarser(self.sizes.coarser)
        patients = self.sizes.of(split)
        name = _digest(hospital, scanner, split, patients, seed, self.sizes.spacing_mm, _code(_MAKES_CASES))
        made = replace(hospital, scanner=scanner)
        folder = self.folder / "cases" / f"{hospital.name}-{split}-{name}"
        return make_cases(folder, made, split, patients, seed, self.sizes.spacing_mm)


@dataclass(frozen=True)
class Training:
    """One training: a site by itself (`site` names it), all data in one place, or a federation."""

    kind: Kind
    recipe: Recipe
    seed: int
    site: str = ""

    @property
    def contender(self) -> str:
        """The same under any seed."""
        return ", ".join(part for part in (self.kind, self.site, self.recipe.name) if part)

    def validated(self, work: Work) -> Scores:
        """Trains, and measures on the validation split of the hospitals that train."""
        return self._measured(work, "validation", work.trained)

    def tested(self, work: Work) -> Scores:
        """Measures on the test split of all hospitals."""
        return self._measured(work, "test", work.hospitals)

    def _measured(self, work: Work, split: Split, hospitals: Sequence[Hospital]) -> Scores:
        stored = work.folder / "scores" / f"{self._name(work, split, hospitals)}.json"
        if not stored.exists():
            from utility.federation import dice

            scores = {
                hospital.name: dice(
                    self.recipe, self._model(work, place), _opened(work.cases(hospital, split, self.seed))
                )
                for place, hospital in enumerate(hospitals)
            }
            stored.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(stored, json.dumps({"contender": self.contender, "dice": scores}, indent=1).encode())
        found: Scores = json.loads(stored.read_bytes())["dice"]
        return found

    def _model(self, work: Work, place: int) -> "Tensors":
        """What the hospital at this place in the list of all uses: the global model, and what it kept of its own."""
        from fedsite.wire import payload
        from utility.federation import learn

        folder = work.folder / "models" / self._name(work)
        if not (folder / "global.safetensors").exists():
            folder.mkdir(parents=True, exist_ok=True)
            learned = learn(self.recipe, self._cases(work), self.seed)
            for number, kept in enumerate(learned.kept):
                if kept:
                    payload.write_model(folder / f"kept-{number}.safetensors", kept)
            payload.write_model(folder / "global.safetensors", learned.model)
        files = [folder / "global.safetensors", folder / f"kept-{place}.safetensors"]
        return {name: values for file in files if file.exists() for name, values in payload.tensors_of(file).items()}

    def _cases(self, work: Work) -> list["Cases"]:
        """Those that are trained on, by site of the federation."""
        cases = [_opened(work.cases(hospital, "training", self.seed)) for hospital in self._sites(work)]
        return [[case for site in cases for case in site]] if self.kind == "central" else cases

    def _sites(self, work: Work) -> list[Hospital]:
        """Whose cases are trained on."""
        return [hospital for hospital in work.trained if self.site in ("", hospital.name)]

    def _name(self, work: Work, *measured: object) -> str:
        """Of the model, or of what was measured of it."""
        settings = (recipes.NETWORK, self._sites(work), work.sizes)
        name = _digest(self, settings, measured, _code(_MAKES_CASES), _code(_TRAINS))
        return f"{self.seed}-{self.kind}-{name}"


def _opened(paths: Sequence[Path]) -> "Cases":
    from fedsite.dataset.cases import open_case

    return [open_case(path) for path in paths]


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@cache
def _code(places: tuple[Path, ...]) -> str:
    """A digest of Python files and folders of them."""
    files = [file for place in places for file in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()
