"""Reading a label object onto the grid of the volume that it was drawn on."""

import numpy as np

from fedsite.dicom.contours import read_structure_set
from fedsite.dicom.label_objects import LabelObject, unreadable
from fedsite.dicom.marking import Marked, Target, Unfit
from fedsite.dicom.opening import open_file
from fedsite.dicom.segmentation import read_segmentation
from fedsite.dicom.values import tolerant_reading
from fedsite.errors import DataNotFit, SourceMissing

_READERS = {"segmentation": read_segmentation, "structure-set": read_structure_set}


def read_label(label: LabelObject, target: Target) -> Marked:
    """The voxels that a label object marks, with the task's labels as values, and what was found wrong.

    Raises DataNotFit when it is damaged or not made as the standard says, SourceMissing when its file is gone.
    """
    try:
        with tolerant_reading(), open_file(label.path, label.member) as file:
            return _READERS[label.kind](file, target)
    except Unfit as unfit:
        return Marked(np.zeros(target.shape, np.uint8), (unfit.problem,))
    except DataNotFit:
        raise
    except FileNotFoundError:
        raise SourceMissing(
            "A file of the source vanished while it was read.", "See that the source is mounted; run the command again."
        ) from None
    except Exception:  # noqa: BLE001 - pydicom and highdicom raise nearly anything on damaged data, and may quote it
        raise unreadable() from None
