"""`fedsite prepare-data` and `fedsite data list`, as installed, one process per call."""

import base64
import dataclasses
import io
import os
import re
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image
from support.bids_maker import head, write_nifti, write_subject
from support.dicom_maker import names
from support.processes import Answer
from support.site import Site
from support.study_maker import write_dicom

from fedsite.dataset import cases, folder, manifest

PLANTED = ("Qwyjibo", "Zxunusual", "PID-77-Vq", "ACC-99-Wz", "18991231", "Hôpital-Xyz", "Folder-of-Qq")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An initialised site whose cases are small."""
    site = Site(tmp_path / "site")
    site.init(preparation={"spacing_mm": [4.0, 4.0, 4.0]})
    return site


def prepare(site: Site, source: Path, *options: str, **settings: float) -> Answer:
    return site.run("prepare-data", str(source), "--task", "stroke-dwi", *options, **settings)


def killed(site: Site, where: str, source: Path, *options: str) -> None:
    done = site.killed(where, "prepare-data", str(source), "--task", "stroke-dwi", *options)
    assert_nobody_is_left(done.process)


def assert_nobody_is_left(session: int) -> None:
    """No worker outlives a parent that was killed."""
    deadline = time.monotonic() + 30
    while any(session_of(int(entry.name)) == session for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1


def everything(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


def readable(place: Path) -> bytes:
    """Every byte of every file, and what is packed in them: pictures in pages, pixels in pictures."""
    parts = []
    for path, content in everything(place).items():
        parts += [os.fsencode(path), content]
        for packed in re.findall(rb"base64,([A-Za-z0-9+/=]+)", content):
            jpeg = base64.b64decode(packed)
            picture = Image.open(io.BytesIO(jpeg))
            parts += [jpeg, picture.tobytes(), repr(picture.info).encode()]
    return b"\n".join(parts)


def assert_says_none_of(content: bytes, secrets: list[str]) -> None:
    for secret in secrets:
        for encoding in ("utf-8", "latin-1", "utf-16-le"):
            assert secret.encode(encoding) not in content, secret


def test_a_dicom_export_from_end_to_end_names_nobody(tmp_path: Path, site: Site):
    name, odd, patient_id, accession, birth_date, institution, place = PLANTED
    export = tmp_path / place / "export"
    labels = tmp_path / place / "labels"
    who = [dataclasses.replace(names(), patient=f"{patient_id}-{number}") for number in range(2)]
    for number, one in enumerate(who):
        write_dicom(
            export / f"{name}_{number}",
            labels,
            head(number),
            one,
            PatientName=f"{name}^{odd}",
            PatientBirthDate=birth_date,
            AccessionNumber=f"{accession}-{number}",
            InstitutionName=institution,
            StudyDate="20010203",
            SeriesDescription=f"trace of {name}",
        )
    before = everything(tmp_path / place)

    answer = prepare(site, export, "--labels", str(labels))
    assert answer.code == 0, answer.stderr
    assert answer.json["outcome"] == "prepared"
    data = answer.json["data"]
    assert (data["cases"], data["patients"], data["new"], data["excluded"]) == (2, 2, 2, [])
    assert data["input_state"] == "whole-head"

    found = manifest.load(site.data)
    for record in found.cases:
        case = cases.open_case(site.data / record.file)
        assert case.image[0][case.label > 0].mean() > case.image[0][case.label == 0].mean() + 3
        assert record.b_value == 1000
        assert record.scanner == "SIEMENS Testscan"
    volumes = sorted(record.lesion_ml for record in found.cases)
    assert volumes == pytest.approx(sorted(head(number).mask.sum() * 0.096 for number in range(2)))

    first = everything(site.data)
    again = prepare(site, export, "--labels", str(labels), "--workers", "2")
    assert again.json["outcome"] == "nothing-to-do"
    assert everything(site.data) == first

    listed = site.run("data", "list")
    assert [case["id"] for case in listed.json["data"]["cases"]] == [case.id for case in found.cases]
    seen = site.say("data", "list").stdout
    assert all(case.id in seen and case.patient in seen for case in found.cases)

    checked = prepare(site, export)
    assert checked.code == 65
    assert "label-missing: 2" in checked.json["error"]["message"]
    assert "--labels" in checked.json["error"]["mend"]

    secrets = [*PLANTED, str(tmp_path / place), "20010203", *(uid for one in who for uid in (one.series, one.study))]
    assert_says_none_of(readable(site.home), secrets)
    answers = [answer, again, listed, checked, prepare(site, export, "--verbose")]
    assert_says_none_of("".join(one.stdout + one.stderr for one in answers).encode() + seen.encode(), secrets)
    assert everything(tmp_path / place) == before, "the source is only read"


@pytest.mark.slow
def test_a_kill_at_any_point_loses_no_finished_study(tmp_path: Path, site: Site):
    source = tmp_path / "source"
    for number in range(5):
        write_subject(source, f"Qwyjibo{number}", head(number))
    case_folder = site.data / cases.FOLDER

    def finished() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in cases.stored(case_folder)}

    killed(site, "record:2", source, "--workers", "2")
    journal = (site.data / folder.JOURNAL).read_bytes()
    assert journal.count(b"\n") == 2
    assert not (site.data / manifest.FILE_NAME).exists()
    durable = finished()

    killed(site, "store:1", source)
    assert (site.data / folder.JOURNAL).read_bytes() == journal
    assert list(case_folder.glob(".*.tmp"))

    killed(site, "commit", source)
    assert (site.data / folder.JOURNAL).read_bytes().count(b"\n") == 5
    assert not (site.data / manifest.FILE_NAME).exists()
    kept = [name for name, written in durable.items() if finished()[name] == written]
    assert len(kept) >= 2, "what the journal names was not done again"
    durable = finished()

    killed(site, "sweep", source)
    complete = manifest.load(site.data)
    assert len(complete.cases) == 5
    assert (site.data / folder.JOURNAL).exists()

    answer = prepare(site, source)
    assert answer.json["outcome"] == "nothing-to-do"
    assert finished() == {Path(case.file).name: durable[Path(case.file).name] for case in complete.cases}
    for case in complete.cases:
        cases.verify_case(site.data / case.file, case.sha256)
    assert sorted(path.name for path in site.data.iterdir()) == ["cases", "manifest.json", "report.html"]
    assert not list(case_folder.glob(".*"))
    assert_says_none_of(readable(site.data), ["Qwyjibo", str(source)])

    # The old set stays whole while a new one is being made.
    write_subject(source, "Qwyjibo9", head(9))
    shutil.rmtree(source / "sub-Qwyjibo0")
    killed(site, "commit", source)
    assert manifest.load(site.data) == complete
    for case in complete.cases:
        cases.verify_case(site.data / case.file, case.sha256)
    assert prepare(site, source).json["data"]["removed"] == 1


def test_two_runs_at_once(tmp_path: Path, site: Site):
    write_subject(tmp_path / "source", "one", head())
    with folder.hold(site.data):
        answer = prepare(site, tmp_path / "source")
    assert (answer.code, answer.json["outcome"]) == (75, "pending")
    assert not site.data.exists()


def test_a_check_writes_nothing_but_the_report(tmp_path: Path, site: Site):
    source = tmp_path / "source"
    write_subject(source, "one", head())
    _, mask = write_subject(source, "two", head(2))
    content = head(2)
    write_nifti(mask, content.mask * 255, content.affine)
    page = tmp_path / "page.html"
    answer = prepare(site, source, "--check-only", "--report", str(page))
    assert (answer.code, answer.json["outcome"]) == (0, "checked")
    assert answer.json["data"]["folder"] is None
    assert [study["findings"][0]["id"] for study in answer.json["data"]["excluded"]] == ["label-stored-as-255"]
    assert not site.data.exists()
    text = page.read_text()
    assert text.count("data:image/jpeg") == 3
    assert "label-stored-as-255" in text

    mask.parent.parent.parent.joinpath("sub-one").rename(tmp_path / "elsewhere")
    answer = prepare(site, source, "--check-only")
    assert answer.code == 65
    assert sorted(path.name for path in site.data.iterdir()) == ["check.html"]


def test_what_cannot_be_done_says_so_and_leaves_nothing(tmp_path: Path, site: Site):
    empty, rubbish, source = (tmp_path / name for name in ("empty", "rubbish", "Qwyjibo"))
    empty.mkdir()
    rubbish.mkdir()
    (rubbish / "IM1").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 50)
    (rubbish / "notes.txt").write_text("Qwyjibo")
    content = head()
    _, mask = write_subject(source, "Qwyjibo", content)
    write_nifti(mask, content.mask[:, :, 1:], content.affine)
    (tmp_path / "file").touch()
    expected = {
        (str(tmp_path / "Qwyjibo-nowhere"),): 66,
        (str(source), "--labels", str(tmp_path / "Qwyjibo-nowhere")): 66,
        (str(empty),): 65,
        (str(rubbish),): 65,
        (str(source),): 65,
        (str(source), "--out", str(tmp_path / "file" / "out")): 73,
        (str(source), "--report", str(tmp_path / "nowhere" / "report.html")): 73,
        (str(source), "--out", str(source / "out")): 2,
        (str(source), "--report", str(source / "report.html")): 2,
        (str(source), "--workers", "0"): 2,
    }
    for arguments, code in expected.items():
        answer = prepare(site, Path(arguments[0]), *arguments[1:])
        assert answer.code == code, (arguments, answer)
        assert answer.json["error"]["mend"], arguments
        assert "Qwyjibo" not in answer.stdout + answer.stderr
        assert not site.data.exists()
    assert "label-other-grid: 1" in prepare(site, source).json["error"]["message"]
    assert site.run("prepare-data", str(source), "--task", "stroke").code == 2
    assert site.run("data", "list").code == 66


def test_the_real_stroke_case_as_it_comes(tmp_path: Path, real_data: Path):
    site = Site(tmp_path / "site")
    site.init()
    source = real_data / "labels_isles22" / "strokecase0009"
    answer = prepare(site, source)
    assert answer.code == 0, answer.stderr
    record = manifest.load(site.data).cases[0]
    assert record.input_state == "skull-stripped"
    assert record.b_value == 800
    assert record.source_shape == (112, 112, 73)
    assert record.source_spacing_mm == (2, 2, 2)
    assert record.lesion_ml == pytest.approx(523 * 0.008, abs=0.05)
    assert record.findings == ()
    case = cases.open_case(site.data / record.file)
    assert case.label.sum() * 0.008 == pytest.approx(record.lesion_ml, rel=0.05)
    assert_says_none_of(readable(site.home), ["strokecase", "0009", "labels_isles22", str(source)])
