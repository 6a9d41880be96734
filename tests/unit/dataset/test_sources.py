"""What kind of source a folder is."""

import os
import zipfile
from pathlib import Path

from support.dicom_maker import classic, write

from fedsite.dataset.sources import detect


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert detect(tmp_path) == "dicom"


def test_an_archive_may_hold_dicom(tmp_path: Path) -> None:
    (path, *_) = write(tmp_path / "images", classic())
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.write(path, "IM1")
    assert detect(tmp_path / "export.zip") == "dicom"
