"""What federated algorithms add to a site's training: terms of the gradient, and layers that do not learn.

Each function gives a correction: called with the network between the gradient and the optimiser's step, it changes
the gradients in place. Under a private step that is after the noise, where it costs nothing: it looks at weights and
controls, never at a patient. Under `gaussian-update` all of it happens before the whole update is clipped and noised.

References: FedProx is Li et al. 2020 (MLSys), SCAFFOLD Karimireddy et al. 2020 (ICML), FedBN Li et al. 2021 (ICLR),
personal layers Arivazhagan et al. 2019 (FedPer) and, where they are frozen, Oh, Kim and Yun 2022 (FedBABU).
"""

import copy
from collections.abc import Callable, Collection, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Correction = Callable[[nn.Module], None]
Control = Mapping[str, NDArray[np.floating]]


def proximal(network: nn.Module, mu: float) -> Correction:
    """FedProx: the gradient of mu/2 ||w - w_global||^2. The network must hold the global model when this is called."""
    anchors = [parameter.detach().clone() for parameter in network.parameters()]

    @torch.no_grad()
    def correct(trained: nn.Module) -> None:
        for parameter, anchor in zip(trained.parameters(), anchors, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter - anchor, alpha=mu)

    return correct


def controlled(
    network: nn.Module, own: Control | None, server: Control | None, share: Correction | None = None
) -> Correction:
    """SCAFFOLD: every gradient g becomes g - c_i + c. None stands for a control of zero, as in a first round.

    The controls are named as the network's parameters are. Where several processes train one network, `share` brings
    the leader's drift, a module of the network's shape, to all of them.
    """
    drift = copy.deepcopy(network)
    with torch.no_grad():
        for name, parameter in drift.named_parameters():
            difference = _of(server, name, parameter) - _of(own, name, parameter)
            parameter.copy_(torch.from_numpy(difference))
    if share is not None:
        share(drift)

    @torch.no_grad()
    def correct(trained: nn.Module) -> None:
        for parameter, turn in zip(trained.parameters(), drift.parameters(), strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(turn)

    return correct


def freeze(network: nn.Module, names: Collection[str]) -> None:
    """Takes these parameters out of learning; to be called before the optimiser is made."""
    for name, parameter in network.named_parameters():
        if name in names:
            parameter.requires_grad_(False)


def _of(control: Control | None, name: str, parameter: nn.Parameter) -> NDArray[np.float64]:
    return np.zeros(tuple(parameter.shape)) if control is None else np.asarray(control[name], dtype=np.float64)
