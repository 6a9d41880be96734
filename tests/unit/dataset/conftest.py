from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedsite.dataset.manifest import CaseRecord, Remark
from fedsite.site.pseudonyms import Pseudonyms
from fedsite.tasks import registry
from fedsite.tasks.description import Task


@pytest.fixture
def pseudonyms() -> Pseudonyms:
    return Pseudonyms(b"k" * 32)


@pytest.fixture
def task() -> Task:
    return registry.get("stroke-dwi").narrowed(["dwi"])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.fixture
def record_of() -> Callable[..., CaseRecord]:
    """Makes the record of a case that was never prepared."""

    def record_of(case: str, lesion_ml: float = 1.0, findings: tuple[Remark, ...] = (), **changes: Any) -> CaseRecord:
        known = {
            "id": case,
            "patient": f"p-{case[2:]}",
            "split": "training",
            "file": f"cases/{case}-0.safetensors",
            "sha256": "0" * 64,
            "shape": (4, 4, 4),
            "lesion_ml": lesion_ml,
            "source_shape": (8, 8, 8),
            "source_spacing_mm": (1, 1, 2.5),
            "b_value": 1000,
            "scanner": "ACME",
            "input_state": "whole-head",
            "fingerprint": "0" * 64,
            "findings": findings,
        }
        return CaseRecord(**{**known, **changes})

    return record_of
