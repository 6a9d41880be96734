"""How a run ended, whatever ended it."""

from dataclasses import dataclass

from fedsite.errors import FedsiteError, Interrupted, TryAgainLater

TERMINATED = 143


@dataclass(frozen=True)
class Ending:
    """The end of a run. `outcome` is that of the command's JSON, or `interrupted`.

    `message` and `mend` are for this site's people: an error's words may hold counts and pseudonyms.
    """

    outcome: str
    exit_code: int = 0
    code: str = ""
    message: str = ""
    mend: str = ""
    expected: bool = False
    """Part of an ordinary night: not the hour, another run at work, a machine that is shut down."""

    @property
    def went_well(self) -> bool:
        """Whether everything was done that was due."""
        return self.exit_code == 0

    @property
    def waits(self) -> bool:
        """Whether something must come first that is no fault, such as a person's approval."""
        return self.exit_code == TryAgainLater.exit_code


def of_error(error: BaseException) -> Ending:
    """What an exception means that ends a run. Of what nobody foresaw the kind alone: its text may name anything."""
    if isinstance(error, FedsiteError) and error.exit_code not in (Interrupted.exit_code, TERMINATED):
        return Ending(error.outcome, error.exit_code, error.code, error.message, error.mend, error.expected)
    if isinstance(error, Exception) and not isinstance(error, FedsiteError):
        return Ending("failed", 1, "bug", f"A bug in fedsite: {type(error).__name__}.", "Report it.")
    code = Interrupted.exit_code if isinstance(error, KeyboardInterrupt) else TERMINATED
    code = error.exit_code if isinstance(error, FedsiteError) else code
    return Ending("interrupted", code, Interrupted.code, "Interrupted.", "The next run goes on.", expected=True)
