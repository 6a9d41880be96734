"""fedsite: the hospital's side of a federation that learns stroke and brain-lesion segmentation."""

__version__ = "0.1.0"
