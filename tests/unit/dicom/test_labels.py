"""DICOM label objects: what was drawn is read, onto the right voxels; and every way of not fitting is told."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from support.dicom_maker import CORONAL, SAGITTAL, Grid, change, classic, enhanced, names, write
from support.label_maker import PLANTED, box, circle, on_slice, segmentation, structure_set

from fedsite.dicom.label_objects import read_label_object
from fedsite.dicom.labels import read_label
from fedsite.dicom.marking import Marked
from fedsite.dicom.model import Volume
from fedsite.dicom.rules.labels import LABELS
from fedsite.dicom.scan import scan
from fedsite.dicom.values import tolerant_reading
from fedsite.errors import DataNotFit, SourceMissing
from fedsite.site.pseudonyms import Pseudonyms

GRID = Grid(columns=24, rows=20, slices=6)
TILTED = np.array([0.0, np.cos(0.3), np.sin(0.3)])
GRIDS = {
    "axial": GRID,
    "sagittal": replace(GRID, row=SAGITTAL[0], column=SAGITTAL[1]),
    "coronal": replace(GRID, row=CORONAL[0], column=CORONAL[1]),
    "oblique": replace(GRID, column=tuple(TILTED)),
}
LESION = {1: "lesion"}


def blob(grid: Grid = GRID) -> np.ndarray:
    """Something without any symmetry, on slices 2 and 3 [slice, row, column]."""
    marked = np.zeros((grid.slices, grid.rows, grid.columns), np.uint8)
    marked[2, 3:7, 10:17] = 1
    marked[2, 5:9, 12:14] = 1
    marked[3, 4, 11] = 1
    return marked


@dataclass(frozen=True)
class Scene:
    """A series, and what reads a label object that was drawn on it."""

    folder: Path
    images: list[Dataset]
    volume: Volume

    def read(self, label: Dataset, labels: Mapping[int, str] | None = None) -> Marked:
        (path,) = write(self.folder / "labels", [label])
        with tolerant_reading():
            known = read_label_object(str(path))
        assert known is not None
        marked = read_label(known, [self.volume], LESION if labels is None else labels)
        path.unlink()
        assert not any(name in str(marked.findings) for name in PLANTED)
        return marked


@pytest.fixture
def scene(tmp_path: Path) -> Callable[..., Scene]:
    def made(images: list[Dataset] | None = None, resample: frozenset[str] = frozenset()) -> Scene:
        images = classic("MR", GRID) if images is None else images
        write(tmp_path / "images", images)
        (volume,) = scan(tmp_path / "images", Pseudonyms(bytes(32)), resample=resample).volumes
        return Scene(tmp_path, images, volume)

    return made


def broken(marked: Marked) -> list[str]:
    return [problem.id for problem in marked.findings]


def drawn(marked: Marked) -> np.ndarray:
    """What is marked, as [slice, row, column]."""
    return marked.values.transpose(2, 1, 0)


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


def two(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.stack([first, second], axis=-1)


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
    from fedsite.dicom.pixels import read_volume

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


# --- what does not fit ----------------------------------------------------------------------------------------------

SQUARE = on_slice(GRID, 2, box((4.5, 4.5), (7.5, 7.5)))
PLANTS: dict[str, list[Callable[[Scene], Marked]]] = {}


def plants(rule: str) -> Callable[[Callable[[Scene], Marked]], Callable[[Scene], Marked]]:
    """Registers a way to break a rule."""

    def register(plant: Callable[[Scene], Marked]) -> Callable[[Scene], Marked]:
        PLANTS.setdefault(rule, []).append(plant)
        return plant

    return register


def moved(one: Scene, **changes: object) -> Dataset:
    """A segmentation that names the scene's images, but was drawn on another grid."""
    others = classic("MR", replace(GRID, **changes))
    for other, image in zip(others, one.images, strict=False):
        other.SOPInstanceUID, other.FrameOfReferenceUID = image.SOPInstanceUID, image.FrameOfReferenceUID
    grid = replace(GRID, **changes)
    marked = np.zeros((grid.slices, grid.rows, grid.columns), np.uint8)
    marked[2, 3:6, 3:6] = 1
    return segmentation(others, marked)


def without_derivation(label: Dataset) -> Dataset:
    for group in label.PerFrameFunctionalGroupsSequence:
        del group.DerivationImageSequence
    return label


@plants("label-other-grid")
def _(one: Scene) -> Marked:
    return one.read(moved(one, origin=(-12.3, 7.25, 40.0)))


@plants("label-other-grid")
def _(one: Scene) -> Marked:
    return one.read(moved(one, columns=23))


@plants("label-other-grid")
def _(one: Scene) -> Marked:
    return one.read(moved(one, between_rows=0.81))


@plants("label-other-grid")
def _(one: Scene) -> Marked:
    return one.read(moved(one, step=2.0))


@plants("label-other-grid")
def _(one: Scene) -> Marked:
    return one.read(moved(one, row=(np.cos(0.02), np.sin(0.02), 0.0), column=(-np.sin(0.02), np.cos(0.02), 0.0)))


@plants("label-grid-rounded")
def _(one: Scene) -> Marked:
    return one.read(moved(one, origin=(-12.49, 7.25, 40.0)))


@plants("label-wrong-reference")
def _(one: Scene) -> Marked:
    """Every frame names the image of the next slice."""
    label = segmentation(one.images, blob())
    for index, group in enumerate(label.PerFrameFunctionalGroupsSequence):
        image = group.DerivationImageSequence[0].SourceImageSequence[0]
        image.ReferencedSOPInstanceUID = one.images[3 + index].SOPInstanceUID
    return one.read(label)


@plants("label-wrong-reference")
def _(one: Scene) -> Marked:
    return one.read(
        segmentation(classic("MR", GRID, who=names()), blob(), FrameOfReferenceUID=one.images[0].FrameOfReferenceUID)
    )


@plants("label-wrong-reference")
def _(one: Scene) -> Marked:
    label = structure_set(one.images, {"x": [SQUARE]})
    image = label.ROIContourSequence[0].ContourSequence[0].ContourImageSequence[0]
    image.ReferencedSOPInstanceUID = one.images[5].SOPInstanceUID
    return one.read(label)


@plants("label-wrong-reference")
def _(one: Scene) -> Marked:
    label = structure_set(one.images, {"x": [SQUARE]})
    image = label.ROIContourSequence[0].ContourSequence[0].ContourImageSequence[0]
    image.ReferencedSOPInstanceUID = "1.2.3.4"
    return one.read(label)


@plants("label-other-frame")
def _(one: Scene) -> Marked:
    return one.read(segmentation(one.images, blob(), FrameOfReferenceUID="1.2.3"))


@plants("label-other-frame")
def _(one: Scene) -> Marked:
    label = structure_set(one.images, {"x": [SQUARE]}, refer=False)
    label.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.3"
    return one.read(label)


@plants("label-frame-unlike")
def _(one: Scene) -> Marked:
    label = structure_set(one.images, {"x": [SQUARE]})
    label.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.3"
    return one.read(label)


@plants("label-outside-image")
def _(one: Scene) -> Marked:
    """The segmentation goes on where slices were not exported."""
    longer = classic("MR", replace(GRID, slices=8), FrameOfReferenceUID=one.images[0].FrameOfReferenceUID)
    marked = np.ones((8, 20, 24), np.uint8)
    return one.read(without_derivation(segmentation(longer, marked)))


@plants("label-outside-image")
def _(one: Scene) -> Marked:
    return one.read(structure_set(one.images, {"x": [on_slice(GRID, 6, box((4, 4), (7, 7)))]}, refer=False))


@plants("label-outside-image")
def _(one: Scene) -> Marked:
    return one.read(structure_set(one.images, {"x": [on_slice(GRID, 1, box((20, 4), (26, 7)))]}))


@plants("label-outside-image")
def _(one: Scene) -> Marked:
    return one.read(structure_set(one.images, {"x": [on_slice(GRID, 1, circle((4, 4), 6))]}))


@plants("label-between-slices")
def _(one: Scene) -> Marked:
    return one.read(structure_set(one.images, {"x": [on_slice(GRID, 2.4, box((4, 4), (7, 7)))]}))


@plants("label-between-slices")
def _(one: Scene) -> Marked:
    across = np.vstack([on_slice(GRID, 2, [(4, 4), (8, 4)]), on_slice(GRID, 4, [(8, 8), (4, 8)])])
    return one.read(structure_set(one.images, {"x": [across]}))


@plants("label-open-contours")
def _(one: Scene) -> Marked:
    return one.read(structure_set(one.images, {"x": [SQUARE]}, "OPEN_PLANAR"))


@plants("label-overlap")
def _(one: Scene) -> Marked:
    outlines = [on_slice(GRID, 1, box((2, 2), (8, 8))), on_slice(GRID, 1, box((5, 5), (11, 11)))]
    return one.read(structure_set(one.images, {"x": outlines}))


@plants("label-overlap")
def _(one: Scene) -> Marked:
    both = segmentation(one.images, two(blob(), blob()), segments=["core", "penumbra"])
    return one.read(both, {1: "core", 2: "penumbra"})


@plants("label-overlap")
def _(one: Scene) -> Marked:
    return one.read(structure_set(one.images, {"core": [SQUARE], "penumbra": [SQUARE]}), {1: "core", 2: "penumbra"})


@plants("label-parts-unnamed")
def _(one: Scene) -> Marked:
    return one.read(segmentation(one.images, two(blob(), blob()), segments=PLANTED[:2]))


@plants("label-parts-unnamed")
def _(one: Scene) -> Marked:
    return one.read(structure_set(one.images, {name: [SQUARE] for name in PLANTED}))


@plants("label-parts-unnamed")
def _(one: Scene) -> Marked:
    """With several labels even a single segment must say which it is."""
    return one.read(segmentation(one.images, blob()), {1: "core", 2: "penumbra"})


@plants("label-parts-unused")
def _(one: Scene) -> Marked:
    return one.read(structure_set(one.images, {PLANTED[2]: [SQUARE], "Lesion": [SQUARE]}))


@plants("label-fractional")
def _(one: Scene) -> Marked:
    return one.read(segmentation(one.images, 0.6 * blob().astype(np.float32), "FRACTIONAL"))


@pytest.mark.parametrize(
    ("rule", "plant"), [(rule, plant) for rule, planted in PLANTS.items() for plant in planted], ids=lambda each: each
)
def test_what_does_not_fit_is_told(scene, rule, plant):
    assert broken(plant(scene())) == [rule]


def test_every_rule_of_labels_is_planted():
    assert {rule.id for rule in LABELS} == PLANTS.keys()


def test_all_faults_of_contours_are_told_at_once(scene):
    one = scene()
    label = structure_set(
        one.images,
        {"x": [SQUARE, on_slice(GRID, 2.4, box((4, 4), (7, 7))), on_slice(GRID, 1, box((20, 4), (26, 7))), SQUARE]},
    )
    label.ROIContourSequence[0].ContourSequence[3].ContourGeometricType = "OPEN_NONPLANAR"
    found = one.read(label).findings
    assert [problem.id for problem in found] == ["label-between-slices", "label-open-contours", "label-outside-image"]
    assert all(problem.message.startswith("1 contour(s)") for problem in found)


# --- damaged ones ---------------------------------------------------------------------------------------------------


def spoilt(label: Dataset, spoil: Callable[[Dataset], object]) -> Dataset:
    spoil(label)
    return label


SPOILT_SEGMENTATIONS: dict[str, Callable[[Dataset], object]] = {
    "no segments": lambda label: delattr(label, "SegmentSequence"),
    "no frames": lambda label: delattr(label, "PerFrameFunctionalGroupsSequence"),
    "no shared groups": lambda label: delattr(label, "SharedFunctionalGroupsSequence"),
    "no pixels": lambda label: delattr(label, "PixelData"),
    "short pixels": lambda label: setattr(label, "PixelData", label.PixelData[:8]),
    "no type": lambda label: delattr(label, "SegmentationType"),
    "unknown type": lambda label: change(label, {"SegmentationType": PLANTED[0]}),
    "no positions": lambda label: [
        group.pop("PlanePositionSequence") for group in label.PerFrameFunctionalGroupsSequence
    ],
    "no spacing": lambda label: label.SharedFunctionalGroupsSequence[0].pop("PixelMeasuresSequence"),
    "fewer groups than frames": lambda label: label.PerFrameFunctionalGroupsSequence.pop(),
}
SPOILT_FRACTIONS: dict[str, Callable[[Dataset], object]] = {
    "no whole": lambda label: delattr(label, "MaximumFractionalValue"),
    "a whole of nothing": lambda label: setattr(label, "MaximumFractionalValue", 0),
}
SPOILT_STRUCTURES: dict[str, Callable[[Dataset], object]] = {
    "no kind": lambda contour: delattr(contour, "ContourGeometricType"),
    "no triples": lambda contour: setattr(contour, "ContourData", ["1", "2", "3", "4"]),
    "not finite": lambda contour: change(contour, {"ContourData": ["1", "2", "3", "4", "5", "6", "7", "8", "nan"]}),
}


@pytest.mark.parametrize("spoil", SPOILT_SEGMENTATIONS.values(), ids=SPOILT_SEGMENTATIONS)
def test_a_damaged_segmentation_is_an_error_without_its_texts(scene, spoil):
    one = scene()
    with pytest.raises(DataNotFit) as caught:
        one.read(spoilt(segmentation(one.images, blob()), spoil))
    assert not any(name in str(caught.value) for name in PLANTED)


@pytest.mark.parametrize("spoil", SPOILT_FRACTIONS.values(), ids=SPOILT_FRACTIONS)
def test_a_fractional_segmentation_says_what_the_whole_is(scene, spoil):
    one = scene()
    with pytest.raises(DataNotFit):
        one.read(spoilt(segmentation(one.images, blob(), "FRACTIONAL"), spoil))


@pytest.mark.parametrize("spoil", SPOILT_STRUCTURES.values(), ids=SPOILT_STRUCTURES)
def test_a_damaged_structure_set_is_an_error_without_its_texts(scene, spoil):
    one = scene()
    label = structure_set(one.images, {"x": [SQUARE]})
    spoil(label.ROIContourSequence[0].ContourSequence[0])
    with pytest.raises(DataNotFit):
        one.read(label)


def test_contours_of_an_undeclared_structure_are_an_error(scene):
    one = scene()
    label = structure_set(one.images, {"x": [SQUARE]})
    label.ROIContourSequence[0].ReferencedROINumber = 7
    with pytest.raises(DataNotFit):
        one.read(label)


def test_a_label_map_with_an_undeclared_value_is_an_error(scene):
    one = scene()
    label = segmentation(one.images, blob(), "LABELMAP")
    label.PixelData = bytes(9 if value else 0 for value in label.PixelData)
    with pytest.raises(DataNotFit):
        one.read(label)


def test_a_label_object_that_vanished(scene):
    one = scene()
    (path,) = write(one.folder / "labels", [segmentation(one.images, blob())])
    with tolerant_reading():
        label = read_label_object(str(path))
    path.unlink()
    with pytest.raises(SourceMissing):
        read_label(label, [one.volume], LESION)


# --- what they refer to ---------------------------------------------------------------------------------------------


def references(folder: Path, label: Dataset):
    (path,) = write(folder / "labels", [label])
    with tolerant_reading():
        return read_label_object(str(path))


@pytest.mark.parametrize(
    "make", [lambda images: segmentation(images, blob()), lambda images: structure_set(images, {"x": [SQUARE]})]
)
def test_references_are_read(tmp_path, make):
    images = classic("MR", GRID)
    label = references(tmp_path, make(images))
    assert label.referenced_series == {images[0].SeriesInstanceUID}
    assert label.referenced_instances <= {image.SOPInstanceUID for image in images}
    assert label.referenced_instances
    assert label.frames_of_reference == {images[0].FrameOfReferenceUID}
    assert label.study == images[0].StudyInstanceUID
    assert images[0].SeriesInstanceUID not in repr(label)


def test_references_of_single_planes_are_read_where_there_are_no_others(tmp_path):
    images = classic("MR", GRID)
    label = segmentation(images, blob())
    del label.ReferencedSeriesSequence, label.SourceImageSequence
    assert references(tmp_path, label).referenced_instances == {images[2].SOPInstanceUID, images[3].SOPInstanceUID}
    label = structure_set(images, {"x": [SQUARE]})
    del label.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    assert references(tmp_path / "more", label).referenced_instances == {images[2].SOPInstanceUID}


def test_an_image_is_no_label_object(tmp_path):
    assert references(tmp_path, classic("MR", GRID)[0]) is None


def test_references_that_make_no_sense_are_an_error(tmp_path):
    label = segmentation(classic("MR", GRID), blob())
    label.SourceImageSequence[0].ReferencedFrameNumber = 77
    (path,) = write(tmp_path, [label])
    path.write_bytes(path.read_bytes().replace(b"IS\x02\x0077", b"IS\x02\x00??"))
    with tolerant_reading(), pytest.raises(DataNotFit):
        read_label_object(str(path))


def test_a_reference_may_name_single_frames(tmp_path):
    from fedsite.dicom.label_objects import named_images

    one = Dataset()
    one.ReferencedSOPInstanceUID, one.ReferencedFrameNumber = "1.2", 3
    other = Dataset()
    other.ReferencedSOPInstanceUID, other.ReferencedFrameNumber = "1.2", [3, 4]
    assert [image.frames for image in named_images([one, other, Dataset()])] == [(3,), (3, 4), ()]
