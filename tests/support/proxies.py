"""Forward proxies under test: squid from Debian's package, in the foreground, on a port of its own."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HELPERS = Path("/usr/lib/squid")
LOGIN = ("st-mary", "pass: wörd")


@contextmanager
def squid(*settings: str, port: str = "http_port", files: dict[str, bytes] | None = None) -> Iterator[tuple[int, Path]]:
    """A squid with further `settings`, where {folder} holds `files`; gives its port and its log of requests.

    Without other settings it lets everything through, to any port.
    """
    if shutil.which("squid") is None or not os.access("/usr/sbin/squid", os.X_OK):
        message = "squid is not here (scripts/setup --test-tools)"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # squid gives up root for a user of its own
        for file, content in (files or {}).items():
            (folder / file).write_bytes(content)
        log, number = folder / "requests", free_port()
        log.touch()
        log.chmod(0o666)
        lines = [
            f"{port.partition(' ')[0]} 127.0.0.1:{number} {port.partition(' ')[2]}",
            f"access_log stdio:{log} logformat=squid",
            *("cache_log /dev/null", "pid_filename none", "cache deny all", "shutdown_lifetime 0 seconds"),
            *("pinger_enable off", "connect_timeout 2 seconds", "forward_timeout 2 seconds"),
            *settings,
            "http_access allow all",
        ]
        (folder / "squid.conf").write_text("\n".join(lines).replace("{folder}", str(folder)) + "\n")
        process = subprocess.Popen(
            ["squid", "-N", "-f", str(folder / "squid.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _wait_for(number, process)
            yield number, log
        finally:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        assert process.poll() is None, "squid ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise TimeoutError("squid does not listen")
