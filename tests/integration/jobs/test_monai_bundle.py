"""A federation's model as a MONAI bundle: MONAI runs it, without fedsite, and finds what fedsite finds."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle.properties import InferProperties, MetaProperties
from monai.bundle.utils import ID_SEP_KEY
from support.federation import make, plan_file
from typer.testing import CliRunner

from fedsite.cli import model as cli
from fedsite.cli.output import Output
from fedsite.dataset import convert
from fedsite.dataset.loading import Loaded
from fedsite.dataset.restoring import SourceGrid
from fedsite.errors import DataNotFit, UsageError
from fedsite.files import sha256_of
from fedsite.jobs.models import bundle, choice, initial
from fedsite.jobs.models.evaluate import Segmenter
from fedsite.server.federation import Federation
from fedsite.server.rounds import series
from fedsite.tasks import registry
from fedsite.wire import payload
from fedsite.wire.plans import PlanDraft, read_draft

TURNED = np.array([[-1.2, 0.1, 0, 40], [0.1, 1.2, 0.2, -30], [0, -0.2, 4.0, -20], [0, 0, 0, 1]])
# fedsite cannot be imported; what remains is MONAI's own command.
WITHOUT_FEDSITE = (
    "import runpy, sys; sys.modules['fedsite'] = None; sys.argv[0] = 'monai.bundle'; "
    "runpy.run_module('monai.bundle', run_name='__main__', alter_sys=True)"
)
LINEAGE = {
    "sha256": "0" * 64, "round": None, "plan_sha256": None, "ticket_sha256": None, "from_sha256": None, "made_in": None,
}  # fmt: skip
# What meta_schema_20240725.json requires, and the specification besides.
REQUIRED = (
    "schema version changelog monai_version pytorch_version numpy_version required_packages_version task description"
    " authors copyright network_data_format"
)


def study(shape: tuple[int, int, int], channels: int, seed: int) -> np.ndarray:
    """A bright ball in air, and in it some brighter spots."""
    random = np.random.default_rng(seed)
    grid = np.indices(shape).transpose(1, 2, 3, 0) / shape - 0.5
    head = (np.linalg.norm(grid, axis=-1) < 0.45) * 500.0
    images = [head * random.uniform(0.8, 1.2, shape) + random.uniform(0, 20, shape) for _ in range(channels)]
    return np.stack(images).astype(np.float32)


def put(folder: Path, image: np.ndarray, names: list[str]) -> None:
    """A study as a bundle wants it."""
    folder.mkdir(parents=True)
    for name, values in zip(names, image, strict=True):
        nib.save(nib.Nifti1Image(values, TURNED), folder / f"{name}.nii.gz")


def found_here(plan: PlanDraft, weights: Path, image: np.ndarray) -> np.ndarray:
    """What fedsite finds in a study: as `fedsite predict` does it."""
    chosen = choice.Model(weights, sha256_of(weights), plan, "file")
    task = choice.task_of(chosen)
    loaded = Loaded(image, np.zeros(image.shape[1:], np.uint8), TURNED, plan.preparation.input_state)
    content = convert.preprocess(loaded, task, plan.preparation.spacing_mm)
    segmenter = Segmenter.of(chosen, "cpu")
    _, labels = segmenter(content.image, content.affine, SourceGrid(image.shape[1:], TURNED))
    return labels


def run(folder: Path) -> None:
    """MONAI's own command, in the bundle's folder."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_FEDSITE, "run", "--config_file", "configs/inference.json"],
        cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Federation, Path, PlanDraft]]:
    """With a model that was brought, and a round that began from it."""
    folder = tmp_path_factory.mktemp("bundle")
    made = make(folder / "federation")
    network = {"name": "unet", "settings": {"channels": [4, 8, 16]}}
    path = plan_file(folder, network=network, channels=["dwi", "adc"], local={"steps": 1, "patch_voxels": [32, 32, 32]})
    plan = read_draft(path)
    weights = folder / "model.safetensors"
    initial.init(plan, weights, seed=5)
    series.open_series(made, plan, weights, 1)
    yield made, weights, plan
    made.database.close()


@pytest.fixture(scope="module")
def made(federation: tuple[Federation, Path, PlanDraft]) -> Path:
    """A bundle, not to be changed."""
    opened, weights, plan = federation
    bundle.write(opened.folder.parent / "made", bundle.Source(weights, plan, LINEAGE))
    return opened.folder.parent / "made"


def test_monai_finds_what_fedsite_finds(federation: tuple[Federation, Path, PlanDraft], tmp_path: Path) -> None:
    opened, weights, plan = federation
    folder, digest = tmp_path / "stroke-model", sha256_of(weights)
    words = ["bundle", digest[:12], "--output", str(folder), "--dir", str(opened.folder)]
    done = CliRunner().invoke(cli.app, words, obj=Output(as_json=True), catch_exceptions=False)
    assert json.loads(done.stdout)["data"] == {"path": str(folder), "sha256": digest}
    images = {"large": study((40, 44, 14), 2, 1), "small": study((20, 22, 5), 2, 2)}
    images["small"][1] = 0  # the ADC is optional: zeros stand for it
    for name, image in images.items():
        put(folder / "data" / name, image, ["dwi", "adc"])
    run(folder)
    for name, image in images.items():
        result = nib.load(folder / "eval" / name / "dwi_seg.nii.gz")
        found = np.asarray(result.dataobj)
        assert found.dtype == np.uint8
        assert np.allclose(result.affine, TURNED, atol=1e-5)
        expected = found_here(plan, weights, image)
        assert np.array_equal(found, expected), name
        assert 0.01 < expected.mean() < 0.99, "a picture of one colour would prove nothing"


def test_its_metadata_is_what_the_specification_asks_for(
    federation: tuple[Federation, Path, PlanDraft], made: Path
) -> None:
    metadata: dict[str, Any] = json.loads((made / "configs" / "metadata.json").read_text())
    assert set(REQUIRED.split()) <= metadata.keys()
    structured = {"changelog", "required_packages_version", "network_data_format"}
    assert all(isinstance(metadata[name], str) for name in set(REQUIRED.split()) - structured)
    image, pred = (metadata["network_data_format"][one] for one in ("inputs", "outputs"))
    for one in (image["image"], pred["pred"]):
        assert {
            "type",
            "format",
            "num_channels",
            "spatial_shape",
            "dtype",
            "value_range",
            "is_patch_data",
        } <= one.keys()
        assert len(one["channel_def"]) == one["num_channels"]
    assert image["image"]["channel_def"] == {"0": "dwi", "1": "adc"}
    assert pred["pred"]["channel_def"] == {"0": "background", "1": "lesion"}
    assert metadata["eval_metrics"] == {}, "no metric measured on patients leaves a site"
    stored = torch.load(made / "models" / "model.pt", weights_only=True)
    tensors = payload.tensors_of(federation[1])
    assert stored.keys() == tensors.keys()
    assert all(np.array_equal(stored[name].numpy(), tensors[name]) for name in tensors)


def test_monai_knows_every_part_by_its_name(made: Path) -> None:
    """What MONAI's tools ask a bundle for: every required property of an inference workflow."""
    read = {name: json.loads((made / "configs" / f"{name}.json").read_text()) for name in ("inference", "metadata")}
    everything = {**read["inference"], "_meta_": read["metadata"]}
    for name, about in {**InferProperties, **MetaProperties}.items():
        part: Any = everything
        for step in about["id"].split(ID_SEP_KEY) if about["required"] else ():
            assert step in part, (name, about["id"])
            part = part[step]


@pytest.mark.parametrize("name", registry.names())
def test_every_task_can_be_bundled(name: str, tmp_path: Path) -> None:
    """What a bundle rebuilds of a task decides as the task does."""
    from fedsite.dataset import bundled

    task = registry.get(name)
    again = bundled.task_of(**json.loads(json.dumps(bundled.described(task))))
    assert (again.inputs, again.outputs, again.regions) == (task.inputs, task.outputs, task.regions)
    assert dict(again.labels) == dict(task.labels)
    assert [one.quantity for one in again.channels] == [one.quantity for one in task.channels]
    assert registry.module(name).preprocessing is bundled._CHAINS[registry.module(name).preprocessing.__name__]


def test_the_modules_that_are_carried_need_no_others() -> None:
    for name in bundle.CARRIED:
        for line in bundle._carried(name).splitlines():
            if line.strip().startswith(("from scripts.", "from fedsite", "import fedsite")):
                module = line.split()[1].removeprefix("scripts.").replace(".", "/")
                names = [one.strip() for one in line.partition(" import ")[2].split(",")]
                known = f"{module}.py" in bundle.CARRIED
                assert known or all(f"{module}/{one}.py" in bundle.CARRIED for one in names), line


def test_what_is_not_whole_is_not_bundled(tmp_path: Path) -> None:
    plan = read_draft(
        plan_file(
            tmp_path, algorithm={"name": "personal", "keep": "head"}, local={"steps": 1, "patch_voxels": [32] * 3}
        )
    )
    weights = tmp_path / "model"
    initial.init(plan, weights, seed=0)
    with pytest.raises(UsageError, match="not whole"):
        bundle.write(tmp_path / "made", bundle.Source(weights, plan, LINEAGE))
    whole = read_draft(plan_file(tmp_path))
    with pytest.raises(DataNotFit, match="does not fit"):
        bundle.write(tmp_path / "made", bundle.Source(weights, whole, LINEAGE))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "plan.yaml"]
    (tmp_path / "made").mkdir()
    with pytest.raises(UsageError, match="exists"):
        bundle.write(tmp_path / "made", bundle.Source(weights, whole, LINEAGE))
