"""Adding a line to a file that is put aside when it has grown, by the standard library's logging."""

import logging
import os
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

from fedsite.files import PRIVATE_FILE


class _PrivateFile(RotatingFileHandler):
    """A log that nobody else may read, and whose failure is told instead of printed."""

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(
            self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE
        )
        return os.fdopen(descriptor, "a", encoding="utf-8")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - logging's own names
        """Called by logging while an exception is handled."""
        raise


def add(path: Path, line: str, file_bytes: int, older_files: int) -> None:
    """Adds it; before the file would outgrow its bytes, it becomes `path.1`, that one `path.2`, and so on.

    Raises OSError.
    """
    log = _PrivateFile(path, maxBytes=file_bytes, backupCount=older_files)
    try:
        log.handle(logging.makeLogRecord({"msg": line}))
    finally:
        log.close()
