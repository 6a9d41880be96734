"""What one check of `fedsite check` answers."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "error", "skipped"]


@dataclass(frozen=True)
class Check:
    """One check's answer. `exit_code` is that of the error that a run would meet."""

    name: str
    status: Status
    message: str
    mend: str = ""
    exit_code: int = 0
