"""What a task is, without torch: channels, labels, ranges. The server and the command line read this alone."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    apparent diffusion coefficient: found by its type, and brought to 10^-6 mm2/s. `weighting` is what an MR image's
    times make of it, `contrast_agent` whether one was given (None: either will do). In BIDS the suffix says all of
    this, but for the agent (`ce-`). Slices of DICOM images lie at most `max_slice_mm` apart; where they must be
    `axial`, others are taken only if they are thin. An optional image that a study lacks is zeros. `windows` are ranges
    of Hounsfield units: the network gets the image once through each of them.
    """

    name: str
    modality: str
    summary: str
    b_values: tuple[float, float] | None = None
    bids_suffix: str = ""
    preferred_b_value: float = 1000.0
    quantity: Literal["", "adc"] = ""
    weighting: Literal["", "T1", "T2", "FLAIR"] = ""
    contrast_agent: bool | None = None
    max_slice_mm: float | None = None
    axial: bool = False
    optional: bool = False
    windows: tuple[tuple[float, float], ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of what the network gets of this image: its own, or one for each window, such as `ct:0..80`."""
        return tuple(f"{self.name}:{low:g}..{high:g}" for low, high in self.windows) or (self.name,)


@dataclass(frozen=True)
class Region:
    """What one sigmoid output of a network answers: every voxel whose label is one of `values`."""

    name: str
    values: tuple[int, ...]


@dataclass(frozen=True)
class Concept:
    """What a label shows, as a concept of SNOMED CT that DICOM's context group 7151 has: its code and its meaning."""

    code: str
    meaning: str


LESION_OF_BRAIN = Concept("301766008", "Lesion of Brain")


@dataclass(frozen=True)
class Layout:
    """How a public data set names its files, and what its label values mean.

    - "bids": the channels' `bids_suffix` says which images they are; masks end in `label`, or in any of the usual words
      where that is "".
    - "brats": a folder for each patient; `images` gives for each channel the end of its file's name, `label` that of
      the mask's. A hyphen or an underscore parts it from the patient's.
    - "decathlon": `folders` hold images and masks under the same names (or with `_0000` and so on for one file a
      channel, as nnU-Net has it); `images` gives for each channel its index along the fourth axis.

    `label_values` leads from each value that is stored to the task's; 0 is background in both.
    """

    name: str
    kind: Literal["bids", "decathlon", "brats"]
    label_values: Mapping[int, int]
    images: Mapping[str, str | int] = field(default_factory=dict)
    label: str = ""
    folders: tuple[str, str] = ("imagesTr", "labelsTr")


@dataclass(frozen=True)
class Task:
    """What can be learned. `labels` maps the stored value to its meaning, 0 is background.

    `regions`, where there are any, are nested, the widest first, each but the last with one value that the next has
    not; the network answers them with a sigmoid each, and else the labels with a softmax. `preprocessing_version` goes
    up when the preprocessing makes other cases of the same studies: they are made anew. Series that name another part
    of the body are refused ("" takes any); so are reformats, or what was compressed with loss, unless the task allows
    them. `concepts` say what labels are called in a DICOM segmentation; one without is a lesion of the brain. `base`
    names the shipped task that a site's own was derived from, and whose functions it uses.
    """

    name: str
    title: str
    channels: tuple[Channel, ...]
    labels: Mapping[int, str]
    default_spacing_mm: tuple[float, float, float]
    networks: tuple[NetworkDescription, ...]
    regions: tuple[Region, ...] = ()
    concepts: Mapping[int, Concept] = field(default_factory=dict)
    layouts: tuple[Layout, ...] = ()
    default_patch_voxels: tuple[int, int, int] = (96, 96, 96)
    input_states: tuple[Literal["whole-head", "skull-stripped"], ...] = ("whole-head", "skull-stripped")
    preprocessing_version: int = 1
    body_part: Literal["", "HEAD"] = "HEAD"
    allows_lossy: bool = True
    allows_reformats: bool = False
    reference: str = ""
    notes: str = field(default="", repr=False)
    base: str = ""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the network's inputs, in order."""
        return tuple(name for channel in self.channels for name in channel.inputs)

    @property
    def outputs(self) -> int:
        """How many outputs the network has: one for each region, or else for each label, background included."""
        return len(self.regions) or len(self.labels)

    def concept(self, label: int) -> Concept:
        """What a label is called in a DICOM segmentation."""
        return self.concepts.get(label, LESION_OF_BRAIN)

    @property
    def module(self) -> str:
        """The name of the shipped task whose functions (`registry.module`) this one uses."""
        return self.base or self.name

    @property
    def digest(self) -> str:
        """SHA-256 of what decides which cases are made of a study and what is learned from them: no texts, no defaults.

        Two sites that hold the same task under one name have the same one.
        """
        texts = {"summary", "bids_suffix"}
        decisive = {
            "functions": (self.module, self.preprocessing_version),
            "channels": [
                {key: value for key, value in vars(each).items() if key not in texts} for each in self.channels
            ],
            "labels": sorted(self.labels),
            "regions": [(region.name, region.values) for region in self.regions],
            "rules": (self.body_part, self.allows_lossy, self.allows_reformats),
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def narrowed(self, names: Sequence[str]) -> "Task":
        """The task with these channels alone: every required one and any optional ones, in the task's order.

        Raises OutOfRange when they are others.
        """
        kept = tuple(channel for channel in self.channels if not channel.optional or channel.name in names)
        if [channel.name for channel in kept] != list(names):
            known = ", ".join(channel.name + " (optional)" * channel.optional for channel in self.channels)
            raise OutOfRange(f"The plan's channels are not those of {self.name}.", f"They are, in this order: {known}.")
        return replace(self, channels=kept)
