"""What a page of the manual holds, and what exit codes mean where a page says nothing else."""

from dataclasses import dataclass

CODES = {
    0: "Done, or nothing to do; outcome in the answer to --json tells which.",
    1: "A bug in fedsite: run again with --verbose and report it.",
    2: "The command line asks for what does not exist or does not go together.",
    65: "The data cannot be used as they are.",
    66: "A file or folder that was named is not there.",
    69: "The federation could not be reached, after retries; progress is kept.",
    73: "No permission to write, or the disk is full; progress is kept.",
    74: "This site's own records are damaged or rolled back: fedsite privacy recover.",
    75: "Not now: another run is at work, a person must approve, or it is not the hour.",
    76: "The server sent what it must not send, or did not admit this site's update.",
    77: "Not set up or not enrolled, or the certificate has expired or was revoked.",
    78: "The configuration is missing, somebody else's, or wrong.",
    80: "This site's policy says no.",
    81: "The privacy budget does not pay for this round.",
    130: "Interrupted (Ctrl-C); progress is kept.",
    143: "Terminated (SIGTERM); progress is kept.",
}
EVERY = (1, 2, 130, 143)
"""What any command may end with."""


@dataclass(frozen=True)
class Page:
    """Of one command: what else it does and does not, how it is typed, what it touches, how it ends, what comes next.

    `examples` are whole command lines, each with what it is for. `exits` are the codes besides those of every command,
    with a text where the usual one (`CODES`) does not say enough.
    """

    examples: dict[str, str]
    exits: dict[int, str]
    about: str = ""
    reads: str = ""
    writes: str = ""
    network: str = ""
    see: tuple[str, ...] = ()


def ends(*codes: int) -> dict[int, str]:
    """Exit codes in their usual meaning; 0 is always among them."""
    return dict.fromkeys((0, *codes), "")
