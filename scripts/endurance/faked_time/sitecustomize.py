"""For processes under libfaketime: Python's sleep waits for an absolute time, which its 0.9.10 answers with EINVAL."""

import threading
import time
from typing import SupportsFloat, SupportsIndex


def _sleep(seconds: SupportsFloat | SupportsIndex) -> None:
    threading.Event().wait(float(seconds))


time.sleep = _sleep
