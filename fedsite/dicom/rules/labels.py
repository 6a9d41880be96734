"""Rules of masks: of DICOM label objects, and of the grid that any mask must share with its image."""

from fedsite.dicom.rules.rule import Rule

_DRAW_AGAIN = "Draw or resample the mask on exactly the series that is exported."
_EXPORT_TOGETHER = "Export the label object together with the series that it was drawn on, with the UIDs of both kept."
_REPAIR_CONTOURS = "Export the structure set again with closed contours on the slices of the image."

LABELS = (
    Rule("label-other-grid", "error", "The mask is on another grid than its image: {reason}.", _DRAW_AGAIN),
    Rule(
        "label-grid-rounded",
        "warning",
        "The mask's grid differs from the image's by rounding ({distance:.3f} mm); it was taken as the same.",
        "Nothing to do.",
    ),
    Rule(
        "label-wrong-reference",
        "error",
        "The mask was not drawn on the images of the volume: {reason}.",
        _EXPORT_TOGETHER,
    ),
    Rule(
        "label-other-frame",
        "error",
        "The label object lies in another frame of reference than the image.",
        _EXPORT_TOGETHER,
    ),
    Rule(
        "label-frame-unlike",
        "warning",
        "The structure set names another frame of reference than the image. Each of its contours names a slice of "
        "the image and lies on it, so it was taken.",
        "Nothing to do; some tools write a new frame of reference.",
    ),
    Rule(
        "label-outside-image",
        "error",
        "{count} {what} of the label object reach beyond the image.",
        "See that the series was exported complete, and that the label object belongs to it.",
    ),
    Rule(
        "label-between-slices",
        "error",
        "{count} contour(s) lie between the slices of the image, or across them.",
        _REPAIR_CONTOURS,
    ),
    Rule("label-open-contours", "error", "{count} contour(s) are not closed.", _REPAIR_CONTOURS),
    Rule(
        "label-overlap",
        "error",
        "{what} overlap in {count} voxel(s), and nothing says which of them counts.",
        "Separate them, or leave in only what the task asks for.",
    ),
    Rule(
        "label-parts-unnamed",
        "error",
        "The label object holds {count} segments or structures (numbers {numbers}), and none is called like a label "
        "of the task ({names}).",
        "Call the right one like the task's label, or leave in only that one.",
    ),
    Rule(
        "label-parts-unused",
        "warning",
        "{count} segment(s) or structure(s) of the label object are called like no label of the task and were left "
        "aside (numbers {numbers}).",
        "See that none of them belongs to the lesion.",
    ),
    Rule(
        "label-fractional",
        "warning",
        "The segmentation holds fractions; what is at least half was taken as marked.",
        "Look at the picture.",
    ),
)
