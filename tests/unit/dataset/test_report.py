import base64
import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fedsite.dataset import pictures, report
from fedsite.dataset.manifest import Exclusion, Remark
from fedsite.errors import CannotWrite
from fedsite.tasks import registry

VOID = {"meta", "img", "br", "input"}


def remark(rule: str, severity: str = "warning", message: str = "Something was seen.") -> Remark:
    return Remark(id=rule, severity=severity, message=message, mend="Do something.")


def content_of(cases=(), excluded=(), findings=()) -> report.Content:
    return report.Content(
        task=registry.get("stroke-dwi"),
        spacing_mm=(2, 2, 2),
        input_state="whole-head" if cases else None,
        validation_fraction=0.2,
        cases=cases,
        excluded=excluded,
        findings=findings,
        stored=True,
    )


def a_look() -> pictures.Look:
    label = np.zeros((4, 5, 6), np.uint8)
    label[1:3, 1:3, 2] = 1
    return pictures.look(np.random.default_rng(0).normal(size=(1, 4, 5, 6)), label, (2.0, 2.0, 2.0))


LOOK = a_look()


class Page(HTMLParser):
    """Tags, attributes and text of a page; complains about tags that are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.open, self.attributes, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


@pytest.fixture
def written(tmp_path: Path):
    def written(content: report.Content) -> str:
        path = tmp_path / "report.html"
        report.write_report(path, content, lambda record: LOOK)
        assert path.stat().st_mode & 0o777 == 0o600
        return path.read_text()

    return written


def test_the_page_is_whole_and_needs_neither_network_nor_scripts(written, record_of):
    text = written(content_of([record_of("e-a"), record_of("e-b")], findings=[remark("not-dicom")]))
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    assert not re.search(r"https?:|url\(|@import|javascript:", text)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    sources = [value for name, value in page.attributes if name in {"src", "href"}]
    assert len(sources) == 6
    known = {plane.jpeg for plane in LOOK.planes}
    assert {source.removeprefix("data:image/jpeg;base64,") for source in sources} == known
    assert all(base64.b64decode(jpeg).startswith(b"\xff\xd8") for jpeg in known)
    assert text.count('class="outline"') == 6


def test_every_exclusion_is_there_with_reason_and_mend(written, record_of):
    left_out = [
        Exclusion(id="e-x", patient="p-x", findings=(remark("label-missing", "error", "No mask belongs here."),)),
        Exclusion(id="e-y", patient="p-y", findings=(remark("tilt", "error", "By 3."), remark("rescale-varying"))),
        Exclusion(id="e-z", patient="p-z", findings=(remark("tilt", "error", "By 4."),)),
    ]
    text = Page(written(content_of([record_of("e-a")], left_out))).text
    expected = ("e-x of p-x", "label-missing", "No mask belongs here.", "Do something.", "e-y of p-y", "tilt : By 3.")
    assert [piece for piece in (*expected, "rescale-varying", "e-z of p-z", "tilt : By 4.") if piece not in text] == []
    assert text.index("2 tilt Open to see") < text.index("1 label-missing No mask belongs here.")


def test_what_needs_a_look_comes_first(written, record_of):
    cases = [record_of("e-large", 50), record_of("e-small", 0.5), record_of("e-odd", 9, (remark("label-empty"),))]
    text = written(content_of(cases))
    places = [text.index(f"Axial slice of {name}") for name in ("e-odd", "e-small", "e-large")]
    assert places == sorted(places)


def test_totals_and_spreads(written, record_of):
    cases = [
        record_of("e-a", 1, dice_ceiling=0.873),
        record_of("e-b", 3, patient="p-a", scanner="ACME Two"),
        record_of("e-c", 0, split="validation", scanner=""),
    ]
    text = Page(written(content_of(cases))).text
    expected = ("3 cases", "2 patients", "1 / 1 patients for training", "2.0 ml median lesion", "none marked", "0.873")
    assert [piece for piece in expected if piece not in text] == []
    assert "Scanner ACME 1 ACME Two 1 not stated 1" in text
    assert "Voxel size as acquired in mm 1 \u00d7 1 \u00d7 2.5 3" in text
    assert "Lesion volume in ml 1\u20133 1 3\u201310 1" in text


def test_each_group_can_be_shown_alone(written, record_of):
    cases = [record_of("e-a", split="validation"), record_of("e-b", 0, (remark("label-empty"),))]
    text = written(content_of(cases))
    for key in ("look", "none", "training", "validation", "r-label-empty"):
        assert f"#c-{key}:checked ~ .cases .case:not(.k-{key}) {{ display: none; }}" in text
        assert f'id="c-{key}"' in text
        assert f'for="c-{key}"' in text
        assert len(re.findall(rf'<article class="[^"]* k-{key}[ "]', text)) == 1
    assert "c-unusual" not in text


def test_other_channels_are_named(tmp_path: Path, record_of):
    content = content_of([record_of("e-a")])
    dwi = content.task.channels[0]
    task = dataclasses.replace(content.task, channels=(dwi, dataclasses.replace(dwi, name="flair")))
    image = np.random.default_rng(0).normal(size=(2, 4, 5, 6))
    look = pictures.look(image, np.zeros((4, 5, 6), np.uint8), (2.0, 2.0, 2.0))
    report.write_report(tmp_path / "page.html", dataclasses.replace(content, task=task), lambda record: look)
    page = Page((tmp_path / "page.html").read_text())
    assert page.tags.count("img") == 4
    assert "S flair" not in page.text
    assert "R A flair" in page.text


def test_markup_in_a_text_stays_text(written, record_of):
    text = written(content_of([record_of("e-a", scanner="<b>ACME</b>&")], findings=[remark("x", message="a < b <i>")]))
    assert "&lt;b&gt;ACME&lt;/b&gt;&amp;" in text
    assert "a &lt; b &lt;i&gt;" in text
    Page(text)


def test_a_report_without_cases(written):
    text = written(content_of(excluded=[Exclusion(id="e-x", patient="p-x", findings=(remark("tilt", "error"),))]))
    assert "none usable" in Page(text).text
    assert "<img" not in text


def test_a_page_is_known_by_its_content(tmp_path: Path, record_of):
    path = tmp_path / "report.html"
    content = content_of([record_of("e-a")])
    assert not report.is_current(path, content)
    report.write_report(path, content, lambda record: LOOK)
    assert report.is_current(path, content)
    assert not report.is_current(path, content_of([record_of("e-a", 2)]))
    assert not report.is_current(path, content_of([record_of("e-a")], findings=[remark("x")]))


def test_cases_are_looked_at_one_by_one(tmp_path: Path, record_of):
    """However many there are: the page grows on disk, not in memory."""
    seen: list[tuple[str, int]] = []
    path = tmp_path / "report.html"
    cases = [record_of(f"e-{number:03}", 1 + number) for number in range(30)]

    def look(record):
        on_disk = sum(file.stat().st_size for file in tmp_path.iterdir())
        seen.append((record.id, on_disk))
        return LOOK

    done: list[tuple[int, int]] = []
    report.write_report(path, content_of(cases), look, lambda now, total: done.append((now, total)))
    assert [case for case, _ in seen] == [case.id for case in cases]
    assert done == [(number, 30) for number in range(1, 31)]
    assert seen[-1][1] > 20 * len(LOOK.planes[0].jpeg), "what was looked at before must be written by then"


def test_a_report_that_cannot_be_written(tmp_path: Path):
    with pytest.raises(CannotWrite):
        report.write_report(tmp_path / "nowhere" / "report.html", content_of(), lambda record: LOOK)


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path, record_of):
    def broken(record):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        report.write_report(tmp_path / "report.html", content_of([record_of("e-a")]), broken)
    assert list(tmp_path.iterdir()) == []
