"""The tasks that this fedsite knows: every module of this package with a `DESCRIPTION` is one.

Adding a task means adding one module with what `TaskModule` names; no list is edited. A site's own tasks (`local`) are
told to the registry by whoever starts, each time.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, cast

import fedsite.tasks
from fedsite.errors import ConfigurationError, FedsiteError, UsageError
from fedsite.tasks.description import Task

if TYPE_CHECKING:
    import torch


class TaskModule(Protocol):
    """What a task's module holds. Importing it must not import torch or monai; its functions may."""

    DESCRIPTION: Task

    def preprocessing(
        self, task: Task, spacing_mm: tuple[float, float, float]
    ) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """A MONAI Compose from a study on its own grid to a case on the task's: keys `image`, `label`.

        Both are channel-first MetaTensors with an affine (RAS, mm): image [channels, i, j, k] to [inputs, X, Y, Z],
        label [1, i, j, k] to [1, X, Y, Z]. `task` is DESCRIPTION, narrowed, or one derived from it. A channel that is
        zero throughout is a missing one, and stays so.
        """
        ...

    def loss(self) -> "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]":
        """From logits [B, outputs, X, Y, Z] and label values [B, 1, X, Y, Z] to a scalar, a mean over patients."""
        ...


def names() -> list[str]:
    """The known tasks in alphabetical order, the site's own among them."""
    return sorted({*_modules(), *_local})


def get(name: str, error: type[FedsiteError] = UsageError) -> Task:
    """The description of a task; raises `error` (OutOfRange where a plan asks) with the nearest name."""
    return _local[name] if name in _local else module(name, error).DESCRIPTION


def module(name: str, error: type[FedsiteError] = UsageError) -> TaskModule:
    """The functions of a task, those of its base for a site's own; raises as `get` does."""
    known = _modules()
    shipped = _local[name].module if name in _local else name
    if shipped not in known:
        nearest = difflib.get_close_matches(name, names(), n=1)
        mend = f"Did you mean {nearest[0]}?" if nearest else f"Known tasks: {', '.join(names())}."
        raise error(f"There is no task {name!r}.", f"{mend} `fedsite tasks list` shows them all.")
    return known[shipped]


def add(task: Task) -> None:
    """Makes a site's own task known in this process. Raises ConfigurationError where its name is another's."""
    if task.name in _modules() or _local.get(task.name, task) != task:
        raise ConfigurationError(
            f"There is another task {task.name!r}.", "Give the site's own task a name of its own, in its file."
        )
    _local[task.name] = task


_local: dict[str, Task] = {}


@cache
def _modules() -> dict[str, TaskModule]:
    found = {}
    for entry in pkgutil.iter_modules(fedsite.tasks.__path__, prefix="fedsite.tasks."):
        one = importlib.import_module(entry.name)
        if isinstance(getattr(one, "DESCRIPTION", None), Task):
            task = cast(TaskModule, one)
            found[task.DESCRIPTION.name] = task
    return found
