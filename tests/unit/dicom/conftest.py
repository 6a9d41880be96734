"""What the tests of the DICOM room share."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from support import dicom_maker, label_scene

from fedsite.dicom.model import Inventory, Volume
from fedsite.dicom.scan import scan
from fedsite.site.pseudonyms import Pseudonyms

KEY = bytes(range(32))


@pytest.fixture
def scanned(tmp_path: Path) -> Callable[..., Inventory]:
    """Writes images into a folder and scans it."""

    def write_and_scan(images: Iterable[Dataset] = (), **options: object) -> Inventory:
        dicom_maker.write(tmp_path, images, **options)
        return scan(tmp_path, Pseudonyms(KEY))

    return write_and_scan


@pytest.fixture
def only(scanned: Callable[..., Inventory]) -> Callable[..., Volume]:
    """The same where one volume is expected."""

    def single(images: Iterable[Dataset], **options: object) -> Volume:
        (volume,) = scanned(images, **options).volumes
        return volume

    return single


@pytest.fixture
def scene(tmp_path: Path) -> Callable[..., label_scene.Scene]:
    """Writes a series for label objects to be drawn on."""
    return partial(label_scene.scene, tmp_path)
