"""DICOM label objects that do not fit, are damaged, or refer to something: each is told, and names nobody."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from support.dicom_maker import change, classic, names, write
from support.label_maker import PLANTED, box, circle, on_slice, segmentation, structure_set
from support.label_scene import GRID, LESION, SQUARE, Scene, blob, broken, two

from fedsite.dicom.header.values import tolerant_reading
from fedsite.dicom.labels.marking import Marked
from fedsite.dicom.labels.objects import named_images, read_label_object
from fedsite.dicom.labels.reading import read_label
from fedsite.dicom.rules.labels import LABELS
from fedsite.errors import DataNotFit, SourceMissing

# --- what does not fit ----------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize(
    "make", [lambda images: segmentation(images, blob()), lambda images: structure_set(images, {"x": [SQUARE]})]
)
def test_whatever_happens_to_the_bytes_ends_in_an_answer(scene, make):
    one = scene()
    (path,) = write(one.folder / "labels", [make(one.images)])
    content = path.read_bytes()
    random = np.random.default_rng(7)
    for _ in range(60):
        changed = bytearray(content)
        for place in random.integers(132, len(content), random.integers(1, 5)):
            changed[place : place + random.integers(1, 5)] = random.bytes(4 * int(random.integers(2)))
        path.write_bytes(changed)
        try:
            with tolerant_reading():
                known = read_label_object(str(path))
            values = read_label(known, [one.volume], LESION).values if known else np.zeros(one.volume.shape)
        except DataNotFit:
            continue
        assert values.shape == one.volume.shape


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
    one = Dataset()
    one.ReferencedSOPInstanceUID, one.ReferencedFrameNumber = "1.2", 3
    other = Dataset()
    other.ReferencedSOPInstanceUID, other.ReferencedFrameNumber = "1.2", [3, 4]
    assert [image.frames for image in named_images([one, other, Dataset()])] == [(3,), (3, 4), ()]
