"""Diffusion exports of every manner: the task picks the right volume, or refuses with the right reason."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from support import diffusion_maker as maker
from support.dicom_maker import AXIAL, Grid, classic, write
from support.diffusion_maker import ADC, B0, DIRECTIONS, EXAM, GRID, RAMP, TRACE, VENDORS, Shot

from fedsite.dataset.derived import adc_in_usual_unit
from fedsite.dataset.selection import choose
from fedsite.dataset.studies import ImageSource
from fedsite.dicom.checks import Finding
from fedsite.dicom.scan import scan
from fedsite.errors import DataNotFit
from fedsite.site.pseudonyms import Pseudonyms
from fedsite.tasks.description import Channel, Task

Chosen = Callable[..., tuple[dict[str, list[ImageSource]], list[Finding]]]


@pytest.fixture
def both(task: Task) -> Task:
    """Trace and ADC map."""
    adc = Channel("adc", "MR", "apparent diffusion coefficient", quantity="adc")
    return replace(task, channels=(*task.channels, adc))


@pytest.fixture
def chosen(tmp_path: Path, both: Task) -> Chosen:
    def write_and_choose(
        images: Sequence[Dataset], task: Task = both
    ) -> tuple[dict[str, list[ImageSource]], list[Finding]]:
        write(tmp_path, images)
        volumes = scan(tmp_path, Pseudonyms(b"k" * 32)).volumes
        channels, reasons = choose(volumes, task)
        return {name: [choice.image() for choice in choices] for name, choices in channels.items()}, [
            each for of_channel in reasons.values() for each in of_channel
        ]

    return write_and_choose


def value_of(image: ImageSource) -> float:
    """The shot's value, from a slice whose place tells how far the ramp had risen."""
    voxels = image.read()
    assert voxels.shape == image.shape == (GRID.columns, GRID.rows, GRID.slices)
    np.testing.assert_allclose(np.diff(voxels, axis=2), RAMP, atol=1)
    return float(voxels[0, 0, 0])


def assert_picked(channels: dict[str, list[ImageSource]], dwi: float, adc: float | None = ADC.value) -> ImageSource:
    (image,) = channels["dwi"]
    assert value_of(image) == pytest.approx(dwi, rel=1e-5)
    assert image.b_value == 1000
    assert [value_of(image) for image in channels["adc"]] == ([] if adc is None else [adc])
    return image


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("vendor", VENDORS)
def test_trace_and_adc_of_a_whole_exam(chosen: Chosen, vendor: str, several: bool) -> None:
    channels, reasons = chosen(maker.exported(VENDORS[vendor], several=several))
    image = assert_picked(channels, TRACE.value)
    assert image.findings == ()
    # Siemens' sequence names number the directions and do not say where they point.
    assert {each.id for each in reasons} == ({"duplicate-positions"} if vendor == "siemens sequence names" else set())


@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_trace_and_adc_of_enhanced_objects(chosen: Chosen, several: bool, coded: bool) -> None:
    channels, reasons = chosen(maker.exported_enhanced(several=several, coded=coded))
    image = assert_picked(channels, TRACE.value)
    assert (image.findings, reasons) == ((), [])


@pytest.mark.parametrize("vendor", sorted(VENDORS.keys() - {"siemens sequence names"}))
def test_a_trace_is_computed_from_three_directions(chosen: Chosen, vendor: str) -> None:
    channels, reasons = chosen(maker.exported(VENDORS[vendor], (B0, *DIRECTIONS, ADC)))
    (image,) = channels["dwi"]
    voxels = image.read()
    expected = np.prod([shot.voxels[2].astype(float) for shot in DIRECTIONS], axis=0) ** (1 / 3)
    np.testing.assert_allclose(voxels[..., 2].T, expected, rtol=1e-5)
    assert [each.id for each in image.findings] == ["trace-computed"]
    assert "3 directions" in image.findings[0].message
    assert reasons == []


def test_directions_in_series_of_their_own_make_a_trace_too(chosen: Chosen) -> None:
    shots = maker.exported_enhanced(DIRECTIONS, several=True)
    (image,) = chosen(shots)[0]["dwi"]
    assert image.read()[0, 0, 0] == pytest.approx(800, rel=1e-5)


def test_an_image_without_a_direction_beside_directions_is_the_combined_one(chosen: Chosen) -> None:
    images = maker.exported(maker.ge, (B0, *DIRECTIONS, TRACE))
    for image in images:
        del image[0x0043, 0x1030]
    (image,) = chosen(images)[0]["dwi"]
    assert value_of(image) == TRACE.value
    assert [each.id for each in image.findings] == ["directionality-unknown"]


def test_directions_of_two_series_are_two_candidates(chosen: Chosen) -> None:
    again = [replace(shot, value=shot.value + 5) for shot in DIRECTIONS]
    images = maker.exported(maker.siemens, DIRECTIONS) + maker.exported(maker.siemens, again)
    for image in images:
        image.FrameOfReferenceUID = images[0].FrameOfReferenceUID
    assert len(chosen(images)[0]["dwi"]) == 2


def test_no_signal_in_one_direction_is_no_signal_in_the_mean(chosen: Chosen) -> None:
    images = maker.exported(maker.siemens, DIRECTIONS)
    images[0].PixelData = bytes(2) + images[0].PixelData[2:]
    (image,) = chosen(images)[0]["dwi"]
    voxels = image.read()
    assert voxels[0, 0, 0] == 0
    assert voxels[1, 0, 0] == pytest.approx(800, rel=1e-5)


@pytest.mark.parametrize(
    "directions",
    [
        ((1, 0, 0), (0, 1, 0)),  # two
        ((1, 0, 0), (0, 1, 0), (0.8, 0.6, 0)),  # in one plane
        ((1, 0, 0), (-1, 0, 0), (0.995, 0.0999, 0)),  # along one axis
    ],
)
def test_directions_that_make_no_trace(chosen: Chosen, directions: Sequence[tuple[float, float, float]]) -> None:
    shots = [Shot("direction", 1000, 500 + 100 * index, axis) for index, axis in enumerate(directions)]
    channels, reasons = chosen(maker.exported(maker.siemens, [B0, *shots]))
    assert channels["dwi"] == []
    assert [each.id for each in reasons] == ["trace-missing"]


def test_directions_of_several_b_values_are_kept_apart(chosen: Chosen) -> None:
    low = [replace(shot, b_value=700, value=shot.value + 7) for shot in DIRECTIONS]
    channels, _ = chosen(maker.exported(maker.siemens, [B0, *low, *DIRECTIONS, ADC]))
    assert channels["dwi"][0].read()[0, 0, 0] == pytest.approx(800, rel=1e-5)


@pytest.mark.parametrize("vendor", ["siemens", "siemens CSA 2", "ge", "philips", "canon", "standard"])
def test_one_series_without_its_b_values_is_refused(chosen: Chosen, vendor: str) -> None:
    channels, reasons = chosen(maker.stripped(maker.exported(VENDORS[vendor])))
    assert channels["dwi"] == []
    lost = [each for each in reasons if each.id == "duplicate-positions"]
    assert lost
    assert "keep the b-values" in lost[0].mend


def test_a_trace_in_a_series_of_its_own_without_its_b_value_is_refused(chosen: Chosen) -> None:
    channels, reasons = chosen(maker.stripped(maker.exported(maker.siemens, several=True)))
    assert channels["dwi"] == []
    assert {"b-value-unknown", "duplicate-positions"} <= {each.id for each in reasons}
    unknown = [each for each in reasons if each.id == "b-value-unknown"]
    assert "safe private attributes" in unknown[0].mend
    assert [value_of(image) for image in channels["adc"]] == [ADC.value]


def test_acquisition_numbers_do_not_stand_for_b_values(chosen: Chosen) -> None:
    images = maker.stripped(maker.exported(maker.siemens, (B0, TRACE)))
    for number, image in enumerate(images):
        image.AcquisitionNumber = 1 + number // GRID.slices
        image.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    channels, reasons = chosen(images)
    assert channels["dwi"] == []
    assert [each.id for each in reasons] == ["repeated-acquisitions"]


def test_enhanced_without_diffusion_groups_is_refused(chosen: Chosen) -> None:
    channels, reasons = chosen(maker.stripped(maker.exported_enhanced()))
    assert channels["dwi"] == []
    assert "duplicate-positions" in {each.id for each in reasons}


def test_a_mosaic_is_refused(chosen: Chosen) -> None:
    images = maker.exported(maker.siemens, (TRACE,))
    for image in images:
        image.ImageType = [*image.ImageType, "MOSAIC"]
    channels, reasons = chosen(images)
    assert channels["dwi"] == []
    assert [each.id for each in reasons] == ["mosaic"]


def test_the_b_value_nearest_to_the_preferred_one_is_taken(chosen: Chosen) -> None:
    others = [replace(TRACE, b_value=b_value, value=b_value // 2) for b_value in (800, 1400, 3000)]
    assert_picked(chosen(maker.exported(maker.siemens, [B0, *others, TRACE, ADC]))[0], TRACE.value)


def test_b_values_equally_near_are_several_candidates(chosen: Chosen) -> None:
    shots = [replace(TRACE, b_value=b_value, value=b_value // 2) for b_value in (800, 1200)]
    channels, _ = chosen(maker.exported(maker.siemens, shots))
    assert [image.b_value for image in channels["dwi"]] == [800, 1200]


def test_a_measured_image_goes_before_a_calculated_one(chosen: Chosen) -> None:
    images = maker.exported(maker.siemens, (replace(TRACE, b_value=800, value=880), TRACE))
    for image in images[GRID.slices :]:
        image.ImageType = ["DERIVED", "PRIMARY", "DIFFUSION", "CALC_BVALUE", "TRACEW"]
    assert [value_of(image) for image in chosen(images)[0]["dwi"]] == [880]


@pytest.mark.parametrize("slope", ["1", "0.001", "0.000001"])
def test_adc_maps_come_in_one_unit(chosen: Chosen, slope: str) -> None:
    images = maker.exported(maker.siemens, (TRACE, ADC))
    for image in images[GRID.slices :]:
        image.RescaleSlope, image.RescaleIntercept = slope, "0"
    (image,) = chosen(images)[0]["adc"]
    assert image.read()[0, 0, 0] == pytest.approx(ADC.value, rel=1e-4)


@pytest.mark.parametrize("value", [0.0, 20.0, 70_000.0])
def test_an_adc_map_in_no_unit_is_unfit(value: float) -> None:
    with pytest.raises(DataNotFit, match="median"):
        adc_in_usual_unit(np.full((2, 2, 2), value, np.float32))


def test_an_adc_map_is_no_trace_whatever_its_b_value(chosen: Chosen) -> None:
    channels, _ = chosen(maker.exported(maker.siemens, (ADC,)))
    assert channels["dwi"] == []
    assert [value_of(image) for image in channels["adc"]] == [ADC.value]


@pytest.mark.parametrize(("part", "is_head"), [("BRAIN", True), ("HEAD_NECK", True), ("", True), ("KNEE", False)])
def test_another_part_of_the_body_is_refused(chosen: Chosen, part: str, is_head: bool) -> None:
    images = maker.exported(maker.siemens, (TRACE,))
    for image in images:
        image.BodyPartExamined = part
    channels, reasons = chosen(images)
    assert len(channels["dwi"]) == is_head
    assert [each.id for each in reasons] == ([] if is_head else ["wrong-body-part"])


def test_a_task_may_forbid_lossy_images_and_allow_reformats(chosen: Chosen, task: Task) -> None:
    images = maker.exported(maker.siemens, (TRACE,))
    for image in images:
        image.LossyImageCompression = "01"
        image.ImageType = ["DERIVED", "SECONDARY", "MPR", "TRACEW"]
    strict = replace(task, allows_lossy=False)
    assert [each.id for each in chosen(images, strict)[1]] == ["reformat", "lossy-forbidden"]
    (image,) = chosen([], replace(task, allows_reformats=True))[0]["dwi"]
    assert [each.id for each in image.findings] == ["reformat", "lossy-compression"]
    assert value_of(image) == TRACE.value


def test_part_of_a_head_is_noticed(chosen: Chosen) -> None:
    images = classic("MR", Grid(slices=5, step=6.0, row=AXIAL[0], column=AXIAL[1]), DiffusionBValue=1000.0)
    for image in images:
        image.ImageType = ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"]
    (image,) = chosen(images)[0]["dwi"]
    assert [each.id for each in image.findings] == ["incomplete-head"]
    assert "30 mm" in image.findings[0].message


def test_the_whole_exam_is_what_it_says() -> None:
    assert len({shot.value for shot in EXAM}) == len(EXAM)
