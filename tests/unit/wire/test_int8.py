"""int8 files: read as the safetensors library reads them, and refused when they are anything else."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from fedsite.server.rounds.aggregation import why_unfit
from fedsite.wire import payload
from fedsite.wire.messages import MalformedMessage
from fedsite.wire.payload import SCALES, Layout, Tensor

LAYOUT = Layout((Tensor("a", (2, 3)), Tensor("b", ()), Tensor("c", (4,))), "int8")
STEPS = np.array([127, -127, 3, 0, -1, 64, 5, 1, -2, 3, -4], np.int8)


def written(path: Path, scales: list[float], steps: np.ndarray = STEPS, layout: Layout = LAYOUT) -> Path:
    path.write_bytes(layout.header + np.array(scales, "<f4").tobytes() + steps.tobytes())
    return path


def test_a_file_is_what_the_library_reads(tmp_path: Path) -> None:
    path = written(tmp_path / "u", [0.5, 2.0, 0.0])
    payload.check_file(path, LAYOUT)
    tensors = load_file(path)
    assert list(tensors) == [SCALES, "a", "b", "c"]
    assert (tensors["a"].dtype, tensors["a"].shape, tensors["b"].shape) == (np.int8, (2, 3), ())
    np.testing.assert_array_equal(tensors[SCALES], np.float32([0.5, 2.0, 0.0]))
    assert path.stat().st_size == LAYOUT.file_bytes
    assert len(LAYOUT.header) % 8 == 0


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    start=st.integers(0, 100),
    length=st.integers(0, 100),
    seed=st.integers(0, 100),
)
def test_any_slice_is_scaled_by_its_tensors(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], start: int, length: int, seed: int
) -> None:
    layout = Layout(tuple(Tensor(f"t{place}", (size,)) for place, size in enumerate(sizes)), "int8")
    drawn = np.random.default_rng(seed)
    scales = drawn.uniform(0, 9, len(sizes)).astype("<f4")
    steps = drawn.integers(-127, 128, sum(sizes)).astype(np.int8)
    path = written(tmp_path_factory.getbasetemp() / "any", list(scales), steps, layout)
    whole = np.concatenate(
        [part * np.float64(scale) for part, scale in zip(np.split(steps, np.cumsum(sizes)[:-1]), scales, strict=True)]
    )
    start = min(start, sum(sizes))
    part = slice(start, min(start + length, sum(sizes)))
    np.testing.assert_array_equal(payload.read_values(path, layout, part), whole[part])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1.0, -0.0])
@pytest.mark.parametrize("place", [0, 2])
def test_a_scale_that_is_none_is_not_admitted(tmp_path: Path, bad: float, place: int) -> None:
    scales = [1.0, 1.0, 1.0]
    scales[place] = bad
    assert why_unfit(written(tmp_path / "u", scales), LAYOUT, 1e30) == "a scale is negative or not finite"


def test_the_norm_is_that_of_the_scaled_values(tmp_path: Path) -> None:
    path = written(tmp_path / "u", [0.5, 2.0, 1.0])
    norm = float(np.linalg.norm(STEPS * np.repeat([0.5, 2.0, 1.0], [6, 1, 4])))
    assert why_unfit(path, LAYOUT, norm * 1.000001) is None
    assert "norm is above" in (why_unfit(path, LAYOUT, norm * 0.999999) or "")


def test_the_largest_scales_do_not_overflow(tmp_path: Path) -> None:
    path = written(tmp_path / "u", [3.4e38] * 3)
    assert "norm is above" in (why_unfit(path, LAYOUT, 1e40) or "")
    assert why_unfit(path, LAYOUT, 1e42) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: content.replace(b'"I8"', b'"U8"', 1),
        lambda content: content.replace(b"[2,3]", b"[3,2]", 1),
        lambda content: content.replace(SCALES.encode(), b"fedsite.scaleS", 1),
        lambda _: LAYOUT.encoded("float32").header + bytes(44),
        lambda _: LAYOUT.encoded("float16").header + bytes(22),
    ],
)
def test_another_form_is_not_admitted(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    path = written(tmp_path / "u", [1.0] * 3)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(MalformedMessage):
        payload.check_file(path, LAYOUT)


def test_a_model_is_never_int8(tmp_path: Path) -> None:
    with pytest.raises(MalformedMessage):
        payload.layout_of(written(tmp_path / "u", [1.0] * 3))
    entries = {"a": {"dtype": "I8", "shape": [8], "data_offsets": [0, 8]}}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    (tmp_path / "plain").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(MalformedMessage, match="not all float32"):
        payload.layout_of(tmp_path / "plain")


def test_no_tensor_of_a_model_may_be_called_as_the_scales_are(tmp_path: Path) -> None:
    payload.write_model(tmp_path / "m", {SCALES: np.ones(3)})
    with pytest.raises(MalformedMessage, match="a name or type is malformed"):
        payload.layout_of(tmp_path / "m")


def test_a_file_that_ends_within_its_scales_is_malformed(tmp_path: Path) -> None:
    path = written(tmp_path / "u", [1.0] * 3)
    path.write_bytes(path.read_bytes()[: len(LAYOUT.header) + 8])
    with pytest.raises(MalformedMessage, match="ends before"):
        payload.read_values(path, LAYOUT, slice(0, 0))
