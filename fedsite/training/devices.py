"""Where a training computes, and in which precision."""

from dataclasses import dataclass

import torch


def choose_device(name: str = "auto") -> torch.device:
    """`auto`: CUDA where there is a device, else the CPU; any other name is torch's own."""
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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

    def autocast(self) -> torch.autocast:
        """The context of a forward pass."""
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=self.dtype != torch.float32)
