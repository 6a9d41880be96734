"""A moving average of a network's weights over its steps, which stands in for the last ones in the end."""

import torch
from torch import nn


class Average:
    """The exponential moving average of the weights that learn: after each step `d` of it and `1 - d` of the new ones.

    d is `decay`, but (1 + t) / (10 + t) after the first few steps t, so that the beginning is soon forgotten. Under
    noise, which it averages out, it is post-processing (De et al. 2022, arXiv:2204.13650, section 3.2).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.followed = 0
        self._learned = {name: one for name, one in network.named_parameters() if one.requires_grad}
        self.weights = {name: one.detach().clone() for name, one in self._learned.items()}

    @torch.no_grad()
    def follow(self) -> None:
        """Takes in the weights of a step."""
        decay = min(self.decay, (1 + self.followed) / (10 + self.followed))
        for name, one in self._learned.items():
            self.weights[name].lerp_(one, 1 - decay)
        self.followed += 1

    @torch.no_grad()
    def load(self, weights: dict[str, torch.Tensor], followed: int) -> None:
        """Goes on from an average that was kept after so many steps."""
        for name, one in self.weights.items():
            one.copy_(weights[name])
        self.followed = followed

    @torch.no_grad()
    def take_over(self) -> None:
        """Gives the network the averaged weights."""
        for name, one in self._learned.items():
            one.copy_(self.weights[name])
