"""A site behind a slow line that stalls: it is not given up while it moves, and holds nobody up."""

import threading
from pathlib import Path

from support import federation
from support.federation import Server
from transfer.relay import relaying

from fedsite.files import sha256_of
from fedsite.wire import transport
from fedsite.wire.client import FederationClient

SHAPES = {"weight": (30_000,)}
RATE = 60e3  # bytes a second: 120 kB each way take two seconds, stalls not counted


def test_a_slow_site_ends_without_a_broken_request_and_a_fast_one_does_not_wait(server: Server, tmp_path: Path) -> None:
    fast, slow = (server.enrol(name, tmp_path / name) for name in ("fast-line", "slow-line"))
    number = server.open_round(tmp_path, shapes=SHAPES)
    model = tmp_path / "model.safetensors"
    update = federation.update_file(tmp_path / "update", federation.tensors(1, SHAPES))
    asked: list[transport.Exchange] = []
    ends: list[str] = []

    def take_part(client: FederationClient, name: str) -> None:
        client.download_model(sha256_of(model), model.stat().st_size, tmp_path / f"{name}.safetensors")
        client.upload(number, update, sha256_of(update), ledger_sequence=1)
        ends.append(name)

    with relaying(("127.0.0.1", server.port), RATE, stalls=0.2, stall_seconds=0.2) as line:
        address = f"https://localhost:{line.port}"
        with FederationClient(address, slow, patience=20, witness=asked.append) as far, server.client(fast) as near:
            behind = threading.Thread(target=take_part, args=(far, "slow"))
            behind.start()
            while not line.passed:
                behind.join(0.01)
            take_part(near, "fast")
            behind.join()
    assert ends == ["fast", "slow"]
    assert [one.status for one in asked] == [200, 201, 200], "nothing was asked twice"
    assert line.passed > 2 * model.stat().st_size
    server.wait_for(number, "aggregated")
