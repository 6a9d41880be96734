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
