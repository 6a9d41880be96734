"""What kind of source a folder is."""

import os
import zipfile
from pathlib import Path

import pytest
from support.dicom_maker import classic, write

from fedsite.dataset.sources import collect, holds_dicom
from fedsite.errors import DataNotFit


def test_a_named_pipe_is_not_waited_for(tmp_path: Path, task, pseudonyms) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert not holds_dicom(tmp_path)
    with pytest.raises(DataNotFit, match="neither DICOM"):
        collect(tmp_path, None, task, pseudonyms)


def test_an_archive_may_hold_dicom(tmp_path: Path, task, pseudonyms) -> None:
    (path, *_) = write(tmp_path / "images", classic())
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.write(path, "IM1")
    assert collect(tmp_path / "export.zip", None, task, pseudonyms).kind == "dicom"
