"""The installed command `fedsite inspect`: streams, exit codes, files, and that it tells nothing about anyone."""

import gzip
import json
import os
import sqlite3
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from support import processes
from support.dicom_maker import Grid, classic, enhanced, names, write
from support.site import Site

Inspect = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def inspect(tmp_path: Path) -> Inspect:
    """Runs the command on a machine where nobody set up a site."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    environment |= {name: os.environ[name] for name in os.environ if name.startswith("COVERAGE")}

    def run(*args: object, **more: str) -> subprocess.CompletedProcess[str]:
        command = [processes.FEDSITE, "inspect", *map(str, args)]
        done = processes.run(command, environment | more)
        return subprocess.CompletedProcess(command, done.code, done.stdout, done.stderr)

    return run


def series_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["schema"], answer["command"], answer["outcome"], answer["error"]) == (
        1,
        "inspect",
        "inspected",
        None,
    )
    found: list[dict[str, Any]] = answer["data"]["series"]
    return found


def test_the_json_answer_and_the_volumes(inspect: Inspect, tmp_path: Path) -> None:
    source, volumes = tmp_path / "source", tmp_path / "volumes"
    grid = Grid(columns=9, rows=7, slices=4)
    write(source, classic("CT", grid))
    write(source / "more", classic("MR", Grid(slices=2)))
    done = inspect(source, "--volumes", volumes, "--json")
    assert "ids are of this run only" in done.stderr
    accepted, refused = sorted(series_of(done), key=lambda each: each["verdict"])
    assert accepted.keys() >= {"id", "modality", "shape", "affine", "verdict", "part", "findings"}
    assert (accepted["modality"], accepted["shape"], accepted["part"]) == ("CT", [9, 7, 4], None)
    np.testing.assert_allclose(accepted["affine"], grid.affine, atol=1e-6)
    assert accepted["findings"] == []
    (finding,) = refused["findings"]
    assert finding.keys() == {"id", "severity", "message", "mend"}
    assert (finding["id"], finding["severity"]) == ("too-few-slices", "error")
    (path,) = volumes.iterdir()
    assert path.name == f"{accepted['id']}.nii.gz"
    image = nib.load(path)
    assert image.get_data_dtype() == np.int16
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
    np.testing.assert_allclose(image.header.get_qform(), grid.affine, atol=1e-4)
    np.testing.assert_array_equal(image.get_fdata(), grid.voxels().transpose(2, 1, 0).astype(int) - 1024)


def test_fractional_values_are_written_as_float32(inspect: Inspect, tmp_path: Path) -> None:
    write(tmp_path / "source", classic("CT", RescaleSlope="0.5"))
    inspect(tmp_path / "source", "--volumes", tmp_path / "volumes")
    (path,) = (tmp_path / "volumes").iterdir()
    image = nib.load(path)
    assert image.get_data_dtype() == np.float32
    np.testing.assert_array_equal(image.get_fdata(), Grid().voxels().transpose(2, 1, 0) * 0.5 - 1024)


def test_what_a_person_sees(inspect: Inspect, tmp_path: Path) -> None:
    write(tmp_path, classic("CT") + classic("MR", Grid(slices=2)))
    (tmp_path / "notes.txt").write_text("nothing")
    done = inspect(tmp_path)
    assert done.returncode == 0
    assert "8 files: 1 accepted, 1 refused." in done.stdout
    assert "too-few-slices (1): There are 2 slice(s), fewer than 3." in done.stdout
    assert "1 file(s) are not DICOM." in done.stdout


def test_ids_are_new_in_every_run_without_a_site_and_lasting_with_one(inspect: Inspect, tmp_path: Path) -> None:
    write(tmp_path / "source", classic())
    assert series_of(inspect(tmp_path / "source", "--json")) != series_of(inspect(tmp_path / "source", "--json"))
    site = Site(tmp_path / "site")
    site.init()
    first, second = (site.ok("inspect", str(tmp_path / "source")) for _ in range(2))
    assert first["data"]["ids"] == "site"
    assert first == second


def test_a_site_remembers_headers_in_its_state_folder_and_an_archive_is_a_source(tmp_path: Path) -> None:
    paths = write(tmp_path / "source", classic())
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        for path in paths:
            archive.write(path, f"DICOM/{path.name}")
            os.utime(path, (1_600_000_000, 1_600_000_000))
    site = Site(tmp_path / "site")
    site.init()
    first, second = (site.ok("inspect", str(tmp_path / "source")) for _ in range(2))
    assert first == second
    with sqlite3.connect(site.state / "index" / "headers.db") as database:
        assert database.execute("select count(*) from headers").fetchall() == [(1,)]
    database.close()
    assert site.ok("inspect", str(tmp_path / "export.zip"))["data"]["series"] == first["data"]["series"]


def test_nothing_tells_who_was_scanned(inspect: Inspect, tmp_path: Path) -> None:
    source, volumes = tmp_path / "Ünusual^Näme", tmp_path / "volumes"
    who = names()
    write(source / "19010203", classic(who=who))
    write(source / "SC", [enhanced(who=who, SOPClassUID="1.2.840.10008.5.1.4.1.1.7")])
    path = write(source / "broken", classic("CT"))[0]
    path.write_bytes(path.read_bytes()[:-30])
    (source / "PAT-4711.txt").write_text("PAT-4711")
    secrets = ["nusual", "19010203", "PAT-4711", "ACC-0815", who.series, who.study, who.frame_of_reference]
    said = [inspect(source, "--volumes", volumes, "--verbose", *more) for more in ([], ["--json"])]
    said.append(inspect(source / "missing-PAT-4711", "--verbose"))
    written = "".join(done.stdout + done.stderr for done in said)
    written += "".join(path.name + gzip.decompress(path.read_bytes()).decode("latin-1") for path in volumes.iterdir())
    assert [secret for secret in [*secrets, str(source)] if secret in written] == []


@pytest.mark.parametrize(
    ("content", "code"), [(None, 66), ({}, 65), ({"a.dcm": b"text"}, 65), ({"a": b"", "b": b"\0" * 500}, 65)]
)
def test_nothing_to_inspect(inspect: Inspect, tmp_path: Path, content: dict[str, bytes] | None, code: int) -> None:
    source = tmp_path / "source"
    if content is not None:
        source.mkdir()
        for name, data in content.items():
            (source / name).write_bytes(data)
    done = inspect(source, "--json")
    assert done.returncode == code
    error = json.loads(done.stdout)["error"]
    assert error["message"]
    assert error["mend"]


def test_tilted_slices_are_resampled_when_asked_for(inspect: Inspect, tmp_path: Path) -> None:
    write(tmp_path / "source", classic("CT", Grid(shear=(0, 1.2, 0))))
    (refused,) = series_of(inspect(tmp_path / "source", "--json"))
    assert [each["id"] for each in refused["findings"]] == ["tilt"]
    done = inspect(tmp_path / "source", "--resample", "tilt,uneven", "--volumes", tmp_path / "volumes", "--json")
    (accepted,) = series_of(done)
    assert (accepted["verdict"], accepted["shape"]) == ("accepted", [8, 12, 5])
    assert [each["id"] for each in accepted["findings"]] == ["resampled-tilt"]
    (path,) = (tmp_path / "volumes").iterdir()
    image = nib.load(path)
    assert image.get_data_dtype() == np.float32
    directions = image.affine[:3, :3] / image.header.get_zooms()
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-5)


def test_an_unknown_word_of_resample_is_a_usage_error(inspect: Inspect, tmp_path: Path) -> None:
    done = inspect(tmp_path, "--resample", "tilted", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["mend"] == "Did you mean tilt?"


def test_a_folder_that_cannot_be_written(inspect: Inspect, tmp_path: Path) -> None:
    write(tmp_path / "source", classic())
    (tmp_path / "taken").write_text("a file, no folder")
    done = inspect(tmp_path / "source", "--volumes", tmp_path / "taken", "--json")
    assert done.returncode == 73


def test_a_configuration_that_was_named_must_be_there(inspect: Inspect, tmp_path: Path) -> None:
    write(tmp_path / "source", classic())
    assert inspect(tmp_path / "source", "--config", tmp_path / "none.yaml").returncode == 78
    assert inspect(tmp_path / "source", FEDSITE_CONFIG=str(tmp_path / "none.yaml")).returncode == 78


@pytest.mark.parametrize(
    "series", ["ct_philips/brain_5mm", "mr_siemens_decubitus/t1_sag_hfs", "mr_siemens_xa30/t1w_enhanced"]
)
def test_ordinary_series_of_the_world(inspect: Inspect, real_data: Path, series: str) -> None:
    truth = {row["series"]: row for row in json.loads((real_data / "truth.json").read_text())}
    (volume,) = series_of(inspect(real_data / series, "--json"))
    assert volume["verdict"] == "accepted"
    (expected,) = truth[series.replace("/", "__")]["volumes"]
    assert sorted(volume["shape"]) == sorted(expected["shape"])
