"""Where a training computes, and in which precision."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from fedsite.errors import ConfigurationError, TryAgainLater

ASK_EVERY_SECONDS = 2.0


class DeviceLost(TryAgainLater):
    """A GPU failed in the middle of its work. What was kept is kept."""

    code = "device-lost"


@contextmanager
def told_when_lost(device: torch.device) -> Iterator[None]:
    """What a GPU's failure means, other than that its memory runs out: raises DeviceLost, with CUDA's first line."""
    try:
        yield
    except torch.AcceleratorError as error:
        raise DeviceLost(
            f"{device} failed in the middle of the training: {str(error).partition(chr(10))[0][:200]}.",
            "The next run goes on from the last checkpoint. If it fails again, see nvidia-smi and the kernel's log.",
        ) from error


def choose_device(name: str = "auto") -> torch.device:
    """`auto`: CUDA where there is a device, else the CPU; any other name is torch's own.

    Raises ConfigurationError when CUDA is asked for and there is none.
    """
    there = torch.cuda.is_available()
    device = torch.device(("cuda" if there else "cpu") if name == "auto" else name)
    if device.type == "cuda" and not there:
        raise ConfigurationError(
            "training.device asks for CUDA, and there is none.", "See what nvidia-smi says; or set it to auto or cpu."
        )
    return device


def choose_devices(name: str, numbers: Sequence[int]) -> list[torch.device]:
    """The GPUs of these numbers; on a CPU it is that as often; without numbers, the device of that name.

    Raises ConfigurationError when there is no such GPU.
    """
    device = choose_device(name)
    if not numbers:
        return [device]
    if device.type != "cuda":
        return [device] * len(numbers)
    count = torch.cuda.device_count()
    missing = [number for number in numbers if number >= count]
    if missing:
        raise ConfigurationError(
            f"There is no GPU {missing[0]}: this machine shows {count}, numbered from 0.",
            "Mend training.devices, or --devices; nvidia-smi lists the GPUs.",
        )
    return [torch.device("cuda", number) for number in numbers]


@dataclass(frozen=True)
class Precision:
    """The type in which convolutions compute on a device. float16 needs its gradients scaled: its range is small.

    Micikevicius et al. 2018, Mixed Precision Training, ICLR.
    """

    device_type: str
    dtype: torch.dtype

    @staticmethod
    def of(device: torch.device) -> "Precision":
        """bfloat16 on a GPU that computes in it, float16 on an older one, float32 on the CPU."""
        if device.type != "cuda":
            return Precision(device.type, torch.float32)
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return Precision(device.type, torch.bfloat16 if native else torch.float16)

    @property
    def scaled(self) -> bool:
        """Whether the loss is scaled up before the backward pass."""
        return self.dtype == torch.float16

    @property
    def unscaled(self) -> "Precision":
        """The same, but float32 where the loss would be scaled: with a scale, a step may be left out."""
        return Precision(self.device_type, torch.float32) if self.scaled else self

    def autocast(self) -> torch.autocast:
        """The context of a forward pass."""
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=self.dtype != torch.float32)


def prepare_device(device: torch.device) -> None:
    """Patches have one size, so a GPU may try convolution algorithms once and keep the fastest."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True


class GpuUse:
    """How busy a GPU is and how much memory the training holds there, in words, asked for every few seconds."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._asked = -math.inf
        self._words = ""

    def lately(self) -> str:
        """Nothing on a CPU; the memory alone where the driver does not tell the rest."""
        if self._device.type == "cuda" and time.monotonic() - self._asked > ASK_EVERY_SECONDS:
            self._asked = time.monotonic()
            memory = f"{torch.cuda.max_memory_allocated(self._device) / 1e9:.1f} GB"
            busy = _utilisation(self._device)
            self._words = f"GPU {memory}" if busy is None else f"GPU {busy} % busy, {memory}"
        return self._words


def _utilisation(device: torch.device) -> int | None:
    """The percentage of the last moments in which the GPU computed; None where the driver does not tell (MIG)."""
    from pynvml import NVMLError

    try:
        return torch.cuda.utilization(device)
    except (NVMLError, RuntimeError, ModuleNotFoundError):
        return None
