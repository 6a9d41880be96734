"""Mail by this machine's own means: its sendmail program, else the mail server that listens here."""

import os
import pwd
import shutil
import smtplib
import socket
import subprocess
from collections.abc import Callable, Sequence
from email.message import EmailMessage
from pathlib import Path

from fedsite.errors import SourceMissing

# Where cron's PATH does not lead.
PROGRAMS = ("/usr/sbin/sendmail", "/usr/lib/sendmail")
HERE, PORT = "127.0.0.1", 25


class NotDelivered(SourceMissing):
    """This machine's mail does not take the message, or there is none."""


def send(to: Sequence[str], sender: str | None, subject: str, text: str, seconds: float) -> None:
    """Hands a message over. Raises NotDelivered; what becomes of it afterwards is the mail system's business."""
    message = EmailMessage()
    message["To"], message["From"], message["Subject"] = ", ".join(to), sender or _user(), subject
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's holiday notice is wanted
    message.set_content(text)
    program, problems = program_found(), list[str]()
    ways: list[Callable[[], None]] = [lambda: _by_server(message, to, seconds)]
    if program is None:
        problems.append("There is no sendmail program.")
    else:
        # Many a sendmail takes the rights of its queue's group, and waits for them in vain where none can be gained.
        ways.insert(len(ways) if gains_nothing() else 0, lambda: _by_program(program, message, to, seconds))
    for way in ways:
        try:
            way()
        except NotDelivered as problem:
            problems.append(problem.message)
        else:
            return
    raise NotDelivered(" ".join(problems))


def program_found() -> str | None:
    """The sendmail program, if there is one."""
    places = (shutil.which("sendmail"), *PROGRAMS)
    return next((place for place in places if place and os.access(place, os.X_OK)), None)


def server_listens() -> bool:
    """Whether anything takes mail on this machine's port 25."""
    try:
        socket.create_connection((HERE, PORT), timeout=2).close()
    except OSError:
        return False
    return True


def gains_nothing() -> bool:
    """Whether what this process starts gains no rights by its file's owner or group (no_new_privs of prctl(2))."""
    status = Path("/proc/self/status").read_text()
    return "\nNoNewPrivs:\t1\n" in status


def _by_program(program: str, message: EmailMessage, to: Sequence[str], seconds: float) -> None:
    try:
        done = subprocess.run(
            [program, "-i", *to],
            input=message.as_bytes(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotDelivered(f"{program} took more than {seconds:.0f} seconds.") from None
    except OSError as error:
        raise NotDelivered(f"{program}: {error.strerror}.") from None
    if done.returncode:
        raise NotDelivered(f"{program} ended with code {done.returncode}.")


def _by_server(message: EmailMessage, to: Sequence[str], seconds: float) -> None:
    try:
        with smtplib.SMTP(HERE, PORT, timeout=seconds) as server:
            server.send_message(message, to_addrs=list(to))
    except (OSError, smtplib.SMTPException) as error:
        # A server's refusal may repeat addresses: its kind is enough.
        raise NotDelivered(f"Port {PORT} of this machine takes no mail ({type(error).__name__}).") from None


def _user() -> str:
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        name = "fedsite"
    return f"{name}@{socket.gethostname()}"
