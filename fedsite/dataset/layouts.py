"""Which layout a folder of NIfTI files follows, of those that a task declares: told by what lies in it, or named.

BIDS is the Brain Imaging Data Structure (https://bids-specification.readthedocs.io); the others are those of public
data sets: the Medical Segmentation Decathlon (http://medicaldecathlon.com), BraTS (https://www.synapse.org/brats).
"""

from collections.abc import Callable
from pathlib import Path

from fedsite.dataset import layout_source, nifti
from fedsite.errors import DataNotFit, UsageError
from fedsite.tasks import registry
from fedsite.tasks.description import Layout, Task


def choose(source: Path, task: Task, name: str = "") -> Layout | None:
    """The task's layout of that name; without a name, the one that the source follows (None: it follows none).

    Raises UsageError when the task has no such layout or several would do, DataNotFit when the source does not follow
    the one that was named.
    """
    known = ", ".join(layout.name for layout in task.layouts)
    if not name:
        found = [layout for layout in task.layouts if follows(source, layout)]
        if len(found) > 1:
            several = ", ".join(layout.name for layout in found)
            raise UsageError(f"The source can be read in several layouts: {several}.", "Say which with --layout.")
        return found[0] if found else None
    chosen = next((layout for layout in task.layouts if layout.name == name), None)
    if chosen is None:
        raise UsageError(f"The task {task.name} has no layout {name!r}.", f"It has: {known}.")
    if not follows(source, chosen):
        raise DataNotFit(f"The source is not laid out as {name} is.", "Give the folder that the data set came in.")
    return chosen


def of_any_task(source: Path) -> list[Layout]:
    """Every layout of every task that a source follows."""
    declared = [layout for task in registry.names() for layout in registry.get(task).layouts]
    return [
        layout for number, layout in enumerate(declared) if layout not in declared[:number] and follows(source, layout)
    ]


def follows(source: Path, layout: Layout) -> bool:
    """Whether what lies in a source is named as in this layout."""
    return _FOLLOWS[layout.kind](source, layout)


def _bids(source: Path, _layout: Layout) -> bool:
    return any(path.name.startswith("sub-") for path in nifti.find(source))


def _decathlon(source: Path, layout: Layout) -> bool:
    images, masks = (source / folder for folder in layout.folders)
    # A folder called "images" may be anybody's; masks may be elsewhere (--labels), or still to be made.
    described = masks.is_dir() or (source / layout_source.DESCRIPTION).is_file()
    return described and next(nifti.find(images), None) is not None


def _brats(source: Path, layout: Layout) -> bool:
    """Whether one study at least has two images of these names: a single one may be called so by chance."""
    enough = min(2, len(layout.images))
    return any(len(group.images) >= enough for group in layout_source.groups(source, None, layout)[0])


_FOLLOWS: dict[str, Callable[[Path, Layout], bool]] = {"bids": _bids, "decathlon": _decathlon, "brats": _brats}
