"""The picture of a prediction: what is outlined lies where it was found, and the words cannot be cropped away."""

import io

import numpy as np
import pytest
from PIL import Image
from support.bids_maker import affine_of

from fedsite.dataset import overlay
from fedsite.dataset.overlay import COLUMNS, MOST_SLICES, slices_to_show

INK = np.array(overlay._COLOURS[0])


def picture(labels: np.ndarray, affine: np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
    values = np.zeros(labels.shape, np.float32) if values is None else values
    made = overlay.overlay(values, labels, affine, {1: "lesion", 2: "other"}, ["a line"])
    return np.array(Image.open(io.BytesIO(made)).convert("RGB"))


def tile(sheet: np.ndarray, shape: tuple[int, int], index: int) -> np.ndarray:
    """One slice of the sheet; all are as wide and high as the longest side allows."""
    width, height = (round(side * overlay.LONGEST_SIDE / max(shape)) for side in shape)
    row, column = divmod(index, COLUMNS)
    return sheet[row * height : (row + 1) * height, column * width : (column + 1) * width]


@pytest.mark.parametrize(
    ("turn", "flip"),
    [((0, 1, 2), (1, 1, 1)), ((0, 1, 2), (-1, 1, 1)), ((2, 0, 1), (1, -1, 1)), ((1, 2, 0), (-1, -1, -1))],
    ids=["RAS", "LAS", "sagittal", "coronal"],
)
def test_the_outline_lies_where_the_label_does(turn: tuple[int, ...], flip: tuple[int, ...]) -> None:
    """On the patient's left and in front, whatever the order of the array's axes: right and up in the picture."""
    labels = np.zeros((40, 40, 14), np.uint8)
    labels[4:9, 30:34, 9] = 1  # RAS: the patient's right is at the end of the first axis
    array, affine = labels.transpose(turn), np.zeros((4, 4))
    for axis, (own, step) in enumerate(zip(turn, flip, strict=True)):
        affine[own, axis] = step
        affine[own, 3] += 0 if step > 0 else labels.shape[own] - 1
        array = array if step > 0 else np.flip(array, axis)
    affine[3, 3] = 1
    sheet = picture(array, affine)
    shown = slices_to_show(labels).index(9)
    marked = np.argwhere((tile(sheet, (40, 40), shown) == INK).all(axis=-1))
    scale = overlay.LONGEST_SIDE / 40
    np.testing.assert_allclose(marked.min(axis=0) / scale, [40 - 34, 40 - 9], atol=0.2)
    np.testing.assert_allclose(marked.max(axis=0) / scale, [40 - 30, 40 - 4], atol=0.2)


def test_every_slice_says_what_it_is_for() -> None:
    sheet = picture(np.zeros((40, 44, 16), np.uint8), affine_of())
    for index in range(MOST_SLICES):
        corner = tile(sheet, (160, 176), index)[-20:, :140]
        assert (corner == 255).all(axis=-1).sum() > 100


def test_slices_go_through_what_was_found() -> None:
    labels = np.zeros((4, 4, 100), np.uint8)
    assert slices_to_show(labels)[::11] == [0, 99]
    labels[1, 1, 40:42] = 1
    assert slices_to_show(labels) == list(range(35, 47))
    labels[1, 1, 99] = 1
    assert slices_to_show(labels)[::11] == [40, 99]
    labels[:, :, :99] = 0
    assert slices_to_show(labels) == list(range(88, 100))
    assert slices_to_show(labels[:, :, -3:]) == [0, 1, 2]


def test_a_plain_image_is_no_obstacle() -> None:
    assert picture(np.ones((3, 3, 3), np.uint8), np.eye(4), np.full((3, 3, 3), 7, np.float32)).any()
