"""Which of a network's tensors are its normalisation, its decoder or its head: by name, so without torch.

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
