"""Runs schemathesis, all its checks, against a target; as its own program, which is what its authors test."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from support.api.target import Target

# What a schema cannot say, and the routes say all the same: no PKCS#10 but of a good key, no upload but of the plan's
# model at the offset that is next.
_CONFIG = """
[[operations]]
include-path = "/v1/rounds/{number}/updates"
checks.positive_data_acceptance.expected-statuses = ["2xx", 404, 409, 422]

[[operations]]
include-path = "/v1/uploads/{upload_id}"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 404, 409, 422]
"""
_SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


@dataclass(frozen=True)
class Findings:
    """What a run has come to: what was found (nothing, one hopes), and all that was said."""

    failures: int
    said: str


def fuzz(target: Target, folder: Path, examples: int, seed: int, phases: str = "coverage,fuzzing") -> Findings:
    """Up to `examples` requests for each operation and kind of data, and those of the coverage phase beside them."""
    config, report = folder / "schemathesis.toml", folder / "report.json"
    config.write_text(_CONFIG)
    tests = Path(__file__).parents[2]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]),
        "PYTHONHASHSEED": str(seed),  # what the hooks choose by
        "SCHEMATHESIS_HOOKS": "support.api.hooks",
        "FEDSITE_FUZZ": json.dumps(target.known),
    }
    done = subprocess.run(
        [
            str(_SCHEMATHESIS), "--config-file", str(config), "run", f"{target.url}/v1/openapi.json",
            "--checks", "all", "--phases", phases, "--max-examples", str(examples), "--seed", str(seed),
            "--continue-on-failure", "--request-cert", str(target.certificate), "--tls-verify", str(target.ca),
            "--auth", ":".join(target.invitation), "--report", "json", "--report-json-path", str(report),
        ],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    failures = len(json.loads(report.read_text()).get("failures", [])) if report.is_file() else 0
    return Findings(max(failures, int(done.returncode != 0)), said)
