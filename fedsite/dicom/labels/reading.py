"""Reading a label object onto the grid of the volume that it was drawn on."""

from collections.abc import Mapping, Sequence

import numpy as np

from fedsite.dicom import regrid
from fedsite.dicom.header.values import tolerant_reading
from fedsite.dicom.labels.contours import read_structure_set
from fedsite.dicom.labels.marking import Marked, Target, Unfit, target
from fedsite.dicom.labels.objects import LabelObject, unreadable
from fedsite.dicom.labels.segmentation import read_segmentation
from fedsite.dicom.model import Volume
from fedsite.dicom.source.opening import open_file
from fedsite.errors import DataNotFit, SourceMissing

_READERS = {"segmentation": read_segmentation, "structure-set": read_structure_set}


def read_label(label: LabelObject, drawn_on: Sequence[Volume], names: Mapping[int, str]) -> Marked:
    """What a label object marks, uint8 [column, row, slice] on the grid of the volumes that it was drawn on.

    The volumes lie on one grid; values are the task's labels (`names` by value, without the background). Where the
    volume is resampled, so is the mask: a voxel is marked when at least half of it is.
    Raises DataNotFit when the object is damaged or not made as the standard says, SourceMissing when its file is gone.
    """
    marked = _read(label, target(drawn_on, names))
    plan = drawn_on[0].regrid
    if plan is None:
        return marked
    return Marked(regrid.apply_labels(plan, marked.values), marked.findings)


def _read(label: LabelObject, slices: Target) -> Marked:
    try:
        with tolerant_reading(), open_file(label.path, label.member) as file:
            return _READERS[label.kind](file, slices)
    except Unfit as unfit:
        return Marked(np.zeros(slices.shape, np.uint8), (unfit.problem,))
    except DataNotFit:
        raise
    except FileNotFoundError:
        raise SourceMissing(
            "A file of the source vanished while it was read.", "See that the source is mounted; run the command again."
        ) from None
    except Exception:  # noqa: BLE001 - pydicom and highdicom raise nearly anything on damaged data, and may quote it
        raise unreadable() from None
