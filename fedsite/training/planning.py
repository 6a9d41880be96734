"""How a training lies in memory: on a GPU measured before it begins, on a CPU as scripts/bench_training found."""

import time
from collections.abc import Callable

import torch

from fedsite.training.batches import Batch
from fedsite.training.steps import SupervisedStep

SHARE = 0.9
REPEATS = 3
# Nothing lost with a small U-Net, a fifth of the time won with a larger one, a third and more with SegResNet.
CPU_LAYOUT = torch.channels_last_3d


def plan(step: SupervisedStep, patch: tuple[int, ...], patches: int) -> None:
    """Sets the step's layout and, on a GPU, its micro-batch for batches of so many patches [C, x, y, z].

    Weights stay as they are; what was measured is forgotten. A CPU is not measured: the same training must give the
    same bits again.
    """
    if step.device.type == "cpu":
        step.use_layout(CPU_LAYOUT)
        return
    torch.cuda.empty_cache()
    step.use_layout(faster_layout(step, patch))
    step.micro_batch = fitting(patches, lambda size: _peak(step, patch, size), torch.cuda.mem_get_info(step.device)[0])
    torch.cuda.empty_cache()


def fitting(largest: int, peak: Callable[[int], int], free: int) -> int:
    """The largest micro-batch, at most `largest`, whose `peak(patches)` bytes fit into SHARE of the `free` ones.

    Memory grows evenly with the patches, so two measurements tell; memory that others use is never filled to find out.
    At least 1: whether a single patch fits, its step will tell.
    """
    if largest == 1:
        return 1
    try:
        one, two = peak(1), peak(2)
    except torch.OutOfMemoryError:
        return 1
    return max(1, min(largest, 1 + int((free * SHARE - one) // max(two - one, 1))))


def faster_layout(step: SupervisedStep, patch: tuple[int, ...]) -> torch.memory_format:
    """Channels last where one patch takes less time that way: it depends on GPU, precision and normalisation."""
    seconds = {}
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        try:
            step.use_layout(layout)
            _pass(step, patch, 1)  # the first one chooses algorithms
            started = time.perf_counter()
            for _ in range(REPEATS):
                _pass(step, patch, 1)
            seconds[layout] = time.perf_counter() - started
        except torch.OutOfMemoryError:
            return torch.contiguous_format
    return min(seconds, key=lambda layout: seconds[layout])


def _peak(step: SupervisedStep, patch: tuple[int, ...], size: int) -> int:
    """The bytes that a step of so many patches takes beyond what is held already."""
    held = torch.cuda.memory_allocated(step.device)
    torch.cuda.reset_peak_memory_stats(step.device)
    _pass(step, patch, size)
    # The optimiser's state is made in its first step: at most twice the weights (Adam).
    weights = sum(one.numel() * one.element_size() for one in step.network.parameters() if one.requires_grad)
    return torch.cuda.max_memory_allocated(step.device) - held + 2 * weights


def _pass(step: SupervisedStep, patch: tuple[int, ...], size: int) -> None:
    """Forward and backward over patches of zeros."""
    step.micro_batch = size
    step.gradients(Batch(torch.zeros(size, *patch), torch.zeros(size, 1, *patch[1:], dtype=torch.uint8)))
    step.optimizer.zero_grad()
    if step.device.type == "cuda":
        torch.cuda.synchronize(step.device)
