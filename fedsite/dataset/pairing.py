"""Which mask belongs to which image of a DICOM export: by a declared naming rule, never by guessing.

A mask file's name, without a trailing word such as `_mask` or `-lesion`, equals one of the image's keys:
SeriesInstanceUID, StudyInstanceUID, AccessionNumber or PatientID.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fedsite.dataset import nifti

_TRAILING_WORD = re.compile(r"[-_. ](?:mask|msk|labels?|lesions?|seg|segmentation|roi)$", re.IGNORECASE)


class Keyed(Protocol):
    """An image with its pseudonym and the identifiers that a mask may be named after (never written anywhere)."""

    @property
    def id(self) -> str:
        """The pseudonym."""
        ...

    @property
    def keys(self) -> frozenset[str]:
        """The identifiers."""
        ...


@dataclass(frozen=True)
class Pairing:
    """The masks of each image (by its pseudonym), and how many belong to none.

    `contested` gives, for an image whose mask fits others too, all those that it fits.
    """

    masks: dict[str, list[Path]] = field(repr=False)
    contested: dict[str, frozenset[str]]
    unpaired: int


def pair(masks: Iterable[Path], images: Sequence[Keyed]) -> Pairing:
    """Pairs masks with images by the rule above. What fits several images is given to all of them as contested."""
    paired: dict[str, list[Path]] = {}
    contested: dict[str, frozenset[str]] = {}
    unpaired = 0
    for mask in masks:
        names = possible_names(nifti.stem(mask))
        fitting = [image.id for image in images if not names.isdisjoint(image.keys)]
        for image in fitting:
            paired.setdefault(image, []).append(mask)
        if len(fitting) > 1:
            contested |= dict.fromkeys(fitting, frozenset(fitting))
        unpaired += not fitting
    return Pairing(paired, contested, unpaired)


def possible_names(stem: str) -> frozenset[str]:
    """A file's stem, and what remains of it as its trailing words are taken off one by one."""
    names = {stem}
    while shorter := _TRAILING_WORD.sub("", stem):
        if shorter == stem:
            break
        names.add(shorter)
        stem = shorter
    return frozenset(names)
