"""What stands around the network in a MONAI bundle: a study's images onto the network's grid, and back from it.

A bundle carries this module, and those that it imports, to where there is no fedsite (`jobs.models.bundle`): it
prepares and restores with the very code that prepared what the model has learned from, so that the results are the
same.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from fedsite.dataset.restoring import SourceGrid, to_source_grid
from fedsite.tasks import outputs
from fedsite.tasks.description import Channel, Region, Task
from fedsite.tasks.steps import chain
from fedsite.tasks.steps.padding import padded

Case = dict[str, Any]
_CHAINS = {"mr": chain.mr, "ct": chain.ct}


def described(task: Task) -> dict[str, Any]:
    """What of a task these steps need, as `task_of` takes it: channels, labels, regions."""
    return {
        "channels": [
            {"name": one.name, "modality": one.modality, "quantity": one.quantity, "windows": one.windows}
            for one in task.channels
        ],
        "labels": {str(value): name for value, name in task.labels.items()},
        "regions": [{"name": one.name, "values": one.values} for one in task.regions],
    }


def task_of(
    channels: Sequence[Mapping[str, Any]], labels: Mapping[str, str], regions: Sequence[Mapping[str, Any]]
) -> Task:
    """The task that `described` has described, as far as these steps need it."""
    return Task(
        name="bundled",
        title="",
        channels=tuple(
            Channel(**{**one, "summary": "", "windows": tuple(tuple(pair) for pair in one["windows"])})
            for one in channels
        ),
        labels={int(value): name for value, name in labels.items()},
        default_spacing_mm=(1, 1, 1),
        networks=(),
        regions=tuple(Region(one["name"], tuple(one["values"])) for one in regions),
    )


class Prepare:
    """From `image`, a MetaTensor [channels, i, j, k] as it was stored, to the network's inputs [inputs, X, Y, Z].

    A channel that is zero throughout is a missing one. What `Restore` needs is put beside it, as tensors.
    """

    def __init__(
        self, task: Task, steps: Literal["mr", "ct"], spacing_mm: Sequence[float], patch_voxels: Sequence[int]
    ) -> None:
        x, y, z = spacing_mm
        self._steps = _CHAINS[steps](task, (x, y, z))
        self._patch = (int(patch_voxels[0]), int(patch_voxels[1]), int(patch_voxels[2]))

    def __call__(self, case: Case) -> Case:
        """The case with the inputs in the place of its images."""
        import torch
        from monai.data.meta_tensor import MetaTensor

        image, affine = case["image"].as_tensor().float(), case["image"].affine
        nothing = MetaTensor(torch.zeros_like(image[:1], dtype=torch.uint8), affine=affine)
        prepared = self._steps({"image": MetaTensor(image, affine=affine), "label": nothing})
        # Cases are stored in half precision: the network has seen no other.
        pixels, inside = padded(prepared["image"].as_tensor().half().float(), self._patch)
        return {
            **case,
            "image": MetaTensor(pixels, meta=dict(case["image"].meta)),
            "inside": torch.tensor([[axis.start, axis.stop] for axis in inside]),
            "prepared_affine": torch.as_tensor(prepared["label"].affine),
            "source_affine": torch.as_tensor(affine),
            "source_shape": torch.tensor(image.shape[1:]),
        }


class Restore:
    """From `pred`, the network's logits [outputs, X, Y, Z], to label values [1, i, j, k] on the study's own grid."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def __call__(self, case: Case) -> Case:
        """The case with the labels in the place of the logits."""
        import torch
        from monai.data.meta_tensor import MetaTensor

        logits = torch.as_tensor(case["pred"]).cpu().float()
        x, y, z = (slice(int(start), int(stop)) for start, stop in case["inside"])
        sure = outputs.probabilities(self._task, logits[None])[0][:, x, y, z].contiguous().numpy()
        i, j, k = (int(side) for side in case["source_shape"])
        source = SourceGrid((i, j, k), case["source_affine"].numpy())
        labels = to_source_grid(sure, case["prepared_affine"].numpy(), source, partial(outputs.labels, self._task))
        meta = dict(case["image"].meta) | {"affine": case["source_affine"]}
        return {**case, "pred": MetaTensor(torch.from_numpy(labels[None]), affine=case["source_affine"], meta=meta)}
