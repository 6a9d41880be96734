import os
from pathlib import Path

import numpy as np
import pytest
from support.case_maker import content_of

from fedsite.dataset import cases, folder, manifest
from fedsite.dataset.manifest import CaseRecord, Exclusion, Manifest, Remark
from fedsite.errors import CannotWrite, DataNotFit, TryAgainLater


def stored_case(path: Path, case_id: str, value: int = 0) -> CaseRecord:
    image = np.full((1, 3, 4, 5), value, np.float16)
    file, digest = cases.write_case(path, case_id, content_of(image, np.zeros((3, 4, 5), np.uint8)))
    return CaseRecord(
        id=case_id,
        patient="p-a",
        split="training",
        file=file,
        sha256=digest,
        shape=(3, 4, 5),
        lesion_ml=0,
        source_shape=(3, 4, 5),
        source_spacing_mm=(1, 1, 1),
        b_value=None,
        scanner="",
        input_state="whole-head",
        fingerprint="0" * 64,
    )


def excluded(study: str) -> Exclusion:
    return Exclusion(id=study, patient="p-a", findings=(Remark(id="x", severity="error", message="m", mend="n"),))


def manifest_of(*records: CaseRecord) -> Manifest:
    return Manifest(
        fedsite="0",
        task="stroke-dwi",
        channels=("dwi",),
        source="dicom",
        spacing_mm=(1, 1, 1),
        input_state="whole-head",
        validation_fraction=0.2,
        cases=records,
    )


def test_what_was_recorded_is_known_to_the_next_run(tmp_path: Path):
    out = tmp_path / "out"
    with folder.hold(out) as held:
        one = stored_case(out, "e-a")
        held.record(one)
        held.record(excluded("e-b"))
    with folder.hold(out) as held:
        assert held.outcomes() == {"e-a": one, "e-b": excluded("e-b")}


def test_the_journal_is_newer_than_the_manifest(tmp_path: Path):
    with folder.hold(tmp_path) as held:
        held.commit(manifest_of(stored_case(tmp_path, "e-a", 1)))
        newer = stored_case(tmp_path, "e-a", 2)
        held.record(newer)
        assert held.outcomes() == {"e-a": newer}


def test_half_a_line_is_forgotten_and_written_over(tmp_path: Path):
    with folder.hold(tmp_path) as held:
        held.record(excluded("e-a"))
        held.record(excluded("e-b"))
    journal = tmp_path / folder.JOURNAL
    journal.write_bytes(journal.read_bytes()[:-7])
    with folder.hold(tmp_path) as held:
        assert set(held.outcomes()) == {"e-a"}
        held.record(excluded("e-c"))
        assert set(held.outcomes()) == {"e-a", "e-c"}


def test_a_case_whose_file_is_gone_or_cut_is_done_again(tmp_path: Path):
    with folder.hold(tmp_path) as held:
        gone, cut, whole = (stored_case(tmp_path, f"e-{name}") for name in "abc")
        for record in (gone, cut, whole):
            held.record(record)
        (tmp_path / gone.file).unlink()
        os.truncate(tmp_path / cut.file, 200)
        assert set(held.outcomes()) == {"e-c"}


def test_commit_removes_what_the_manifest_no_longer_names(tmp_path: Path):
    with folder.hold(tmp_path) as held:
        old = stored_case(tmp_path, "e-a", 1)
        held.commit(manifest_of(old))
        new = stored_case(tmp_path, "e-a", 2)
        held.record(new)
        leftover = tmp_path / cases.FOLDER / f".{Path(old.file).name}.77.tmp"
        leftover.write_bytes(b"half")
        foreign = tmp_path / "notes.txt"
        foreign.write_text("the operator's own")
        held.commit(manifest_of(new))
    assert manifest.load(tmp_path) == manifest_of(new)
    assert [path.name for path in (tmp_path / cases.FOLDER).iterdir()] == [Path(new.file).name]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cases", "manifest.json", "notes.txt"]


def test_an_equal_manifest_is_not_written_again(tmp_path: Path):
    with folder.hold(tmp_path) as held:
        one = stored_case(tmp_path, "e-a")
        held.commit(manifest_of(one))
        before = (tmp_path / "manifest.json").stat().st_ino
        held.commit(manifest_of(one))
    assert (tmp_path / "manifest.json").stat().st_ino == before


# --- a patient is withdrawn -----------------------------------------------------------------------------------------


def of_patient(record: CaseRecord | Exclusion, patient: str):
    return record.model_copy(update={"patient": patient})


def test_a_withdrawn_patient_leaves_manifest_progress_and_disk(tmp_path: Path):
    kept, gone = stored_case(tmp_path, "e-a"), of_patient(stored_case(tmp_path, "e-b"), "p-b")
    with folder.hold(tmp_path) as held:
        held.commit(manifest_of(kept, gone))
        journalled = [stored_case(tmp_path, "e-c"), of_patient(stored_case(tmp_path, "e-d"), "p-b")]
        for outcome in (*journalled, excluded("e-e"), of_patient(excluded("e-f"), "p-b")):
            held.record(outcome)
    stored_case(tmp_path, "e-g")  # stored by a run that was killed before it was journalled: nobody's
    (tmp_path / "cases" / ".e-d-0.safetensors.1.tmp").touch()
    (tmp_path / ".report.html.1.tmp").touch()
    with folder.hold(tmp_path) as held:
        assert held.withdraw("p-b") == 3
        assert held.withdraw("p-b") == 0
        assert held.outcomes().keys() == {"e-a", "e-b", "e-c", "e-e"}
    found = manifest.load(tmp_path)
    assert found.cases == (kept,)
    assert [(study.id, study.patient, study.reason.id) for study in found.excluded] == [
        ("e-b", "p-b", "patient-withdrawn")
    ]
    names = {path.name.split("-")[1] for path in (tmp_path / "cases").iterdir()}
    assert names == {"a", "c"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cases", folder.JOURNAL, "manifest.json"]


def test_a_withdrawal_that_was_cut_off_is_finished(tmp_path: Path, monkeypatch):
    kept, gone = stored_case(tmp_path, "e-a"), of_patient(stored_case(tmp_path, "e-b"), "p-b")
    with folder.hold(tmp_path) as held:
        held.commit(manifest_of(kept, gone))
    with monkeypatch.context() as patch, folder.hold(tmp_path) as held:
        patch.setattr(folder.PreparedFolder, "_sweep", lambda self, kept: (_ for _ in ()).throw(CannotWrite("full")))
        with pytest.raises(CannotWrite):
            held.withdraw("p-b")
    assert (tmp_path / gone.file).exists()
    with folder.hold(tmp_path) as held:
        assert held.withdraw("p-b") == 1
    assert not (tmp_path / gone.file).exists()
    assert (tmp_path / kept.file).exists()


def test_there_is_nothing_to_withdraw_from_an_empty_folder(tmp_path: Path):
    with folder.hold(tmp_path) as held:
        assert held.withdraw("p-b") == 0
    assert list(tmp_path.iterdir()) == []


def test_only_one_run_at_a_time(tmp_path: Path):
    with folder.hold(tmp_path), pytest.raises(TryAgainLater, match="Another"), folder.hold(tmp_path):
        pass
    with folder.hold(tmp_path):
        pass


def test_a_removed_lock_file_holds_nobody(tmp_path: Path):
    """Whoever opened the file that another run then removed must not think that it holds the folder."""
    (tmp_path / folder.LOCK).touch()
    stale = os.open(tmp_path / folder.LOCK, os.O_RDWR)
    (tmp_path / folder.LOCK).unlink()
    with folder.hold(tmp_path):
        assert not folder._is_same(stale, tmp_path / folder.LOCK)
    os.close(stale)


def test_a_folder_made_in_vain_is_removed_again(tmp_path: Path):
    with pytest.raises(DataNotFit), folder.hold(tmp_path / "out"):
        raise DataNotFit("nothing")
    assert not (tmp_path / "out").exists()
    with folder.hold(tmp_path):
        pass
    assert tmp_path.exists()


def test_a_place_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(CannotWrite), folder.hold(tmp_path / "file" / "out"):
        pass
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / folder.LOCK).mkdir()
    with pytest.raises(CannotWrite), folder.hold(tmp_path / "folder"):
        pass


def test_a_damaged_manifest_is_not_overwritten(tmp_path: Path):
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(DataNotFit), folder.hold(tmp_path):
        pass
    assert (tmp_path / "manifest.json").read_text() == "{}"
