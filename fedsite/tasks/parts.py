"""Which of a network's tensors are its normalisation, its decoder or its head, and which block each belongs to: by
name, so without torch.

A test holds the names to the networks that are really built.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from fedsite.tasks.description import OutOfRange, Task
from fedsite.tasks.networks import SEGRESNET, SEGRESNET_DS, UNET, validate

Part = Literal["normalisation", "decoder", "head"]

# MONAI's U-Net is nested: `model` is (down, (down, (... bottom ...), up), up), and the outermost up gives the labels.
_NAMES: dict[str, dict[Part, str]] = {
    UNET.name: {
        "normalisation": r".*\.N\.",
        "decoder": r"model(\.1\.submodule)*\.2\.",
        "head": r"model\.2\.",
    },
    SEGRESNET.name: {
        "normalisation": r".*\.norm[12]\.|conv_final\.0\.",
        "decoder": r"up_layers\.|up_samples\.|conv_final\.",
        "head": r"conv_final\.",
    },
    SEGRESNET_DS.name: {  # one head for each supervised scale
        "normalisation": r".*\.norm[12]\.",
        "decoder": r"up_layers\.",
        "head": r"up_layers\.\d+\.head\.",
    },
}

# The first pattern that a tensor's name begins with says its block; what it encloses says where the block stands.
_BLOCKS: dict[str, tuple[tuple[str, str], ...]] = {
    UNET.name: (
        (r"model\.2\.", "head"),
        (r"model((?:\.1\.submodule)*)\.0\.", "encoder"),
        (r"model((?:\.1\.submodule)*)\.2\.", "decoder"),
        (r"model(?:\.1\.submodule)+\.(?!\d)", "bottom"),
    ),
    SEGRESNET.name: (
        (r"conv_final\.", "head"),
        (r"convInit\.|down_layers\.(\d+)\.", "encoder"),
        (r"up_(?:layers|samples)\.(\d+)\.", "decoder"),
    ),
    SEGRESNET_DS.name: (
        (r"up_layers\.\d+\.head\.", "head"),
        (r"encoder\.(?:conv_init|layers\.(\d+))\.", "encoder"),
        (r"up_layers\.(\d+)\.", "decoder"),
    ),
}
OTHER = "other"


def check(task: Task, network: str, settings: Mapping[str, object], part: Part) -> None:
    """Raises OutOfRange unless the network has tensors in that part (a normalisation may be without any)."""
    if part == "normalisation" and not validate(task, network, settings).get("affine", 1):
        raise OutOfRange(
            f"The normalisation of this {network} has no weights: there is nothing that could stay at home.",
            "FedBN needs network.settings.affine: 1 there; without it, it would be FedAvg under another name.",
        )


def of(network: str, part: Part, names: Iterable[str]) -> frozenset[str]:
    """Those of a network's tensors (the names of its state dictionary) that belong to the part."""
    pattern = re.compile(_NAMES[network][part])
    return frozenset(name for name in names if pattern.match(name))


def blocks(network: str, names: Iterable[str]) -> dict[str, str]:
    """The block of each tensor, in words: `encoder 1` and on, `bottom`, `decoder 1` and on, `head`.

    Blocks are numbered as an image passes them. A tensor that is none of the network's is in the block `other`.
    """
    places = {name: _place(network, name) for name in names}
    standing = {
        kind: sorted({place for found, place in places.values() if found == kind}) for kind, _ in places.values()
    }
    return {
        name: f"{kind} {standing[kind].index(place) + 1}" if kind in ("encoder", "decoder") else kind
        for name, (kind, place) in places.items()
    }


def _place(network: str, name: str) -> tuple[str, int]:
    """What kind of block a tensor belongs to, and where among its kind that stands."""
    for pattern, kind in _BLOCKS[network]:
        if found := re.match(pattern, name):
            where = (found.groups() or ("",))[0] or ""
            if where.isdigit():
                return kind, int(where)
            depth = where.count("submodule")  # U-Net: its deepest decoder comes first
            return kind, -depth if kind == "decoder" else depth
    return OTHER, 0
