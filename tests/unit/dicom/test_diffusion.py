"""b-values and directions where vendors keep them, also when a PACS no longer knew their representation."""

import struct
from collections.abc import Callable

import pytest
from pydicom.dataset import Dataset
from support.dicom_maker import classic

from fedsite.dicom.model import Volume

Only = Callable[..., Volume]


def _with(group: int, creator: str, elements: dict[int, tuple[str, object]], **attributes: object) -> list[Dataset]:
    images = classic(**attributes)
    for image in images:
        block = image.private_block(group, creator, create=True)
        for offset, (representation, value) in elements.items():
            block.add_new(offset, representation, value)
    return images


@pytest.mark.parametrize(
    ("group", "creator", "offset", "value"),
    [
        (0x0019, "SIEMENS MR HEADER", 0x0C, b"1000"),
        (0x0043, "GEMS_PARM_01", 0x39, b"1000001000\\8\\0\\0 "),
        (0x2001, "Philips Imaging DD 001", 0x03, struct.pack("<f", 1000)),
    ],
)
def test_values_of_unknown_representation(only: Only, group: int, creator: str, offset: int, value: bytes) -> None:
    images = _with(group, creator, {offset: ("UN", value)}, Manufacturer="?")
    assert only(images).b_value == 1000


@pytest.mark.parametrize("value", [b"\xff\xfe\xfd", b"many", b""])
def test_values_that_mean_nothing(only: Only, value: bytes) -> None:
    assert only(_with(0x0019, "SIEMENS MR HEADER", {0x0C: ("UN", value)})).b_value is None


@pytest.mark.parametrize("b_value", [-5.0, 1e12, float("nan")])
def test_a_b_value_outside_physics_is_none(only: Only, b_value: float) -> None:
    assert only(classic(DiffusionBValue=b_value)).b_value is None


@pytest.mark.parametrize(
    ("group", "creator", "elements"),
    [
        (0x0019, "GEMS_ACQU_01", {0xBB: ("DS", "0.6"), 0xBC: ("DS", "0.8"), 0xBD: ("DS", "0")}),
        (0x2005, "Philips MR Imaging DD 005", {0xB0: ("FL", 0.6), 0xB1: ("FL", 0.8), 0xB2: ("FL", 0.0)}),
        (0x0019, "SIEMENS MR HEADER", {0x0E: ("FD", [0.6, 0.8, 0.0])}),
        (0x0019, "SIEMENS MR HEADER", {0x0E: ("UN", struct.pack("<3d", 0.6, 0.8, 0))}),
    ],
)
def test_private_directions(only: Only, group: int, creator: str, elements: dict[int, tuple[str, object]]) -> None:
    volume = only(_with(group, creator, elements, DiffusionBValue=1000.0))
    assert volume.directionality == "DIRECTIONAL"
    assert volume.frames[0].direction == pytest.approx((0.6, 0.8, 0))


def test_no_direction_is_no_directional_image(only: Only) -> None:
    elements = dict.fromkeys((187, 188, 189), ("DS", "0"))
    volume = only(_with(0x0019, "GEMS_ACQU_01", elements, DiffusionBValue=1000.0))
    assert volume.directionality is None


def test_the_standard_goes_before_the_vendor(only: Only) -> None:
    images = _with(0x0019, "SIEMENS MR HEADER", {0x0C: ("IS", "5")}, DiffusionBValue=700.0)
    assert only(images).b_value == 700
