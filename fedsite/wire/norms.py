"""How long an honest update can be: the server admits nothing longer, so no plan may bound it lower."""

import math

from fedsite.wire.plans import DpSgd, PlanDraft

# (1 - beta1) / sqrt(1 - beta2), reached by a gradient after many steps without one (Kingma and Ba 2015, section 2.1).
ADAMS_REACH = (1 - 0.9) / math.sqrt(1 - 0.999)
INT8_STEPS = 127
HALF = 2.0**-11, 2.0**-25
"""Of float16 (IEEE 754 binary16): half a unit in the last place, relatively, and absolutely where it is subnormal."""


def largest_honest_norm(plan: PlanDraft, values: int) -> float:
    """What an honest update's norm stays below as it is sent, but for a chance of about 1e-9.

    C (1 + sigma (sqrt(d) + 6)) where the whole update is noised once. Under dp-sgd it is how far T steps can go. With
    SGD their signals add up, each of at most twice the patients that the plan means, and their noises as a walk at
    random does; a momentum makes each of them count 1 / (1 - momentum) times. Adam moves no value by more than
    `ADAMS_REACH` learning rates a step. SCAFFOLD's controls add what the rounds before have moved.

    Rounding adds to each value at most a step of its tensor's int8 scale, which is 1/127 of the tensor's largest value.
    """
    root = math.sqrt(values)
    norm = _reached(plan, root, root + 6)
    if plan.payload == "int8":
        # The largest of d normal values stays below sqrt(2 ln d) + 6, but for the same chance.
        return norm + root * _reached(plan, 1, math.sqrt(2 * math.log(values)) + 6) / INT8_STEPS
    if plan.payload == "float16":
        return norm * (1 + HALF[0]) + root * HALF[1]
    return norm


def _reached(plan: PlanDraft, root: float, normal: float) -> float:
    """How far an update can reach: in norm, where `root` is the root of the number of values and `normal` the norm of
    so many standard normal values, or in one value, where they are 1 and the largest of such values.
    """
    asked, local = plan.privacy, plan.local
    noise = asked.noise_multiplier * normal
    if not isinstance(asked, DpSgd):
        return asked.clip_norm * (1 + noise)
    if local.optimizer == "adam":
        return ADAMS_REACH * local.learning_rate * local.steps * root
    signal = 2 * local.steps + noise * math.sqrt(local.steps) / asked.batch_patients
    reach = local.learning_rate / (1 - local.momentum) * asked.clip_norm * signal
    return 3 * reach if plan.algorithm == "scaffold" else reach
