"""Segmenting a whole image with a network that was trained on patches."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedsite.training.sampling import Sides


def segment(
    network: nn.Module, image: NDArray[np.floating], patch_voxels: Sides, device: torch.device, overlap: float = 0.25
) -> NDArray[np.uint8]:
    """The most probable label of every voxel: image [C, X, Y, Z] to uint8 [X, Y, Z].

    Windows of `patch_voxels` slide over the image, overlap by this fraction and are averaged with a Gaussian
    weight, since a network sees least at a window's edge. An image smaller than the window is padded with its
    darkest value, as in training. The network's mode (training or evaluation) is left as it was.
    """
    from monai.inferers.utils import sliding_window_inference

    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32))[None].to(device)
    was_training = network.training
    network.eval()
    try:
        with (
            torch.inference_mode(),
            torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"),
        ):
            logits = sliding_window_inference(
                pixels,
                roi_size=patch_voxels,
                sw_batch_size=2,
                predictor=lambda window: network(window).float(),  # overlapping windows are averaged in full precision
                overlap=overlap,
                mode="gaussian",
                cval=float(pixels.min()),
            )
    finally:
        network.train(was_training)
    labels: NDArray[np.uint8] = logits[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
    return labels
