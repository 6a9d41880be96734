"""Law 7, towards the server: every request is shown to a witness, and the jobs' witness writes the audit.

Each rule is a function from source text to what breaks it, held against the house and against a planted breach.
"""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[3] / "fedsite"
ROOMS = {
    room: {str(path.relative_to(PACKAGE)): path.read_text() for path in sorted((PACKAGE / room).rglob("*.py"))}
    for room in ("wire", "jobs")
}
SENDS = {"stream", "send", "request", "get", "post", "put", "patch", "head", "options", "delete"}
OPENS = {"FederationClient", "ask_federation", "fetch_ca", "enroll", "reenroll", "open_http"}
LOOKS_ONLY = "http.get(journey.server, extensions={'trace': stop})"
"""`wire.shown` ends at the handshake, before a byte of a request is sent: it looks at a certificate."""


def sends(source: str) -> list[str]:
    """What asks something of an httpx client."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    methods = ((node, node.func) for node in calls if isinstance(node.func, ast.Attribute))
    return [
        ast.unparse(node)
        for node, method in methods
        if method.attr in SENDS and ast.unparse(method.value) in ("http", "self._http", "httpx", "client")
    ]


def unwitnessed(source: str) -> list[str]:
    """What opens a way to the server without naming a witness."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    opening = [node for node in calls if ast.unparse(node.func).rpartition(".")[2] in OPENS]
    given = [[ast.unparse(one) for one in (*node.args, *node.keywords)] for node in opening]
    return [
        ast.unparse(node)
        for node, names in zip(opening, given, strict=True)
        if not any("witness" in one for one in names)
    ]


def test_one_place_asks_the_server() -> None:
    found = {name: sends(source) for name, source in ROOMS["wire"].items()}
    asked = {name: calls for name, calls in found.items() if calls}
    assert asked.keys() == {"wire/transport.py", "wire/shown.py"}
    (only,) = asked["wire/transport.py"]
    assert only.startswith("self._http.stream(")
    assert asked["wire/shown.py"] == [LOOKS_ONLY]


def test_every_job_brings_its_witness() -> None:
    assert {name: found for name, source in ROOMS["jobs"].items() if (found := unwitnessed(source))} == {}
    assert sum(source.count("witness") for source in ROOMS["jobs"].values()) > 8


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("def f(http):\n    http.get('/v1/trust')", sends),
        ("httpx.post(server, content=rows)", sends),
        ("client = FederationClient(server, tls, proxy=proxy)", unwitnessed),
        ("enrolment.fetch_ca(server, sha256, proxy, patience)", unwitnessed),
    ],
)
def test_a_breach_would_be_seen(source: str, rule: object) -> None:
    assert callable(rule)
    assert rule(source)
