"""Records what this version's site and server say to each other, and what its site keeps, for all later versions.

Into tests/contract/vVERSION, once for each release: tests/contract/test_versions.py holds every later version to it.
The keys are throw-away ones, and nothing in it is anybody's.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from support import conversation, old_records

import fedsite
from fedsite.files import make_folder, write_atomically

CONTRACT = Path(__file__).parents[1] / "tests" / "contract"


def record(folder: Path) -> None:
    """Writes a recording into a new folder."""
    make_folder(folder)
    with tempfile.TemporaryDirectory() as scratch:
        for name, text in old_records.written(Path(scratch) / "state").items():
            write_atomically(folder / name, text.encode())
        conversation.record(Path(scratch)).save(folder / "messages.json")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="scripts/record_messages", description="Records this version's messages.")
    default = CONTRACT / f"v{fedsite.__version__}"
    parser.add_argument("--out", type=Path, default=default, help="a new folder, elsewhere than in tests/contract")
    folder = parser.parse_args().out
    if folder.exists():
        sys.exit(f"{folder} is there already: what a release has said is not recorded again.")
    record(folder)
    print(f"Recorded fedsite {fedsite.__version__} in {folder}.")


if __name__ == "__main__":
    main()
