"""A model that a malicious server has signed a ticket for: refused before anything is charged, and audited."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from support.federation import Server, plan_file, tensors
from support.site import Site

from fedsite.server.rounds import series
from fedsite.wire.payload import write_model


def _not_finite(path: Path) -> None:
    write_model(path, tensors() | {"first.bias": np.full(40, np.nan, np.float32)})


def _pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(tensors()))


@pytest.mark.parametrize(("make", "why"), [(_not_finite, "not finite"), (_pickle, "header's length")])
def test_a_hostile_model(
    server: Server, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make, why: str
) -> None:
    model = tmp_path / "model.safetensors"
    make(model)
    with monkeypatch.context() as hostile:
        hostile.setattr(series, "_check_model", lambda path: 0)
        server.open_series(plan_file(tmp_path, local={"steps": 0}), model)
    before = site.ledger()
    try:
        answer = site.run("train-round")
        assert (answer.code, site.ledger()) == (76, before)
        assert why in answer.json["error"]["message"]
        with site.open_state() as state:
            assert any(why in str(record.body) for record in state.records("audit"))
    finally:
        server.close_rounds()
