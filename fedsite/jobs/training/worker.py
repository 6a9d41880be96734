"""One of the processes that train side by side: it computes what it is told, and knows nothing of its site.

It is told paths and plain settings: no key, no ledger, no state. On this machine `jobs.training.launch` starts it. On
each further machine torch's own launcher does, `torchrun ... -m fedsite.jobs.training.worker`; there it gets settings
and weights from the first machine, and needs only the prepared data, at the same path.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from fedsite.dataset import manifest as manifests
from fedsite.errors import DataNotFit, FedsiteError
from fedsite.files import sha256_of
from fedsite.jobs import tasks
from fedsite.jobs.plan import algorithms
from fedsite.jobs.plan.algorithms import Carried
from fedsite.jobs.progress import Progress, silent
from fedsite.jobs.training import local_work
from fedsite.jobs.training.local_work import DEFAULT_MEANS, Means, PreparedData
from fedsite.site.config import SiteConfig
from fedsite.wire.plans import Plan

if TYPE_CHECKING:
    import torch

    from fedsite.training.distributed import Group

# A process that was left alone waits so long before it ends: then the launcher has seen which one died first.
LINGER_SECONDS = 10.0


class Task(BaseModel):
    """What is to be trained: all that a worker is told.

    `data_sha256` is that of the manifest in the prepared folder `data`; `own_tasks` are the files of the site's own.
    Under dp-sgd a patient is in a step with chance `sampling_rate`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: Plan
    seed: int
    model: Path
    destination: Path
    data: Path | None = None
    data_sha256: str = ""
    carried: Carried = algorithms.NOTHING
    means: Means = DEFAULT_MEANS
    own_tasks: tuple[Path, ...] = ()
    sampling_rate: float = 1.0

    @staticmethod
    def of(
        config: SiteConfig,
        plan: Plan,
        seed: int,
        model: Path,
        data: PreparedData | None,
        carried: Carried,
        destination: Path,
        sampling_rate: float,
    ) -> "Task":
        """A round's training at this site; without data nothing is trained."""
        return Task(
            plan=plan,
            seed=seed,
            model=model,
            destination=destination,
            data=data.folder if data else None,
            data_sha256=data.sha256 if data else "",
            carried=carried,
            means=Means.of(config),
            own_tasks=tuple(config.paths.tasks),
            sampling_rate=sampling_rate,
        )

    def to_bytes(self) -> bytes:
        """The task as JSON."""
        return self.model_dump_json().encode()


@dataclass(frozen=True)
class Broken:
    """A failure that is none of fedsite's own errors: its kind, and where it came up. Its text may hold a path."""

    kind: str
    place: str


def work(meeting: str, devices: Sequence[str], local: bool, task: bytes, voice: Connection) -> None:
    """A worker that `jobs.training.launch` started. Through `voice` it tells progress (the leader) and what went wrong.

    Where all processes are on this machine (`local`), they only talk over its loopback interface.
    """
    import torch
    from torch import distributed

    from fedsite.dataset.pool import end_with_parent

    # Ctrl-C reaches every process of the terminal: it ends this one at once, also in the middle of a kernel.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // len(devices)))
    if local:
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.putenv(variable, "lo")  # for the C++ libraries, which take it from nowhere else

    def progress(done: int, total: int, note: str = "") -> None:
        voice.send((done, total, note))

    try:
        device = torch.device(devices[distributed.get_node_local_rank()])
        voice.send(_in_group(meeting, device, task, progress))
    except FedsiteError as error:
        voice.send(error)
        sys.exit(error.exit_code)
    except Exception as error:  # noqa: BLE001 - whatever it is, its text stays here
        voice.send(_broken(error))
        time.sleep(LINGER_SECONDS)
        sys.exit(1)


def train(task: Task, device: str, progress: Progress, group: "Group | None" = None) -> dict[str, Any] | None:
    """Trains, alone or as one of a group; gives what the training was. Raises as `local_work.train` does."""
    tasks.add_own(task.own_tasks)
    return local_work.train(
        task.plan,
        task.seed,
        task.model,
        _prepared(task.data, task.data_sha256) if task.data else None,
        device,
        task.destination,
        progress,
        group,
        task.carried,
        task.means,
        task.sampling_rate,
    )


def _prepared(folder: Path, sha256: str) -> PreparedData:
    """Raises DataNotFit when the folder's manifest is another one than when the training began."""
    data = PreparedData(folder, manifests.load(folder), sha256_of(folder / manifests.FILE_NAME))
    if data.sha256 != sha256:
        raise DataNotFit(
            "The prepared data are not those that the training began with.",
            "Let every machine see the same prepared folder, and do not prepare while a round is trained.",
        )
    return data


def _in_group(meeting: str, device: "torch.device", content: bytes, progress: Progress) -> dict[str, Any] | None:
    """What the training was, from the leader; nothing from the others, who took the same steps."""
    from fedsite.training import distributed

    with distributed.joined(meeting, device) as group:
        task = Task.model_validate_json(distributed.tell(content, device))
        record = train(task, str(device), progress if group.leads else silent, group)
        return record if group.leads else None


def _broken(error: Exception) -> Broken:
    """The innermost line of fedsite's own that the error passed through."""
    place, frame = "", error.__traceback__
    while frame is not None:
        module = frame.tb_frame.f_globals.get("__name__", "")
        if module.startswith("fedsite."):
            place = f"{module}:{frame.tb_lineno}"
        frame = frame.tb_next
    return Broken(type(error).__name__, place)


def main() -> None:
    """A worker on a further machine, started by torchrun."""
    import torch
    from torch import distributed

    from fedsite.training.devices import choose_device

    device = choose_device()
    if device.type == "cuda":
        device = torch.device("cuda", distributed.get_node_local_rank())
    try:
        _in_group("env://", device, b"", silent)
    except FedsiteError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
