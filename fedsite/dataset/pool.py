"""Studies prepared one after the other in this process, or side by side in several. Memory is bounded either way."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for

from fedsite.dataset.convert import Result, Settings, Work, prepare_study
from fedsite.errors import TryAgainLater

UNDER_WAY = 2
IMPORTED_ONCE = ("torch", "monai.transforms", "fedsite.dataset.convert", "fedsite.dicom.voxels.reading")


def run(works: Sequence[Work], settings: Settings, workers: int) -> Generator[Result, None, None]:
    """The results as they come. At most two studies a worker are under way, so that memory does not grow.

    Raises what `prepare_study` raises, and TryAgainLater when the system ends a worker.
    """
    if workers <= 1 or len(works) <= 1:
        yield from (prepare_study(work, settings) for work in works)
        return
    waiting = iter(works)
    running: set[Future[Result]] = set()
    # Not fork: torch's threads would not survive it. Not spawn: every worker would import torch and MONAI anew, which
    # takes as long as several studies. The fork server imports them once, and nothing has run in it yet.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED_ONCE))
    pool = ProcessPoolExecutor(min(workers, len(works)), context, initializer=_start_worker)
    try:
        while True:
            while len(running) < UNDER_WAY * workers and (work := next(waiting, None)) is not None:
                running.add(pool.submit(prepare_study, work, settings))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            failed = next((future for future in done if future.exception()), None)
            if failed:
                # What others finish meanwhile is not lost: it is given before the failure is.
                done |= wait(future for future in running if not future.cancel()).done
            yield from (future.result() for future in done if not future.exception())
            if failed:
                failed.result()
    except BrokenProcessPool:
        raise TryAgainLater(
            "The system ended a worker process, most likely for want of memory.",
            "Run the command again with fewer --workers; finished studies are kept.",
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """One thread a worker; the parent decides about Ctrl-C; and no worker outlives a parent that was killed."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """Ends this process once the one that started it is gone, however that ended: for a thread of its own."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for([parent.sentinel])
    os._exit(1)
