"""Siemens' CSA header in both versions, and whatever else may stand in its place."""

from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.diffusion_maker import csa1, csa2

from fedsite.dicom.header import csa

TAGS: Mapping[str, Sequence[str]] = {
    "EchoTime": ["82.5"],
    "B_value": ["1000"],
    "Empty": [],
    "DiffusionGradientDirection": ["0.57735027", "-0.57735027", "0.57735027"],
    "DiffusionDirectionality": ["DIRECTIONAL"],
}
NAMES = {"B_value", "DiffusionGradientDirection", "DiffusionDirectionality", "Empty"}
EXPECTED = {name: tuple(items) for name, items in TAGS.items() if name in NAMES and items}

Write = Callable[[Mapping[str, Sequence[str]]], bytes]
both_versions = pytest.mark.parametrize("write", [csa1, csa2])


@both_versions
def test_named_values_are_read(write: Write) -> None:
    assert csa.values(write(TAGS), NAMES) == EXPECTED


@both_versions
def test_what_was_read_before_the_end_counts(write: Write) -> None:
    whole = write(TAGS)
    start = whole.index(b"DiffusionDirectionality")
    read = csa.values(whole[: start + 90], NAMES)
    assert read == {name: items for name, items in EXPECTED.items() if name != "DiffusionDirectionality"}


@pytest.mark.parametrize("header", [b"", b"SV10", b"no header at all", bytes(200), b"\xff" * 500])
def test_what_is_no_header_says_nothing(header: bytes) -> None:
    assert csa.values(header, NAMES) == {}


@given(st.sampled_from([csa1(TAGS), csa2(TAGS)]), st.data())
@settings(deadline=None, max_examples=200)
def test_damage_never_raises_and_invents_no_tag(whole: bytes, data: st.DataObject) -> None:
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    assert csa.values(bytes(damaged), NAMES).keys() <= NAMES
