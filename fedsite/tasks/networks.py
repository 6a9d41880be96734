"""The networks that a plan may ask for: torch-free descriptions, their validation, and how each is built.

No network holds batch normalisation: its statistics mix the patients of a batch, so neither a patient's
contribution nor its privacy could be told apart (and a batch of one or two is no statistic). Instance and group
normalisation look at one patient at a time.
"""

import difflib
from collections.abc import Callable, Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

from fedsite.tasks.description import NetworkDescription, OutOfRange, Range, Task

if TYPE_CHECKING:
    from torch import nn

Settings = dict[str, Any]

UNET = NetworkDescription(
    "unet",
    "3D U-Net, strided, with instance normalisation (Cicek et al. 2016; Kerfoot et al. 2019): small, for a CPU",
    {
        "channels": Range(4, 512, (16, 32, 64, 128), length=(2, 6)),
        "num_res_units": Range(0, 4, 0),
        "affine": Range(0, 1, 0),  # 1: the normalisation has weights (FedBN needs some)
    },
)
SEGRESNET = NetworkDescription(
    "segresnet",
    "SegResNet without its autoencoder, with group normalisation (Myronenko 2018): for a GPU",
    {
        "init_filters": Range(8, 64, 16, multiple_of=8),
        "blocks_down": Range(1, 8, (1, 2, 2, 4), length=(2, 6)),
    },
)
SEGRESNET_DS = NetworkDescription(
    "segresnet-ds",
    "SegResNet with deep supervision, with group normalisation (Myronenko et al. 2022, arXiv:2209.10809): for a GPU",
    {
        "init_filters": Range(8, 64, 32, multiple_of=8),
        "blocks_down": Range(1, 8, (1, 2, 2, 4, 4), length=(2, 6)),
        "supervised_scales": Range(1, 4, 3),
    },
)


def validate(task: Task, name: str, settings: Mapping[str, object]) -> Settings:
    """The settings with defaults filled in; raises OutOfRange naming the network, setting or range that is wrong."""
    description = _described(task, name)
    for key in settings:
        if key not in description.settings:
            raise _unknown_setting(description, key)
    return {
        key: _checked(name, key, allowed, settings.get(key, allowed.default))
        for key, allowed in description.settings.items()
    }


def check_patch(task: Task, name: str, settings: Mapping[str, object], patch_voxels: tuple[int, int, int]) -> None:
    """Raises OutOfRange unless a patch of these sides survives the network's halvings.

    Every side must divide evenly at each level, and leave at least two voxels at the deepest one: over a single
    voxel a normalisation has no variance.
    """
    factor = divisor(name, validate(task, name, settings))
    if any(side % factor or side < 2 * factor for side in patch_voxels):
        sides = "x".join(str(side) for side in patch_voxels)
        raise OutOfRange(
            f"local.patch_voxels: {sides} does not fit {name}, which halves a patch down to 1/{factor}.",
            f"Each side must be a multiple of {factor} and at least {2 * factor}.",
        )


def divisor(name: str, settings: Settings) -> int:
    """By how much the network shrinks an image at its deepest level (`settings` as `validate` gives them)."""
    levels: int = len(settings["channels" if name == UNET.name else "blocks_down"])
    return 1 << (levels - 1)


def build(task: Task, name: str, settings: Mapping[str, object], seed: int = 0) -> "nn.Module":
    """The network for the task: [B, inputs, X, Y, Z] to logits [B, outputs, X, Y, Z].

    In training a deeply supervised one gives a list of them, finest scale first, as the losses of tasks take it.

    The same seed gives the same weights; torch's global generators are left as they were.
    Raises OutOfRange as `validate` does.
    """
    import torch

    made_of, arguments = definition(task, name, settings)
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)
        network = made_of(**arguments)
    refuse_batch_normalisation(network)
    return network


def definition(task: Task, name: str, settings: Mapping[str, object]) -> "tuple[type[nn.Module], Settings]":
    """MONAI's class, and what it is made with: all that another program needs. Raises OutOfRange as `validate` does."""
    return _DEFINITIONS[name](len(task.inputs), task.outputs, validate(task, name, settings))


def refuse_batch_normalisation(network: "nn.Module") -> None:
    """Raises OutOfRange when any layer normalises over the batch (SyncBatchNorm and the lazy ones included)."""
    from torch.nn.modules.batchnorm import _BatchNorm

    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm):
            raise OutOfRange(
                f"The network's layer {name or 'itself'} is a {type(module).__name__}: batch normalisation mixes "
                "the patients of a batch, so no patient's contribution can be bounded.",
                "Use instance or group normalisation.",
            )


def _unet(inputs: int, outputs: int, settings: Settings) -> "tuple[type[nn.Module], Settings]":
    from monai.networks.nets.unet import UNet

    channels = settings["channels"]
    return UNet, {
        "spatial_dims": 3,
        "in_channels": inputs,
        "out_channels": outputs,
        "channels": channels,
        "strides": [2] * (len(channels) - 1),
        "num_res_units": settings["num_res_units"],
        "norm": ("instance", {"affine": bool(settings["affine"])}),
    }


def _segresnet(inputs: int, outputs: int, settings: Settings) -> "tuple[type[nn.Module], Settings]":
    from monai.networks.nets.segresnet import SegResNet

    blocks_down = settings["blocks_down"]
    return SegResNet, {
        "spatial_dims": 3,
        "in_channels": inputs,
        "out_channels": outputs,
        "init_filters": settings["init_filters"],
        "blocks_down": blocks_down,
        "blocks_up": [1] * (len(blocks_down) - 1),
        "norm": ("group", {"num_groups": 8}),
    }


def _segresnet_ds(inputs: int, outputs: int, settings: Settings) -> "tuple[type[nn.Module], Settings]":
    from monai.networks.nets.segresnet_ds import SegResNetDS

    return SegResNetDS, {
        "spatial_dims": 3,
        "in_channels": inputs,
        "out_channels": outputs,
        "init_filters": settings["init_filters"],
        "blocks_down": settings["blocks_down"],
        "dsdepth": settings["supervised_scales"],
        "norm": ("group", {"num_groups": 8}),
    }


_DEFINITIONS: dict[str, Callable[[int, int, Settings], "tuple[type[nn.Module], Settings]"]] = {
    UNET.name: _unet,
    SEGRESNET.name: _segresnet,
    SEGRESNET_DS.name: _segresnet_ds,
}


def _described(task: Task, name: str) -> NetworkDescription:
    by_name = {description.name: description for description in task.networks}
    if name not in by_name:
        raise OutOfRange(
            f"network.name: {task.name} has no network {name!r}.",
            f"It has {', '.join(by_name)}.{_nearest(name, by_name)}",
        )
    return by_name[name]


def _unknown_setting(description: NetworkDescription, key: str) -> OutOfRange:
    if "norm" in key.lower():
        return OutOfRange(
            f"network.settings.{key}: the normalisation of {description.name} is fixed. Batch normalisation mixes the "
            "patients of a batch, so no patient's contribution can be bounded.",
            "Leave the setting out.",
        )
    return OutOfRange(
        f"network.settings.{key}: {description.name} has no such setting.",
        f"It has {', '.join(description.settings)}.{_nearest(key, description.settings)}",
    )


def _checked(name: str, key: str, allowed: Range, value: object) -> object:
    """The value in the form that the builders take (a list for a list), or OutOfRange."""
    values = value if isinstance(value, list | tuple) else [value]
    shaped = isinstance(value, list | tuple) == (allowed.length is not None)
    if allowed.length is not None:
        shaped = shaped and allowed.length[0] <= len(values) <= allowed.length[1]
    if not shaped or not all(_in_range(one, allowed) for one in values):
        raise OutOfRange(f"network.settings.{key}: {value} is out of range for {name}.", f"Allowed: {allowed}.")
    return list(values) if allowed.length is not None else value


def _in_range(value: object, allowed: Range) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    if allowed.whole and not (isinstance(value, int) and value % allowed.multiple_of == 0):
        return False
    return allowed.low <= float(value) <= allowed.high


def _nearest(word: str, known: Mapping[str, object]) -> str:
    found = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {found[0]}?" if found else ""
