"""Runs the fedsite command and sends itself SIGKILL right after the N-th thing that lasts: `KILL_AT=step:N`.

That is: a file or folder that appeared, was replaced or removed, a record in the state, or a request that the server
has answered (and this site has not yet heard). A number that is not reached lets the command finish.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from fedsite.site.state import State
from fedsite.wire import transport

left = int(os.environ["KILL_AT"].partition(":")[2])


def lasting(act: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*args: Any, **named: Any) -> Any:
        global left
        result = act(*args, **named)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return counted


if __name__ == "__main__":
    for name in ("mkdir", "replace", "unlink", "rmdir"):
        setattr(os, name, lasting(getattr(os, name)))
    State.append = lasting(State.append)
    transport.once = lasting(transport.once)
    from fedsite.cli.main import main

    sys.argv[0] = "fedsite"
    main()
