"""Masks that come as DICOM: segmentations and structure sets, brought onto the grid of a volume."""
