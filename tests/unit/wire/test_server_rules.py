"""What a plan may ask of the server: forms, ranges, what does not go together, and what an older site reads."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.federation import plan

from fedsite.errors import ConfigurationError
from fedsite.wire.messages import parse
from fedsite.wire.plans import PlanDraft, read_draft
from fedsite.wire.server_rules import NormBounded, Screen, ServerAdam, TrimmedMean, left_out

SCAFFOLD = {
    "algorithm": "scaffold",
    "local": {"steps": 1, "patch_voxels": [16, 16, 16], "optimizer": "sgd", "momentum": 0.0},
}
OF_FIVE = {"rounds": {"quorum": 5, "deadline_seconds": 60}}
TRIMMED = {"name": "trimmed-mean", "share": 0.2}


def read(folder: Path, **changes: Any) -> PlanDraft:
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan(**changes)))
    return read_draft(folder / "plan.yaml")


@pytest.mark.parametrize(
    ("changes", "name", "expected"),
    [
        ({}, "aggregation", "mean"),
        ({"aggregation": "median"} | OF_FIVE, "aggregation", "median"),
        ({"aggregation": TRIMMED} | OF_FIVE, "aggregation", TrimmedMean(name="trimmed-mean", share=0.2)),
        (
            {"aggregation": {"name": "norm-bounded", "bound": 2.0}},
            "aggregation",
            NormBounded(name="norm-bounded", bound=2.0),
        ),
        ({"server_adam": {"learning_rate": 0.1}}, "server_adam", ServerAdam(learning_rate=0.1)),
        ({"screen": {"rule": "hold"}}, "screen", Screen(rule="hold")),
        ({"aggregation": "median", "algorithm": "fedbn"} | OF_FIVE, "aggregation", "median"),
        ({"screen": {"rule": "flag"}} | SCAFFOLD, "screen", Screen(rule="flag")),
        ({"server_adam": {"learning_rate": 0.1}} | SCAFFOLD, "server_adam", ServerAdam(learning_rate=0.1)),
    ],
)
def test_what_may_be_asked_survives_the_wire(
    tmp_path: Path, changes: dict[str, Any], name: str, expected: object
) -> None:
    draft = read(tmp_path, **changes)
    assert getattr(draft, name) == expected
    assert parse(PlanDraft, draft.to_bytes()) == draft


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"aggregation": "mode"}, r"aggregation: mean, median, \{name: trimmed-mean"),
        ({"aggregation": {"name": "krum"}}, "aggregation: mean, median"),
        ({"aggregation": 3}, "aggregation: mean, median"),
        ({"aggregation": {"name": "trimmed-mean", "share": 0.5}}, "share"),
        ({"aggregation": {"name": "trimmed-mean", "share": 0.0}}, "share"),
        ({"aggregation": {"name": "norm-bounded", "bound": 0.0}}, "bound"),
        ({"aggregation": {"name": "norm-bounded", "bound": 1.0, "more": 1}}, "more"),
        ({"server_adam": {"learning_rate": 0.0}}, "learning_rate"),
        ({"server_adam": {"learning_rate": 0.1, "beta1": 1.0}}, "beta1"),
        ({"server_adam": {"learning_rate": 0.1, "tau": 0.0}}, "tau"),
        ({"screen": {"rule": "ignore"}}, "rule"),
        ({"screen": {"rule": "hold", "hold_seconds": 0}}, "hold_seconds"),
        ({"screen": {"rule": "hold", "hold_seconds": 30 * 86_400 + 1}}, "hold_seconds"),
        ({"screen": {"rule": "drop", "largest_norm": 1.0}}, "largest_norm"),
    ],
)
def test_what_is_out_of_range_names_its_key(tmp_path: Path, changes: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigurationError, match=where):
        read(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "key", "mend"),
    [
        ({"server_momentum": 0.9, "server_adam": {"learning_rate": 0.1}}, "server_momentum", "leave one of them out"),
        ({"aggregation": {"name": "norm-bounded", "bound": 1e6}}, "aggregation", "give it a lower one, or use mean"),
        ({"aggregation": "median", "weights": "declared"} | OF_FIVE, "aggregation", "weights: equal"),
        ({"aggregation": TRIMMED, "weights": "declared"} | OF_FIVE, "aggregation", "norm-bounded"),
        ({"aggregation": "median", "rounds": {"quorum": 2, "deadline_seconds": 60}}, "aggregation", "quorum of at"),
        ({"aggregation": TRIMMED, "rounds": {"quorum": 4, "deadline_seconds": 60}}, "aggregation", "share to 0.25 or"),
        ({"aggregation": TRIMMED, "rounds": {"quorum": 3, "deadline_seconds": 60}}, "aggregation", "share to 0.334 or"),
        ({"aggregation": "median"} | SCAFFOLD | OF_FIVE, "aggregation", "use mean, or algorithm fedavg"),
        ({"aggregation": {"name": "norm-bounded", "bound": 1.0}} | SCAFFOLD, "aggregation", "use mean, or"),
        ({"screen": {"rule": "drop"}} | SCAFFOLD, "screen", "use rule flag"),
        ({"screen": {"rule": "hold"}} | SCAFFOLD, "screen", "use rule flag"),
    ],
)
def test_what_does_not_go_together_names_key_and_mend(
    tmp_path: Path, changes: dict[str, Any], key: str, mend: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read(tmp_path, **changes)
    assert f"{key}: " in refused.value.message
    assert mend in refused.value.message


@given(sites=st.integers(3, 500), share=st.floats(0.01, 0.499))
def test_a_trimmed_mean_always_keeps_somebody(sites: int, share: float) -> None:
    cut = left_out(sites, share)
    assert 2 * cut < sites
    assert share * sites - 1 < cut <= share * sites + 1e-6


@pytest.mark.parametrize(("sites", "share", "cut"), [(100, 0.29, 29), (5, 0.2, 1), (10, 0.1, 1), (4, 0.2, 0)])
def test_the_share_is_rounded_down_but_not_by_a_rounding_error(sites: int, share: float, cut: int) -> None:
    assert left_out(sites, share) == cut


def test_a_plan_of_today_has_the_very_bytes_that_an_older_site_reads() -> None:
    written = json.loads(parse(PlanDraft, json.dumps(plan()).encode()).to_bytes())
    assert not {"aggregation", "server_adam", "screen", "server_momentum"} & written.keys()
