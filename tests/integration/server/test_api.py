"""The server keeps to the OpenAPI document that it publishes: some hundred requests; scripts/fuzz_server sends many."""

from pathlib import Path

from support.api import fuzzer, target

EXAMPLES, SEED = 8, 20


def test_nothing_is_found(tmp_path: Path) -> None:
    with target.running(tmp_path) as served:
        found = fuzzer.fuzz(served, tmp_path, EXAMPLES, SEED, phases="fuzzing")
    assert found.failures == 0, found.said
    assert served.requests > 100
    assert {200, 204, 400, 403, 404, 409} <= served.statuses.keys(), "good questions and bad ones"
