"""Whether what a plan asks for lies within its task: the coordinator asks before it signs, a site before it works."""

from collections.abc import Mapping, Sequence

from fedsite.tasks import networks, registry
from fedsite.tasks.description import OutOfRange, Task


def check(
    task: str, channels: Sequence[str], network: str, settings: Mapping[str, object], patch_voxels: tuple[int, int, int]
) -> Task:
    """The task of that name, narrowed to these channels.

    Raises OutOfRange unless channels, network, its settings and patch are as it allows.
    """
    asked = registry.get(task, OutOfRange).narrowed(channels)
    networks.check_patch(asked, network, settings, patch_voxels)
    return asked
