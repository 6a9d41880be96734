"""Other tasks than stroke go the whole way, too: prepared, trained in a round, evaluated, predicted."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
from highdicom.seg import segread
from support.bids_maker import SHAPE, affine_of, head
from support.dicom_maker import names
from support.federation import Server, plan_file
from support.layout_maker import tumour, write_brats
from support.site import Site
from support.study_maker import write_ct

from fedsite.site.policy import NO_PRIVACY_SENTENCE

PATIENTS = 5
BRATS = ("t1n", "t1c", "t2w", "t2f")


def teach(
    server: Server, site: Site, folder: Path, task: str, channels: list[str], spacing: list[float], *order: str
) -> None:
    """Prepares data in `folder` and takes part in a round without noise, whose model must be better afterwards."""
    site.configure(
        paths={"data": str(folder / "data")},
        preparation={"spacing_mm": spacing, "validation_fraction": 0.4},
        policy={"no_privacy": NO_PRIVACY_SENTENCE, "tasks": [task]},
    )
    prepared = site.ok("prepare-data", *order, "--task", task)["data"]
    assert min(prepared["training"], prepared["validation"]) >= 1, "the key and the patients of this test decide"
    plan = plan_file(
        folder,
        task=task,
        channels=channels,
        preparation={"input_state": prepared["input_state"], "spacing_mm": spacing},
        local={"steps": 60, "batch_size": 2, "patch_voxels": [32, 32, 16], "learning_rate": 0.02},
        privacy={"mechanism": "gaussian-update", "clip_norm": 100.0, "noise_multiplier": 0.0},
    )
    site.ok("model", "init", str(plan), "-o", str(folder / "model.safetensors"))
    server.open_series(plan, folder / "model.safetensors")
    untrained = site.ok("train-round", timeout=300)["data"]["evaluation"]["mean_dice"]
    server.close_rounds()
    assert site.ok("evaluate")["data"]["mean_dice"] > untrained + 0.2


def test_glioma_in_the_layout_of_brats(server: Server, site: Site, tmp_path: Path) -> None:
    source = tmp_path / "brats"
    for number in range(PATIENTS):
        write_brats(source, f"BraTS-GLI-{number:05d}-000", tumour(number), BRATS)
    teach(server, site, tmp_path, "brain-tumour-mr", ["t1", "t1c", "t2", "flair"], [4.0, 4.0, 6.0], str(source))

    new = tumour(PATIENTS)
    write_brats(tmp_path / "new", "BraTS-GLI-00099-000", new, BRATS)
    site.ok("predict", str(tmp_path / "new"), "--out", str(tmp_path / "results"))
    (found,) = (tmp_path / "results").glob("*.nii.gz")
    labels = np.asarray(nib.load(found).dataobj)
    assert labels.shape == SHAPE
    assert set(np.unique(labels)) <= {0, 1, 2, 3}
    assert np.logical_and(labels, new.mask).sum() > new.mask.astype(bool).sum() / 2


def test_haemorrhage_on_ct(server: Server, site: Site, tmp_path: Path) -> None:
    source, masks = tmp_path / "export", tmp_path / "labels"
    for number in range(PATIENTS + 1):
        content = replace(head(number), affine=affine_of(SHAPE, (4.0, 4.0, 5.0)))
        place = source / f"{number}" if number < PATIENTS else tmp_path / "new"
        write_ct(place, masks, content, replace(names(), patient=f"PAT-{number}"), seed=number)
    order = (str(source), "--labels", str(masks))
    teach(server, site, tmp_path, "haemorrhage-ct", ["ct"], [4.0, 4.0, 5.0], *order)

    site.ok("predict", str(tmp_path / "new"), "--out", str(tmp_path / "results"))
    (found,) = (tmp_path / "results").glob("*.dcm")
    segmentation = segread(found)
    assert segmentation.SegmentSequence[0].SegmentLabel == "haemorrhage"
    marked = np.count_nonzero(segmentation.get_volume(combine_segments=True).array)
    assert content.mask.sum() / 2 < marked < content.mask.sum() * 2
