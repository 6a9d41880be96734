"""Where a schedule may be installed: each place is asked and told the same."""

from abc import ABC, abstractmethod
from typing import ClassVar

from fedsite.jobs.schedule.record import Found
from fedsite.jobs.schedule.run import Run, Scope, Way


class Place(ABC):
    """One of four: units or crontab, of the system or of the user who runs fedsite."""

    way: ClassVar[Way]
    scope: Scope

    @abstractmethod
    def where(self, name: str) -> str:
        """What is there of a schedule, for people."""

    @abstractmethod
    def find(self, name: str) -> Found | None:
        """What is installed. Raises CannotWrite or ConfigurationError when nobody can tell."""

    @abstractmethod
    def runs(self, name: str) -> bool:
        """Whether what is installed is started by anything."""

    @abstractmethod
    def holds(self, run: Run) -> bool:
        """Whether exactly this is installed, and nothing is left to do."""

    @abstractmethod
    def install(self, run: Run) -> None:
        """Installs it, in the place of what is there. Raises CannotWrite, ConfigurationError."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Takes it away. Raises CannotWrite."""
