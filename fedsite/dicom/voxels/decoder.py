"""Decoding in a process of its own, so that a damaged frame ends in an exception and never in the end of fedsite.

Codecs are C and C++. Of 2,000 damaged JPEG lossless frames GDCM aborted on 27 and broke off on 10; others took seconds
and gigabytes. So one child process decodes every compressed frame, with a limit of memory and of time; when it dies or
hangs, the frame is undecodable, and the next frame gets a new child. It writes nothing: what codecs print is dropped.
"""

import atexit
import os
import struct
import subprocess
import sys
import threading
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from fedsite.dicom.voxels.codecs import Stored, Wanted, decode

# A slice takes milliseconds; the largest image that anyone makes takes seconds.
SECONDS = 30
# Address space of the child: its libraries, and a frame of 8192 x 8192 in all the forms that a codec keeps of it.
MEMORY = 4 << 30

_REQUEST, _ANSWER = struct.Struct("<32sLLB"), struct.Struct("<B?")
_REFUSED = b"refused"


class UndecodableFrame(ValueError):
    """The codec refused the frame, died of it, or was too slow."""


class Decoder:
    """The child process, started when it is first needed. For one thread at a time: others wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._owner = 0

    def decode(self, frame: bytes, wanted: Wanted) -> Stored:
        """The stored values of one compressed frame. Raises UndecodableFrame."""
        with self._lock:
            # A child that was ended from outside says nothing of the frame: a second one tells.
            answer = self._answer(frame, wanted) or self._answer(frame, wanted) or _REFUSED
        if answer == _REFUSED:
            raise UndecodableFrame("a frame that its codec does not decode")
        return Stored(memoryview(answer)[_ANSWER.size :], *_ANSWER.unpack_from(answer))

    def close(self) -> None:
        """Ends the child."""
        with self._lock:
            if self._owner == os.getpid():
                self._stop(kill=False)

    def _answer(self, frame: bytes, wanted: Wanted) -> bytes:
        """What the child answers; nothing when it died, a refusal when it took too long."""
        if self._owner != os.getpid():  # a forked process has no part in its parent's child
            self._child = self._connection = None
        if self._child is None or self._connection is None:
            self._connection = self._start()
        try:
            return _ask(self._connection, frame, wanted)
        except (EOFError, OSError) as error:
            self._stop(kill=True)
            return _REFUSED if isinstance(error, TimeoutError) else b""
        except BaseException:  # interrupted: what it still answers would be taken for the next frame
            self._stop(kill=True)
            raise

    def _start(self) -> Connection:
        ours, theirs = Pipe()
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", __spec__.name, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # NumPy's threads are of no use here, and would each take address space.
                env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        self._owner = os.getpid()
        return ours

    def _stop(self, kill: bool) -> None:
        child, connection = self._child, self._connection
        self._child = self._connection = None
        if connection is not None:
            connection.close()  # the child ends at the end of its input
        if child is not None:
            if kill:
                child.kill()
            child.wait()


def _ask(connection: Connection, frame: bytes, wanted: Wanted) -> bytes:
    connection.send_bytes(_REQUEST.pack(wanted.syntax.encode(), wanted.rows, wanted.columns, wanted.bits) + frame)
    if not connection.poll(SECONDS):
        raise TimeoutError
    return connection.recv_bytes()


DECODER = Decoder()
atexit.register(DECODER.close)


def _serve(connection: Connection) -> None:
    """Answers until the other side has gone: the values of each frame, or that it cannot be decoded."""
    while True:
        try:
            request = connection.recv_bytes()
        except EOFError:
            return
        connection.send_bytes(_answer(request))


def _answer(request: bytes) -> bytes:
    syntax, rows, columns, bits = _REQUEST.unpack_from(request)
    wanted = Wanted(syntax.rstrip(b"\0").decode(), rows, columns, bits)
    try:
        stored = decode(request[_REQUEST.size :], wanted)
    except Exception:  # noqa: BLE001 - codecs raise nearly anything, and here it is all the same
        return _REFUSED
    return b"".join((_ANSWER.pack(stored.precision, stored.signed), stored.values))


if __name__ == "__main__":
    import resource
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for the parent, which may want to finish what it does
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _serve(Connection(int(sys.argv[1])))
