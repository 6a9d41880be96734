import base64
import io
import math
import re

import numpy as np
import pytest
from PIL import Image

from fedsite.dataset import pictures
from fedsite.dataset.pictures import Album, Look

SHAPE = (20, 24, 12)


def image_of(fill=0.0) -> np.ndarray:
    return np.full((1, *SHAPE), fill, np.float16)


def look(image, label=None, spacing=(1.0, 1.0, 1.0)) -> Look:
    return pictures.look(image, np.zeros(image.shape[1:], np.uint8) if label is None else label, spacing)


def pixels(plane: pictures.Plane) -> np.ndarray:
    content = base64.b64decode(plane.jpeg)
    assert content.startswith(b"\xff\xd8\xff")
    return np.asarray(Image.open(io.BytesIO(content))).astype(int)


def bright_corner(array: np.ndarray) -> tuple[bool, bool]:
    """Whether what is bright lies in the upper and in the left half."""
    rows, columns = np.nonzero(array > 128)
    return bool(rows.max() < array.shape[0] / 2), bool(columns.max() < array.shape[1] / 2)


def area_of(path: str) -> int:
    """The area that a path of edges encloses, and that every line of voxels leaves as often as it enters."""
    sides: dict[int, list[tuple[int, int]]] = {}
    for column, row, length in re.findall(r"M(\d+) (\d+)v(\d+)", path):
        for line in range(int(row), int(row) + int(length)):
            sides.setdefault(line, []).append(int(column))
    assert all(len(columns) % 2 == 0 for columns in sides.values())
    return sum(
        after - before for columns in sides.values() for before, after in zip(*[iter(sorted(columns))] * 2, strict=True)
    )


def test_all_three_planes_are_shown_radiologically():
    image = image_of()
    image[0, 15:19, 18:22, 8:11] = 1  # RAS: high x is right, high y is front, high z is head
    label = (image[0] > 0).astype(np.uint8)
    found = look(image, label)
    assert [plane.name for plane in found.planes] == ["axial", "coronal", "sagittal"]
    assert [bright_corner(pixels(plane)) for plane in found.planes] == [(True, True)] * 3
    assert [(plane.columns, plane.rows) for plane in found.planes] == [(20, 24), (20, 12), (24, 12)]


def test_the_voxels_sides_keep_their_ratio():
    planes = look(image_of(), spacing=(1.0, 0.5, 5.0)).planes
    assert [(plane.width_mm, plane.height_mm) for plane in planes] == [(20, 12), (20, 60), (12, 60)]


def test_the_planes_meet_in_a_lesion_voxel_where_the_lesion_is_large():
    label = np.zeros(SHAPE, np.uint8)
    label[2:5, 2:5, 2] = 1
    label[15:19, 10:20, 9] = 1
    label[16, 14, 9] = 0
    assert pictures.middle_of_lesion(label)[2] == 9
    assert label[pictures.middle_of_lesion(label)] == 1
    assert all(plane.outlines for plane in look(image_of(), label).planes)


def test_a_lesion_around_a_hole_is_still_met():
    label = np.zeros(SHAPE, np.uint8)
    label[5:14, 5:14, 6] = 1
    label[6:13, 6:13, 6] = 0
    assert label[pictures.middle_of_lesion(label)] == 1


def test_without_a_lesion_the_middle_is_shown_without_outline():
    assert pictures.middle_of_lesion(np.zeros(SHAPE, np.uint8)) == (10, 12, 6)
    assert not any(plane.outlines for plane in look(image_of()).planes)


def test_the_outline_runs_around_the_mask_and_its_holes():
    mask = np.zeros((6, 8), bool)
    mask[1:5, 2:7] = True
    assert pictures.outline(mask) == "M2 1h5M2 5h5M2 1v4M7 1v4"
    mask[2:4, 4] = False
    assert area_of(pictures.outline(mask)) == mask.sum() == 18
    assert pictures.outline(np.zeros((3, 3), bool)) == ""
    assert area_of(pictures.outline(np.ones((3, 3), bool))) == 9


def test_any_mask_is_outlined():
    random = np.random.default_rng(1)
    for _ in range(20):
        mask = random.random((9, 13)) < 0.4
        assert area_of(pictures.outline(mask)) == mask.sum()


def test_each_label_has_an_outline_of_its_own():
    label = np.zeros(SHAPE, np.uint8)
    label[5:9, 5:9, 6] = 1
    label[6:8, 6:8, 6] = 3
    axial = look(image_of(), label).planes[0]
    assert [outline.label for outline in axial.outlines] == [1, 3]
    assert [area_of(outline.path) for outline in axial.outlines] == [12, 4]


def test_other_channels_are_shown_once():
    image = np.concatenate([image_of(), image_of(1.0), image_of(2.0)])
    found = [(plane.name, plane.channel) for plane in look(image).planes]
    assert found == [("axial", 0), ("coronal", 0), ("sagittal", 0), ("axial", 1), ("axial", 2)]


def test_a_large_plane_is_made_small_and_its_outline_stays_on_its_voxels():
    image = np.zeros((1, 600, 300, 2), np.float16)
    label = np.zeros(image.shape[1:], np.uint8)
    label[:, :, 0] = 1
    axial = pictures.look(image, label, (0.4, 0.4, 5.0)).planes[0]
    assert pixels(axial).shape == (128, 256)
    assert (axial.columns, axial.rows) == (600, 300)
    assert area_of(axial.outlines[0].path) == 600 * 300


def test_intensities_are_counted_in_the_image_and_in_the_lesion():
    random = np.random.default_rng(0)
    image = random.normal(0, 1, (1, *SHAPE)).astype(np.float16)
    label = np.zeros(SHAPE, np.uint8)
    label[4:8, 4:8, 4:8] = 1
    image[0][label > 0] += 8
    counts = look(image, label).histogram
    assert sum(counts.image) == image.size
    assert sum(counts.lesion) == label.sum()
    middle = pictures.BINS // 2
    assert sum(counts.lesion[middle:]) == label.sum()
    assert counts.low < -1
    assert counts.high > 8


def test_a_sample_of_a_large_volume_misses_no_part_of_it():
    volume = np.zeros((160, 160, 128), np.float16)
    volume[:, :, 64:] = 1  # a stride over the flat array could fall on one slice in 128 alone
    assert pictures.histogram(volume, np.zeros(volume.shape, np.uint8)).high == 1
    sample = pictures._sample(volume)
    assert pictures._ENOUGH_VOXELS / 8 < sample.size <= pictures._ENOUGH_VOXELS
    assert math.isclose(sample.mean(), 0.5, abs_tol=0.02)


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_constant_image_is_no_fault(value):
    found = look(image_of(value))
    assert all((pixels(plane) < 60).all() for plane in found.planes)
    assert sum(found.histogram.image) == image_of().size


def test_a_look_is_the_same_each_time_and_says_nothing():
    image = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float16)
    label = np.zeros(SHAPE, np.uint8)
    assert look(image, label) == look(image, label)
    shown = Image.open(io.BytesIO(base64.b64decode(look(image).planes[0].jpeg)))
    assert shown.info.keys() <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def test_a_look_is_small():
    noise = np.random.default_rng(0).normal(size=(1, 120, 140, 90)).astype(np.float16)
    label = np.zeros(noise.shape[1:], np.uint8)
    label[40:80, 40:80, 30:60] = 1
    assert len(look(noise, label).model_dump_json()) < 60_000, "even where there is nothing but noise"


def test_an_album_gives_back_what_it_was_given(record_of):
    with Album() as album:
        looks = {f"e-{number}": look(image_of(number)) for number in range(3)}
        for case, one in looks.items():
            album.keep(case, one)
        assert album.of(record_of("e-1")) == looks["e-1"]
        album.keep("e-9", looks["e-0"])
        assert [album.of(record_of(case)) for case in ("e-0", "e-2", "e-9")] == [
            looks["e-0"],
            looks["e-2"],
            looks["e-0"],
        ]
        with pytest.raises(KeyError):
            album.of(record_of("e-7"))


def test_an_image_that_the_study_did_not_have_is_not_shown() -> None:
    image = np.random.default_rng(0).normal(size=(3, 12, 10, 8)).astype(np.float16)
    image[1] = 0
    planes = pictures.look(image, np.zeros((12, 10, 8), np.uint8), (1.0, 1.0, 1.0)).planes
    assert [plane.channel for plane in planes] == [0, 0, 0, 2]


def test_a_segmentation_is_outlined_beside_the_mask() -> None:
    """The planes lie where either is large, also where nothing is drawn."""
    image = np.random.default_rng(0).normal(size=(1, 12, 10, 8)).astype(np.float16)
    drawn, segmented = np.zeros((2, 12, 10, 8), np.uint8)
    segmented[2:5, 3:6, 6] = 1
    axial = pictures.look(image, drawn, (1.0, 1.0, 1.0), segmented).planes[0]
    assert (axial.outlines, [outline.label for outline in axial.segmented]) == ((), [1])
    assert axial.segmented[0].path == pictures.outline(pictures.radiological(segmented[:, :, 6]) > 0)
    assert pictures.look(image, drawn, (1.0, 1.0, 1.0)).planes[0].segmented == ()
