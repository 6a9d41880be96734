"""Every error that a person meets, with its exit code and its mend.

    FedsiteError
     +- UsageError             2   the command was called wrongly
     +- DataNotFit            65   the data cannot be used as it is
     +- SourceMissing         66   a file or folder that was named is not there
     +- Unreachable           69   the federation could not be reached; progress is kept
     +- CannotWrite           73   no permission, disk full; progress is kept
     +- RecordsDamaged        74   this site's own records are damaged, rolled back or unknown to it
     +- TryAgainLater         75   a lock is held, a window is closed, an approval is awaited
     |   +- AnotherRun        75   another run is at work in this state folder
     |   +- OutsideHours      75   the site's hours are over, or have not begun; progress is kept
     |   +- WorkersLost       75   one of several training processes ended before its time; progress is kept
     +- ServerBrokeProtocol   76   the server sent something that it must not send
     |   +- UpdateRefused     76   the server did not admit this site's update
     +- NotAuthorised         77   not enrolled, certificate expired or revoked
     +- ConfigurationError    78   the configuration is missing, foreign, unreadable or wrong
     |   +- DeviceTooSmall    78   not even one patch fits into the memory of the training device
     +- PolicyRefused         80   this site's policy says no
     |   +- MinutesSpent      80   the round's training has used its GPU minutes; progress is kept
     +- BudgetSpent           81   the privacy budget does not pay for this

The numbers follow BSD's sysexits.h where it has one. `code` is the stable word for programs (`--json`),
`mend` the sentence that tells a person what to do.
"""

from typing import Any, ClassVar

OUTCOMES = {75: "pending", 80: "refused", 81: "refused"}
"""What a command's JSON calls its end, by exit code, where that is not `failed`."""


class FedsiteError(Exception):
    """The root: a message that names what is wrong and where, and a mend. Raised as one of its children."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    expected: ClassVar[bool] = False
    """Part of an ordinary night: --quiet says nothing of it, and nobody is told."""

    def __init__(self, message: str, mend: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend
        self.data: dict[str, Any] = {}
        """What `--json` gives beside it."""

    @property
    def outcome(self) -> str:
        """`pending`, `refused` or `failed`."""
        return OUTCOMES.get(self.exit_code, "failed")

    def __str__(self) -> str:
        return f"{self.message} {self.mend}".strip()


class UsageError(FedsiteError):
    """The command line asks for something that does not exist or does not go together."""

    code = "usage"
    exit_code = 2


class DataNotFit(FedsiteError):
    """The data are there but cannot be used: wrong kind, broken, unlabelled, on another grid."""

    code = "data-not-fit"
    exit_code = 65


class SourceMissing(FedsiteError):
    """A file or folder that the operator named does not exist or cannot be read."""

    code = "source-missing"
    exit_code = 66


class Unreachable(FedsiteError):
    """The federation server gave no answer after all retries. What was reached so far is kept."""

    code = "unreachable"
    exit_code = 69


class CannotWrite(FedsiteError):
    """Nothing can be written where fedsite must write. What was reached so far is kept."""

    code = "cannot-write"
    exit_code = 73


class RecordsDamaged(FedsiteError):
    """This site's ledger, audit chain or identity is damaged, rolled back or contradicts the server's receipts."""

    code = "records-damaged"
    exit_code = 74


class TryAgainLater(FedsiteError):
    """Nothing is wrong; the time has not come: another run holds the lock, or someone must approve first."""

    code = "try-again-later"
    exit_code = 75


class AnotherRun(TryAgainLater):
    """Another run holds the lock of this state folder."""

    code = "another-run"
    expected = True


class OutsideHours(TryAgainLater):
    """The site's policy lets it take part at other hours. What was reached so far is kept."""

    code = "outside-hours"
    expected = True


class WorkersLost(TryAgainLater):
    """A training in several processes ended before its time; what its last checkpoint holds is kept.

    `killed`: by a signal, rather than by what it met itself.
    """

    code = "workers-lost"

    def __init__(self, message: str, mend: str, killed: bool = True) -> None:
        super().__init__(message, mend)
        self.killed = killed


class ServerBrokeProtocol(FedsiteError):
    """The server sent what the protocol forbids: a bad signature, a rollback, an unknown field, a NaN."""

    code = "protocol-broken"
    exit_code = 76


class UpdateRefused(ServerBrokeProtocol):
    """The server did not admit this site's update: the two disagree about the plan, and its bytes are final."""

    code = "update-refused"


class NotAuthorised(FedsiteError):
    """This site has no valid certificate for the federation, or the server no longer accepts it."""

    code = "not-authorised"
    exit_code = 77


class ConfigurationError(FedsiteError):
    """The configuration file is absent, unreadable, somebody else's, or says something fedsite does not know."""

    code = "configuration"
    exit_code = 78


class DeviceTooSmall(ConfigurationError):
    """Not even one patch at a time fits into the memory of the training device."""

    code = "device-too-small"


class PolicyRefused(FedsiteError):
    """The plan asks for more than this site's policy allows."""

    code = "policy-refused"
    exit_code = 80


class MinutesSpent(PolicyRefused):
    """The round's training has used the minutes that the site's policy gives it. Its checkpoint is kept."""

    code = "gpu-minutes-spent"


class BudgetSpent(FedsiteError):
    """The release would cost more privacy than the ledger has left. Nothing was trained, nothing was sent."""

    code = "budget-spent"
    exit_code = 81


class Interrupted(FedsiteError):
    """A person (SIGINT, 130) or the system (SIGTERM, 143) stopped the run. Progress is kept."""

    code = "interrupted"
    exit_code = 130
