"""The real stroke case of ISLES'22 the whole way: prepared as BIDS, learned by heart in rounds of one site, evaluated
and predicted on the grid that its mask was drawn on; then predicted as DICOM, whose segmentation highdicom reads back.

Every step is the installed command against a real server. A model that has seen one patient alone says nothing of
others; what is asked is that nothing gets lost between scan and segmentation. Needs the test data.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from bench_rows import Row, compare, main, reach
from highdicom.seg import segread
from rich.console import Console
from support.dicom_maker import Grid, classic, names, write
from support.federation import Server, plan_file, running
from support.site import Site

from fedsite.dataset import manifest
from fedsite.site.policy import NO_PRIVACY_SENTENCE

CASE = Path("labels_isles22") / "strokecase0009"
CHANNELS = ["dwi"]
SPACING_MM = [2.0, 2.0, 2.0]
ROUNDS, STEPS = 3, 700
QUICK_ROUNDS, QUICK_STEPS = 1, 20
ASKED_DICE = 0.85
LOCAL = {"batch_size": 2, "patch_voxels": [40, 40, 40], "learning_rate": 0.005, "schedule": "cosine"}
LOCAL |= {"foreground_fraction": 0.7}
# Full resolution from the first layer on: most of this patient's eighteen lesions have fewer than ten voxels.
NETWORK = {"name": "segresnet", "settings": {"init_filters": 8, "blocks_down": [1, 1, 1]}}
LONG = 3600

console = Console(highlight=False)


def measure(quick: bool) -> list[Row]:
    """The rows; quickly, nothing is learned and no Dice is asked for."""
    data = Path(os.environ.get("FEDSITE_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    bids = data / CASE
    if not bids.is_dir():
        sys.exit(f"{bids} is not there: set FEDSITE_TEST_DATA to the folder of the real cases.")
    with tempfile.TemporaryDirectory() as scratch, running(Path(scratch) / "server") as server:
        folder = Path(scratch)
        site = Site(folder / "site")
        site.init(preparation={"validation_fraction": 0.0, "spacing_mm": SPACING_MM})
        site.configure(policy={"no_privacy": NO_PRIVACY_SENTENCE})
        site.enroll(server.invite("site-a"))
        site.ok("prepare-data", str(bids), "--task", "stroke-dwi", timeout=LONG)
        learn_by_heart(server, site, folder, *((QUICK_ROUNDS, QUICK_STEPS) if quick else (ROUNDS, STEPS)))
        return [*of_dice(site, bids, folder, quick), of_segmentation(site, bids, folder)]


def learn_by_heart(server: Server, site: Site, folder: Path, rounds: int, steps: int) -> None:
    """A series of rounds in which everything leaves as it is: who learns by heart has no privacy to lose."""
    plan = plan_file(
        folder,
        channels=CHANNELS,
        preparation={"input_state": "skull-stripped", "spacing_mm": SPACING_MM},
        network=NETWORK,
        local=LOCAL | {"steps": steps},
        # An update is cut to a grid of a millionth of the clip norm: with a much larger one little of it would be left.
        privacy={"mechanism": "gaussian-update", "clip_norm": 100.0, "noise_multiplier": 0.0},
        rounds={"quorum": 1, "enough": 1, "deadline_seconds": LONG},
    )
    site.ok("model", "init", str(plan), "-o", str(folder / "model.safetensors"))
    first = server.open_series(plan, folder / "model.safetensors", rounds)
    for number in range(first, first + rounds):
        told = site.ok("train-round", timeout=LONG)["data"]
        console.print(f"round {number}: {told['steps']} steps")
        server.wait_for(number, "aggregated")


def of_dice(site: Site, bids: Path, folder: Path, quick: bool) -> Iterator[Row]:
    """How well the model knows its one patient, beside what the prepared grid allows."""
    asked = 0.0 if quick else ASKED_DICE
    (case,) = site.ok("evaluate", "--training-cases", timeout=LONG)["data"]["cases"]
    (prepared,) = manifest.load(site.data).of_split("training")
    assert prepared.dice_ceiling is not None
    yield compare("ceiling: the mask itself, prepared and back", prepared.dice_ceiling, "Dice", "itself", 1.0)
    yield reach("fedsite evaluate, source grid", case["dice"], "Dice", "asked", asked)

    site.ok("predict", str(bids), "--out", str(folder / "nifti"), timeout=LONG)
    found = volume_of(next((folder / "nifti").glob("*.nii.gz"))) > 0
    mask = volume_of(next(bids.rglob("*_msk.nii.gz"))) > 0
    yield reach("fedsite predict, NIfTI", dice(found, mask), "Dice", "asked", asked)


def of_segmentation(site: Site, bids: Path, folder: Path) -> Row:
    """The same scan as DICOM: whether the segmentation, read by highdicom, has the voxels of the NIfTI result."""
    image = nib.load(next(bids.rglob("*_dwi.nii.gz")))
    write_dicom(folder / "dicom", np.asarray(image.dataobj, np.float64), image.affine)
    for form, options in (("seg", ()), ("labels", ("--nifti",))):
        site.ok("predict", str(folder / "dicom"), "--out", str(folder / form), *options, timeout=LONG)
    marked = segread(next((folder / "seg").glob("*.dcm"))).get_volume(combine_segments=True)
    labels = nib.load(next((folder / "labels").glob("*.nii.gz")))
    patient = np.diag([-1.0, -1.0, 1.0, 1.0]) @ marked.affine  # DICOM's axes run the other way
    voxels = np.argwhere(marked.array) @ patient[:3, :3].T + patient[:3, 3]
    inverse = np.linalg.inv(labels.affine)
    read_back = {tuple(one) for one in np.rint(voxels @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)}
    written = {tuple(one) for one in np.argwhere(np.asarray(labels.dataobj))}
    differing, voxels_in_all = len(read_back ^ written), max(1, len(written))
    return compare("DICOM SEG and NIfTI: voxels that differ", differing, "voxels", "the result", voxels_in_all, 0.0)


def write_dicom(folder: Path, image: np.ndarray, affine: np.ndarray) -> None:
    """A NIfTI volume (RAS, mm) as a series of trace images."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    if np.linalg.det(lps[:3, :3]) < 0:  # rows and columns of DICOM and the normal of its slices are right-handed
        image = image[:, ::-1]
        lps = lps @ np.array([[1, 0, 0, 0], [0, -1, 0, image.shape[1] - 1], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    row, column, _ = (lps[:3, :3] / sizes).T
    grid = Grid(*image.shape, row, column, sizes[1], sizes[0], sizes[2], lps[:3, 3])
    slope = image.max() / 4095
    stored = np.rint(image / slope).astype(np.uint16).transpose(2, 1, 0)
    diffusion = {"DiffusionBValue": 1000.0, "DiffusionDirectionality": "ISOTROPIC"}
    scale = {"RescaleSlope": f"{slope:.10g}", "RescaleIntercept": "0"}
    write(
        folder, classic("MR", grid, stored, names(), ImageType=["DERIVED", "PRIMARY", "TRACEW"], **diffusion, **scale)
    )


def volume_of(path: Path) -> np.ndarray:
    """The voxels of a NIfTI file."""
    return np.asarray(nib.load(path).dataobj)


def dice(found: np.ndarray, mask: np.ndarray) -> float:
    """Of two boolean arrays of one shape."""
    return float(2 * (found & mask).sum() / max(1, found.sum() + mask.sum()))


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
