"""DICOM label objects: what was drawn is read, onto the right voxels."""

from dataclasses import replace

import numpy as np
import pytest
from support.dicom_maker import CORONAL, SAGITTAL, classic, enhanced
from support.label_maker import PLANTED, box, on_slice, segmentation, structure_set
from support.label_scene import GRID, SQUARE, blob, broken, drawn, two

from fedsite.dicom.voxels.reading import read_volume

TILTED = np.array([0.0, np.cos(0.3), np.sin(0.3)])
GRIDS = {
    "axial": GRID,
    "sagittal": replace(GRID, row=SAGITTAL[0], column=SAGITTAL[1]),
    "coronal": replace(GRID, row=CORONAL[0], column=CORONAL[1]),
    "oblique": replace(GRID, column=tuple(TILTED)),
}

# --- segmentations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
@pytest.mark.parametrize(("where", "sparse"), [*((where, True) for where in GRIDS), ("axial", False)])
def test_a_segmentation_marks_what_was_drawn(scene, where, kind, sparse):
    one = scene(classic("MR", GRIDS[where]))
    marked = one.read(segmentation(one.images, blob(), kind, sparse=sparse))
    np.testing.assert_array_equal(drawn(marked), blob())
    assert broken(marked) == []


def test_the_order_of_frames_means_nothing(scene):
    one = scene()
    marked = one.read(segmentation(one.images[::-1], blob()[::-1]))
    np.testing.assert_array_equal(drawn(marked), blob())


def test_a_segmentation_of_an_enhanced_object(scene):
    image = enhanced("MR", [GRID])
    image.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = GRID.step
    one = scene([image])
    marked = one.read(segmentation([image], blob()))
    np.testing.assert_array_equal(drawn(marked), blob())
    assert broken(marked) == []


@pytest.mark.parametrize("turn", ["columns", "rows", "both", "transposed"])
def test_pixels_may_run_in_other_directions(scene, turn):
    one = scene()
    grid, marked = GRID, blob()
    far = np.array(grid.origin)
    if turn in ("columns", "both"):
        far = far + np.array(grid.row) * grid.between_columns * (grid.columns - 1)
        grid, marked = replace(grid, row=tuple(-np.array(grid.row))), marked[:, :, ::-1]
    if turn in ("rows", "both"):
        far = far + np.array(grid.column) * grid.between_rows * (grid.rows - 1)
        grid, marked = replace(grid, column=tuple(-np.array(grid.column))), marked[:, ::-1]
    if turn == "transposed":
        grid = replace(
            grid,
            columns=grid.rows,
            rows=grid.columns,
            row=grid.column,
            column=grid.row,
            between_rows=grid.between_columns,
            between_columns=grid.between_rows,
        )
        marked = marked.transpose(0, 2, 1)
    # Its normal may point the other way: then its slices are counted from the other end.
    step = grid.step * float(np.dot(grid.normal, GRID.normal))
    turned = classic("MR", replace(grid, origin=tuple(far), step=step))
    for image, original in zip(turned, one.images, strict=True):
        image.SOPInstanceUID, image.FrameOfReferenceUID = original.SOPInstanceUID, original.FrameOfReferenceUID
    read = one.read(segmentation(turned, marked))
    np.testing.assert_array_equal(drawn(read), blob())
    assert broken(read) == []


def test_a_fraction_counts_from_one_half(scene):
    one = scene()
    fractions = np.zeros((6, 20, 24), np.float32)
    fractions[2, 5, 4:8] = 0.25, 0.495, 0.5, 0.995
    marked = one.read(segmentation(one.images, fractions, "FRACTIONAL"))
    assert drawn(marked)[2, 5, 4:8].tolist() == [0, 0, 1, 1]
    assert broken(marked) == ["label-fractional"]


def test_fractions_below_one_half_mark_nothing_and_are_told(scene):
    one = scene()
    marked = one.read(segmentation(one.images, 0.4 * blob().astype(np.float32), "FRACTIONAL"))
    assert not marked.values.any()
    assert broken(marked) == ["label-fractional"]


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_segments_of_one_name_are_one_label(scene, kind):
    one = scene()
    marked = one.read(segmentation(one.images, two(blob(), np.roll(blob(), 9, axis=1)), kind, ["Lesion 1", "lesion_2"]))
    np.testing.assert_array_equal(drawn(marked), blob() | np.roll(blob(), 9, axis=1))
    assert broken(marked) == []


def test_the_segment_that_is_called_like_the_label_is_taken(scene):
    one = scene()
    marked = one.read(segmentation(one.images, two(np.roll(blob(), 5, axis=1), blob()), segments=["Brain", "LESION"]))
    np.testing.assert_array_equal(drawn(marked), blob())
    assert broken(marked) == ["label-parts-unused"]
    assert "numbers 1)" in marked.findings[0].message


def test_the_code_of_what_is_shown_counts_as_a_name(scene):
    one = scene()
    marked = one.read(segmentation(one.images, blob(), segments=["x"]), {1: "oedema", 2: "Neoplasm"})
    np.testing.assert_array_equal(drawn(marked), 2 * blob())


def test_an_empty_segmentation_marks_nothing(scene):
    one = scene()
    marked = one.read(segmentation(one.images, np.zeros_like(blob()), sparse=False))
    assert not marked.values.any()
    assert broken(marked) == []


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_a_mask_is_resampled_with_its_tilted_image(scene, kind):
    """The image is the mask itself, so after the same resampling it says where the mask belongs."""
    tilted = replace(GRID, shear=(0.0, 0.6, 0.0))
    one = scene(classic("MR", tilted, np.uint16(1000) * blob()), frozenset({"tilt"}))
    assert one.volume.regrid is not None
    marked = one.read(segmentation(one.images, blob(), kind))
    np.testing.assert_array_equal(marked.values, read_volume(one.volume) >= 500)
    assert marked.values.sum() > 20


# --- structure sets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_a_contour_marks_the_voxels_whose_centres_it_holds(scene, grid):
    one = scene(classic("MR", grid))
    outline = on_slice(grid, 3, box((3.6, 6.5), (9.4, 11.5)))
    marked = one.read(structure_set(one.images, {PLANTED[0]: [outline]}))
    expected = np.zeros_like(blob())
    expected[3, 7:12, 4:10] = 1
    np.testing.assert_array_equal(drawn(marked), expected)
    assert broken(marked) == []


RING = np.zeros((20, 24), np.uint8)
RING[4:16, 4:20] = 1
RING[8:12, 9:15] = 0
OUTER, INNER = box((3.5, 3.5), (19.5, 15.5)), box((8.5, 7.5), (14.5, 11.5))
KEYHOLE = np.vstack([OUTER, OUTER[:1], INNER[:1], INNER[::-1], OUTER[:1]])


@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
@pytest.mark.parametrize(
    "outlines", [[OUTER, INNER], [KEYHOLE], [OUTER, INNER, OUTER]], ids=["two", "keyhole", "twice"]
)
def test_a_hole_is_a_hole_however_it_is_drawn(scene, outlines, kind):
    one = scene()
    marked = one.read(structure_set(one.images, {"x": [on_slice(GRID, 1, each) for each in outlines]}, kind))
    np.testing.assert_array_equal(drawn(marked)[1], RING)
    assert drawn(marked).sum() == RING.sum()
    assert broken(marked) == []


def test_crossing_outlines_may_be_meant_to_combine(scene):
    one = scene()
    outlines = [on_slice(GRID, 1, box((2.5, 2.5), (8.5, 8.5))), on_slice(GRID, 1, box((5.5, 5.5), (11.5, 11.5)))]
    marked = one.read(structure_set(one.images, {"x": outlines}, "CLOSEDPLANAR_XOR"))
    assert drawn(marked).sum() == 2 * (36 - 9)


def test_markers_and_structures_without_contours_are_no_candidates(scene):
    one = scene()
    label = structure_set(one.images, {"isocentre": [], "point": [on_slice(GRID, 1, [(2, 2)])], "x": [SQUARE]})
    label.ROIContourSequence[1].ContourSequence[0].ContourGeometricType = "POINT"
    assert drawn(one.read(label)).sum() == 9


def test_a_structure_set_without_contours_marks_nothing(scene):
    one = scene()
    marked = one.read(structure_set(one.images, {"x": []}))
    assert not marked.values.any()
    assert broken(marked) == []


def test_what_encloses_nothing_marks_nothing(scene):
    one = scene()
    marked = one.read(structure_set(one.images, {"x": [SQUARE, on_slice(GRID, 4, [(2, 2), (5, 5)])]}))
    assert drawn(marked).sum() == 9
    assert broken(marked) == []


def test_contours_that_name_no_image_go_by_the_frame_of_reference(scene):
    one = scene()
    marked = one.read(structure_set(one.images, {"x": [SQUARE]}, refer=False))
    assert drawn(marked).sum() == 9
    assert broken(marked) == []


@pytest.mark.parametrize(("frame", "rules"), [(3, []), (4, ["label-wrong-reference"]), (None, [])])
def test_a_contour_may_name_one_frame_of_an_enhanced_object(scene, frame, rules):
    image = enhanced("MR", [GRID])
    one = scene([image])
    label = structure_set(classic("MR", GRID, FrameOfReferenceUID=image.FrameOfReferenceUID), {"x": [SQUARE]})
    (named,) = label.ROIContourSequence[0].ContourSequence[0].ContourImageSequence
    named.ReferencedSOPInstanceUID = image.SOPInstanceUID
    if frame:
        named.ReferencedFrameNumber = frame
    marked = one.read(label)
    assert broken(marked) == rules
    assert marked.values.any() == (not rules)


def test_an_outline_along_the_rim_of_the_image_lies_within_it(scene):
    one = scene()
    whole = on_slice(GRID, 0, box((-0.5, -0.5), (GRID.columns - 0.5, GRID.rows - 0.5)))
    assert drawn(one.read(structure_set(one.images, {"x": [whole]})))[0].all()


def test_contours_are_drawn_on_the_tilted_slices(scene):
    tilted = replace(GRID, shear=(0.0, 0.6, 0.0))
    one = scene(classic("MR", tilted), frozenset({"tilt"}))
    outline = on_slice(tilted, 0, box((3.5, 6.5), (9.5, 11.5)))
    marked = one.read(structure_set(one.images, {"x": [outline]}))
    expected = np.zeros(one.volume.shape, np.uint8)
    expected[4:10, 7:12, 0] = 1
    np.testing.assert_array_equal(marked.values, expected)
