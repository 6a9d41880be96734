"""fedsite: the hospital's side of a federation that learns stroke and brain-lesion segmentation."""

from importlib.metadata import version

__version__ = version("fedsite")
