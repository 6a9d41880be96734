"""What a plan's federated algorithm means at this site: which layers stay, what corrects a gradient, what it costs.

| algorithm | stays at home | without noise | under a private mechanism (noise multiplier above 0) |
| --- | --- | --- | --- |
| fedavg | nothing | | |
| fedprox | nothing | the term pulls towards the global model | it looks at no patient: it costs nothing |
| scaffold | the site's control | made of the released update | the same; a control is as noisy as the updates |
| fedbn, personal | layers | trained here, never sent | frozen: neither trained nor sent |

Under `dp-sgd` what is added to a gradient is added after the noise. Layers that stay at home could be trained under
`gaussian-update` at no price, but not under `dp-sgd`, where every step must start from what is private already. One
rule for both is simpler to promise: under noise nothing is learned here that does not pass the gate. A frozen head is
FedBABU (Oh, Kim and Yun 2022): a site fits its own afterwards.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedsite.errors import ServerBrokeProtocol
from fedsite.tasks import parts, request
from fedsite.tasks.description import Task
from fedsite.tasks.parts import Part
from fedsite.wire import payload
from fedsite.wire.messages import MalformedMessage
from fedsite.wire.plans import DpSgd, FedProx, PersonalLayers, PlanDraft

if TYPE_CHECKING:
    from torch import nn

    from fedsite.training.algorithms import Correction


@dataclass(frozen=True)
class Carried:
    """The files that a round's training knows besides the global model.

    `own` is what this site kept (its control, or layers), `server` the server's control; None where there is none yet.
    The layers that stay at home are written to `layers`.
    """

    own: Path | None = None
    server: Path | None = None
    layers: Path | None = None


NOTHING = Carried()


def check(plan: PlanDraft) -> Task:
    """The plan's task, narrowed to its channels. Raises OutOfRange unless all that it asks for lies within the task."""
    network = plan.network
    task = request.check(
        plan.task, plan.channels, network.name, network.settings, plan.local.patch_voxels, plan.task_digest
    )
    if part := _part(plan):
        parts.check(task, network.name, network.settings, part)
    return task


def at_home(plan: PlanDraft, names: Iterable[str]) -> frozenset[str]:
    """Those of the network's tensors that never travel under this plan, in neither direction."""
    part = _part(plan)
    return parts.of(plan.network.name, part, names) if part else frozenset()


def learns_at_home(plan: PlanDraft) -> bool:
    """Whether this site trains layers that it keeps to itself."""
    return _part(plan) is not None and not plan.privacy.noise_multiplier and plan.local.steps > 0


def frozen(plan: PlanDraft, names: Iterable[str]) -> frozenset[str]:
    """Those of the network's tensors that do not learn here: what the plan leaves out, and under noise what stays."""
    every, part = frozenset(names), plan.local.train
    left_out = frozenset() if part == "all" else every - parts.of(plan.network.name, part, every)
    return left_out | (frozenset() if learns_at_home(plan) else at_home(plan, every))


def reach(plan: PlanDraft) -> float:
    """Steps times learning rate: how far a gradient of one moves the weights in a round (SCAFFOLD's K times eta)."""
    return plan.local.steps * plan.local.learning_rate


def load(network: "nn.Module", plan: PlanDraft, model: Path, own: Path | None) -> None:
    """Brings the global model and this site's own layers into the network, which `networks.build` has just made.

    `own` is the file in which they were kept; without one, and where they are frozen, they stay as built: the same at
    every site. Raises MalformedMessage when a file is no model file, ServerBrokeProtocol unless the model has exactly
    the tensors that travel.
    """
    from fedsite.training import weights

    shared = payload.tensors_of(model)
    kept = at_home(plan, network.state_dict())
    if kept & shared.keys():
        raise ServerBrokeProtocol(
            f"The model holds layers that stay at home under {plan.algorithm_name}.",
            "Tell the coordinator: model 0 is made for this very plan, with fedsite model init.",
        )
    if own is not None and kept:
        layers = payload.tensors_of(own)
    else:
        layers = {name: values for name, values in weights.export(network).items() if name in kept}
    weights.load(network, shared | layers)


def correction(
    network: "nn.Module", plan: PlanDraft, carried: Carried, share: "Correction | None" = None
) -> "Correction | None":
    """What the algorithm adds to each gradient, for a network that holds the global model on its training device.

    `share` gives a network of this shape to all processes of a training (`Group.same`).
    """
    from fedsite.training import algorithms

    if isinstance(plan.algorithm, FedProx):
        return algorithms.proximal(network, plan.algorithm.mu)
    if plan.algorithm == "scaffold":
        own, server = (payload.tensors_of(path) if path else None for path in (carried.own, carried.server))
        return algorithms.controlled(network, own, server, share)
    return None


def check_control(control: Path, model: Path) -> None:
    """Raises ServerBrokeProtocol unless the server's control has the model's form and only finite values."""
    try:
        layout = payload.layout_of(model)
        payload.check_file(control, layout)
        payload.check_finite(control, layout)
    except MalformedMessage as error:
        raise ServerBrokeProtocol(f"The server's control is refused: {error}.", "Tell the coordinator.") from error


def composition(plan: PlanDraft, values: int) -> str:
    """In a sentence, how the algorithm goes together with the plan's privacy mechanism; `values` are released."""
    privacy = plan.privacy
    if plan.algorithm == "scaffold":
        text = "scaffold: the controls are made of released updates alone, nothing more leaves"
        if privacy.noise_multiplier:
            noise = privacy.noise_multiplier * math.sqrt(values)
            if isinstance(privacy, DpSgd):  # a control is a mean over the steps, whose noises are independent
                noise /= privacy.batch_patients * math.sqrt(plan.local.steps)
            text += f"; under this noise a control is at most 1 part signal to {noise:,.3g} parts noise"
        return text
    if isinstance(plan.algorithm, FedProx):
        return f"fedprox, mu {plan.algorithm.mu:g}: the added term looks at no patient and costs nothing"
    if part := _part(plan):
        fate = "frozen under noise" if privacy.noise_multiplier else "trained here"
        return f"{plan.algorithm_name}: the {part} never leaves this site; it is {fate}"
    made = (
        "an update made of clipped and noised steps" if isinstance(privacy, DpSgd) else "the clipped and noised update"
    )
    return f"fedavg: {made} is all that leaves"


def _part(plan: PlanDraft) -> Part | None:
    if isinstance(plan.algorithm, PersonalLayers):
        return plan.algorithm.keep
    return "normalisation" if plan.algorithm == "fedbn" else None
