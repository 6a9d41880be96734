"""Whether what a plan asks for lies within its task: the coordinator asks before it signs, a site before it works."""

from collections.abc import Mapping, Sequence

from fedsite.tasks import networks, registry
from fedsite.tasks.description import OutOfRange, Task


def check(
    task: str, channels: Sequence[str], network: str, settings: Mapping[str, object], patch_voxels: tuple[int, int, int]
) -> Task:
    """The task of that name. Raises OutOfRange unless channels, network, its settings and patch are as it allows."""
    known = registry.get(task, OutOfRange)
    names = [channel.name for channel in known.channels]
    if list(channels) != names:
        raise OutOfRange(
            f"The plan's channels are not those of {known.name}.", f"They are, in this order: {', '.join(names)}."
        )
    networks.check_patch(known, network, settings, patch_voxels)
    return known
