"""`fedsite data locate` and `fedsite data exclude`, as installed, one process per call."""

import os
import pty
import select
import shutil
import subprocess
import time
import zipfile
from pathlib import Path

import pytest
from support.bids_maker import head, write_subject
from support.dicom_maker import classic, names, write
from support.processes import FEDSITE, Answer
from support.site import Site

from fedsite.dataset import cases, folder, manifest
from fedsite.errors import DataNotFit, FedsiteError, TryAgainLater
from fedsite.jobs.data import prepared as job
from fedsite.jobs.site import open_site
from fedsite.jobs.training.local_work import require_nobody_withdrawn
from fedsite.site import identity
from fedsite.site.identity import IdentityFiles
from fedsite.site.pseudonyms import Pseudonyms


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, Path]:
    """A site with four prepared studies of three patients, one of them left out, and the source they came from."""
    place = tmp_path_factory.mktemp("template")
    source = place / "Ward-of-Qq"
    write_subject(source, "Qwyjibo", head(0), session="first")
    write_subject(source, "Qwyjibo", head(1), session="second")
    write_subject(source, "Other", head(2))
    _, mask = write_subject(source, "Unlabelled", head(3))
    mask.unlink()
    site = Site(place / "site")
    site.init(preparation={"spacing_mm": [4.0, 4.0, 4.0]})
    assert prepare(site, source).json["data"]["cases"] == 3
    return site, source


@pytest.fixture
def site(template: tuple[Site, Path], tmp_path: Path) -> Site:
    """A copy of that site."""
    shutil.copytree(template[0].home, tmp_path / "site")
    site = Site(tmp_path / "site")
    site.configure(paths={"state": str(site.state), "data": str(site.data)})
    return site


@pytest.fixture
def source(template: tuple[Site, Path]) -> Path:
    return template[1]


def prepare(site: Site, source: Path, *options: str) -> Answer:
    return site.run("prepare-data", str(source), "--task", "stroke-dwi", *options)


def pseudonyms(site: Site) -> Pseudonyms:
    return identity.pseudonyms(IdentityFiles(site.state / "identity"))


def exclude(site: Site, name: str) -> job.Withdrawn:
    """What `fedsite data exclude NAME --yes` does, without a process of its own."""
    return job.withdraw(site.config, job.find_withdrawal(site.config, name).patient)


def require_fit(site: Site) -> None:
    """What a round asks of the prepared data."""
    with open_site(site.config) as opened:
        require_nobody_withdrawn(opened, manifest.load(site.data))


def patient_of(site: Site, subject: str) -> str:
    return pseudonyms(site).patient(subject, "bids")


def cases_of(site: Site, patient: str) -> list[manifest.CaseRecord]:
    return [case for case in manifest.load(site.data).cases if case.patient == patient]


def audited(site: Site) -> list[dict[str, object]]:
    with site.open_state() as state:
        return [record.body for record in state.records("audit") if str(record.body["event"]).startswith("patient-")]


def on_terminal(site: Site, *args: str, typed: str = "") -> tuple[int, str]:
    """Runs fedsite with a terminal for all three streams; gives its exit code and what was shown."""
    ours, theirs = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "FEDSITE_CONFIG": str(site.config), "TERM": "dumb", "COLUMNS": "400"}
    environment |= {name: os.environ[name] for name in ("HOME", "COVERAGE_PROCESS_CONFIG") if name in os.environ}
    process = subprocess.Popen(
        [FEDSITE, *args], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    os.write(ours, typed.encode())
    shown, end = b"", time.monotonic() + 60
    while select.select([ours], [], [], max(0.0, end - time.monotonic()))[0]:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux's way of saying that nobody holds the other end
            break
        shown += part
    os.close(ours)
    return process.wait(timeout=10), shown.decode().replace("\r\n", "\n")


# --- exclude ----------------------------------------------------------------------------------------------------------


def test_a_patient_is_withdrawn_for_ever(site: Site, source: Path) -> None:
    patient = patient_of(site, "Qwyjibo")
    gone = cases_of(site, patient)
    assert len(gone) == 2
    before = (site.data / "report.html").read_text()
    (site.data / "check.html").write_text("pictures of an earlier check")

    answer = site.run("data", "exclude", gone[1].id, "--yes")

    assert (answer.code, answer.json["outcome"]) == (0, "excluded"), answer
    assert answer.json["data"] == {"patient": patient, "recorded": True, "files_removed": 2}
    found = manifest.load(site.data)
    assert [case.patient for case in found.cases] == [patient_of(site, "Other")]
    assert {study.id for study in found.excluded if study.reason.id == "patient-withdrawn"} == {
        case.id for case in gone
    }
    assert [path.name for path in (site.data / "cases").iterdir()] == [Path(found.cases[0].file).name]
    page = (site.data / "report.html").read_text()
    assert all(f"slice of {case.id}" in before for case in gone)
    assert not any(f"slice of {case.id}" in page for case in gone)
    assert f"slice of {found.cases[0].id}" in page
    assert not (site.data / "check.html").exists()
    withdrawn, removed = audited(site)
    assert (withdrawn["event"], withdrawn["patient"]) == ("patient-withdrawn", patient)
    assert (removed["event"], removed["patient"], removed["files"]) == ("patient-removed", patient, 2)
    assert site.ok("audit", "verify")["outcome"] == "whole"

    everything = {path: path.read_bytes() for path in site.data.rglob("*") if path.is_file()}
    again = site.run("data", "exclude", patient, "--yes")
    assert (again.code, again.json["outcome"]) == (0, "nothing-to-do")
    assert {path: path.read_bytes() for path in site.data.rglob("*") if path.is_file()} == everything
    assert len(audited(site)) == 2

    # The list lies with the state, not with the data: a folder made anew heeds it too.
    shutil.rmtree(site.data)
    data = prepare(site, source).json["data"]
    assert data["cases"] == 1
    reasons = sorted(study["findings"][0]["id"] for study in data["excluded"])
    assert reasons == ["label-missing", "patient-withdrawn", "patient-withdrawn"]


def test_the_last_patient_can_be_withdrawn(site: Site, source: Path) -> None:
    for subject in ("Qwyjibo", "Other"):
        exclude(site, patient_of(site, subject))
    assert manifest.load(site.data).cases == ()
    assert not (site.data / "cases").exists()
    assert job.listed(site.config).cases == ()
    answer = prepare(site, source)
    assert answer.code == 65
    assert "patient-withdrawn: 3" in answer.json["error"]["message"]


def test_progress_of_an_interrupted_run_is_withdrawn_too(site: Site, source: Path) -> None:
    patient, other = patient_of(site, "Qwyjibo"), patient_of(site, "Other")
    known = manifest.load(site.data)
    with folder.hold(site.data) as held:
        for case in known.cases:
            held.record(case)
    (site.data / manifest.FILE_NAME).unlink()
    assert exclude(site, patient).files == 2
    with folder.hold(site.data) as held:
        assert [outcome.patient for outcome in held.outcomes().values()] == [other]


def test_someone_who_is_not_prepared_yet_can_be_withdrawn(site: Site, tmp_path: Path) -> None:
    shutil.rmtree(site.data)
    answer = site.run("data", "exclude", patient_of(site, "Qwyjibo"), "--yes")
    assert (answer.code, answer.json["outcome"]) == (0, "excluded")
    assert "check the id" in answer.stderr
    assert not site.data.exists()


def test_what_is_left_out_can_be_withdrawn(site: Site) -> None:
    study = next(study for study in manifest.load(site.data).excluded if study.reason.id == "label-missing")
    assert exclude(site, study.id).patient == study.patient
    assert [left.reason.id for left in manifest.load(site.data).excluded] == ["patient-withdrawn"]


def test_a_withdrawal_is_asked_for(site: Site) -> None:
    patient = patient_of(site, "Qwyjibo")
    answer = site.run("data", "exclude", patient)
    assert (answer.code, audited(site)) == (2, [])
    assert "--yes" in answer.json["error"]["message"]
    code, shown = on_terminal(site, "data", "exclude", patient, typed="n\n")
    assert (code, audited(site)) == (130, [])
    assert all(case.id in shown for case in cases_of(site, patient))
    code, shown = on_terminal(site, "data", "exclude", patient, typed="y\n")
    assert code == 0, shown
    assert "is withdrawn; 2 case file(s) removed" in shown
    assert len(audited(site)) == 2


@pytest.mark.parametrize(
    ("name", "code"),
    [("e-" + "a" * 16, 66), ("Qwyjibo", 2), ("s-" + "a" * 16, 2), ("p-", 2), ("p-../../x", 2), ("P-ABC", 2)],
)
def test_an_id_that_means_nobody(site: Site, name: str, code: int) -> None:
    with pytest.raises(FedsiteError) as error:
        exclude(site, name)
    assert error.value.exit_code == code
    assert error.value.mend
    assert "Qwyjibo" not in str(error.value)
    assert audited(site) == []


def test_while_data_are_prepared_it_is_recorded_and_finished_later(site: Site) -> None:
    patient = patient_of(site, "Qwyjibo")
    with folder.hold(site.data), pytest.raises(TryAgainLater):
        exclude(site, patient)
    assert [body["event"] for body in audited(site)] == ["patient-withdrawn"]
    assert exclude(site, patient) == job.Withdrawn(patient, recorded=False, files=2)
    assert cases_of(site, patient) == []


def test_data_from_before_the_withdrawal_are_not_used(site: Site, tmp_path: Path) -> None:
    patient = patient_of(site, "Qwyjibo")
    require_fit(site)
    shutil.copytree(site.data, tmp_path / "backup")
    exclude(site, patient)
    require_fit(site)
    shutil.rmtree(site.data)
    (tmp_path / "backup").rename(site.data)
    with pytest.raises(DataNotFit, match=f"Run: fedsite data exclude {patient} --yes"):
        require_fit(site)
    found = {check["name"]: check for check in site.run("check").json["data"]["checks"]}["data"]
    assert (found["status"], found["exit_code"]) == ("error", 65)
    assert exclude(site, patient).files == 2
    require_fit(site)


def test_weights_that_have_seen_the_patient_are_thrown_away(site: Site) -> None:
    weights = site.state / "checkpoints" / "round-1.safetensors"
    weights.touch(mode=0o600)
    exclude(site, patient_of(site, "Qwyjibo"))
    assert not weights.exists()


@pytest.mark.fault(
    part="data",
    what="kill -9 in the middle of a withdrawal",
    where="its record, before and after the manifest",
    promised="nobody trains on the patient; the next run finishes it",
)
@pytest.mark.parametrize("where", ["withdrawn", "commit", "sweep"])
def test_a_kill_in_the_middle_of_a_withdrawal(site: Site, where: str) -> None:
    """Once it is recorded nobody trains on the patient, and the next run finishes it."""
    patient = patient_of(site, "Qwyjibo")
    site.killed(where, "data", "exclude", patient, "--yes")
    assert [body["event"] for body in audited(site)] == ["patient-withdrawn"]
    assert list(cases.stored(site.data / "cases"))
    if where != "sweep":
        with pytest.raises(DataNotFit):
            require_fit(site)
    assert exclude(site, patient) == job.Withdrawn(patient, recorded=False, files=2)
    assert len(list(cases.stored(site.data / "cases"))) == 1
    assert len(audited(site)) == 2


# --- locate -----------------------------------------------------------------------------------------------------------


def files_of(site: Site, name: str, source: Path) -> set[str]:
    """The names of the files that `name` stands for."""
    found = job.find_files(site.config, name, source)
    return {Path(member or path).name for located in found for path, member in located.files}


def test_a_patient_is_found_again_on_the_terminal(site: Site, source: Path) -> None:
    code, shown = on_terminal(site, "data", "locate", patient_of(site, "Qwyjibo"), str(source))
    assert code == 0, shown
    assert str(source / "sub-Qwyjibo" / "ses-first" / "dwi") in shown
    assert "sub-Qwyjibo_ses-second_dwi.nii.gz" in shown
    assert "sub-Qwyjibo_ses-first_msk.nii.gz" in shown
    assert "sub-Other" not in shown


def test_a_study_is_found_again_also_one_that_was_left_out(site: Site, source: Path) -> None:
    image, mask = "sub-Qwyjibo_ses-second_dwi.nii.gz", "sub-Qwyjibo_ses-second_msk.nii.gz"
    assert files_of(site, pseudonyms(site).study("bids/Qwyjibo/second"), source) == {image, mask}
    series = pseudonyms(site).series(f"bids/sub-Qwyjibo/ses-second/dwi/{image}")
    assert files_of(site, series, source) == {image}
    assert files_of(site, manifest.load(site.data).excluded[0].id, source) == {"sub-Unlabelled_dwi.nii.gz"}


def test_a_series_is_found_again_wherever_its_files_lie(site: Site, tmp_path: Path) -> None:
    wanted = names()
    paths = write(tmp_path / "one" / "Qwyjibo", classic(who=wanted))
    write(tmp_path / "one", classic(who=names()))
    stray = tmp_path / "one" / "Qwyjibo.dcm"
    paths[0].rename(stray)
    files = {stray.name, *(path.name for path in paths[1:])}
    for name in (pseudonyms(site).series(wanted.series), pseudonyms(site).study(wanted.study)):
        assert files_of(site, name, tmp_path / "one") == files
    code, shown = on_terminal(site, "data", "locate", name, str(tmp_path / "one"))
    assert code == 0, shown
    assert f"{tmp_path}/one: Qwyjibo.dcm\n" in shown
    assert f"{tmp_path}/one/Qwyjibo: {len(paths) - 1} files, IM0000" in shown
    code, shown = on_terminal(site, "data", "locate", name, str(tmp_path / "one"), "--files")
    assert shown.count(f"{tmp_path}/one") == len(paths)


def test_a_series_is_found_again_in_an_archive(site: Site, tmp_path: Path) -> None:
    wanted = names()
    paths = write(tmp_path / "loose", classic(who=wanted))
    (tmp_path / "export").mkdir()
    with zipfile.ZipFile(tmp_path / "export" / "Qwyjibo.zip", "w") as archive:
        for path in paths:
            archive.write(path, f"within/{path.name}")
    code, shown = on_terminal(site, "data", "locate", pseudonyms(site).series(wanted.series), str(tmp_path / "export"))
    assert code == 0, shown
    assert f"{tmp_path}/export/Qwyjibo.zip: {len(paths)} files, within/IM00000 to within/IM" in shown


def test_paths_are_shown_on_a_terminal_only(site: Site, source: Path) -> None:
    patient = patient_of(site, "Qwyjibo")
    for answer in (
        site.run("data", "locate", patient, str(source)),
        site.say("data", "locate", patient, str(source), "--verbose"),
    ):
        assert answer.code == 2
        assert "terminal" in answer.stdout + answer.stderr
        assert "Qwyjibo" not in answer.stdout + answer.stderr
        assert str(source) not in answer.stdout + answer.stderr
    code, shown = on_terminal(site, "data", "locate", patient, str(source), "--json")
    assert code == 2
    assert "Qwyjibo" not in shown
    assert all(b"Ward-of-Qq" not in path.read_bytes() for path in site.home.rglob("*") if path.is_file())


@pytest.mark.parametrize(("name", "where", "code"), [("p-" + "a" * 16, "", 66), ("x-a", "", 2), ("p-a", "-gone", 66)])
def test_what_cannot_be_found(site: Site, source: Path, name: str, where: str, code: int) -> None:
    with pytest.raises(FedsiteError) as error:
        job.find_files(site.config, name, source.with_name(source.name + where))
    assert error.value.exit_code == code
    assert "Qwyjibo" not in str(error.value)
    assert "Ward-of-Qq" not in str(error.value)
