"""Model 0: the network of a plan with its first weights, as a file that the server can serve without torch."""

from dataclasses import dataclass
from pathlib import Path

from fedsite.errors import ConfigurationError, DataNotFit
from fedsite.files import sha256_of
from fedsite.jobs.plan import algorithms
from fedsite.tasks import networks
from fedsite.wire.payload import write_model
from fedsite.wire.plans import PlanDraft


@dataclass(frozen=True)
class NewModel:
    """What was written."""

    sha256: str
    bytes: int
    tensors: int
    values: int


def init(draft: PlanDraft, path: Path, seed: int) -> NewModel:
    """Builds the plan's network and writes its weights, in the order of its state dictionary; one seed, one model.

    What stays at home under the plan's algorithm is left out: it never travels.

    Raises OutOfRange when the plan asks for what the task does not allow, DataNotFit when the network holds
    something else than floating-point tensors, ConfigurationError where torch is not installed, CannotWrite.
    """
    asked = draft.network
    task = algorithms.check(draft)
    try:
        network = networks.build(task, asked.name, asked.settings, seed)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"This needs {error.name}, which is not installed here.",
            "Make the model where fedsite is installed whole, and bring the file here.",
        ) from error
    tensors = network.state_dict()
    for name in algorithms.at_home(draft, tensors):
        del tensors[name]
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise DataNotFit(f"The network's {name} holds {tensor.dtype}, which cannot be averaged.")
    layout = write_model(path, {name: tensor.detach().numpy() for name, tensor in tensors.items()})
    return NewModel(sha256_of(path), path.stat().st_size, len(layout.tensors), layout.values)
