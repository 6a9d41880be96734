"""The arithmetic of federated algorithms that server and sites must do alike, since both do it on the released bytes.

Elementwise on arrays of one shape, so it runs on slices of files as on whole tensors. An update is what a site
released: its trained weights minus the global model, clipped and noised.
"""

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Stored = NDArray[np.floating]  # as a file holds them


def next_model(model: Stored, update: Values, momentum: float = 0.0, previous: Stored | None = None) -> Values:
    """FedAvgM (Hsu, Qi and Brown 2019, arXiv:1909.06335): v <- momentum v + update; model <- model + v.

    `update` is the sites' (weighted) mean. The velocity needs no memory of its own: it is what the model moved by in
    the round before, `model - previous`, and zero in a first round (`previous` None).
    """
    moved = model + update
    if previous is not None and momentum:
        moved += momentum * np.subtract(model, previous, dtype=np.float64)
    return moved


def next_moments(
    first: Stored | float, second: Stored | float, update: Values, beta1: float, beta2: float
) -> tuple[Values, Values]:
    """FedAdam's moments (Reddi et al. 2021, algorithm 2): running means of the update and of its square."""
    mean = np.multiply(first, beta1, dtype=np.float64) + (1 - beta1) * update
    square = np.multiply(second, beta2, dtype=np.float64) + (1 - beta2) * update**2
    return mean, square


def adams_model(model: Stored, first: Values, second: Values, learning_rate: float, tau: float) -> Values:
    """FedAdam's step from the moments: model + lr * first / (sqrt(second) + tau)."""
    return model + learning_rate * first / (np.sqrt(second) + tau)


def coordinate_median(ordered: Values) -> Values:
    """The median of each value over the sites; `ordered` has shape [sites, values] and is sorted along axis 0."""
    sites = len(ordered)
    median: Values = (ordered[(sites - 1) // 2] + ordered[sites // 2]) / 2
    return median


def trimmed_mean(ordered: Values, left_out: int) -> Values:
    """The mean of each value over the sites but for the `left_out` largest and smallest (Yin et al. 2018).

    `ordered` has shape [sites, values] and is sorted along axis 0, so that the sites' order does not matter.
    """
    kept = ordered[left_out : len(ordered) - left_out]
    mean: Values = kept.sum(axis=0) / len(kept)
    return mean


def within_norm(norm: float, bound: float) -> float:
    """By what an update of this norm is multiplied to be no longer than `bound` (Sun et al. 2019)."""
    return min(1.0, bound / norm) if norm > 0 else 1.0


def next_control(own: Stored | float, server: Stored | float, update: Values, reach: float) -> Values:
    """A site's control after a round: c_i - c - update / (K lr); SCAFFOLD, option II (Karimireddy et al. 2020).

    `reach` is K lr: steps times learning rate, how far a gradient of one moves the weights. Since the update is the
    released one, the control holds nothing that the server could not work out too.
    """
    return np.subtract(own, server, dtype=np.float64) - update / reach


def next_server_control(
    server: Stored | float, updates: Values, reach: float, *, taking_part: int, known_before: int, known: int
) -> Values:
    """The server's control after a round: the mean of all sites' controls, from the sum of the released updates alone.

    Each of the `taking_part` sites moves its control by -c - update / (K lr); the `known_before` sites that had taken
    part earlier have c as their mean, and who is new brings a control of zero. With all sites known from the start
    this is Karimireddy et al. 2020, algorithm 1, line 17, with N = `known`.
    """
    without_new = np.multiply(server, known_before - taking_part, dtype=np.float64)
    return (without_new - updates / reach) / known
