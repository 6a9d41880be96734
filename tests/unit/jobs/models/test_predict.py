"""`fedsite predict`: from a study to files that open beside it, by a network whose weights are chance."""

import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from highdicom.seg import segread
from PIL import Image
from pydicom import dcmread
from support import dicom_maker
from support.bids_maker import SHAPE, head, write_nifti, write_subject
from support.dicom_maker import Grid, Names, classic, names, write
from support.federation import plan_file
from support.site import Site
from support.study_maker import write_dicom

from fedsite.dataset.manifest import Remark
from fedsite.errors import CannotWrite, DataNotFit, NotAuthorised, SourceMissing, TryAgainLater, UsageError
from fedsite.jobs.models import initial
from fedsite.jobs.models import predict as job
from fedsite.jobs.models.predict import Order, Predicted, Refused, predict
from fedsite.jobs.progress import silent_steps
from fedsite.site import identity, withdrawals
from fedsite.site.identity import IdentityFiles
from fedsite.site.state import State
from fedsite.wire.plans import read_draft

SEED = 3


@dataclass(frozen=True)
class Bench:
    """A site with a model in a file, and where its results go."""

    folder: Path
    config: Path
    model: Path
    plan: Path

    @property
    def out(self) -> Path:
        return self.folder / "results"

    def predict(self, source: Path, **asked: object) -> Predicted:
        order = Order(source, self.out, model=self.model, plan=self.plan)
        return predict(self.config, replace(order, **asked), silent_steps)


@pytest.fixture(scope="module")
def bench_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Bench]:
    site = Site(tmp_path_factory.mktemp("site"))
    site.set_up()
    folder = site.home
    preparation = {"input_state": "whole-head", "spacing_mm": [5.0, 5.0, 6.0]}
    plan = plan_file(folder, preparation=preparation, local={"steps": 1, "patch_voxels": [32, 32, 16]})
    initial.init(read_draft(plan), folder / "model.safetensors", SEED)
    return lambda own: Bench(own, site.config, folder / "model.safetensors", plan)


@pytest.fixture
def bench(bench_of: Callable[[Path], Bench], tmp_path: Path) -> Bench:
    return bench_of(tmp_path)


def dicom(folder: Path, who: Names | None = None, seed: int = SEED, **attributes: str) -> Path:
    """A study of one head, without any mask."""
    write_dicom(folder, folder.parent / "labels", head(seed), who or names(), **attributes)
    return folder


def test_a_dicom_study_gives_a_segmentation_beside_it(bench: Bench, tmp_path: Path) -> None:
    who = names()
    source = dicom(tmp_path / "source", who)
    found = bench.predict(source)
    (one,) = found.predictions
    assert [path.name for path in one.files] == [f"{one.study}.dcm", f"{one.study}.png"]
    assert {path.stat().st_mode & 0o777 for path in one.files} == {0o600}
    made = segread(one.files[0])
    assert (made.PatientID, made.StudyInstanceUID) == (who.patient, who.study)
    assert {item.SeriesInstanceUID for item in made.ReferencedSeriesSequence} == {who.series}
    assert (
        found.model.sha256 in made.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters
    )
    marked = made.get_volume(combine_segments=True).array
    voxel_ml = 4.0 * 4.0 * 6.0 / 1000
    assert one.structures["lesion"].ml == pytest.approx(np.count_nonzero(marked) * voxel_ml, abs=1e-3)
    assert one.structures["lesion"].ml > 1
    assert one.structures["lesion"].lesions >= 1
    picture = Image.open(one.files[1])
    assert len(picture.getcolors(1 << 20)) > 50, "there is something to see"


def test_a_nifti_study_gives_the_same_voxels(bench: Bench, tmp_path: Path) -> None:
    content = head(SEED)
    whole = replace(content, image=np.floor(content.image))  # what integers hold
    write_dicom(tmp_path / "dicom", tmp_path / "labels", whole, names())
    write_subject(tmp_path / "bids", "one", whole)
    from_dicom = bench.predict(tmp_path / "dicom").predictions[0]
    from_bids = bench.predict(tmp_path / "bids").predictions[0]
    assert [path.suffixes for path in from_bids.files] == [[".nii", ".gz"], [".png"]]
    labels = nib.load(from_bids.files[0])
    np.testing.assert_allclose(labels.affine, content.affine)
    assert labels.shape == SHAPE
    assert labels.get_data_dtype() == np.uint8
    assert from_bids.structures == from_dicom.structures
    marked = segread(from_dicom.files[0]).get_volume(combine_segments=True)
    indices = np.argwhere(marked.array) @ marked.affine[:3, :3].T + marked.affine[:3, 3]
    voxels = np.rint((indices * [-1, -1, 1] - content.affine[:3, 3]) @ np.linalg.inv(content.affine[:3, :3]).T)
    assert {*map(tuple, voxels.astype(int))} == {*map(tuple, np.argwhere(np.asarray(labels.dataobj)))}


def test_nifti_may_be_asked_of_a_dicom_study(bench: Bench, tmp_path: Path) -> None:
    found = bench.predict(dicom(tmp_path / "source"), as_nifti=True)
    assert sorted(path.suffix for path in bench.out.iterdir()) == [".gz", ".png"]
    assert found.predictions[0].files[0].name.endswith(".nii.gz")


def test_a_zip_archive_will_do(bench: Bench, tmp_path: Path) -> None:
    dicom(tmp_path / "source")
    archive = Path(shutil.make_archive(str(tmp_path / "study"), "zip", tmp_path / "source"))
    (one,) = bench.predict(archive).predictions
    assert dcmread(one.files[0]).Modality == "SEG"


def tumour(folder: Path) -> Path:
    """A study of four contrasts."""
    grid, who = Grid(32, 36, 20, between_rows=5.0, between_columns=5.0, step=5.0), names()
    contrasts = (
        {"RepetitionTime": 500, "EchoTime": 10},
        {"RepetitionTime": 500, "EchoTime": 10, "ContrastBolusAgent": "Gadobutrol"},
        {"RepetitionTime": 5000, "EchoTime": 100},
        {"RepetitionTime": 9000, "EchoTime": 120, "InversionTime": 2500},
    )
    for seed, contrast in enumerate(contrasts):
        series = replace(who, series=names().series)
        write(folder, classic("MR", grid, voxels=dicom_maker.head(grid, seed), who=series, **contrast))
    return folder


def test_nested_regions_are_written_as_the_labels_that_make_them(bench: Bench, tmp_path: Path) -> None:
    preparation = {"input_state": "whole-head", "spacing_mm": [5.0, 5.0, 5.0]}
    local = {"steps": 1, "patch_voxels": [32, 32, 16]}
    channels = ["t1", "t1c", "t2", "flair"]
    plan = plan_file(tmp_path, task="brain-tumour-mr", channels=channels, preparation=preparation, local=local)
    initial.init(read_draft(plan), tmp_path / "model.safetensors", 11)
    (one,) = bench.predict(tumour(tmp_path / "source"), model=tmp_path / "model.safetensors", plan=plan).predictions
    made = segread(one.files[0])
    core, oedema, enhancing = (
        int(np.count_nonzero(made.get_volume(segment_numbers=[number]).array)) * 0.125 for number in (1, 2, 3)
    )
    assert min(core, oedema, enhancing) > 0
    found = {name: structure.ml for name, structure in one.structures.items()}
    expected = {"whole": core + oedema + enhancing, "core": core + enhancing, "enhancing": enhancing}
    assert found == pytest.approx(expected, abs=1e-3)


def two(folder: Path) -> Path:
    """An export with two patients' studies."""
    for number in (1, 2):
        dicom(folder, replace(names(), patient=f"PAT-{number}"), seed=number)
    return folder


def test_which_of_several_studies_is_meant(bench: Bench, tmp_path: Path) -> None:
    source = two(tmp_path / "source")
    with pytest.raises(UsageError, match="holds 2 studies: e-") as refused:
        bench.predict(source)
    assert "--only" in refused.value.mend
    every = bench.predict(source, every_study=True)
    assert all(one.study in refused.value.message for one in every.predictions)
    assert len({one.study for one in every.predictions}) == 2
    named = bench.predict(source, only=frozenset({every.predictions[1].study}))
    assert [one.study for one in named.predictions] == [every.predictions[1].study]
    with pytest.raises(SourceMissing, match="e-nobody"):
        bench.predict(source, only=frozenset({"e-nobody"}))


def test_which_of_several_images_is_meant(bench: Bench, tmp_path: Path) -> None:
    who = names()
    dicom(tmp_path / "source", who)
    dicom(tmp_path / "source", replace(who, series=names().series), seed=5)
    with pytest.raises(Refused, match="2 images of the study are of this kind") as refused:
        bench.predict(tmp_path / "source")
    assert "--only" in refused.value.mend
    images = [word.strip("().,") for word in refused.value.message.split() if "s-" in word]
    assert len(images) == 2
    assert bench.predict(tmp_path / "source", only=frozenset(images[1:])).predictions[0].image == images[1]


def rules(refused: Refused) -> list[str]:
    return [Remark.model_validate(each).id for study in refused.data["refused"] for each in study["findings"]]


def test_what_the_gate_refuses_is_refused_with_its_finding(bench: Bench, tmp_path: Path) -> None:
    source = dicom(tmp_path / "source", BodyPartExamined="KNEE")
    with pytest.raises(Refused, match="something else than a head") as refused:
        bench.predict(source)
    assert refused.value.exit_code == DataNotFit.exit_code
    assert "wrong-body-part" in rules(refused.value)
    assert not bench.out.exists()


def test_one_refused_study_does_not_stop_the_others(bench: Bench, tmp_path: Path) -> None:
    dicom(tmp_path / "source", replace(names(), patient="PAT-1"), seed=1)
    dicom(tmp_path / "source", replace(names(), patient="PAT-2"), seed=2, BodyPartExamined="KNEE")
    found = bench.predict(tmp_path / "source", every_study=True)
    assert (len(found.predictions), len(found.refused)) == (1, 1)


def test_another_input_state_than_the_models(bench: Bench, tmp_path: Path) -> None:
    write_subject(tmp_path / "bids", "one", head(stripped=True))
    with pytest.raises(Refused, match="skull-stripped; the model has learned from whole-head") as refused:
        bench.predict(tmp_path / "bids")
    assert rules(refused.value) == ["input-state-unlike-model"]


def test_what_a_segmentation_cannot_refer_to(bench: Bench, tmp_path: Path) -> None:
    source = dicom(tmp_path / "source", FrameOfReferenceUID="")
    with pytest.raises(Refused, match="no frame of reference") as refused:
        bench.predict(source)
    assert rules(refused.value) == ["segmentation-unreferenced"]
    assert "--nifti" in refused.value.mend
    assert bench.predict(source, as_nifti=True).predictions


def test_headers_that_cannot_be_carried_over(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise job.writing.Unwritable("for a reason")

    monkeypatch.setattr(job.writing, "encode", fail)
    with pytest.raises(Refused, match="for a reason") as refused:
        bench.predict(dicom(tmp_path / "source"))
    assert rules(refused.value) == ["segmentation-unreferenced"]


def test_nobody_who_was_withdrawn(bench: Bench, tmp_path: Path) -> None:
    who = replace(names(), patient="PAT-withdrawn")
    with State.open(bench.config.parent / "state") as state:
        pseudonyms = identity.pseudonyms(IdentityFiles(state.folder / "identity"))
        withdrawals.withdraw(state, pseudonyms.patient(who.patient))
    with pytest.raises(Refused) as refused:
        bench.predict(dicom(tmp_path / "source", who))
    assert rules(refused.value) == ["patient-withdrawn"]


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"out": "source/results"}, UsageError),
        ({"source": "gone"}, SourceMissing),
        ({"model": None}, UsageError),
        ({"model": None, "plan": None}, NotAuthorised),
        ({"personalised": True}, UsageError),
        ({"personalised": True, "model": None, "plan": None}, TryAgainLater),
        ({"model": "gone"}, SourceMissing),
        ({"model": "source/IM00000"}, DataNotFit),
        ({"out": "/proc/nowhere"}, CannotWrite),
    ],
)
def test_what_cannot_be_asked(bench: Bench, tmp_path: Path, asked: dict[str, object], error: type[Exception]) -> None:
    source = dicom(tmp_path / "source")
    changes = {name: tmp_path / value if isinstance(value, str) else value for name, value in asked.items()}
    with pytest.raises(error):
        bench.predict(**{"source": source, **changes})
    assert not bench.out.exists()


def test_a_source_that_holds_nothing(bench: Bench, tmp_path: Path) -> None:
    write_nifti(tmp_path / "source" / "anything.nii.gz", head().image, head().affine)
    with pytest.raises(DataNotFit):
        bench.predict(tmp_path / "source")


def test_a_full_disk(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> io.BytesIO:
        raise OSError(28, "No space left on device")

    source = dicom(tmp_path / "source")
    monkeypatch.setattr("fedsite.files.os.fsync", full)
    with pytest.raises(CannotWrite):
        bench.predict(source)
    assert [path.name for path in bench.out.iterdir()] == []
