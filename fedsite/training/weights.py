"""Between a network's parameters and named NumPy arrays, the form in which a model travels."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedsite.errors import ServerBrokeProtocol


def load(network: nn.Module, tensors: Mapping[str, NDArray[np.floating]]) -> None:
    """Copies a model's tensors into the network (whatever its device).

    Raises ServerBrokeProtocol unless names and shapes are exactly the network's: then the model is none of the
    plan's.
    """
    own = network.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        if name not in own or name not in tensors or tuple(own[name].shape) != tensors[name].shape:
            raise ServerBrokeProtocol(
                f"The model does not fit the plan's network: its tensor {name!r} is missing, unknown or misshapen.",
                "Tell the coordinator: the model file was made for another network.",
            )
    # A copy, since torch does not take read-only memory (the tensors of a file are mapped).
    network.load_state_dict({name: torch.from_numpy(np.array(tensors[name], dtype=np.float32)) for name in own})


def export(network: nn.Module) -> dict[str, NDArray[np.float32]]:
    """The network's tensors by name, float32, in the order of its state dict, as copies on the CPU."""
    return {
        name: np.array(tensor.detach().cpu().numpy(), dtype=np.float32) for name, tensor in network.state_dict().items()
    }
