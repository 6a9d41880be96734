"""Studies prepared by the workers of a Dask cluster (https://distributed.dask.org), results as they come.

A worker needs this version of fedsite, and sees source and prepared folder at the same paths, as the same user. It gets
what the headers said of one study, with pseudonyms that were made here: their key stays. What it cannot do it answers
as a value, so that nothing of it lands in a cluster's log.
"""

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fedsite import __version__
from fedsite.dataset import cases
from fedsite.dataset.convert import Result, Settings, Work, prepare_study
from fedsite.dataset.manifest import CaseRecord
from fedsite.dataset.pool import UNDER_WAY
from fedsite.dataset.rules import finding
from fedsite.dataset.studies import exclusion
from fedsite.errors import CannotWrite, ConfigurationError, DataNotFit, SourceMissing, TryAgainLater, UsageError

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_SECONDS = 20
NO_WORKER_SECONDS = 60
LOOK_SECONDS = 2
_KEPT = "Finished studies are kept: see to the cluster, and run the command again."
# A worker may have several threads, but reading DICOM switches pydicom for the whole process.
_ONE_STUDY = threading.Lock()


def run(works: Sequence[Work], settings: Settings, address: str) -> Generator[Result, None, None]:
    """The results as they come. At most two studies a worker are under way, so that memory does not grow.

    A study whose worker ends is given to another; one that ended several is left out, by name. Raises what
    `prepare_study` raises; ConfigurationError where Dask is not installed, or a worker has another fedsite; UsageError
    for an address that is none; TryAgainLater when scheduler or workers are not there, or no longer; CannotWrite when a
    worker's cases are not seen here.
    """
    if not works:
        return
    with _connected(address) as client:
        waiting, running = deque(works), dict["Future", Work]()
        run_id = secrets.token_hex(4)  # results are known to the cluster by their keys
        workers_seen = time.monotonic()
        while waiting or running:
            workers = _workers(client)
            workers_seen = time.monotonic() if workers else workers_seen
            if time.monotonic() - workers_seen > NO_WORKER_SECONDS:
                raise TryAgainLater("The Dask cluster has no worker.", _KEPT)
            if not running and not workers:
                time.sleep(LOOK_SECONDS)
            for _ in range(min(len(waiting), UNDER_WAY * workers - len(running))):
                work = waiting.popleft()
                key = f"prepare-{run_id}-{work.study.id}"
                running[client.submit(prepare_there, __version__, work, settings, key=key, pure=False)] = work
            for future in _done(running) if running else ():
                yield _result(future, running.pop(future), settings)


def prepare_there(version: str, work: Work, settings: Settings) -> Result | Exception:
    """What a worker does: `prepare_study`, one at a time; its exception is a result like others."""
    import torch

    try:
        if version != __version__:
            raise ConfigurationError(
                f"A worker of the Dask cluster has fedsite {__version__}, this machine {version}.",
                "Install the same version everywhere: what is prepared may differ.",
            )
        with _ONE_STUDY:
            torch.set_num_threads(1)
            return prepare_study(work, settings)
    except Exception as error:  # noqa: BLE001 - whatever it is, `prepare` raises it on the machine that asked
        return error


@contextmanager
def _connected(address: str) -> "Iterator[Client]":
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"--dask needs {error.name}, which is not installed here.", "Install fedsite with its extra: fedsite[dask]."
        ) from error
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what happens is said here
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (ValueError, TypeError) as error:
        raise UsageError(
            "The address of --dask is none, or its certificates are missing.",
            "Give it as tcp://HOST:PORT or tls://HOST:PORT; Dask's configuration (distributed.comm.tls) names the "
            "certificates.",
        ) from error
    except (OSError, RuntimeError) as error:  # a TimeoutError too
        raise TryAgainLater(
            "The Dask scheduler cannot be reached.", "See that it runs, and that --dask says its address."
        ) from error
    try:
        yield client
    finally:
        client.close()


def _workers(client: "Client") -> int:
    with _heard():
        return len(client.nthreads())


def _done(running: "dict[Future, Work]") -> "list[Future]":
    """Those that are done; none after a while, since workers may have come or gone meanwhile."""
    from distributed import wait

    with _heard():
        try:
            return list(wait(list(running), timeout=LOOK_SECONDS, return_when="FIRST_COMPLETED").done)
        except TimeoutError:
            return []


def _result(future: "Future", work: Work, settings: Settings) -> Result:
    from distributed import KilledWorker

    with _heard():
        try:
            result: Result | Exception = future.result()
        except KilledWorker:
            lost = finding("worker-lost", work.study.id)
            return Result(exclusion(work.study.id, work.study.patient, [lost], work.fingerprint))
    if isinstance(result, Exception):
        raise result
    if settings.out and isinstance(result.outcome, CaseRecord):
        _require_here(settings.out / result.outcome.file)
    return result


def _require_here(path: Path) -> None:
    """Raises CannotWrite when a case that a worker stored is not seen here: it has written somewhere else."""
    try:
        cases.open_case(path)
    except (SourceMissing, DataNotFit, OSError) as error:
        raise CannotWrite(
            "A worker of the Dask cluster stored a case that is not seen from here.",
            "The prepared folder (--out) must be one for all, at the same path, and the workers run as this user.",
        ) from error


@contextmanager
def _heard() -> Iterator[None]:
    """What Dask raises where its scheduler is gone, or has forgotten what it was asked for, as one error."""
    try:
        yield
    except (CancelledError, OSError, RuntimeError) as error:
        raise TryAgainLater("The Dask scheduler is gone.", _KEPT) from error
