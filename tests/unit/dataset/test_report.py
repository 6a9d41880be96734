import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedsite.dataset import pictures, report
from fedsite.dataset.manifest import CaseRecord, Exclusion, Remark
from fedsite.errors import CannotWrite

DARK = 60


def picture_of(image, label=None, spacing=(1.0, 1.0, 1.0)) -> np.ndarray:
    label = np.zeros(image.shape, np.uint8) if label is None else label
    png = pictures.axial_png(image[None], label, spacing)
    assert png.startswith(b"\x89PNG")
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def outlined(pixels: np.ndarray) -> np.ndarray:
    return (np.abs(pixels - pictures.OUTLINE) < 40).all(-1)


def test_the_patients_right_is_on_the_left_and_the_front_on_top():
    image = np.zeros((20, 20, 3), np.float16)
    image[15:18, 15:18, :] = 1  # RAS: a high x is right, a high y is front
    pixels = picture_of(image)[..., 0]
    rows, columns = np.nonzero(pixels > 128)
    assert rows.max() < pixels.shape[0] / 2
    assert columns.max() < pixels.shape[1] / 2


def test_the_voxels_sides_keep_their_ratio():
    image = np.random.default_rng(0).normal(size=(10, 20, 3)).astype(np.float16)
    assert picture_of(image, spacing=(1.0, 1.0, 5.0)).shape[:2] == (400, 200)
    assert picture_of(image, spacing=(2.0, 1.0, 5.0)).shape[:2] == (400, 400)


def test_the_slice_with_most_lesion_is_shown_outlined():
    image = np.zeros((20, 20, 6), np.float16)
    image[:, :, 4] = 1
    label = np.zeros((20, 20, 6), np.uint8)
    label[4, 4, 1] = 1
    label[8:12, 8:12, 4] = 1
    assert pictures.fullest_slice(image, label) == 4
    marks = outlined(picture_of(image, label))
    rows, columns = np.nonzero(marks)
    # A ring of two pixels around 4 voxels of 20 pixels each, nothing inside it.
    assert (rows.min(), rows.max()) == (158, 241)
    assert (columns.min(), columns.max()) == (158, 241)
    assert not marks[165:235, 165:235].any()


def test_without_a_lesion_the_middle_is_shown():
    assert pictures.fullest_slice(np.zeros((4, 4, 9)), np.zeros((4, 4, 9), np.uint8)) == 4
    assert not outlined(picture_of(np.random.default_rng(0).normal(size=(8, 8, 3)).astype(np.float16))).any()


def test_a_constant_image_is_no_fault():
    assert (picture_of(np.ones((8, 8, 3), np.float16)) < DARK).all()


def test_pictures_are_the_same_each_time_and_say_nothing():
    image = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float16)
    label = np.zeros((8, 8, 3), np.uint8)
    png = pictures.axial_png(image, label, (1.0, 1.0, 1.0))
    assert png == pictures.axial_png(image, label, (1.0, 1.0, 1.0))
    assert Image.open(io.BytesIO(png)).info.keys() <= {"transparency"}


# --- the page -------------------------------------------------------------------------------------------------------


def remark(rule: str, severity: str = "warning", message: str = "Something was seen.") -> Remark:
    return Remark(id=rule, severity=severity, message=message, mend="Do something.")


def case(case_id: str, lesion_ml: float = 1.0, findings: tuple[Remark, ...] = (), **changes) -> CaseRecord:
    known = {
        "id": case_id,
        "patient": f"p-{case_id[2:]}",
        "split": "training",
        "file": f"cases/{case_id}-0.safetensors",
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


def content_of(cases=(), excluded=(), findings=()) -> report.Content:
    return report.Content(
        task="stroke-dwi",
        title="Acute stroke",
        spacing_mm=(2, 2, 2),
        input_state="whole-head" if cases else None,
        validation_fraction=0.2,
        cases=cases,
        excluded=excluded,
        findings=findings,
        stored=True,
    )


PNG = pictures.axial_png(np.zeros((1, 4, 4, 4), np.float16), np.zeros((4, 4, 4), np.uint8), (1.0, 1.0, 1.0))


class Page(HTMLParser):
    """Tags and text of a page; complains about tags that are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.open, self.attributes = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def written(tmp_path: Path):
    def written(content: report.Content) -> str:
        path = tmp_path / "report.html"
        report.write_report(path, content, lambda record: PNG)
        assert path.stat().st_mode & 0o777 == 0o600
        return path.read_text()

    return written


def test_the_page_is_whole_and_needs_no_network(written):
    text = written(content_of([case("e-a"), case("e-b")], findings=[remark("not-dicom")]))
    page = Page(text)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?:|url\(|@import", text)
    sources = [value for name, value in page.attributes if name in {"src", "href"}]
    assert len(sources) == 2
    for source in sources:
        assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == PNG


def test_every_exclusion_is_there_with_reason_and_mend(written):
    left_out = [
        Exclusion(id="e-x", patient="p-x", findings=(remark("label-missing", "error", "No mask belongs here."),)),
        Exclusion(id="e-y", patient="p-y", findings=(remark("tilt", "error"), remark("rescale-varying"))),
    ]
    text = written(content_of([case("e-a")], left_out))
    for expected in ("e-x", "p-x", "label-missing", "No mask belongs here.", "Do something.", "e-y", "tilt"):
        assert expected in text


def test_what_needs_a_look_comes_first(written):
    cases = [case("e-large", 50), case("e-small", 0.5), case("e-odd", 9, (remark("label-empty"),))]
    text = written(content_of(cases))
    places = [text.index(f"Axial slice of {name}") for name in ("e-odd", "e-small", "e-large")]
    assert places == sorted(places)


def test_totals(written):
    cases = [case("e-a", 1), case("e-b", 3, patient="p-a"), case("e-c", 0, split="validation")]
    text = re.sub(r"<[^>]+>", " ", written(content_of(cases)))
    text = re.sub(r"\s+", " ", text)
    for expected in ("3 cases", "2 patients", "1 / 1 patients for training", "2.0 ml median lesion", "none marked"):
        assert expected in text


def test_markup_in_a_text_stays_text(written):
    text = written(content_of([case("e-a", scanner="<b>ACME</b>&")], findings=[remark("x", message="a < b <i>")]))
    assert "&lt;b&gt;ACME&lt;/b&gt;&amp;" in text
    assert "a &lt; b &lt;i&gt;" in text
    Page(text)


def test_a_report_without_cases(written):
    text = written(content_of(excluded=[Exclusion(id="e-x", patient="p-x", findings=(remark("tilt", "error"),))]))
    assert "none usable" in text
    Page(text)


def test_a_report_that_cannot_be_written(tmp_path: Path):
    with pytest.raises(CannotWrite):
        report.write_report(tmp_path / "nowhere" / "report.html", content_of(), lambda record: PNG)


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "report.html"

    def broken(record):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        report.write_report(path, content_of([case("e-a")]), broken)
    assert list(tmp_path.iterdir()) == []
