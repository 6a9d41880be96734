"""Law 4 (data only), law 3 (no environment variable loosens), law 9 (no seed reaches the gate), read from the source.

Each rule is a function from source text to what breaks it, held against the house and against planted breaches.
"""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[3] / "fedsite"
SOURCES = {str(path.relative_to(PACKAGE)): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
CODE_IN_DATA = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "code", "runpy"}
RUNS_TEXT = {"eval", "exec", "compile", "__import__"}
RUNS_CODE = {
    "torch.load",
    "np.load",
    "numpy.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "yaml.load_all",
    "os.system",
    "os.popen",
    "torch.hub.load",
    "torch.jit.load",
    "sys.path.insert",
    "sys.path.append",
}
SAFE_LOADERS = {"_UniqueKeys"}
# The registry imports the modules that lie in fedsite/tasks/: names from the file system of the installation.
IMPORTS_BY_NAME = {("tasks/registry.py", "importlib.import_module(entry.name)")}
# The decoder hands its own environment on to its child, and looks at none of it.
MAY_READ_THE_ENVIRONMENT = {
    "site/config.py",
    "site/operator.py",
    "site/secrets.py",
    "jobs/data/inspect.py",
    "jobs/network.py",
    "jobs/schedule/crontab.py",  # for crontab's own messages, in English
    "jobs/schedule/install.py",  # proxy variables, which a schedule does not take along, are warned of
    "jobs/schedule/presence.py",  # where systemd's user instance is
    "jobs/schedule/run.py",  # what the run that is scheduled needs of this one's
    "cli/main.py",
    "cli/output.py",
    "dicom/voxels/decoder.py",
}


def runs_code(source: str) -> set[str]:
    """What in a source could run what a file or a server says."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] in CODE_IN_DATA}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module)} if str(node.module).split(".")[0] in CODE_IN_DATA else set()
        elif isinstance(node, ast.Call):
            found |= _dangerous_call(node)
    return found


def _dangerous_call(node: ast.Call) -> set[str]:
    name, text = ast.unparse(node.func), ast.unparse(node)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    dangerous = name in RUNS_TEXT or name in RUNS_CODE or keywords.get("shell") == "True"
    dangerous |= "allow_pickle" in keywords
    dangerous |= name == "yaml.load" and keywords.get("Loader") not in SAFE_LOADERS
    dangerous |= name.endswith("import_module") and not (node.args and isinstance(node.args[0], ast.Constant))
    return {text} if dangerous else set()


def reads_the_environment(source: str) -> bool:
    nodes = list(ast.walk(ast.parse(source)))
    attributes = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
    imported = {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    return bool({"os.environ", "os.getenv", "os.environb"} & attributes or {"environ", "getenv"} & imported)


def can_be_seeded(source: str) -> set[str]:
    """Whatever in a source a seed could reach."""
    found = set()
    foreign = ("random", "torch", "scipy")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] in foreign}
        elif isinstance(node, ast.ImportFrom):
            modules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {one for one in modules if one.split(".")[0] in foreign or "numpy.random" in one}
        elif isinstance(node, ast.Attribute):
            seedable = node.attr in ("random", "default_rng", "RandomState", "Generator") or "seed" in node.attr
            seedable |= node.attr.startswith(("rand", "normal", "bernoulli"))
            found |= {ast.unparse(node)} if seedable else set()
        elif isinstance(node, ast.Name | ast.arg):
            name = node.id if isinstance(node, ast.Name) else node.arg
            found |= {name} if "seed" in name else set()
    return found


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_runs_what_it_reads(name: str) -> None:
    allowed = {text for place, text in IMPORTS_BY_NAME if place == name}
    assert runs_code(SOURCES[name]) - allowed == set()


def test_the_only_name_that_is_imported_comes_from_our_own_folder() -> None:
    """What the exception above stands on: the names are those of modules found beside the registry."""
    assert "pkgutil.iter_modules(fedsite.tasks.__path__" in SOURCES["tasks/registry.py"]


def test_the_yaml_loader_of_our_own_is_a_safe_one() -> None:
    import yaml

    from fedsite.site.config import _UniqueKeys

    assert issubclass(_UniqueKeys, yaml.SafeLoader)


def test_few_modules_read_the_environment() -> None:
    """The configuration refuses variables that would loosen something; nobody else may ask for one behind its back."""
    readers = {name for name, source in SOURCES.items() if reads_the_environment(source)}
    assert readers <= MAY_READ_THE_ENVIRONMENT
    for room in ("privacy", "wire", "training", "dataset"):
        assert not any(name.startswith(f"{room}/") for name in readers)


def test_no_seed_reaches_the_gate() -> None:
    assert can_be_seeded(SOURCES["privacy/mechanism.py"]) == set()
    assert "os.urandom(32)" in SOURCES["privacy/mechanism.py"]


def test_no_seed_reaches_the_sampling_of_patients() -> None:
    """Private steps know torch for its tensors alone."""
    assert can_be_seeded(SOURCES["privacy/dpsgd.py"]) == {"torch", "torch.Tensor", "torch.nn"}
    assert "os.urandom(8 * count)" in SOURCES["privacy/dpsgd.py"]


@pytest.mark.parametrize(
    "breach",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load('x')",
        "torch.load(path, weights_only=True)",
        "np.load(path)",
        "numpy.memmap(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.load(text)",
        "yaml.unsafe_load(text)",
        "eval(text)",
        "exec(text)",
        "__import__(name)",
        "importlib.import_module(plan.network.name)",
        "from importlib import import_module\nimport_module(f'fedsite.{name}')",
        "subprocess.run(command, shell=True)",
        "os.system(text)",
    ],
)
def test_code_in_data_would_be_seen(breach: str) -> None:
    assert runs_code(breach)


def test_harmless_code_is_let_through() -> None:
    harmless = "network.eval()\nyaml.safe_load(t)\nimport_module('json')\nre.compile(x)\nsubprocess.run(['ls'])"
    assert runs_code(harmless) == set()


@pytest.mark.parametrize("breach", ["os.environ['X']", "os.getenv('X')", "from os import environ", "os.environ.get(a)"])
def test_a_look_at_the_environment_would_be_seen(breach: str) -> None:
    assert reads_the_environment(breach)


@pytest.mark.parametrize(
    "breach",
    [
        "import random",
        "from random import gauss",
        "import torch",
        "np.random.normal(size=3)",
        "from numpy.random import default_rng",
        "np.random.default_rng(seed)",
        "def seal(read, gate, seed=None): ...",
        "noise = SystemNoise(seed)",
        "torch.manual_seed(4)",
        "drawn = torch.rand(count) < rate",
        "generator.normal_(total)",
        "kept.bernoulli_(rate)",
    ],
)
def test_a_seed_would_be_seen(breach: str) -> None:
    assert can_be_seeded(breach)
