"""Bad input, as operators meet it: each case with its exit code and a mend, and nothing half-written."""

import socket
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from support.dicom_maker import classic, write
from support.federation import Server
from support.processes import Answer
from support.site import Site


def assert_named(answer: Answer, code: int, word: str) -> None:
    """The exit code, a message that says what is wrong, a mend, and one JSON object even so."""
    assert answer.code == code, answer
    error = answer.json["error"]
    assert error["message"], answer
    assert error["mend"], f"no mend: {answer.json}"
    assert word.lower() in (error["message"] + error["mend"]).lower(), answer.json
    assert "Traceback" not in answer.stderr


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and path.name != "lock"} if folder.exists() else set()


def empty(folder: Path) -> None:
    folder.mkdir()


def no_dicom(folder: Path) -> None:
    folder.mkdir()
    (folder / "scan.dcm").write_text("this is no scan")


def without_masks(folder: Path) -> None:
    write(folder, classic(DiffusionBValue=1000.0))


def truncated(folder: Path) -> None:
    for path in write(folder, classic()):
        path.write_bytes(path.read_bytes()[:700])


@pytest.mark.parametrize(
    ("make", "code", "word"),
    [
        (None, 66, "not there"),
        (empty, 65, "neither"),
        (no_dicom, 65, "DICOM"),
        (truncated, 65, ""),
        (without_masks, 65, ""),
    ],
)
def test_prepare_data(site: Site, tmp_path: Path, make: Callable[[Path], None] | None, code: int, word: str) -> None:
    source = tmp_path / "export"
    if make is not None:
        make(source)
    before = files_below(site.data)
    answer = site.run("prepare-data", str(source), "--task", "stroke-dwi")
    assert_named(answer, code, word)
    assert {path.name for path in files_below(site.data) - before} <= {"report.html"}


def test_mask_on_another_grid(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "bids" / "sub-1" / "dwi"
    folder.mkdir(parents=True)
    image = np.random.default_rng(0).normal(100, 10, size=(24, 24, 24)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), folder / "sub-1_dwi.nii.gz")
    mask = np.zeros((20, 24, 24), np.uint8)
    mask[5:9, 5:9, 5:9] = 1
    nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), folder / "sub-1_msk.nii.gz")
    answer = site.run("prepare-data", str(tmp_path / "bids"), "--task", "stroke-dwi", "--out", str(tmp_path / "out"))
    assert_named(answer, 65, "grid")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_unknown_task(site: Site, tmp_path: Path) -> None:
    answer = site.run("prepare-data", str(tmp_path), "--task", "stroke-dwj")
    assert_named(answer, 2, "stroke-dwi")


def test_unknown_configuration_key(site: Site) -> None:
    good = site.config.read_text()
    site.config.write_text(good + "\npolici:\n  tasks: []\n")
    try:
        assert_named(site.run("status"), 78, "policy")
    finally:
        site.config.write_text(good)


def test_no_configuration(site: Site, tmp_path: Path) -> None:
    lost = Site(site.home, {"FEDSITE_CONFIG": str(tmp_path / "none.yaml")})
    assert_named(lost.run("status"), 78, "init")


def test_no_write_permission(site: Site, tmp_path: Path, real_data: Path) -> None:
    case = real_data / "labels_isles22" / "strokecase0009"
    closed = Path("/proc/fedsite-cannot-write-here")
    answer = site.run("prepare-data", str(case), "--task", "stroke-dwi", "--out", str(closed))
    assert_named(answer, 73, "write")


def test_server_down(server: Server, site: Site) -> None:
    site.configure(network={"patience_seconds": 1})
    before = files_below(site.state)
    server.stop()
    try:
        assert_named(site.run("train-round"), 69, "")
    finally:
        server.start()
        site.configure(network={"patience_seconds": 20})
    assert {path.parent.name for path in files_below(site.state) - before} == {"logs"}
    assert site.ok("audit", "verify")["outcome"] == "whole"


def test_wrong_fingerprint(server: Server, tmp_path: Path) -> None:
    from dataclasses import replace

    from fedsite.wire.enrolment import Invitation

    site = Site(tmp_path / "misled")
    site.init()
    line = replace(Invitation.decode(server.invite("misled")), ca_sha256="0" * 64).encode()
    answer = site.run("enroll", "--invitation", "-", stdin=line)
    assert_named(answer, 76, "authority")
    assert not (site.state / "identity" / "site.pem").exists()
    assert not (site.state / "identity" / "ca.pem").exists()


def test_not_a_federation_server(tmp_path: Path, server: Server) -> None:
    from dataclasses import replace

    from fedsite.wire.enrolment import Invitation

    site = Site(tmp_path / "lost")
    site.init(network={"patience_seconds": 1})
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        line = replace(
            Invitation.decode(server.invite("lost")), server=f"https://127.0.0.1:{silent.getsockname()[1]}"
        ).encode()
        answer = site.run("enroll", "--invitation", "-", stdin=line)
    assert_named(answer, 69, "")


def test_torn_invitation(site: Site, server: Server, tmp_path: Path) -> None:
    other = Site(tmp_path / "torn")
    other.init()
    line = server.invite("torn")
    assert_named(other.run("enroll", "--invitation", "-", stdin=line[:-12] + line[-9:]), 2, "copy")


def test_not_enrolled(tmp_path: Path) -> None:
    site = Site(tmp_path / "new")
    site.init()
    assert_named(site.run("train-round"), 77, "enroll")
    assert_named(site.run("identity", "show"), 77, "enroll")


def test_another_run_holds_the_lock(server: Server, site: Site) -> None:
    from fedsite.jobs.lock import only_run

    with only_run(site.state):
        answer = site.run("train-round")
    assert_named(answer, 75, "another")
    assert answer.json["outcome"] == "pending"
