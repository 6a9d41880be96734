"""Which devices a site's settings mean, by torch's names for them."""

from fedsite.site.config import TrainingSettings


def every(settings: TrainingSettings) -> tuple[str, ...]:
    """One for each process of a training. Raises ConfigurationError when a GPU is not there."""
    from fedsite.training.devices import choose_devices

    return tuple(str(device) for device in choose_devices(settings.device, settings.devices))


def one(settings: TrainingSettings) -> str:
    """Where a single process computes: the first of them, if any are named. Raises as `every` does."""
    return every(settings)[0] if settings.devices else settings.device
