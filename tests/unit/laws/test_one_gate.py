"""Law 1: one thing makes what leaves, one thing sends it, and what it sends the ledger has named.

Each rule is a function from source text to what breaks it, held against the house and against a planted breach.
"""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[3] / "fedsite"
SOURCES = {str(path.relative_to(PACKAGE)): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
ROUND = "jobs/round/state_machine.py"
MAKES_THE_FOLDER = "site/state.py"


def calls(source: str, method: str) -> list[ast.Call]:
    """Every call of something that ends in `.method`."""
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [node for node in found if isinstance(node.func, ast.Attribute) and node.func.attr == method]


def callers(method: str) -> dict[str, int]:
    """The modules that call something that ends in `.method`, and how often."""
    found = {name: len(calls(source, method)) for name, source in SOURCES.items() if method in source}
    return {name: count for name, count in found.items() if count}


def names_the_outbox(source: str) -> bool:
    """Whether code (not prose) mentions the folder: that is how a path in it is made."""
    tree = ast.parse(source)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return any("outbox" in node.value.split("/") for node in texts if id(node) not in prose)


def uses_of_the_payload(source: str) -> set[str]:
    """What is done with `here.payload`: the calls that it is an argument of, and its own methods."""
    tree = ast.parse(source)
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    uses = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "payload" and ast.unparse(node.value) == "here":
            parent = parents[node]
            if isinstance(parent, ast.Attribute):
                uses.add(f".{parent.attr}")
            elif isinstance(parent, ast.Call):
                uses.add(ast.unparse(parent.func))
            else:
                uses.add(ast.unparse(parent))
    return uses


def guards(method: str, source: str) -> list[str]:
    """The condition under which each call of `.method` is reached: the test of the `if` whose body holds it."""
    conditions = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.If))
    return [
        ast.unparse(node.test) for node in conditions for line in node.body for _ in calls(ast.unparse(line), method)
    ]


def given_to_private_steps(source: str) -> list[list[str]]:
    """The arguments of each call that makes private steps."""
    found = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    made = (node for node in found if ast.unparse(node.func).endswith("PrivateGradient"))
    return [[ast.unparse(one) for one in (*node.args, *node.keywords)] for node in made]


def digests_not_from_the_ledger(source: str) -> list[str]:
    """Calls of `client.upload` whose digest is anything but `payload_sha256` of what `ledger.released` gave."""
    bad = []
    for function in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)):
        assigned = {
            target.id: ast.unparse(node.value)
            for node in ast.walk(function)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for call in calls(ast.unparse(function), "upload"):
            digest, sequence = ast.unparse(call.args[2]), ast.unparse(call.args[3])
            record = sequence.removesuffix(".sequence")
            from_ledger = "ledger.released(" in assigned.get(record, "")
            if not from_ledger or assigned.get(digest) != f"{record}.body['payload_sha256']":
                bad.append(ast.unparse(call))
    return bad


def test_one_module_makes_paths_into_the_outbox() -> None:
    assert {name for name, source in SOURCES.items() if names_the_outbox(source)} == {ROUND, MAKES_THE_FOLDER}


def test_one_call_seals_and_one_call_sends() -> None:
    assert callers("seal") == {ROUND: 1}
    assert callers("seal_noised") == {ROUND: 1}
    assert callers("upload").keys() == {ROUND, "wire/client.py"}


def test_the_payload_is_sealed_sent_and_removed_and_nothing_else() -> None:
    done = uses_of_the_payload(SOURCES[ROUND])
    assert done == {"mechanism.seal", "mechanism.seal_noised", "here.client.upload", ".is_file", "remove"}


def test_what_is_sealed_as_noised_was_trained_by_private_steps() -> None:
    """One branch seals without noise, that of dp-sgd; one place makes private steps, for whatever plan says dp-sgd."""
    assert guards("seal_noised", SOURCES[ROUND]) == ["isinstance(plan.privacy, DpSgd)"]
    assert given_to_private_steps(SOURCES["jobs/training/local_work.py"]) == [["network", "len(patients)", "settings"]]


def test_the_digest_that_is_sent_comes_from_a_released_record() -> None:
    assert len(calls(SOURCES[ROUND], "upload")) == 1
    assert digests_not_from_the_ledger(SOURCES[ROUND]) == []


def test_only_the_gate_writes_noise() -> None:
    """What could make a payload beside the gate: another user of the system's noise source, but dp-sgd's steps, and
    the attacks, which write a page for this site's people.
    """
    users = {name for name, source in SOURCES.items() if "SystemNoise" in source or "add_noise" in source}
    assert users - {"privacy/dpsgd.py", "jobs/privacy/attack.py"} == {"privacy/mechanism.py"}


def test_an_injected_chance_would_be_seen() -> None:
    breach = "def f(n):\n    return PrivateGradient(n, 3, settings, chance=Everybody())"
    assert given_to_private_steps(breach) == [["n", "3", "settings", "chance=Everybody()"]]
    careless = "def f(plan):\n    if plan.fast:\n        mechanism.seal_noised(1)\n    else:\n        mechanism.seal(1)"
    assert guards("seal_noised", careless) == ["plan.fast"]
    assert guards("seal_noised", "def f():\n    mechanism.seal_noised(1)") == []


@pytest.mark.parametrize(
    "breach",
    [
        "path = folder / 'outbox' / 'x'",
        "open('/srv/state/outbox/raw')",
    ],
)
def test_a_second_door_would_be_seen(breach: str) -> None:
    assert names_the_outbox(breach)
    assert not names_the_outbox("'''Leaves the outbox alone.'''\nx = 'nothing in the outbox yet'")


def test_other_uses_of_the_payload_would_be_seen() -> None:
    source = "def f(here):\n    shutil.copy(here.checkpoint, here.payload)\n    here.payload.write_bytes(b'')\n"
    assert uses_of_the_payload(source) == {"shutil.copy", ".write_bytes"}


@pytest.mark.parametrize(
    "breach",
    [
        "def f(here):\n    here.client.upload(1, here.payload, sha256_of(here.payload), 3)",
        """def f(here):
            sha256 = sha256_of(here.payload)
            released = here.site.ledger.released(r)
            here.client.upload(1, here.payload, sha256, released.sequence)""",
        """def f(here):
            released = here.body
            sha256 = released.body['payload_sha256']
            here.client.upload(1, here.payload, sha256, released.sequence)""",
    ],
)
def test_a_digest_from_elsewhere_would_be_seen(breach: str) -> None:
    assert digests_not_from_the_ledger(breach)
