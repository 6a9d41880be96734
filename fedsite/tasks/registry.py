"""The tasks that this fedsite knows: every module of this package with a `DESCRIPTION` is one.

Adding a task means adding one module with what `TaskModule` names; no list is edited.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, cast

import fedsite.tasks
from fedsite.errors import FedsiteError, UsageError
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
    """The known tasks in alphabetical order."""
    return sorted(_modules())


def get(name: str, error: type[FedsiteError] = UsageError) -> Task:
    """The description of a task; raises `error` (OutOfRange where a plan asks) with the nearest name."""
    return module(name, error).DESCRIPTION


def module(name: str, error: type[FedsiteError] = UsageError) -> TaskModule:
    """The module of a task, for its functions; raises as `get` does."""
    known = _modules()
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        mend = f"Did you mean {nearest[0]}?" if nearest else f"Known tasks: {', '.join(sorted(known))}."
        raise error(f"There is no task {name!r}.", f"{mend} `fedsite tasks list` shows them all.")
    return known[name]


@cache
def _modules() -> dict[str, TaskModule]:
    found = {}
    for entry in pkgutil.iter_modules(fedsite.tasks.__path__, prefix="fedsite.tasks."):
        one = importlib.import_module(entry.name)
        if isinstance(getattr(one, "DESCRIPTION", None), Task):
            task = cast(TaskModule, one)
            found[task.DESCRIPTION.name] = task
    return found
