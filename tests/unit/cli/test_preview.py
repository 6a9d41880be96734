"""What a dry run says of an update."""

from typing import Any

import pytest

from fedsite.cli.train_round import _preview

DATA: dict[str, Any] = {
    "round": 3,
    "mechanism": "gaussian-update",
    "composition": "fedavg",
    "tensors": [{}],
    "values": 4,
    "bytes": 100,
    "clip_norm": 1e5,
    "noise_standard_deviation": 0.0,
    "norm_before": 0.5,
    "norm_after": 0.2,
    "guarantee_before": "before",
    "guarantee_after": "after",
    "blocks": [],
}


@pytest.mark.parametrize(("lost", "said"), [(0.84, True), (0.11, True), (0.09, False), (0.0, False)])
def test_an_update_that_is_lost_on_the_grid_is_told(lost: float, said: bool) -> None:
    text = _preview(DATA | {"lost_on_the_grid": lost})
    assert "0.5 before clipping, 0.2 after" in text
    assert (f"{lost:.0%} of it is lost" in text) == ("tell the coordinator" in text) == said
    assert max(map(len, text.splitlines())) <= 110


def test_steps_that_were_noised_are_not_cut() -> None:
    stepwise = {"mechanism": "dp-sgd", "norm_before": None, "lost_on_the_grid": None}
    assert "0.2, made of clipped and noised steps" in _preview(DATA | stepwise)
