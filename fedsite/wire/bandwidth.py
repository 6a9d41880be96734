"""How fast bytes get from a site to the server: measured by sending some that the server throws away."""

import secrets
import time
from collections.abc import Callable

PROBE = "/v1/probe"
MAX_PROBE_BYTES = 4 << 20
LONG_ENOUGH_SECONDS = 1.0
_FIRST_BYTES = 64 << 10


def upload_rate(send: Callable[[bytes], object], clock: Callable[[], float] = time.monotonic) -> float:
    """Bytes a second, once the line stands. `send` returns when its bytes have been answered.

    Begins small and takes four times as much until it takes a second, so that a slow line is not blocked; the bytes are
    random, since some networks compress.
    """

    def seconds(content: bytes) -> float:
        began = clock()
        send(content)
        return clock() - began

    seconds(b"")  # handshakes are none of the bandwidth's business
    empty, size = seconds(b""), _FIRST_BYTES
    while True:
        taken = seconds(secrets.token_bytes(size))
        if taken >= LONG_ENOUGH_SECONDS or size == MAX_PROBE_BYTES:
            return size / max(taken - empty, 1e-3)
        size = min(4 * size, MAX_PROBE_BYTES)
