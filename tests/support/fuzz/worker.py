"""A process that runs the cases that it is told, one line each, and answers each with one line of JSON.

It may crash or hang: the harness watches it.
"""

import json
import resource
import sys
from dataclasses import asdict
from pathlib import Path

from support.fuzz import corpus
from support.fuzz.case import Case
from support.fuzz.trial import run

# So that a bomb takes this process down and not the machine.
ADDRESS_SPACE = 8 << 30


def main(real: str) -> None:
    """Answers until there is nothing more to read. `real` is the folder of real data, "" for none."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    series = {**corpus.made(), **(corpus.real(Path(real)) if real else {})}
    print(json.dumps(sorted(series)), flush=True)
    for line in sys.stdin:
        print(json.dumps(asdict(run(Case.read(line), series))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
