"""Whether the private key opens where nobody is: in a child process with an empty environment, an own session and so
no terminal, nothing on standard input, and two seconds once it has started. What would ask a person fails there.
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from fedsite.errors import ConfigurationError, FedsiteError
from fedsite.site import config as configuration
from fedsite.site import identity, secrets
from fedsite.site.identity import IdentityFiles
from fedsite.wire import enrolment

SECONDS = 2.0
START_SECONDS = 60.0
"""What the start of Python may take beforehand on a machine that is busy training."""


@dataclass(frozen=True)
class Answer:
    """What the child has said: the place of the passphrase, or the error that a run would meet."""

    storage: str = ""
    error: str | None = None
    mend: str = ""
    exit_code: int = 0


def opens(place: Path | None, number: int | None = None) -> Answer:
    """Tries a version of an identity folder, or else the one in use by a configuration (None: where cron finds it)."""
    command = [sys.executable, "-P", "-m", __name__, str(place.absolute() if place else ""), str(number or "")]
    child = subprocess.Popen(
        command,
        env=secrets.service_environment(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        said, _ = child.communicate(timeout=START_SECONDS)
        if child.returncode != -signal.SIGALRM:
            return Answer(**json.loads(said))
        problem = f"It took more than {SECONDS:.0f} s to open the key: something waits for a person, or is very slow."
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        problem = f"The process that opens the key had not even started after {START_SECONDS:.0f} s."
    except ValueError:
        problem = f"The process that opens the key ended with code {child.returncode} and said nothing."
    return Answer(error=problem, mend="Choose another --key-storage (README).", exit_code=ConfigurationError.exit_code)


def _open(where: str, number: str) -> str:
    """Opens the key as a run does; gives the place of its passphrase."""
    if number:
        version = IdentityFiles(Path(where)).version(int(number))
    else:
        version = IdentityFiles(configuration.load(_config(where)).paths.state / "identity").current
    enrolment.key_from_pem(identity.sealed_key(version), version.passphrase())
    return version.choice.place.storage


def _config(where: str) -> Path:
    try:
        return configuration.find(Path(where) if where else None)
    except ConfigurationError as error:
        raise ConfigurationError(
            error.message, "Cron does not know of $FEDSITE_CONFIG: write --config FILE into its line."
        ) from None


def main(where: str, number: str) -> None:
    """The child: one JSON object on standard output, or the end by SIGALRM."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        answer = Answer(_open(where, number))
    except FedsiteError as error:
        answer = Answer(error=error.message, mend=error.mend, exit_code=error.exit_code)
    sys.stdout.write(json.dumps(asdict(answer)))


if __name__ == "__main__":
    main(*sys.argv[1:])
