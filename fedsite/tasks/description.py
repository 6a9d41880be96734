"""What a task is, without torch: channels, labels, ranges. The server and the command line read this alone."""

from dataclasses import dataclass, field
from typing import Literal

from fedsite.errors import FedsiteError


class OutOfRange(FedsiteError):
    """A plan asks a network or a task for a setting that its description does not allow."""

    code = "plan-out-of-range"
    exit_code = 76


@dataclass(frozen=True)
class Range:
    """Inclusive bounds of a number in a network's settings; `length` bounds those of a list of such numbers."""

    low: float
    high: float
    default: int | float | tuple[int, ...]
    whole: bool = True
    length: tuple[int, int] | None = None
    multiple_of: int = 1

    def __str__(self) -> str:
        kind = f"multiples of {self.multiple_of}" if self.multiple_of > 1 else "whole numbers"
        kind = kind if self.whole else "numbers"
        count = "" if self.length is None else f"{self.length[0]} to {self.length[1]} "
        return f"{count}{kind} from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class NetworkDescription:
    """A network by name, and what may be set about it."""

    name: str
    summary: str
    settings: dict[str, Range]


@dataclass(frozen=True)
class Channel:
    """One image of a case. `modality` is DICOM's (0008,0060); b-values in s/mm2 where diffusion decides.

    Of several b-values in the range the one nearest to the preferred one is taken. `quantity` is "adc" for a map of the
    apparent diffusion coefficient: found by its type, and brought to 10^-6 mm2/s.
    """

    name: str
    modality: str
    summary: str
    b_values: tuple[float, float] | None = None
    bids_suffix: str = ""
    preferred_b_value: float = 1000.0
    quantity: Literal["", "adc"] = ""


@dataclass(frozen=True)
class Task:
    """What can be learned. `labels` maps the stored value to its meaning, 0 is background.

    `preprocessing_version` goes up when the preprocessing makes other cases of the same studies: they are made anew.
    Series that name another part of the body are refused ("" takes any); so are reformats, or what was compressed with
    loss, unless the task allows them.
    """

    name: str
    title: str
    channels: tuple[Channel, ...]
    labels: dict[int, str]
    default_spacing_mm: tuple[float, float, float]
    networks: tuple[NetworkDescription, ...]
    input_states: tuple[Literal["whole-head", "skull-stripped"], ...] = ("whole-head", "skull-stripped")
    preprocessing_version: int = 1
    body_part: Literal["", "HEAD"] = "HEAD"
    allows_lossy: bool = True
    allows_reformats: bool = False
    reference: str = ""
    notes: str = field(default="", repr=False)
