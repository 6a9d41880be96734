"""A process that does something and sends itself SIGKILL right after the N-th thing of it that lasts.

That is: a file or folder that appeared, was replaced or removed, a record in the state, or a request that the server
has answered (and this site has not yet heard).
"""

import os
import signal
import traceback
from collections.abc import Callable
from typing import Any

from fedsite.site.state import State
from fedsite.wire import transport


def killed(step: int, act: Callable[[], None]) -> bool:
    """Whether it was killed; False: it was done before so much had happened. An error of its own is one of the test."""
    process = os.fork()
    if process == 0:
        _arm(step)
        try:
            act()
        except BaseException:  # noqa: BLE001 - the child must not go on as a test
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(process, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), "its error stands above"
    return code != 0


def _arm(steps: int) -> None:
    left = steps

    def lasting(act: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **named: Any) -> Any:
            nonlocal left
            result = act(*args, **named)
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return counted

    for name in ("mkdir", "replace", "unlink", "rmdir"):
        setattr(os, name, lasting(getattr(os, name)))
    State.append = lasting(State.append)  # type: ignore[method-assign]
    transport.once = lasting(transport.once)
