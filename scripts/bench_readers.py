"""One tool reads one series, alone in its process: `python bench_readers.py TOOL FOLDER MODALITY` prints its cost."""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FLOOR, FEDSITE, MONAI, ITK, NIIX = "NumPy floor", "fedsite", "MONAI PydicomReader", "SimpleITK", "dcm2niix"
SIDES, INTERCEPTS = {"CT": 512, "MR": 256}, {"CT": -1024, "MR": 0}


@dataclass(frozen=True)
class Cost:
    """What one tool took for one series: CPU seconds, peak memory in bytes; and the mean of the voxels."""

    seconds: float
    seconds_with_imports: float
    memory: float
    memory_with_imports: float
    mean: float


@dataclass(frozen=True)
class Series:
    """A series on disk."""

    folder: Path
    modality: str
    slices: int
    way: str

    @property
    def name(self) -> str:
        """What a table calls it."""
        return f"{self.modality} {self.slices} x {SIDES[self.modality]} x {SIDES[self.modality]} {self.way}"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        return self.slices, SIDES[self.modality], SIDES[self.modality]

    @property
    def bytes(self) -> int:
        """Of its voxels as float32."""
        return 4 * self.slices * SIDES[self.modality] ** 2


def _measure(tool: str, folder: Path, modality: str) -> Cost:
    if tool == NIIX:
        return _dcm2niix(folder)
    read = _READERS[tool]()
    seconds, memory = _seconds(), _peak()
    voxels = read(folder, modality)
    peak = _peak()
    if tool == FEDSITE:
        from fedsite.dicom.voxels.decoder import DECODER

        DECODER.close()  # a child's time counts when it has ended, its memory while it lives
    taken = _seconds()
    return Cost(taken - seconds, taken, peak - memory, peak, float(voxels.mean(dtype=np.float64)))


def _seconds() -> float:
    """CPU seconds of this process and of the children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in usages)


def _peak() -> float:
    """Peak memory of this process and of its children, in bytes."""
    children = Path("/proc/self/task", str(os.getpid()), "children").read_text().split()
    return sum(_high_water(process) for process in ("self", *children))


def _high_water(process: str) -> float:
    lines = Path("/proc", process, "status").read_text().splitlines()
    return 1024.0 * sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _dcm2niix(folder: Path) -> Cost:
    command = shutil.which(NIIX, path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if command is None:
        raise FileNotFoundError(NIIX)
    with tempfile.TemporaryDirectory(dir=folder.parent) as out:
        subprocess.run([command, "-z", "n", "-b", "n", "-o", out, str(folder)], stdout=subprocess.DEVNULL, check=True)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        import nibabel  # not before: a child is charged with what its parent holds

        (written,) = Path(out).glob("*.nii")
        mean = float(np.asarray(nibabel.load(written).dataobj, np.float32).mean(dtype=np.float64))
    seconds, memory = usage.ru_utime + usage.ru_stime, 1024.0 * usage.ru_maxrss
    return Cost(seconds, seconds, memory, memory, mean)


Voxels = NDArray[np.float32]
Read = Callable[[Path, str], Voxels]


def _fedsite() -> Read:
    from fedsite.dicom.scan import scan
    from fedsite.dicom.voxels.reading import read_volume
    from fedsite.site.pseudonyms import Pseudonyms

    def read(folder: Path, _modality: str) -> Voxels:
        (volume,) = scan(folder, Pseudonyms(bytes(32))).volumes
        return read_volume(volume)

    return read


def _monai() -> Read:
    from monai.data import PydicomReader

    def read(folder: Path, _modality: str) -> Voxels:
        reader = PydicomReader()
        voxels: Voxels = reader.get_data(reader.read(str(folder)))[0].astype(np.float32, copy=False)
        return voxels

    return read


def _simpleitk() -> Read:
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    kept = []

    def read(folder: Path, _modality: str) -> Voxels:
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
        reader.SetOutputPixelType(SimpleITK.sitkFloat32)
        kept.append(reader.Execute())  # the array is a view of it
        voxels: Voxels = SimpleITK.GetArrayViewFromImage(kept[0])
        return voxels

    return read


def _numpy() -> Read:
    """What nobody can do without. That the pixels end each file, and how they are scaled, is taken for known."""

    def read(folder: Path, modality: str) -> Voxels:
        side, intercept = SIDES[modality], np.float32(INTERCEPTS[modality])
        paths = sorted(folder.iterdir())
        voxels = np.empty((len(paths), side, side), np.float32)
        for path, plane in zip(paths, voxels, strict=True):
            with path.open("rb", buffering=0) as file:
                file.seek(-2 * side * side, os.SEEK_END)
                np.copyto(plane, np.fromfile(file, np.uint16).reshape(side, side))
            plane += intercept
        return voxels

    return read


_READERS: dict[str, Callable[[], Read]] = {FLOOR: _numpy, FEDSITE: _fedsite, MONAI: _monai, ITK: _simpleitk}

if __name__ == "__main__":
    print(json.dumps(vars(_measure(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))))
