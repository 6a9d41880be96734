"""Forward proxies under test: squid from Debian's package, in the foreground, on a port of its own."""

import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

HELPERS = Path("/usr/lib/squid")
_LOGIN = ("acl known proxy_auth REQUIRED", "http_access deny !known")
BASIC = (f"auth_param basic program {HELPERS}/basic_ncsa_auth {{folder}}/users", *_LOGIN)
NTLM = (f"auth_param ntlm program {HELPERS}/ntlm_fake_auth", *_LOGIN)
# openssl passwd -6 -salt fedsite "pass: wörd"
USERS = b"st-mary:$6$fedsite$4HRn.KjkOJwMIhXcllbIVL4z3jQDgCoTvEKsr2V3MWHI7R9mM49cvcQBkObft1VTT0QBQCgGhCdDz/78d46w20\n"


@contextmanager
def squid(*settings: str, port: str = "http_port", files: dict[str, bytes] | None = None) -> Iterator[tuple[int, Path]]:
    """A squid with further `settings`, where {folder} holds `files`; gives its port and its log of requests.

    Without other settings it lets everything through, to any port. `BASIC` lets through whom `USERS` names, `NTLM`
    nobody who cannot speak it.
    """
    program = shutil.which("squid", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None or not (HELPERS / "ntlm_fake_auth").exists():
        message = "squid is not here (scripts/setup --test-tools)"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # squid gives up root for a user of its own
        for file, content in {"users": USERS, **(files or {})}.items():
            (folder / file).write_bytes(content)
            (folder / file).chmod(0o644)
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
            [program, "-N", "-f", str(folder / "squid.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _wait_for(number, process)
            yield number, log
        finally:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port where nothing listens: below those that the system gives to whoever asks for any, at once perhaps."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


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
