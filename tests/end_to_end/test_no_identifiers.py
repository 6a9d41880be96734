"""Law 8: nothing that fedsite writes outside the source folder holds a patient's name, id, birth date or source path.

A hospital with unusual patients goes through inspect, prepare-data, a round, evaluate and every command that shows
something; then every byte is searched: state folder, prepared data, report, server, both streams, at --verbose too.
"""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hospitals.scanners import SCANNERS
from make_hospitals import Hospital, make_hospital
from support.federation import Server, plan_file
from support.site import Site

PREPARATION = {"input_state": "whole-head", "spacing_mm": [3.0, 3.0, 3.0]}
SHOWN = (
    ("status",), ("check",), ("privacy", "show"), ("privacy", "history"), ("audit", "show"), ("audit", "verify"),
    ("data", "list"), ("identity", "show"), ("evaluate",), ("report",),
)  # fmt: skip


def secrets_of(hospital: Hospital) -> set[str]:
    """What must not be found: of every patient, and where the export lies."""
    found = {str(Path(hospital.source).parent)}
    for patient in hospital.patients:
        found |= {*patient.name.split("^"), patient.patient_id, patient.birth_date, patient.accession}
        found |= {patient.study_uid, patient.trace_series_uid, Path(patient.mask).name}
    found.discard("")
    assert all(len(secret) >= 5 for secret in found), "too short to search for: chance would find it"
    return found


def contents(*folders: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file below the folders: its name and bytes, and what is inside where it is compressed."""
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                yield path, str(path.relative_to(folder)).encode() + content
                for unpack in (gzip.decompress, zlib.decompress):
                    try:
                        yield path, unpack(content)
                    except (OSError, zlib.error, EOFError):
                        continue


def leaks(content: bytes, secrets: set[str]) -> list[str]:
    """Which secrets stand in the bytes, whatever their case, as UTF-8 or UTF-16."""
    lowered = content.lower()
    return [
        secret
        for secret in secrets
        if any(secret.lower().encode(encoding) in lowered for encoding in ("utf-8", "utf-16-le", "utf-16-be"))
    ]


@pytest.mark.slow
def test_nothing_names_a_patient(server: Server, site: Site, tmp_path: Path) -> None:
    hospital = make_hospital(tmp_path / "secret-wing-7b" / "alder", SCANNERS[0].coarser(1.6), 6, seed=3)
    secrets = secrets_of(hospital)
    site.configure(preparation={"spacing_mm": PREPARATION["spacing_mm"], "validation_fraction": 0.5})
    streams = []

    def run(*args: str) -> None:
        answer = site.say(*args, "--verbose", timeout=300)
        streams.append((" ".join(args[:2]), answer.stdout + answer.stderr))
        streams.append((" ".join(args[:2]) + " --json", site.run(*args, timeout=300).stdout))

    run("inspect", hospital.source, "--volumes", str(tmp_path / "volumes"))
    run("prepare-data", hospital.source, "--labels", hospital.labels, "--task", "stroke-dwi")
    splits = [case["split"] for case in site.ok("data", "list")["data"]["cases"]]
    assert {"training", "validation"} == set(splits), "the key and the patients of this test decide, not chance"
    local = {"steps": 1, "batch_size": 1, "patch_voxels": [32, 32, 32]}
    plan = plan_file(tmp_path, preparation=PREPARATION, local=local)
    site.ok("model", "init", str(plan), "-o", str(tmp_path / "model.safetensors"))
    server.open_series(plan, tmp_path / "model.safetensors")
    assert site.ok("train-round", timeout=300)["outcome"] == "uploaded"
    server.close_rounds()
    for command in SHOWN:
        run(*command)
    case, results = site.ok("data", "list")["data"]["cases"][0], tmp_path / "results"
    for command in (
        ("predict", hospital.source, "--only", case["id"], "--out", str(results), "--verbose"),
        ("personalize", "--steps", "2"),
    ):
        answer = site.say(*command, timeout=300)
        assert answer.code == 0, answer.stderr
        streams.append((command[0], answer.stdout + answer.stderr))
    patient = case["patient"]
    run("data", "locate", patient, hospital.source)
    run("data", "exclude", patient, "--yes")
    # Errors name things, too: a mask that is gone, a source that is gone, labels of another hospital.
    run("prepare-data", hospital.source + "-gone", "--task", "stroke-dwi")
    run("prepare-data", hospital.source, "--labels", str(tmp_path / "volumes"), "--task", "stroke-dwi")

    site.ok("audit", "export", str(results / "audit.jsonl"), "--report", str(results / "audit.html"))

    said = [(name, leaks(text.encode(), secrets)) for name, text in streams if "-gone" not in text]
    assert [found for found in said if found[1]] == []
    written = contents(site.state, site.data, server.folder, tmp_path / "volumes", results)
    found = [(path.name, leaks(content, secrets)) for path, content in written]
    assert len(found) > 20, "the search must have something to search"
    # The one exception: a DICOM segmentation is the patient's own result. It opens beside the series because it names
    # the same patient and study, lies where the operator said, and is for the archive that the series came from.
    (segmentation,) = {name for name, _ in found if name.endswith(".dcm")}
    assert {name for name, leaked in found if leaked} == {segmentation}


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(gzip.compress(b"...Zaphod..."))
    (tmp_path / "zaphod.txt").write_bytes(b"")
    (tmp_path / "b").write_bytes("xZAPHODx".encode("utf-16-le"))
    assert sum(bool(leaks(content, {"Zaphod"})) for _, content in contents(tmp_path)) == 3
