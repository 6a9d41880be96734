"""What NIfTI files are called in public: pseudonyms made of their places."""

import os
from pathlib import Path

from fedsite.dataset.studies import Pseudonyms


def file_pseudonym(source: Path, path: Path, pseudonyms: Pseudonyms, part: str = "") -> str:
    """The pseudonym of a NIfTI file, or of a part of it, by its place in a folder."""
    return pseudonyms.series(f"bids/{as_text(path.relative_to(source))}", part)


def as_text(name: str | Path) -> str:
    """A file's name as text for a pseudonym, also where it is not UTF-8."""
    return os.fsencode(name).decode("latin-1")
