"""What fedsite stands on: every distribution is pinned, every direct one is used and has its reason in writing."""

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
BUILD_TOOLS = {"editables"}  # hatchling asks for it where it installs in place
NEVER_IMPORTED = {
    "httptools": "uvicorn's parser, found by uvicorn",
    "pylibjpeg": "finds codecs for pydicom",
}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    exact = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(parts) == 2 for parts in exact)
    return {canonicalize_name(name): version for name, version in exact}


def direct(groups: list[list[str]]) -> set[str]:
    names = {canonicalize_name(Requirement(line).name) for group in groups for line in group}
    return names - {"fedsite"}


def required_by(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    """What a distribution needs here, with these of its extras."""
    for line in distribution(name).requires or []:
        requirement = Requirement(line)
        wanted = (requirement.marker is None) or any(
            requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)
        )
        if wanted:
            yield requirement


def closure() -> dict[str, list[Requirement]]:
    """Every distribution that fedsite needs with all its extras, and the requirements that ask for it."""
    found: dict[str, list[Requirement]] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [("fedsite", frozenset(EXTRAS))]
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        for requirement in required_by(*one):
            name = canonicalize_name(requirement.name)
            found.setdefault(name, []).append(requirement)
            waiting.append((name, frozenset(requirement.extras)))
    found.pop("fedsite", None)
    return found


def exactly_asked_for(requirements: list[Requirement]) -> bool:
    """A build of torch for CUDA asks for its libraries by exact versions: torch's pin is theirs."""
    return any(specifier.operator == "==" for one in requirements for specifier in one.specifier)


def test_everything_that_is_installed_is_pinned_and_at_its_pin() -> None:
    pinned = pins()
    for name, requirements in closure().items():
        if name not in pinned and exactly_asked_for(requirements):
            continue
        assert name in pinned, f"{name} is not in constraints.txt"
        assert Version(distribution(name).version).public == Version(pinned[name]).public, name


def test_no_pin_is_left_over() -> None:
    assert set(pins()) - set(closure()) - BUILD_TOOLS == set(), "constraints.txt pins what nothing needs"


def test_torch_is_the_agreed_one() -> None:
    assert pins()["torch"] == "2.13.0"


def test_every_dependency_has_its_reason() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    reasons = {canonicalize_name(name) for name in re.findall(r"^\| `([A-Za-z0-9._-]+)` \|", text, re.MULTILINE)}
    named = direct([PROJECT["dependencies"], *EXTRAS.values()])
    assert named - reasons == set(), "without a reason in CONTRIBUTING.md"


def imported_modules() -> set[str]:
    """The top-level modules that fedsite imports, anywhere."""
    found: set[str] = set()
    for path in (ROOT / "fedsite").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").partition(".")[0])
    return found


def test_every_dependency_is_used() -> None:
    providers = packages_distributions()
    used = {canonicalize_name(name) for module in imported_modules() for name in providers.get(module, [])}
    declared = direct([PROJECT["dependencies"], EXTRAS["server"], EXTRAS["dask"]])
    assert declared - used - set(NEVER_IMPORTED) == set()
    assert used - declared - {"fedsite"} == set(), "imported, but only by luck there"


def test_the_server_needs_only_what_fedsite_declares() -> None:
    lines = (ROOT / "requirements-server.txt").read_text().splitlines()
    wanted = {canonicalize_name(line) for line in lines if line and not line.startswith("#")}
    assert wanted <= direct([PROJECT["dependencies"], EXTRAS["server"]])
