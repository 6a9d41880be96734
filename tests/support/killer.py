"""Runs the fedsite command and sends itself SIGKILL at a named place: `before:STATE`, `after:STATE`, `upload:BYTES`.

`before:released` dies just before the round's state `released` is written, `after:released` just after it is
durable. `upload:50000` dies once so many bytes of the payload have been handed to the connection. `step:2` dies when
so many training steps have been taken, and kept.
"""

import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

from fedsite.site.state import State

KIND, _, PLACE = os.environ["KILL_AT"].partition(":")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_state() -> None:
    original = State.put_round

    def put_round(self: State, federation: str, number: int, state: str, body: dict[str, Any]) -> None:
        if KIND == "before" and state == PLACE:
            die()
        original(self, federation, number, state, body)
        if KIND == "after" and state == PLACE:
            if self._database.in_transaction:
                # The state is durable with its transaction: die at the first moment after the commit.
                global armed
                armed = True
            else:
                die()

    State.put_round = put_round


armed = False


def kill_after_commit() -> None:
    import contextlib

    original = State.transaction

    @contextlib.contextmanager
    def transaction(self: State) -> Iterator[None]:
        with original(self):
            yield
        if armed and not self._database.in_transaction:
            die()

    State.transaction = transaction


def kill_in_upload() -> None:
    from fedsite.wire import transfer

    transfer.BLOCK_BYTES = 1 << 12
    original = transfer._blocks

    def blocks(*args: Any) -> Iterator[bytes]:
        sent = 0
        for block in original(*args):
            yield block
            sent += len(block)
            if sent >= int(PLACE):
                die()

    transfer._blocks = blocks


def kill_in_training() -> None:
    from fedsite.training.checkpoints import Checkpoints

    original = Checkpoints.keep

    def keep(self: Checkpoints, losses: list[float], seconds: float) -> None:
        original(self, losses, seconds)
        if len(losses) == int(PLACE):
            die()

    Checkpoints.keep = keep


if __name__ == "__main__":
    if KIND == "upload":
        kill_in_upload()
    elif KIND == "step":
        kill_in_training()
    else:
        kill_after_commit()
        kill_at_state()
    from fedsite.cli.main import main

    sys.argv[0] = "fedsite"
    main()
