"""Hypothesis strategies of hostile documents: good ones, changed where a parser might trip, and plain rubbish."""

import copy
import json
from collections.abc import Callable
from typing import Any

import yaml
from hypothesis import strategies as st

# What is no JSON value, or one that parsers read differently: written into the text in place of a value.
_RAW = [
    "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", "-0", "-0.0", "1.0", "0x10", "01", "1_000", "+1", ".5",
    "5.", "9" * 400, "9" * 5000, "1" + "0" * 18, "-1", "0", "1.7976931348623157e308", "4e-324",
    '"\\ud800"', '"\\u0000"', '"\\udfff\\ud800"', '"\x00"', '"\\x41"', "'a'", "True", "undefined", "", "/**/1",
    "\ufeff1", "[" * 20 + "]" * 20, "[" * 5000, '{"a":' * 5000, "{" * 17 + "}" * 17, '{"a":1,"a":2}', '{"__proto__":1}',
    '"' + "a" * 70_000 + '"',
]  # fmt: skip
_WORDS = [
    "", "a", "..", "../../etc/passwd", "/", "-", "%s", "${HOME}", "\x1b[2J", "\n", "\xe9", "\u202e", "0" * 64, "f" * 64,
    "2026-01-01T00:00:00Z",
]  # fmt: skip
_numbers = st.one_of(
    st.integers(-(1 << 70), 1 << 70), st.floats(), st.sampled_from([0, 1, -1, 1 << 31, 1 << 53, 1 << 63, 0.5, 1e308])
)
_leaves = st.one_of(st.none(), st.booleans(), _numbers, st.sampled_from(_WORDS), st.text(max_size=8))
_values = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
Path = tuple[Any, ...]


def _places(value: Any, here: Path = ()) -> list[Path]:
    """Every place in a document, its root first."""
    found = [here]
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in parts:
        found += _places(inner, (*here, key))
    return found


def _parent(document: Any, place: Path) -> Any:
    for key in place[:-1]:
        document = document[key]
    return document


@st.composite
def _changed(draw: st.DrawFn, good: Any) -> tuple[Any, dict[str, str]]:
    """A document with some places changed, and what its stand-ins mean in the text."""
    document, raw = copy.deepcopy(good), {}
    for number in range(draw(st.integers(0, 3))):
        place = draw(st.sampled_from(_places(document)[1:] or [()]))
        if not place:
            break
        parent, key = _parent(document, place), place[-1]
        how = draw(st.sampled_from(["replace", "raw", "remove", "add", "wrap", "exchange"]))
        if how == "replace":
            parent[key] = draw(_values)
        elif how == "raw":
            parent[key] = f"@{number}@"
            raw[f"@{number}@"] = draw(st.sampled_from(_RAW))
        elif how == "remove":
            del parent[key]
        elif how == "wrap":
            parent[key] = draw(st.sampled_from([[parent[key]], {"a": parent[key]}, str(parent[key])]))
        elif how == "add" and isinstance(parent, dict):
            parent[draw(st.sampled_from([*_WORDS, str(key).upper(), f"{key} "]))] = draw(_values)
        elif how == "exchange":
            other = draw(st.sampled_from(_places(good)))
            parent[key] = copy.deepcopy(good if not other else _parent(good, other)[other[-1]])
    return document, raw


@st.composite
def _spoilt(draw: st.DrawFn, made: st.SearchStrategy[bytes]) -> bytes:
    """Now and then some bytes are others, missing, or twice there."""
    content = draw(made)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 40)))
        middle = draw(st.one_of(st.just(b""), st.binary(max_size=4), st.just(content[start:end] * 2)))
        content = content[:start] + middle + content[end:]
    return content


def _text(write: Callable[[Any], str], longest: int = 1 << 20) -> Callable[[tuple[Any, dict[str, str]]], bytes]:
    def written(made: tuple[Any, dict[str, str]]) -> bytes:
        document, raw = made
        text = write(document)
        for stand_in, meant in raw.items():
            text = text.replace(f'"{stand_in}"', meant[:longest]).replace(f"'{stand_in}'", meant[:longest])
        return text.encode("utf-8", "surrogatepass")

    return written


def _json(document: Any) -> str:
    return json.dumps(document, default=str)


def _yaml(document: Any) -> str:
    try:
        return yaml.safe_dump(document, sort_keys=False)
    except yaml.YAMLError:
        return repr(document)


_TRICKS = [
    b"a: &a [1]\nb: *a\n", b"a: &a {b: *a}\n", b"!!python/object/apply:os.system [id]\n", b"? [a, b]\n: c\n",
    b"? {a: b}\n: c\n", b"<<: {paths: {}}\n", b"<<: 1\n", b"a: 1\na: 2\n", b"%YAML 9.9\n---\na: 1\n", b"--- a\n--- b\n",
    b"a: !!binary x\n", b"a: 0o17\nb: 1:30\n", b"a: 2026-13-45\n", b"a: 9999-99-99T99:99:99Z\n", b"\tpaths: 1\n",
    b"a: !!float x\n", b"a: !!int x\n", b"!!timestamp x\n", b"a: !!set {b}\n", b"[" * 400, b"{" * 400, b"- " * 2000,
    b"\xff\xfe", b"\x00", b"a: |\n", b"*a", b"&a *a", b"!", b"? ", b"- - -\n : :", b"'", b'"\\',
]  # fmt: skip


def _mostly(*made: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """One of these, and rubbish one time in ten: it is refused at once, and teaches little."""
    rubbish = st.binary(max_size=60)
    return st.integers(0, 9).flatmap(lambda drawn: made[drawn % len(made)] if drawn else rubbish)


def json_like(good: Any) -> st.SearchStrategy[bytes]:
    """Bytes that are, nearly are, or are not at all the JSON of a good document."""
    return _mostly(_spoilt(_changed(good).map(_text(_json))))


def yaml_like(good: Any) -> st.SearchStrategy[bytes]:
    """The same in YAML, with its own traps; short ones, for PyYAML takes its time, and these files are one's own."""
    written = _changed(good).map(_text(_yaml, longest=200))
    tricks = st.tuples(st.sampled_from(_TRICKS), written).map(b"".join)
    return _mostly(_spoilt(written), _spoilt(tricks))


def bytes_like(*good: bytes) -> st.SearchStrategy[bytes]:
    """Bytes that are nearly one of some good ones."""
    return _spoilt(_spoilt(st.sampled_from(good)))
