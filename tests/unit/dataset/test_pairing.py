from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from support.dicom_maker import Grid, Names, classic, names, write
from support.label_maker import box, on_slice, segmentation, structure_set

from fedsite.dataset.masks import NiftiMask
from fedsite.dataset.pairing import Pairing, pair, possible_names
from fedsite.dicom.header.values import tolerant_reading
from fedsite.dicom.labels.objects import read_label_object
from fedsite.dicom.model import Volume
from fedsite.dicom.scan import scan
from fedsite.site.pseudonyms import Pseudonyms

GRID = Grid(columns=24, rows=20, slices=6)
NAMES = {1: "lesion"}


@dataclass(frozen=True)
class Image:
    id: str
    keys: frozenset[str]
    volumes: tuple[Volume, ...]


def volume(name: str, keys: set[str], study: str = "e-a", **changes) -> Volume:
    known = {
        "id": name,
        "series": name,
        "study": study,
        "patient": "p-a",
        "modality": "MR",
        "shape": (4, 5, 6),
        "affine": np.eye(4),
        "part": None,
        "b_value": None,
        "directionality": None,
        "image_type": (),
        "scanner": "",
        "verdict": "accepted",
        "findings": (),
        "keys": frozenset(keys),
        "frames": (),
    }
    return Volume(**{**known, **changes})


def image(*volumes: Volume) -> Image:
    return Image(volumes[0].id, volumes[0].keys, volumes)


ONE = volume("s-1", {"1.2.3", "1.2", "ACC1", "PAT1"})
TWO = volume("s-2", {"1.2.4", "1.2", "ACC2", "PAT1"})


def paired(files: list[str], *volumes: Volume) -> Pairing:
    masks = [NiftiMask(f"f-{number}", Path(file)) for number, file in enumerate(files)]
    return pair(masks, (), [image(each) for each in volumes], volumes, NAMES)


@pytest.mark.parametrize(
    "word",
    ["", "_mask", "_msk", "_label", "_labels", "_lesion", "_seg", "-mask", "_MASK", ".roi", "_lesion_mask", " Mask"],
)
def test_trailing_words_are_taken_off(word):
    assert "1.2.3" in possible_names(f"1.2.3{word}")


def test_a_name_that_ends_like_a_trailing_word_stays_possible():
    assert possible_names("unmask") == {"unmask"}
    assert "PAT_mask" in possible_names("PAT_mask_seg")


def test_a_word_alone_names_nothing():
    assert "" not in possible_names("_mask")


@pytest.mark.parametrize("name", ["1.2.3.nii.gz", "1.2.3_mask.nii", "ACC1_lesion.nii.gz"])
def test_a_mask_is_paired_by_any_key(name):
    pairing = paired([name], ONE, TWO)
    assert {image: [mask.path for mask in masks] for image, masks in pairing.masks.items()} == {"s-1": [Path(name)]}
    assert not pairing.contested
    assert pairing.unpaired == 0


@pytest.mark.parametrize("name", ["PAT1.nii.gz", "1.2_mask.nii.gz"])
def test_a_mask_that_fits_two_images_is_contested(name):
    pairing = paired([name], ONE, TWO)
    assert pairing.contested == {"s-1": {"s-1", "s-2"}, "s-2": {"s-1", "s-2"}}


def test_two_masks_of_one_image_are_both_told():
    assert [mask.id for mask in paired(["1.2.3.nii", "ACC1_mask.nii"], ONE, TWO).masks["s-1"]] == ["f-0", "f-1"]


def test_masks_of_nothing_are_counted():
    assert paired(["9.9.nii", "1.2.33.nii", "1.2.3.nii"], ONE).unpaired == 2


def test_identifiers_are_not_shown():
    assert "1.2.3" not in repr(paired(["1.2.3.nii"], ONE))


# --- by what a label object refers to -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Export:
    """One study: the image of the task, a sister (b0) on the same grid, and a series on another grid."""

    folder: Path
    who: Names
    series: dict[str, list[Dataset]]
    volumes: dict[str, Volume]

    def pair(self, *labels: Dataset, files: tuple[str, ...] = (), images: tuple[str, ...] = ("dwi",)) -> Pairing:
        objects = []
        with tolerant_reading():
            for number, path in enumerate(write(self.folder / "labels", labels)):
                objects.append((f"s-label-{number}", read_label_object(str(path))))
        masks = [NiftiMask(f"f-{number}", Path(file)) for number, file in enumerate(files)]
        chosen = [image(self.volumes[name]) for name in images]
        return pair(masks, objects, chosen, list(self.volumes.values()), NAMES)


@pytest.fixture
def export(tmp_path: Path) -> Export:
    who = names()
    grids = {"dwi": GRID, "b0": GRID, "flair": replace(GRID, step=2.0), "other": GRID}
    series, volumes = {}, {}
    for name, grid in grids.items():
        own = replace(who, series=names().series)
        if name == "other":  # another study of the same patient, by chance on the same grid
            own = replace(own, study=names().study, frame_of_reference=names().frame_of_reference)
        series[name] = classic("MR", grid, who=own)
        write(tmp_path / name, series[name])
        (volumes[name],) = scan(tmp_path / name, Pseudonyms(bytes(32))).volumes
    return Export(tmp_path, who, series, volumes)


def marked(slices: int = 6) -> np.ndarray:
    values = np.zeros((slices, 20, 24), np.uint8)
    values[2, 3:7, 10:17] = 1
    return values


def contours(images: list[Dataset], **options) -> Dataset:
    return structure_set(images, {"x": [on_slice(GRID, 2, box((4, 4), (7, 7)))]}, **options)


@pytest.fixture(params=["segmentation", "structure set"])
def draw(request):
    return (lambda images: segmentation(images, marked())) if request.param == "segmentation" else contours


def test_a_label_object_belongs_to_the_images_that_it_names(export, draw):
    pairing = export.pair(draw(export.series["dwi"]))
    (mask,) = pairing.masks[export.volumes["dwi"].id]
    assert mask.drawn_on == (export.volumes["dwi"],)
    assert not pairing.strays
    assert not pairing.unpaired


def test_a_label_object_on_a_sister_is_taken(export, draw):
    pairing = export.pair(draw(export.series["b0"]))
    (mask,) = pairing.masks[export.volumes["dwi"].id]
    assert mask.drawn_on == (export.volumes["b0"],)


def test_the_image_itself_goes_before_its_sister(export, draw):
    pairing = export.pair(draw(export.series["b0"]), images=("dwi", "b0"))
    assert list(pairing.masks) == [export.volumes["b0"].id]


@pytest.mark.parametrize("where", ["flair", "other"])
def test_a_label_object_on_another_image_fits_nothing(export, draw, where):
    pairing = export.pair(draw(export.series[where]))
    assert not pairing.masks
    if where == "other":
        assert pairing.unpaired == 1
    else:
        (stray,) = pairing.strays[export.volumes["dwi"].study]
        assert stray.id == "label-wrong-reference"
        assert "another grid" in stray.message
        assert stray.where == "s-label-0"


def test_a_label_object_on_images_that_are_not_there(export, draw):
    absent = classic("MR", GRID, who=replace(export.who, series=names().series))
    pairing = export.pair(draw(absent))
    assert not pairing.masks
    (stray,) = pairing.strays[export.volumes["dwi"].study]
    assert "not among those of the study" in stray.message


def test_what_names_only_a_series_goes_by_it(export):
    label = segmentation(export.series["dwi"], marked())
    del label.SourceImageSequence, label.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    for group in label.PerFrameFunctionalGroupsSequence:
        del group.DerivationImageSequence
    assert list(export.pair(label).masks) == [export.volumes["dwi"].id]


def test_what_names_only_a_frame_of_reference_goes_by_it_within_its_study(export):
    assert list(export.pair(contours(export.series["dwi"], refer=False)).masks) == [export.volumes["dwi"].id]
    elsewhere = contours(export.series["dwi"], refer=False, StudyInstanceUID="1.2.3")
    assert not export.pair(elsewhere).masks


def test_what_names_nothing_goes_by_its_files_name(export, tmp_path):
    label = contours(export.series["dwi"], refer=False)
    del label.ReferencedFrameOfReferenceSequence
    (stray,) = export.pair(label).strays[export.volumes["dwi"].study]
    assert "names no images" in stray.message
    (path,) = write(tmp_path / "more", [label])
    path = path.rename(path.with_name(f"{export.series['dwi'][0].SeriesInstanceUID}_seg.dcm"))
    with tolerant_reading():
        known = read_label_object(str(path))
    pairing = pair((), [("s-x", known)], [image(export.volumes["dwi"])], list(export.volumes.values()), NAMES)
    assert list(pairing.masks) == [export.volumes["dwi"].id]


def test_two_label_objects_of_one_image_are_both_told(export):
    pairing = export.pair(segmentation(export.series["dwi"], marked()), contours(export.series["b0"]))
    assert [mask.id for mask in pairing.masks[export.volumes["dwi"].id]] == ["s-label-0", "s-label-1"]


def test_a_file_may_be_named_after_a_sister(export):
    sister, flair = (export.series[name][0].SeriesInstanceUID for name in ("b0", "flair"))
    assert [mask.id for mask in export.pair(files=(f"{sister}_mask.nii",)).masks[export.volumes["dwi"].id]] == ["f-0"]
    pairing = export.pair(files=(f"{flair}_mask.nii",))
    assert not pairing.masks
    assert [stray.where for stray in pairing.strays[export.volumes["dwi"].study]] == ["f-0"]


def test_a_sister_without_a_frame_of_reference_is_none(export):
    frames = tuple(
        replace(frame, instance=replace(frame.instance, frame_of_reference="")) for frame in export.volumes["b0"].frames
    )
    export.volumes["b0"] = replace(export.volumes["b0"], frames=frames)
    assert not export.pair(segmentation(export.series["b0"], marked())).masks
