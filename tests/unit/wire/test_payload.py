"""Payloads: safetensors that other readers understand, and of which nothing is believed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from fedsite.wire import payload
from fedsite.wire.messages import MalformedMessage
from fedsite.wire.payload import MAX_HEADER_BYTES, Layout, Tensor

Entries = dict[str, Any]
GOOD: Entries = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "F32", "shape": [], "data_offsets": [24, 28]},
}


def write(path: Path, header: Entries | bytes, data: int = 28, length: int | None = None) -> Path:
    """A file with the given header (spelled as ours is) and so many bytes of data."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + bytes(data))
    return path


# --- one format with the safetensors library ------------------------------------------------------------------------

_names = st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)
_shapes = st.lists(st.integers(1, 4), max_size=4).map(tuple)


@settings(max_examples=80, deadline=None)
@given(shapes=st.dictionaries(_names.filter(lambda name: name != "__metadata__"), _shapes, min_size=1, max_size=6))
def test_what_we_write_the_library_reads(
    tmp_path_factory: pytest.TempPathFactory, shapes: dict[str, tuple[int, ...]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "ours.safetensors"
    drawn = np.random.default_rng(0)
    tensors = {name: drawn.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    layout = payload.write_model(path, tensors)
    assert payload.layout_of(path) == layout
    assert layout.file_bytes == path.stat().st_size
    for found in (load_file(path), payload.tensors_of(path)):
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[name].shape == tensor.shape
            np.testing.assert_array_equal(found[name], tensor)


@settings(max_examples=80, deadline=None)
@given(
    shapes=st.dictionaries(_names.filter(lambda name: name != "__metadata__"), _shapes, min_size=1, max_size=6),
    dtype=st.sampled_from([np.float32, np.float16]),
)
def test_what_the_library_writes_we_read(
    tmp_path_factory: pytest.TempPathFactory, shapes: dict[str, tuple[int, ...]], dtype: type
) -> None:
    path = tmp_path_factory.getbasetemp() / "theirs.safetensors"
    drawn = np.random.default_rng(0)
    tensors = {name: drawn.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    save_file(tensors, path)
    layout = payload.layout_of(path)
    assert layout.encoding == np.dtype(dtype).name
    found = payload.tensors_of(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor)


def test_the_tensors_keep_their_order(tmp_path: Path) -> None:
    layout = payload.write_model(tmp_path / "m", {"z": np.ones(2), "a": np.zeros(3)})
    assert [tensor.name for tensor in payload.layout_of(tmp_path / "m").tensors] == ["z", "a"]
    np.testing.assert_array_equal(payload.map_values(tmp_path / "m", layout), [1, 1, 0, 0, 0])


# --- what is refused ------------------------------------------------------------------------------------------------


def test_the_good_file_is_good(tmp_path: Path) -> None:
    """Otherwise the refusals below would prove nothing."""
    layout = payload.layout_of(write(tmp_path / "m", GOOD))
    assert layout == Layout((Tensor("a", (2, 3)), Tensor("b", ())))
    assert layout.values == 7


def _entry(**changes: object) -> Entries:
    return {**GOOD, "b": {**GOOD["b"], **changes}}


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(_entry(data_offsets=[25, 29]), id="gap"),
        pytest.param(_entry(data_offsets=[20, 24]), id="overlap"),
        pytest.param(_entry(data_offsets=[24, 32]), id="too long for its shape"),
        pytest.param(_entry(data_offsets=[0, 4]), id="aliases another"),
        pytest.param(_entry(data_offsets=[28, 24]), id="backwards"),
        pytest.param(_entry(data_offsets=[24.0, 28.0]), id="float offsets"),
        pytest.param(_entry(data_offsets="24"), id="text offsets"),
        pytest.param(_entry(dtype="F16"), id="mixed types"),
        pytest.param(_entry(dtype="I32"), id="integers"),
        pytest.param(_entry(dtype=["F32"]), id="type is a list"),
        pytest.param(_entry(dtype=None), id="type is null"),
        pytest.param(_entry(shape=[-1]), id="negative side"),
        pytest.param(_entry(shape=[0]), id="empty tensor"),
        pytest.param(_entry(shape=[True]), id="boolean side"),
        pytest.param(_entry(shape=[1.0]), id="float side"),
        pytest.param(_entry(shape=[1 << 31]), id="huge side"),
        pytest.param(_entry(shape=[1 << 30] * 16), id="huge tensor"),
        pytest.param(_entry(shape=[1] * 17), id="too many dimensions"),
        pytest.param(_entry(shape="1"), id="text shape"),
        pytest.param(_entry(shape=None), id="no shape"),
        pytest.param(_entry(extra=1), id="more facts"),
        pytest.param({**GOOD, "b": {"dtype": "F32", "shape": []}}, id="fewer facts"),
        pytest.param({**GOOD, "b": 5}, id="entry is a number"),
        pytest.param({**GOOD, "__metadata__": {"format": "pt"}}, id="metadata"),
        pytest.param({"__metadata__": GOOD["a"], "b": GOOD["b"]}, id="metadata as a tensor"),
        pytest.param({"a\n": GOOD["a"], "b": GOOD["b"]}, id="control character"),
        pytest.param({"\x1b[31m": GOOD["a"], "b": GOOD["b"]}, id="terminal escape"),
        pytest.param({"\ud800": GOOD["a"], "b": GOOD["b"]}, id="half a character"),
        pytest.param({}, id="no tensors"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"null", id="null"),
        pytest.param(b"{", id="no JSON"),
        pytest.param(json.dumps(GOOD).encode(), id="other spelling"),
        pytest.param(b'{"a":%s,"a":%s}' % ((json.dumps(GOOD["a"]).encode(),) * 2), id="a name twice"),
        pytest.param(b'{"a":{"dtype":NaN}}', id="NaN"),
        pytest.param(b"[" * 1000, id="deep"),
        pytest.param(b"\xff" * 64, id="no text"),
        pytest.param(b'"' + b'\\"' * 500_000, id="hostile string"),
    ],
)
def test_a_header_with_surprises_is_refused(tmp_path: Path, header: Entries | bytes) -> None:
    with pytest.raises(MalformedMessage):
        payload.layout_of(write(tmp_path / "m", header))


@pytest.mark.parametrize("data", [0, 27, 29, 1000])
def test_a_truncated_or_extended_file_is_refused(tmp_path: Path, data: int) -> None:
    with pytest.raises(MalformedMessage, match="size"):
        payload.layout_of(write(tmp_path / "m", GOOD, data))


@pytest.mark.parametrize("length", [0, 1, 10_000, MAX_HEADER_BYTES + 1, (1 << 64) - 1])
def test_a_header_longer_than_the_file_or_the_bound_is_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(MalformedMessage, match="header's length"):
        payload.layout_of(write(tmp_path / "m", GOOD, length=length))


@pytest.mark.parametrize("content", [b"", b"\0", b"\0" * 7, b"\0" * 8, b"\2" + b"\0" * 7, b"\2" + b"\0" * 7 + b"{"])
def test_a_file_without_a_header_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(MalformedMessage):
        payload.layout_of(tmp_path / "m")


def test_a_huge_header_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "m").open("wb") as file:
        file.write((MAX_HEADER_BYTES + 8).to_bytes(8, "little"))
        file.truncate(1 << 33)
    with pytest.raises(MalformedMessage, match="header's length"):
        payload.layout_of(tmp_path / "m")


def test_too_many_tensors_are_refused(tmp_path: Path) -> None:
    count = payload.MAX_TENSORS + 1
    with pytest.raises(MalformedMessage, match="too many"):
        payload.layout_of(write(tmp_path / "m", {str(number): 0 for number in range(count)}))


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 150), byte=st.integers(0, 255))
def test_any_changed_byte_of_a_header_is_refused_or_another_layout(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "changed", GOOD)
    expected = payload.layout_of(path)
    content = bytearray(path.read_bytes())
    place %= len(content) - 28
    same = content[place] == byte
    content[place] = byte
    path.write_bytes(content)
    if same:
        payload.check_file(path, expected)
        return
    with pytest.raises(MalformedMessage):
        payload.check_file(path, expected)
    try:
        assert payload.layout_of(path) != expected
    except MalformedMessage:
        return


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=120))
def test_any_bytes_are_a_model_or_malformed(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    with pytest.raises(MalformedMessage):
        payload.layout_of(path)


def test_an_expected_layout_is_checked_to_the_byte(tmp_path: Path) -> None:
    path = write(tmp_path / "m", GOOD)
    good = payload.layout_of(path)
    payload.check_file(path, good)
    for tensors in (
        (Tensor("a", (3, 2)), Tensor("b", ())),
        (Tensor("c", (2, 3)), Tensor("b", ())),
        (Tensor("b", ()), Tensor("a", (2, 3))),
        (Tensor("a", (2, 3)),),
    ):
        with pytest.raises(MalformedMessage):
            payload.check_file(path, Layout(tensors))
    with pytest.raises(MalformedMessage):
        payload.check_file(path, good.encoded("float16"))


# --- reading --------------------------------------------------------------------------------------------------------


def test_values_are_mapped_and_cannot_be_written(tmp_path: Path) -> None:
    layout = payload.write_model(tmp_path / "m", {"a": np.arange(6.0).reshape(2, 3), "b": np.array(6.0)})
    values = payload.map_values(tmp_path / "m", layout)
    np.testing.assert_array_equal(values, np.arange(7))
    assert isinstance(values, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 1
    np.testing.assert_array_equal(payload.read_values(tmp_path / "m", layout, slice(2, 5)), [2, 3, 4])
    assert not payload.tensors_of(tmp_path / "m")["a"].flags.writeable


def test_a_file_that_shrinks_while_it_is_read_is_malformed(tmp_path: Path) -> None:
    layout = payload.write_model(tmp_path / "m", {"a": np.arange(6.0)})
    (tmp_path / "m").write_bytes((tmp_path / "m").read_bytes()[:-4])
    with pytest.raises(MalformedMessage, match="ends before"):
        payload.read_values(tmp_path / "m", layout, slice(0, 6))


@given(length=st.integers(0, 1000), size=st.integers(1, 300))
def test_chunks_cover_everything_once(length: int, size: int) -> None:
    covered = [index for part in payload.chunks(length, size) for index in range(part.start, part.stop)]
    assert covered == list(range(length))
    assert all(part.stop - part.start <= size for part in payload.chunks(length, size))


def test_encodings_differ_in_size_alone() -> None:
    layout = Layout((Tensor("a", (5,)), Tensor("b", (2, 2))))
    half = layout.encoded("float16")
    assert half.tensors == layout.tensors
    assert (layout.file_bytes - len(layout.header), half.file_bytes - len(half.header)) == (36, 18)
    assert (layout.dtype, half.dtype) == (np.dtype("<f4"), np.dtype("<f2"))
    assert len(layout.header) % 8 == len(half.header) % 8 == 0
