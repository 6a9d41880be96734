"""A site's own tasks: read from the files that its configuration names, and made known in this process."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from fedsite.errors import ConfigurationError, UsageError
from fedsite.site import config as configuration
from fedsite.tasks import registry
from fedsite.tasks.description import Task

if TYPE_CHECKING:
    from fedsite.wire.plans import PlanDraft


def known(config_path: Path | None) -> list[Task]:
    """All tasks: those that come with fedsite and, where there is a configuration, those that it names.

    Raises ConfigurationError where a configuration, or one of its tasks, is wrong.
    """
    path = configuration.find_any(config_path)
    if path is not None:
        add_own(configuration.load(path).paths.tasks)
    return [registry.get(name) for name in registry.names()]


def add_own(files: Iterable[Path]) -> None:
    """Makes the tasks of these files known. Raises ConfigurationError naming file and key."""
    for file in files:
        registry.add(read_own(file))


def described_by(draft: "PlanDraft", file: Path | None) -> "PlanDraft":
    """The plan for the task that the file describes, with its digest: sites whose own file says otherwise refuse it.

    Without a file the plan as it is. Raises ConfigurationError, UsageError where the plan is for another task.
    """
    if file is None:
        return draft
    own = read_own(file)
    if own.name != draft.task:
        raise UsageError(f"{file.name} describes {own.name}; the plan is for {draft.task}.")
    registry.add(own)
    return draft.model_copy(update={"task_digest": own.digest})


def read_own(file: Path) -> Task:
    """The description of one. Raises ConfigurationError naming file and key, also where others may change the file."""
    from fedsite.tasks.local import LocalTask, derive

    if not file.is_file():
        raise ConfigurationError(f"There is no task at {file}.", "Mend paths.tasks in site.yaml, or the path given.")
    try:
        own = LocalTask.model_validate(configuration.read_yaml(file))
    except ValidationError as error:
        mend = "sample_configs/task.yaml shows every key."
        raise configuration.explain_invalid(error, LocalTask, file.name, mend) from None
    return derive(own)
