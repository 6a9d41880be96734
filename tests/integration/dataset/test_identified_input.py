"""A site that takes de-identified input only, as its operator meets it."""

from pathlib import Path

from support.bids_maker import head
from support.dicom_maker import names
from support.site import Site
from support.study_maker import write_dicom

UNMARKED = {"PatientIdentityRemoved": None, "DeidentificationMethod": None, "PatientAddress": "Kirchweg 1"}


def test_the_policy_decides_and_says_what_to_do(tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    site.init(policy={"require_deidentified_input": True})
    export, labels = tmp_path / "export", tmp_path / "labels"
    write_dicom(export, labels, head(1), names(), **UNMARKED)

    answer = site.run("prepare-data", str(export), "--task", "stroke-dwi", "--labels", str(labels))
    assert (answer.code, answer.json["outcome"]) == (65, "failed")
    (study,) = answer.json["data"]["excluded"]
    assert [each["id"] for each in study["findings"]] == ["channel-missing", "direct-identifiers"]
    assert "require_deidentified_input" in study["findings"][1]["mend"]
    assert not (site.data / "cases").exists()

    inspected = site.run("inspect", str(export))
    series = inspected.json["data"]["series"]
    assert {one["verdict"] for one in series} == {"refused"}
    assert all("direct-identifiers" in {each["id"] for each in one["findings"]} for one in series)
    assert "Kirchweg" not in answer.stdout + answer.stderr + inspected.stdout + inspected.stderr
