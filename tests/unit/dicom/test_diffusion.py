"""b-values and directions where vendors keep them, also when a PACS no longer knew their representation."""

import struct
from collections.abc import Callable

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import LegacyConvertedEnhancedMRImageStorage
from support.dicom_maker import Grid, classic, enhanced, names
from support.diffusion_maker import csa2

from fedsite.dicom.model import Inventory, Volume

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
        (0x2005, "Philips MR Imaging DD 001", {0xB0: ("FL", 0.6), 0xB1: ("FL", 0.8), 0xB2: ("FL", 0.0)}),
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


def test_a_csa_header_is_asked_where_the_plain_attributes_are_gone(only: Only) -> None:
    tags = {"B_value": ["800"], "DiffusionGradientDirection": ["0.6", "0.8", "0.0"]}
    volume = only(_with(0x0029, "SIEMENS CSA HEADER", {0x10: ("OB", csa2(tags))}))
    assert (volume.b_value, volume.frames[0].direction) == (800, pytest.approx((0.6, 0.8, 0)))


def test_plain_attributes_go_before_the_csa_header(only: Only) -> None:
    images = _with(0x0029, "SIEMENS CSA HEADER", {0x10: ("OB", csa2({"B_value": ["800"]}))})
    for image in images:
        image.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", "50")
    assert only(images).b_value == 50


def test_another_creator_in_the_usual_block_is_not_believed(only: Only) -> None:
    assert only(_with(0x0019, "SOMEBODY ELSE", {0x0C: ("IS", "1000")})).b_value is None


@pytest.mark.parametrize("block", [0x10, 0x13, 0xFF])
def test_a_creator_may_have_reserved_any_block(only: Only, block: int) -> None:
    images = classic()
    for image in images:
        image.add_new((0x0043, block), "LO", "GEMS_PARM_01")
        image.add_new((0x0043, block << 8 | 0x39), "IS", ["1000000900", "8"])
    assert only(images).b_value == 900


def test_private_attributes_of_single_frames_of_a_converted_object(scanned: Callable[..., Inventory]) -> None:
    converted = []
    for b_value in (0, 1000):
        private = Dataset()
        block = private.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0C, "IS", str(b_value))
        converted.append(private)
    image = enhanced("MR", [Grid()] * 2, [{}, {}], SOPClassUID=LegacyConvertedEnhancedMRImageStorage)
    for index, item in enumerate(image.PerFrameFunctionalGroupsSequence):
        item.UnassignedPerFrameConvertedAttributesSequence = Sequence([converted[index % 2]])
    volumes = scanned([image]).volumes
    assert [(volume.b_value, volume.verdict) for volume in volumes] == [(0, "accepted"), (1000, "accepted")]


@pytest.mark.parametrize(
    ("name", "b_value", "directionality"),
    [
        ("*ep_b1000t", 1000, "ISOTROPIC"),
        ("ep_b0", 0, "NONE"),
        ("*ep_b700#12", 700, "DIRECTIONAL"),
        ("*ep_b0_1000", None, None),
        ("*tfl3d1_16ns", None, None),
    ],
)
def test_sequence_names(only: Only, name: str, b_value: int | None, directionality: str | None) -> None:
    volume = only(classic(SequenceName=name))
    assert (volume.b_value, volume.directionality) == (b_value, directionality)


@pytest.mark.parametrize("comment", ["b=1500(0.445,0.000,0.895)", "b=1500"])
def test_image_comments(only: Only, comment: str) -> None:
    assert only(classic(ImageComments=comment)).b_value == 1500


def test_b_zero_has_no_direction_whatever_stands_there(only: Only) -> None:
    volume = only(classic(DiffusionBValue=0.0, DiffusionGradientOrientation=[1.0, 0.0, 0.0]))
    assert (volume.directionality, volume.frames[0].direction) == ("NONE", None)


@pytest.mark.parametrize(
    ("code", "part"), [("113041", "adc"), ("113290", "adc"), ("110808", "fa"), ("113045", "eadc"), ("999999", None)]
)
def test_maps_are_known_by_their_derivation_code(scanned: Callable[..., Inventory], code: str, part: str) -> None:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "DCM", "a map"
    who, grid = names(), Grid()
    images = classic("MR", grid, grid.voxels(1), who, DiffusionBValue=1000.0)
    images += classic("MR", grid, grid.voxels(2), who, 6, DiffusionBValue=1000.0, DerivationCodeSequence=[item])
    parts = {volume.part: volume.verdict for volume in scanned(images).volumes}
    assert parts == ({part: "accepted", "b=1000": "accepted"} if part else {None: "refused"})
