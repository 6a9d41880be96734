"""Whether what a plan asks for lies within its task: the coordinator asks before it signs, a site before it works."""

from collections.abc import Mapping, Sequence

from fedsite.tasks import networks, registry
from fedsite.tasks.description import OutOfRange, Task


def check(
    task: str,
    channels: Sequence[str],
    network: str,
    settings: Mapping[str, object],
    patch_voxels: tuple[int, int, int],
    digest: str | None = None,
) -> Task:
    """The task of that name, narrowed to these channels.

    Raises OutOfRange unless channels, network, its settings and patch are as it allows, and, where a digest is given,
    the task is the one that was meant.
    """
    known = registry.get(task, OutOfRange)
    if digest not in (None, known.digest):
        raise OutOfRange(
            f"The plan means another {task} than the one that is known here.",
            f"fedsite tasks show {task} says its digest, the plan's begins with {digest[:8]}: hold the same file.",
        )
    asked = known.narrowed(channels)
    networks.check_patch(asked, network, settings, patch_voxels)
    return asked
