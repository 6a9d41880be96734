"""Which series of an export are T1, T1 with contrast agent, T2 or FLAIR, and which CT is one as asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import dicom_maker as maker
from support.dicom_maker import SAGITTAL

from fedsite.dataset import selection
from fedsite.dicom.scan import scan
from fedsite.site.pseudonyms import Pseudonyms
from fedsite.tasks import registry

TIMES = {
    "t1": {"RepetitionTime": "500", "EchoTime": "12"},
    "t2": {"RepetitionTime": "4000", "EchoTime": "100"},
    "flair": {"RepetitionTime": "9000", "EchoTime": "100", "InversionTime": "2500"},
    "unknown": {},
}


@pytest.fixture
def chosen_for(tmp_path: Path) -> Callable[..., tuple[dict[str, int], list[str]]]:
    """How many images of an export would do for each channel of a task, and why others would not."""

    def chosen_for(task: str, *series: list[Any]) -> tuple[dict[str, int], list[str]]:
        for number, images in enumerate(series):
            maker.write(tmp_path / str(number), images, seed=number)
        inventory = scan(tmp_path, Pseudonyms(bytes(32)))
        channels, reasons = selection.choose(inventory.volumes, registry.get(task))
        counts = {name: len(found) for name, found in channels.items()}
        return counts, [each.id for of_channel in reasons.values() for each in of_channel]

    return chosen_for


def mr(kind: str, **others: Any) -> list[Any]:
    return maker.classic("MR", ScanningSequence="SE", **TIMES[kind], **others)


def test_the_four_images_of_a_tumour_are_told_apart(chosen_for: Callable[..., Any]) -> None:
    agent = mr("t1", ContrastBolusAgent="gadobutrol")
    counts, reasons = chosen_for("brain-tumour-mr", mr("t1"), agent, mr("t2"), mr("flair"))
    assert counts == {"t1": 1, "t1c": 1, "t2": 1, "flair": 1}
    assert reasons == []


def test_an_image_without_its_times_is_none(chosen_for: Callable[..., Any]) -> None:
    counts, reasons = chosen_for("stroke-t1", mr("unknown"), mr("flair"))
    assert counts == {"t1": 0}
    assert reasons == ["weighting-unknown"]


def test_a_scanner_that_states_a_b_value_of_zero(chosen_for: Callable[..., Any]) -> None:
    assert chosen_for("stroke-t1", mr("t1", DiffusionBValue=0.0))[0] == {"t1": 1}


@pytest.mark.parametrize(
    ("grid", "others", "found"),
    [
        ({"step": 5.0}, {}, ""),
        ({"step": 7.0}, {}, "slices-too-thick"),
        ({"step": 3.0, "row": SAGITTAL[0], "column": SAGITTAL[1]}, {}, "not-axial"),
        ({"step": 1.0, "row": SAGITTAL[0], "column": SAGITTAL[1]}, {}, ""),
        ({"step": 5.0, "shear": (0.0, 2.0, 0.0)}, {}, "tilt"),
        ({"step": 5.0}, {"ContrastBolusAgent": "iohexol"}, "other kind"),
    ],
)
@pytest.mark.parametrize("task", ["haemorrhage-ct", "ischaemia-ct"])
def test_what_a_ct_of_the_head_must_be(
    chosen_for: Callable[..., Any], task: str, grid: dict[str, Any], others: dict[str, Any], found: str
) -> None:
    """Of a kind that the task does not ask for nothing is said but that the right one is missing."""
    counts, reasons = chosen_for(task, maker.classic("CT", maker.Grid(**grid), **others))
    assert counts == {"ct": 0 if found else 1}
    assert reasons == ([] if found in ("", "other kind") else [found])
