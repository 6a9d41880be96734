"""Segmenting a whole image with a network that was trained on patches."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedsite.tasks import outputs
from fedsite.tasks.description import Task
from fedsite.tasks.steps.padding import padded
from fedsite.training.devices import Precision
from fedsite.training.sampling import Sides

OVERLAP = 0.25
WINDOWS_AT_ONCE = 2
# Of a device's free memory, what a whole image may take; a larger one is put together on the CPU.
_SHARE_OF_DEVICE = 0.25
_FLOAT_BYTES = 4

Probabilities = NDArray[np.float32]


def probabilities(
    network: nn.Module,
    task: Task,
    image: NDArray[np.floating],
    patch_voxels: Sides,
    device: torch.device,
    overlap: float = OVERLAP,
) -> Probabilities:
    """How sure the network is of each of the task's outputs: image [C, X, Y, Z] to float32 [outputs, X, Y, Z].

    Windows of `patch_voxels` slide over the image, overlap by this fraction and are averaged with a Gaussian weight,
    since a network sees least at a window's edge. Only windows need to fit into the device's memory: an image that is
    large for it stays on the CPU, and is put together there. An image smaller than the window is padded with the
    darkest value of each channel, as in training. The network's mode (training or evaluation) is left as it was.
    """
    from monai.inferers.utils import sliding_window_inference

    pixels, inside = padded(torch.from_numpy(np.asarray(image, dtype=np.float32)), patch_voxels)
    where = _where_to_stitch(pixels, task.outputs, device)
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode(), Precision.of(device).autocast():
            logits = sliding_window_inference(
                pixels[None].to(where),
                roi_size=patch_voxels,
                sw_batch_size=WINDOWS_AT_ONCE,
                predictor=lambda window: network(window).float(),  # overlapping windows are averaged in full precision
                overlap=overlap,
                mode="gaussian",
                sw_device=device,
                device=where,
            )
            sure = outputs.probabilities(task, logits)[0]
    finally:
        network.train(was_training)
    found: Probabilities = sure[:, *inside].cpu().numpy()
    return found


def segment(
    network: nn.Module,
    task: Task,
    image: NDArray[np.floating],
    patch_voxels: Sides,
    device: torch.device,
    overlap: float = OVERLAP,
) -> NDArray[np.uint8]:
    """The label value of every voxel: image [C, X, Y, Z] to uint8 [X, Y, Z]."""
    return outputs.labels(task, probabilities(network, task, image, patch_voxels, device, overlap))


def _where_to_stitch(pixels: torch.Tensor, count: int, device: torch.device) -> torch.device:
    """The device itself where the image, its outputs (twice, while they are weighed) and the weights fit well."""
    if device.type != "cuda":
        return device
    needed = pixels[0].numel() * (len(pixels) + 2 * count + 1) * _FLOAT_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    return device if needed < _SHARE_OF_DEVICE * free else torch.device("cpu")
