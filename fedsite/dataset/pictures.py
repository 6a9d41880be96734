"""One picture of a case, as training will see it: the axial slice with most lesion, its mask outlined, as PNG."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedsite.dataset.manifest import Triple

LONGEST_SIDE = 400
OUTLINE = (255, 138, 0)
OUTLINE_PIXELS = 2
_DARK, _BRIGHT = 0.5, 99.7


def axial_png(image: NDArray[np.floating], label: NDArray[np.uint8], spacing_mm: Triple) -> bytes:
    """The first channel of image [C, X, Y, Z] with label [X, Y, Z] (both RAS) outlined.

    Shown radiologically: the patient's right on the left, front on top, with the true ratio of the voxels' sides.
    """
    index = fullest_slice(image[0], label)
    picture = _grey(np.asarray(image[0], np.float32), index)
    size = _size(picture.shape, spacing_mm)
    shown = Image.fromarray(_radiological(picture)).resize(size, Image.Resampling.BICUBIC).convert("RGB")
    mask = Image.fromarray(_radiological((label[:, :, index] > 0).astype(np.uint8) * 255))
    pixels = np.array(shown)
    pixels[_outline(np.asarray(mask.resize(size, Image.Resampling.NEAREST)) > 0)] = OUTLINE
    file = io.BytesIO()
    Image.fromarray(pixels).quantize(128).save(file, "PNG", optimize=True)
    return file.getvalue()


def fullest_slice(image: NDArray[np.floating], label: NDArray[np.uint8]) -> int:
    """The axial slice with most lesion; without a lesion the middle one."""
    area = np.count_nonzero(label, axis=(0, 1))
    return int(np.argmax(area)) if area.any() else image.shape[2] // 2


def _grey(volume: NDArray[np.float32], index: int) -> NDArray[np.uint8]:
    dark, bright = np.percentile(volume, [_DARK, _BRIGHT])
    scaled = (volume[:, :, index] - dark) / max(float(bright - dark), 1e-6)
    return np.asarray(np.clip(scaled, 0, 1) * 255, np.uint8)


def _radiological(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """From [x to the right, y to the front] to rows from the front, columns from the patient's right."""
    return np.ascontiguousarray(plane[::-1, ::-1].T)


def _size(shape: tuple[int, ...], spacing_mm: Triple) -> tuple[int, int]:
    """Width and height in pixels."""
    width, height = shape[0] * spacing_mm[0], shape[1] * spacing_mm[1]
    scale = LONGEST_SIDE / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The two rows of pixels around a region: outside of it, so that a small lesion is not painted over."""
    grown = mask
    for _ in range(OUTLINE_PIXELS):
        padded = np.pad(grown, 1)
        grown = grown | padded[2:, 1:-1] | padded[:-2, 1:-1] | padded[1:-1, 2:] | padded[1:-1, :-2]
    return grown & ~mask
