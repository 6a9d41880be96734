"""Series that hold several volumes, as scanners of several vendors export them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from support.dicom_maker import Grid, Names, change, classic, diffusion_group, enhanced, names, set_pixels, write

from fedsite.dicom.model import Inventory, Volume
from fedsite.dicom.scan import scan
from fedsite.dicom.voxels.reading import read_volume
from fedsite.site.pseudonyms import Pseudonyms

GRID = Grid()
TRACE, ADC = ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"], ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]


def _volume(
    who: Names, seed: int, mark: Callable[[Dataset], object] = lambda image: None, **more: Any
) -> list[Dataset]:
    images = classic("MR", GRID, GRID.voxels(seed), who, 1 + 5 * seed, **more)
    for image in images:
        mark(image)
    return images


def siemens(b_value: int, direction: tuple[float, ...] | None = None) -> Callable[[Dataset], None]:
    def mark(image: Dataset) -> None:
        image.Manufacturer = "SIEMENS"
        block = image.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0C, "IS", str(b_value))
        if direction:
            block.add_new(0x0D, "CS", "DIRECTIONAL")
            block.add_new(0x0E, "FD", list(direction))

    return mark


def ge(b_value: int) -> Callable[[Dataset], None]:
    def mark(image: Dataset) -> None:
        image.Manufacturer = "GE MEDICAL SYSTEMS"
        block = image.private_block(0x0043, "GEMS_PARM_01", create=True)
        block.add_new(0x39, "IS", [str(1_000_000_000 + b_value), "8", "0", "0"])

    return mark


def philips(b_value: float, direction: str) -> Callable[[Dataset], None]:
    def mark(image: Dataset) -> None:
        image.Manufacturer = "Philips Medical Systems"
        block = image.private_block(0x2001, "Philips Imaging DD 001", create=True)
        block.add_new(0x03, "FL", b_value)
        block.add_new(0x04, "CS", direction)

    return mark


def standard(b_value: float) -> Callable[[Dataset], None]:
    def mark(image: Dataset) -> None:
        image.DiffusionBValue = b_value

    return mark


VENDORS = {
    "siemens": (siemens(0), siemens(1000)),
    "ge": (ge(0), ge(1000)),
    "philips": (philips(0.0, "I"), philips(1000.0, "I")),
    "standard": (standard(0.0), standard(1000.0)),
}


def _by_part(inventory: Inventory) -> Mapping[str | None, Volume]:
    found = {volume.part: volume for volume in inventory.volumes}
    assert len(found) == len(inventory.volumes)
    assert len({volume.id for volume in inventory.volumes}) == len(inventory.volumes)
    return found


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
@pytest.mark.parametrize("vendor", VENDORS)
def test_b0_and_trace_in_one_series(scanned: Callable[..., Inventory], vendor: str, syntax: str) -> None:
    who, (b0, b1000) = names(), VENDORS[vendor]
    images = _volume(who, 0, b0, ImageType=TRACE) + _volume(who, 1, b1000, ImageType=TRACE)
    parts = _by_part(scanned(images, syntax=syntax))
    assert parts.keys() == {"b=0", "b=1000 isotropic"}
    for seed, (part, volume) in enumerate(sorted(parts.items())):
        assert volume.verdict == "accepted", part
        np.testing.assert_array_equal(read_volume(volume), GRID.voxels(seed).transpose(2, 1, 0))
    trace = parts["b=1000 isotropic"]
    assert (trace.b_value, trace.directionality) == (1000, "ISOTROPIC")


@pytest.mark.parametrize("vendor", ["siemens", "ge", "philips"])
def test_private_creator_lost_but_value_kept(scanned: Callable[..., Inventory], vendor: str) -> None:
    who, (b0, b1000) = names(), VENDORS[vendor]
    images = _volume(who, 0, b0) + _volume(who, 1, b1000)
    for image in images:
        for tag in [element.tag for element in image if element.tag.is_private_creator]:
            del image[tag]
    assert sorted(volume.b_value for volume in scanned(images).volumes) == [0, 1000]


@pytest.mark.parametrize("vendor", VENDORS)
def test_b_values_stripped_by_an_anonymiser(scanned: Callable[..., Inventory], vendor: str) -> None:
    who, (b0, b1000) = names(), VENDORS[vendor]
    images = _volume(who, 0, b0) + _volume(who, 1, b1000)
    for image in images:
        image.remove_private_tags()
        change(image, {"DiffusionBValue": None} if "DiffusionBValue" in image else {})
    (volume,) = scanned(images).volumes
    assert [each.id for each in volume.findings] == ["duplicate-positions"]
    assert "b-values" in volume.findings[0].mend


def test_directions_are_parts_of_their_own(scanned: Callable[..., Inventory]) -> None:
    who = names()
    axes = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]
    images = [image for seed, axis in enumerate(axes) for image in _volume(who, seed, siemens(800, axis))]
    parts = _by_part(scanned(images))
    assert parts.keys() == {"(1.00 0.00 0.00)", "(0.00 1.00 0.00)", "(0.00 0.00 1.00)"}
    assert {volume.verdict for volume in parts.values()} == {"accepted"}
    assert {(volume.b_value, volume.directionality) for volume in parts.values()} == {(800, "DIRECTIONAL")}


def test_rounding_of_b_values_and_directions_tears_no_volume_apart(only: Callable[..., Volume]) -> None:
    images = classic("MR", GRID)
    for index, image in enumerate(images):
        image.DiffusionBValue = 999.4 + 0.3 * index
        image.DiffusionGradientOrientation = [0.6, 0.7949 + 0.0001 * index, 0.0951 - 0.0001 * index]
    volume = only(images)
    assert (volume.verdict, volume.part) == ("accepted", None)


def test_repeats_of_one_direction_are_refused(scanned: Callable[..., Inventory]) -> None:
    who = names()
    images = _volume(who, 0, standard(0)) + _volume(who, 1, standard(1000)) + _volume(who, 2, standard(1000))
    parts = _by_part(scanned(images))
    assert parts["b=0"].verdict == "accepted"
    assert [each.id for each in parts["b=1000"].findings] == ["duplicate-positions"]


def test_adc_is_known_by_its_type_whatever_b_value_it_carries(scanned: Callable[..., Inventory]) -> None:
    who = names()
    images = _volume(who, 0, siemens(1000), ImageType=TRACE) + _volume(who, 1, siemens(1000), ImageType=ADC)
    parts = _by_part(scanned(images))
    assert parts.keys() == {"tracew b=1000 isotropic", "adc"}
    assert (parts["adc"].b_value, parts["adc"].directionality) == (None, None)
    assert {volume.verdict for volume in parts.values()} == {"accepted"}


def test_echoes_magnitude_and_phase(scanned: Callable[..., Inventory]) -> None:
    who = names()
    images = []
    for seed, (echo, component) in enumerate([("4.92", "M"), ("7.38", "M"), ("7.38", "P")]):
        images += _volume(who, seed, EchoTime=echo, ImageType=["ORIGINAL", "PRIMARY", component, "ND"])
    parts = _by_part(scanned(images))
    assert parts.keys() == {
        "echo 4.92 ms",
        "echo 7.38 ms ORIGINAL/PRIMARY/M/ND",
        "echo 7.38 ms ORIGINAL/PRIMARY/P/ND",
    }
    assert {volume.verdict for volume in parts.values()} == {"accepted"}


def test_image_type_and_echo_rounding_do_not_tear_a_clean_volume_apart(only: Callable[..., Volume]) -> None:
    images = classic()
    images[1].ImageType = ["DERIVED", "PRIMARY", "M"]
    for index, image in enumerate(images):
        image.EchoTime, image.AcquisitionNumber = f"{2.46 + 0.001 * index:.3f}", index
    assert only(images).verdict == "accepted"


def test_localizer_and_screenshot_beside_the_slices(scanned: Callable[..., Inventory]) -> None:
    who = names()
    images = classic("CT", GRID, None, who)
    images += classic("CT", Grid(slices=1, columns=30), None, who, 6, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    page = classic("CT", Grid(slices=1), None, who, 7, SOPClassUID=uid.SecondaryCaptureImageStorage)[0]
    set_pixels(page, np.zeros((50, 60), np.uint8))
    parts = _by_part(scanned([*images, page]))
    assert {part: volume.verdict for part, volume in parts.items()} == {
        "rest": "accepted",
        "localizer": "refused",
        "secondary-capture": "refused",
    }


def test_enhanced_diffusion_is_divided_by_its_functional_groups(scanned: Callable[..., Inventory]) -> None:
    groups = [
        diffusion_group(0, "NONE"),
        diffusion_group(1000, "DIRECTIONAL", (1, 0, 0)),
        diffusion_group(1000, "ISOTROPIC"),
    ]
    parts = _by_part(scanned([enhanced("MR", [GRID] * 3, groups)]))
    assert parts.keys() == {"b=0", "b=1000 directional (1.00 0.00 0.00)", "b=1000 isotropic"}
    for seed, volume in enumerate(
        [parts["b=0"], parts["b=1000 directional (1.00 0.00 0.00)"], parts["b=1000 isotropic"]]
    ):
        assert volume.verdict == "accepted"
        np.testing.assert_array_equal(read_volume(volume), GRID.voxels(seed).transpose(2, 1, 0))


def test_enhanced_time_series_is_refused(only: Callable[..., Volume]) -> None:
    groups = [{"FrameContentSequence": {"TemporalPositionIndex": time}} for time in (1, 2, 3)]
    volume = only([enhanced("MR", [GRID] * 3, groups)])
    assert [each.id for each in volume.findings] == ["time-series"]
    assert "3 time points" in volume.findings[0].message


def test_time_may_be_stated_as_a_dimension_alone(only: Callable[..., Volume]) -> None:
    groups = [{"FrameContentSequence": {"DimensionIndexValues": [1, time]}} for time in (1, 2, 3)]
    dimensions = []
    for pointer in ("ImagePositionPatient", "TemporalPositionIndex"):
        item = Dataset()
        item.DimensionIndexPointer = tag_for_keyword(pointer)
        dimensions.append(item)
    volume = only([enhanced("MR", [GRID] * 3, groups, DimensionIndexSequence=dimensions)])
    assert [each.id for each in volume.findings] == ["time-series"]
    assert "3 time points" in volume.findings[0].message


def test_enhanced_echoes_in_files_of_their_own(scanned: Callable[..., Inventory]) -> None:
    who = names()
    images = []
    for seed, echo in enumerate((10.0, 12.46)):
        group = {"MREchoSequence": {"EffectiveEchoTime": echo}}
        images.append(enhanced("MR", [GRID], [group], GRID.voxels(seed), who))
    assert _by_part(scanned(images)).keys() == {"echo 10 ms", "echo 12.46 ms"}


def test_pseudonyms_do_not_depend_on_names_or_order_of_files(tmp_path: Path) -> None:
    who = names()
    images = _volume(who, 0, siemens(0)) + _volume(who, 1, siemens(1000))
    found = []
    for seed in (1, 2):
        write(tmp_path / str(seed), images, seed=seed)
        inventory = scan(tmp_path / str(seed), Pseudonyms(b"k" * 32))
        found.append([(volume.id, volume.part) for volume in inventory.volumes])
    assert found[0] == found[1]
