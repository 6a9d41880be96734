"""`fedsite inspect`: what is in an export, without a task: every volume with its verdict, each read once."""

import os
import secrets
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedsite.dataset import nifti
from fedsite.dicom.checks import VolumeRefused
from fedsite.dicom.index import Index
from fedsite.dicom.model import Inventory, Progress, Pseudonyms, Volume
from fedsite.dicom.scan import scan
from fedsite.dicom.voxels.reading import read_volume
from fedsite.errors import DataNotFit
from fedsite.files import make_folder
from fedsite.jobs.progress import Steps, silent_steps
from fedsite.jobs.site import header_index
from fedsite.site import config as configuration
from fedsite.site import identity
from fedsite.site.identity import IdentityFiles
from fedsite.site.pseudonyms import Pseudonyms as KeyedPseudonyms

INT16 = np.iinfo(np.int16)


@dataclass(frozen=True)
class Inspection:
    """What was found. `lasting` says whether the ids are the site's own or hold for this run only."""

    inventory: Inventory
    lasting: bool


def inspect(
    config_path: Path | None,
    source: Path,
    volumes: Path | None = None,
    step: Steps = silent_steps,
    *,
    resample: frozenset[str] = frozenset(),
) -> Inspection:
    """Scans `source`, reads every volume that the headers do not refuse, and writes these to `volumes` if given.

    Raises SourceMissing when there is no such source, DataNotFit when it holds no DICOM, CannotWrite,
    ConfigurationError when a configuration was named that cannot be used.
    """
    here = _site(config_path)
    with step("Reading headers") as progress:
        inventory = scan(
            source,
            here.pseudonyms,
            progress,
            index=here.index,
            resample=resample,
            require_deidentified=here.require_deidentified,
        )
    if not inventory.volumes:
        raise _nothing(inventory)
    with step("Reading volumes") as progress:
        inventory = read_all(inventory, volumes, progress)
    return Inspection(inventory, here.index is not None)


@dataclass(frozen=True)
class _Site:
    """What a scan needs of the site: its pseudonyms, its index, and whether it takes de-identified input only."""

    pseudonyms: Pseudonyms
    index: Index | None = None
    require_deidentified: bool = False


def _site(config_path: Path | None) -> _Site:
    """Where this machine is set up as a site, that; else pseudonyms for this run only."""
    for_this_run = KeyedPseudonyms(secrets.token_bytes(32))
    path = configuration.find_any(config_path)
    if path is None:
        return _Site(for_this_run)
    config = configuration.load(path)
    required = config.policy.require_deidentified_input
    files = IdentityFiles(config.paths.state / "identity")
    if not os.access(files.pseudonyms, os.R_OK):
        return _Site(for_this_run, None, required)
    pseudonyms = identity.pseudonyms(files)
    return _Site(pseudonyms, header_index(config.paths.state, pseudonyms), required)


def read_all(inventory: Inventory, folder: Path | None, progress: Progress = lambda done, total: None) -> Inventory:
    """Reads the accepted volumes, one at a time: what cannot be read is refused, the rest written to `folder`.

    `progress` counts slices.
    """
    if folder is not None:
        make_folder(folder)
    total = sum(volume.shape[2] for volume in inventory.volumes if volume.verdict == "accepted")
    done = 0
    judged: list[Volume] = []
    for volume in inventory.volumes:
        if volume.verdict == "accepted":
            judged.append(_read(volume, folder))
            done += volume.shape[2]
            progress(done, total)
        else:
            judged.append(volume)
    return replace(inventory, volumes=tuple(judged))


def _read(volume: Volume, folder: Path | None) -> Volume:
    try:
        voxels = read_volume(volume)
    except VolumeRefused as refusal:
        return replace(volume, verdict="refused", findings=(*volume.findings, *refusal.findings))
    if folder is not None:
        write_nifti(folder / f"{volume.id}.nii.gz", volume, voxels)
    return volume


def write_nifti(path: Path, volume: Volume, voxels: NDArray[np.float32]) -> None:
    """Writes a volume on its own grid as NIfTI-1: int16 where that loses nothing, else float32.

    Raises CannotWrite.
    """
    fits = volume.is_integral and INT16.min <= voxels.min() and voxels.max() <= INT16.max
    nifti.write(path, voxels.astype(np.int16) if fits else voxels, volume.affine)


def _nothing(inventory: Inventory) -> DataNotFit:
    if not inventory.files:
        return DataNotFit("The source is empty.", "Name the folder that holds the DICOM export.")
    reasons = " ".join(each.message for each in inventory.findings)
    return DataNotFit(f"The source holds no DICOM image. {reasons}", "Name the folder that holds the DICOM export.")
