"""What kind of object a file holds, by its SOP class (PS3.4 table B.5-1): the modality text cannot be trusted."""

from pydicom import uid

_IMAGES: dict[str, str] = {
    uid.CTImageStorage: "CT",
    uid.EnhancedCTImageStorage: "CT",
    uid.LegacyConvertedEnhancedCTImageStorage: "CT",
    uid.MRImageStorage: "MR",
    uid.EnhancedMRImageStorage: "MR",
    uid.LegacyConvertedEnhancedMRImageStorage: "MR",
}

_STORAGE = "1.2.840.10008.5.1.4.1.1."

# Families of SOP classes: root, how the inventory calls the object, the rule that refuses it.
_FAMILIES = (
    ("7", "SC", "secondary-capture"),
    ("11", "PR", "presentation-state"),
    ("66.4", "SEG", "segmentation"),
    ("66.5", "SEG", "segmentation"),
    ("66.7", "SEG", "segmentation"),
    ("66.8", "SEG", "segmentation"),
    ("66", "RAW", "raw-data"),
    ("88", "SR", "structured-report"),
    ("481", "RT", "radiotherapy-object"),
    ("4.3", "MR", "colour"),
)


def classify(sop_class: str) -> tuple[str, str]:
    """What an object is called, and the id of the rule that refuses it ("" for CT and MR images)."""
    if modality := _IMAGES.get(sop_class):
        return modality, ""
    for root, modality, rule in _FAMILIES:
        if f"{sop_class}.".startswith(f"{_STORAGE}{root}."):
            return modality, rule
    return "OT", "not-ct-or-mr"
