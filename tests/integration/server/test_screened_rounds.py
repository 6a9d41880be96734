"""A series under median, FedAdam and a screen through a real server, which is killed while a round is held."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from support.federation import SHAPES, Server, tensors, update_file

from fedsite.files import sha256_of
from fedsite.server.rounds.reports import round_report
from fedsite.wire.client import TlsIdentity
from fedsite.wire.payload import tensors_of

SITES = ("ada", "ben", "cleo", "dora")
PLAN = {
    "aggregation": "median",
    "server_adam": {"learning_rate": 0.1, "tau": 0.01},
    "screen": {"rule": "hold"},
    "privacy": {"mechanism": "gaussian-update", "clip_norm": 1.0, "noise_multiplier": 0.0},
    "rounds": {"quorum": 4, "enough": 5, "deadline_seconds": 600},
}


@pytest.fixture(scope="module")
def sites(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TlsIdentity]:
    return {name: server.enrol(name, tmp_path_factory.mktemp(name)) for name in (*SITES, "mallory")}


def update(place: int, number: int, sign: float = 1.0) -> dict[str, np.ndarray]:
    common, own = tensors(1000 + number, scale=0.01), tensors(10 * number + place, scale=0.005)
    return {name: (sign * (values + own[name])).astype(np.float32) for name, values in common.items()}


def send(server: Server, sites: dict[str, TlsIdentity], folder: Path, number: int, mallorys_sign: float) -> None:
    for place, (name, identity) in enumerate(sites.items()):
        sign = mallorys_sign if name == "mallory" else 1.0
        file = update_file(folder / f"{name}-{number}", update(place, number, sign))
        with server.client(identity) as client:
            client.upload(number, file, sha256_of(file), number)


def test_a_held_round_survives_the_servers_death_and_goes_on_as_it_was_told(
    server: Server, sites: dict[str, TlsIdentity], tmp_path: Path
) -> None:
    first = server.open_round(tmp_path, count=2, **PLAN)
    send(server, sites, tmp_path, first, mallorys_sign=-1.0)
    server.wait_for(first, "held")
    server.stop(signal.SIGKILL)
    server.start()
    assert round_report(server.federation, first)["status"] == "held"

    released = server.run("server", "round", "release", str(first), "--without", "mallory", "--json")
    assert released.returncode == 0, released.stderr
    report = json.loads(released.stdout)["data"]
    assert (report["status"], report["updates"]) == ("aggregated", 4)
    assert [(one["site"], one["reason"]) for one in report["left_out"]] == [("mallory", "released by the coordinator")]

    server.wait_for(first + 1)
    send(server, sites, tmp_path, first + 1, mallorys_sign=1.0)
    server.wait_for(first + 1, "aggregated")
    second = round_report(server.federation, first + 1)
    assert (second["updates"], second["screen"]["findings"]) == (5, {})

    model = {name: values.astype(np.float64) for name, values in tensors_of(tmp_path / "model.safetensors").items()}
    made = tensors_of(server.federation.models.path(second["result_sha256"]))
    for name in SHAPES:
        expected, mean, square = model[name], 0.0, 0.01**2
        for number, count in ((first, 4), (first + 1, 5)):
            middle = np.median([update(place, number)[name] for place in range(count)], axis=0).astype(np.float64)
            mean, square = 0.9 * mean + 0.1 * middle, 0.99 * square + 0.01 * middle**2
            expected = expected + 0.1 * mean / (np.sqrt(square) + 0.01)
        np.testing.assert_allclose(made[name], expected, rtol=1e-5, atol=1e-6)
