"""`fedsite model bundle`: a model as a MONAI bundle, which runs where there is MONAI and no fedsite.

    FOLDER/
      configs/metadata.json     what the model is and takes, after MONAI's schema; its lineage under `fedsite`
      configs/inference.json    how it is run: python -m monai.bundle run --config_file configs/inference.json
      models/model.pt           the weights, as the specification demands: a state dictionary that torch loads without
                                running code (weights_only)
      scripts/                  the modules of fedsite's own that prepare a study and bring the result back
      docs/                     how to use it; licence

The specification: https://docs.monai.io/en/stable/mb_specification.html. The weights are read from safetensors, never
from a pickle. Nothing in a bundle was measured on patients, and it names no site.
"""

import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedsite import __version__
from fedsite.errors import ConfigurationError, DataNotFit, ServerBrokeProtocol, UsageError
from fedsite.files import cannot_write, make_folder, write_atomically
from fedsite.jobs.plan import algorithms
from fedsite.tasks import networks, registry
from fedsite.tasks.description import Task
from fedsite.wire import payload
from fedsite.wire.plans import PlanDraft

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
CARRIED = (
    "errors.py",
    "dataset/__init__.py",
    "dataset/bundled.py",
    "dataset/restoring.py",
    "tasks/__init__.py",
    "tasks/description.py",
    "tasks/outputs.py",
    "tasks/steps/__init__.py",
    "tasks/steps/chain.py",
    "tasks/steps/grid.py",
    "tasks/steps/hounsfield.py",
    "tasks/steps/intensity.py",
    "tasks/steps/padding.py",
)
"""Modules that a bundle holds: `dataset.bundled`, and all that it imports of fedsite's."""

_TESTED_IGNITE = "0.5.5"


@dataclass(frozen=True)
class Source:
    """What a bundle is made of: the model's file, its plan, and where it comes from as `reports.model_report` says."""

    model: Path
    plan: PlanDraft
    lineage: Mapping[str, Any]


def write(folder: Path, source: Source) -> None:
    """Makes the bundle in a new folder: all of it, or nothing.

    Raises UsageError when the folder exists, or the plan's algorithm leaves a part of the network at each site,
    OutOfRange when the plan asks for what its task does not allow, DataNotFit when the model is of another network,
    ConfigurationError where torch is not installed, CannotWrite.
    """
    if folder.exists():
        raise UsageError(f"{folder} exists.", "Name a new folder: it is called as the model is to be.")
    task = algorithms.check(source.plan)
    files = _files(source, task)
    draft = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        for name, content in files.items():
            make_folder((draft / name).parent)
            write_atomically(draft / name, content)
        draft.rename(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _files(source: Source, task: Task) -> dict[str, bytes]:
    try:
        weights, network = _weights(source, task), _network(source.plan, task)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"This needs {error.name}, which is not installed here.",
            "Export the model (fedsite model export), or make the bundle where fedsite is installed whole.",
        ) from error
    texts = {
        "configs/metadata.json": json.dumps(_metadata(source, task), indent=2),
        "configs/inference.json": json.dumps(_inference(source.plan, task, network), indent=2),
        "docs/README.md": _readme(source, task),
        "docs/license.txt": _LICENCE,
        "scripts/__init__.py": "",
        **{f"scripts/{name}": _carried(name) for name in CARRIED},
    }
    return {"models/model.pt": weights} | {name: text.encode() for name, text in texts.items()}


def _weights(source: Source, task: Task) -> bytes:
    """The state dictionary, once it has been loaded into the plan's network."""
    import torch

    from fedsite.training import weights

    network = networks.build(task, source.plan.network.name, source.plan.network.settings)
    if algorithms.at_home(source.plan, network.state_dict()):
        raise UsageError(
            f"Under {source.plan.algorithm_name} a part of the network stays at each site: this model is not whole.",
            "A site has the rest: fedsite predict uses both.",
        )
    try:
        weights.load(network, payload.tensors_of(source.model))
    except ServerBrokeProtocol as error:
        raise DataNotFit(error.message, "Is it a model of this plan?") from None
    content = io.BytesIO()
    torch.save(network.state_dict(), content)
    return content.getvalue()


def _network(plan: PlanDraft, task: Task) -> dict[str, Any]:
    made_of, arguments = networks.definition(task, plan.network.name, plan.network.settings)
    return {"_target_": f"{made_of.__module__}.{made_of.__qualname__}", **arguments}


def _carried(name: str) -> str:
    """A module of fedsite's as it is, but that it finds its fellows within the bundle."""
    text = resources.files("fedsite").joinpath(name).read_text(encoding="utf-8")
    return f"# From fedsite {__version__}, Apache-2.0.\n{text.replace('from fedsite.', 'from scripts.')}"


def _inference(plan: PlanDraft, task: Task, network: Mapping[str, Any]) -> dict[str, Any]:
    """The workflow in MONAI's configuration language: what is the plan's own, then what is the same for each."""
    from fedsite.dataset.bundled import described
    from fedsite.training.inference import OVERLAP, WINDOWS_AT_ONCE

    own = {
        "images": [channel.name for channel in task.channels],
        "task": {"_target_": "scripts.dataset.bundled.task_of", **described(task)},
        "network_def": dict(network),
        "steps": registry.module(task.module).preprocessing.__name__,
        "spacing_mm": list(plan.preparation.spacing_mm),
        "patch_voxels": list(plan.local.patch_voxels),
        "overlap": OVERLAP,
        "windows_at_once": WINDOWS_AT_ONCE,
    }
    common: dict[str, Any] = json.loads(
        resources.files("fedsite.jobs.models").joinpath("templates/inference.json").read_text()
    )
    return own | common


def _metadata(source: Source, task: Task) -> dict[str, Any]:
    plan, lineage = source.plan, source.lineage
    sites = f"the sites of the federation {plan.federation}"
    return {
        "schema": SCHEMA,
        "version": f"0.{lineage['round'] or 0}.0",
        "changelog": {f"0.{lineage['round'] or 0}.0": "as the federation's round of this number has made it"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {
            "nibabel": version("nibabel"),
            "pytorch-ignite": _TESTED_IGNITE,
            "scipy": version("scipy"),
        },
        "supported_apps": {},
        "name": plan.plan,
        "task": task.title,
        "description": f"{task.title}. Learned by {sites}, whose scans have not left them.",
        "authors": sites,
        "copyright": sites,
        "data_source": "not public",
        "data_type": "nibabel",
        "image_classes": f"{task.channels[0].modality}: {', '.join(task.inputs)}",
        "label_classes": _meanings(task),
        "pred_classes": ", ".join(_outputs(task)),
        "eval_metrics": {},  # no metric measured on patients leaves a site
        "intended_use": "Research only: not fit for the care of a patient.",
        "references": [task.reference] if task.reference else [],
        "network_data_format": _data_format(plan, task),
        "fedsite": {
            "version": __version__,
            "federation": plan.federation,
            "task_digest": task.digest,
            "spacing_mm": list(plan.preparation.spacing_mm),
            "input_state": plan.preparation.input_state,
            "model_sha256": lineage["sha256"],
            **{name: lineage[name] for name in ("round", "plan_sha256", "ticket_sha256", "from_sha256")},
            "updates_sha256": [one["update_sha256"] for one in (lineage["made_in"] or {"took_part": []})["took_part"]],
        },
    }


def _data_format(plan: PlanDraft, task: Task) -> dict[str, Any]:
    modality = task.channels[0].modality
    image = {"type": "image", "format": "hounsfield" if modality == "CT" else "magnitude", "modality": modality}
    pred = {"type": "image", "format": "classes" if task.regions else "labels"}
    return {
        "inputs": {"image": image | _tensor(plan, task.inputs)},
        "outputs": {"pred": pred | _tensor(plan, _outputs(task))},
    }


def _outputs(task: Task) -> tuple[str, ...]:
    return tuple(region.name for region in task.regions) or tuple(task.labels.values())


def _tensor(plan: PlanDraft, names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "num_channels": len(names),
        "spatial_shape": list(plan.local.patch_voxels),
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": {str(index): name for index, name in enumerate(names)},
    }


def _readme(source: Source, task: Task) -> str:
    first, *others = [f"{channel.name}.nii.gz" for channel in task.channels]
    optional = [f"{channel.name}.nii.gz" for channel in task.channels if channel.optional]
    rest = f", and on the same grid {', '.join(others)}" if others else ""
    scaled = "".join(f" {one.name} is in 10^-6 mm2/s." for one in task.channels if one.quantity == "adc")
    missing = f" For {' or '.join(optional)}, where a study has none, zeros on that grid." if optional else ""
    return f"""# {source.plan.plan}

{task.title}. **For research only: not fit for the care of a patient.**

Each study is a folder below `data/`: {first}{rest}.{missing}
Images are {source.plan.preparation.input_state}, as they came: not resampled, not normalised.{scaled}

```
pip install 'monai[fire,ignite,nibabel]>={version("monai")}' scipy
python -m monai.bundle run --config_file configs/inference.json --dataset_dir data --output_dir eval
```

The result is `eval/STUDY/{task.channels[0].name}_seg.nii.gz`, on the grid of the first image: {_meanings(task)}.

`configs/metadata.json` says under `fedsite` which plan, round and updates the model comes from. No measure of its
quality is given: none that was taken on patients leaves a site.
"""


def _meanings(task: Task) -> str:
    return ", ".join(f"{value} {name}" for value, name in task.labels.items())


_LICENCE = """The code in scripts/ is fedsite's: Apache License 2.0, https://www.apache.org/licenses/LICENSE-2.0.
The weights in models/ belong to whom the federation's members have agreed.
"""
