import json
from pathlib import Path

import pytest

from fedsite.dataset import manifest
from fedsite.dataset.manifest import CaseRecord, Exclusion, Manifest, Remark
from fedsite.errors import DataNotFit, SourceMissing


def example() -> Manifest:
    warning = Remark(id="label-empty", severity="warning", message="Nothing is marked.", mend="Draw it.", where="e-a")
    error = Remark(id="label-missing", severity="error", message="No mask.", mend="Give one.", where="e-b")
    case = CaseRecord(
        id="e-a",
        patient="p-a",
        split="training",
        file="cases/e-a-0123456789ab.safetensors",
        sha256="0" * 64,
        shape=(4, 5, 6),
        lesion_ml=0.25,
        source_shape=(8, 10, 12),
        source_spacing_mm=(1, 1, 1.5),
        b_value=1000,
        scanner="ACME Field 3",
        input_state="whole-head",
        fingerprint="1" * 64,
        findings=(warning,),
    )
    return Manifest(
        fedsite="0.1.0",
        task="stroke-dwi",
        channels=("dwi",),
        source="dicom",
        spacing_mm=(2, 2, 3),
        input_state="whole-head",
        validation_fraction=0.2,
        cases=(case, case.model_copy(update={"id": "e-c", "split": "validation"})),
        excluded=(Exclusion(id="e-b", patient="p-b", findings=(warning, error)),),
    )


def test_a_manifest_comes_back_as_it_was(tmp_path: Path):
    manifest.save(tmp_path, example())
    assert manifest.load(tmp_path) == example()
    assert (tmp_path / "manifest.json").stat().st_mode & 0o777 == 0o600
    assert json.loads((tmp_path / "manifest.json").read_text())["schema"] == 2


def test_cases_of_a_split():
    assert [case.id for case in example().of_split("validation")] == ["e-c"]


def test_the_reason_is_the_first_error():
    assert example().excluded[0].reason.id == "label-missing"


def test_no_manifest(tmp_path: Path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SourceMissing) as caught:
            manifest.load(folder)
        assert "fedsite prepare-data" in caught.value.mend


def altered(tmp_path: Path, change) -> DataNotFit:
    content = json.loads(example().model_dump_json())
    change(content)
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataNotFit) as caught:
        manifest.load(tmp_path)
    assert caught.value.mend
    return caught.value


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda content: content.update(colour="red"), "colour"),
        (lambda content: content["cases"][1].update(name="Doe"), "cases.1.name"),
        (lambda content: content["excluded"][0]["findings"][0].update(path="x"), "excluded.0.findings.0.path"),
    ],
)
def test_an_unknown_field_is_named(tmp_path: Path, change, named):
    error = altered(tmp_path, change)
    assert f"{named} is no field" in error.message


def test_another_version_says_so(tmp_path: Path):
    assert "another version" in altered(tmp_path, lambda content: content.update(schema=3)).message


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda content: content.pop("task"), "task"),
        (lambda content: content["cases"][0].update(sha256="xyz"), "cases.0.sha256"),
        (lambda content: content["cases"][0].update(file="../../etc/passwd"), "cases.0.file"),
        (lambda content: content["cases"][0].update(file="cases/../x.safetensors"), "cases.0.file"),
        (lambda content: content["cases"][0].update(patient="Doe^John"), "cases.0.patient"),
        (lambda content: content.update(input_state="half-head"), "input_state"),
    ],
)
def test_a_wrong_field_is_named_but_not_quoted(tmp_path: Path, change, named):
    error = altered(tmp_path, change)
    assert named in error.message
    assert "Doe" not in str(error)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"schema": 1}'])
def test_rubbish_is_refused(tmp_path: Path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(DataNotFit):
        manifest.load(tmp_path)
