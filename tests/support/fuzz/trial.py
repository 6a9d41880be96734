"""Runs one case within this process: the gate scans and reads, the oracle judges."""

import contextlib
import logging
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pydicom.config
from support.fuzz import oracle
from support.fuzz.case import Case
from support.fuzz.corpus import secrets
from support.fuzz.draft import Corpus
from support.label_maker import PLANTED

from fedsite.dicom import regrid
from fedsite.dicom.checks import VolumeRefused
from fedsite.dicom.header.values import tolerant_reading
from fedsite.dicom.index import Index
from fedsite.dicom.labels.marking import Marked
from fedsite.dicom.labels.objects import read_label_object
from fedsite.dicom.labels.reading import read_label
from fedsite.dicom.model import Inventory, Volume
from fedsite.dicom.scan import scan
from fedsite.dicom.voxels.reading import read_volume
from fedsite.errors import FedsiteError
from fedsite.site.pseudonyms import Pseudonyms

PSEUDONYMS = Pseudonyms(b"fuzz" * 8)
LABELLED = ("mr_segmentation", "mr_structure_set")
CPU_SECONDS = 5.0
CODEC_SECONDS = 60.0
MEMORY_MB = 600

# Part of the path of every case: no message may name where the source lies.
SECRET_FOLDER = "Wunderlich^Erna"


@dataclass
class Outcome:
    """How a case ended. `faults` is empty when everything held."""

    case: str
    accepted: int = 0
    refused: int = 0
    resampled: int = 0
    labels: int = 0
    rules: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    cpu_seconds: float = 0.0
    codec_seconds: float = 0.0
    memory_mb: int = 0


def run(case: Case, corpus: Corpus) -> Outcome:
    """Writes the files of a case, scans them, reads what was accepted, and judges all of it."""
    outcome = Outcome(str(case))
    files = case.files(corpus)
    hidden = {SECRET_FOLDER, *PLANTED, *secrets(corpus[case.series])}
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base) / SECRET_FOLDER
        folder.mkdir()
        paths = [folder / f"IM{index:05d}" for index in range(len(files))]
        for path, content in zip(paths, files, strict=True):
            path.write_bytes(content)
        del files
        with _heard() as heard, _measured(outcome):
            inventory, readings = _gate(folder, heard, case.number)
            labels = [_label(path, readings, heard) for path in paths if case.series in LABELLED]
        if inventory:
            _judge(outcome, inventory, readings, paths)
            heard.append(repr(inventory))
        outcome.labels = sum(label is not None for label in labels)
        outcome.faults += [fault for label in labels if label for fault in oracle.label_faults(*label)]
        oracle.forget()
    said = "\n".join(heard)
    outcome.faults += [f"says an identifier ({len(secret)} letters)" for secret in sorted(hidden) if secret in said]
    outcome.faults += [line for line in heard if line.startswith("raised ")]
    return outcome


Reading = tuple[Volume, "object | None"]


def _gate(folder: Path, heard: list[str], number: int) -> tuple[Inventory | None, list[Reading]]:
    """What is under test. What it raises against its promise goes to `heard`.

    Some cases are resampled; some are scanned through an index, which must not change what is found.
    """
    resample = frozenset(regrid.CHOICES if number % 4 == 0 else ())
    try:
        inventory = scan(folder, PSEUDONYMS, resample=resample)
        if number % 4 == 1:
            index = Index(folder.with_name("index"), b"fuzz" * 8)
            again = {repr(scan(folder, PSEUDONYMS, index=index)) for _ in range(2)}
            if again != {repr(inventory)}:
                heard.append("raised nothing, but an index changes what is found")
    except Exception as error:  # noqa: BLE001 - that it raises is what is looked for
        heard += [_raised(error), traceback.format_exc()]
        return None, []
    readings: list[Reading] = []
    for volume in inventory.volumes:
        try:
            readings.append((volume, read_volume(volume)))
        except VolumeRefused as refused:
            heard.append("".join(traceback.format_exception(refused)))
            readings.append((volume, refused))
        except Exception as error:  # noqa: BLE001 - as above
            heard += [_raised(error), traceback.format_exc()]
    return inventory, readings


def _label(path: Path, readings: Sequence[Reading], heard: list[str]) -> tuple[Volume, Marked] | None:
    """What a label object marks on the first volume that could be read; None where there is no such object."""
    volume = next((volume for volume, read in readings if not isinstance(read, VolumeRefused)), None)
    try:
        with tolerant_reading():
            label = read_label_object(str(path))
        if label is None or volume is None:
            return None
        marked = read_label(label, [volume], {1: "lesion"})
    except FedsiteError as error:
        heard.append("".join(traceback.format_exception(error)))
        return None
    except Exception as error:  # noqa: BLE001 - as above
        heard += [_raised(error), traceback.format_exc()]
        return None
    heard.append(repr(marked.findings))
    return volume, marked


def _judge(outcome: Outcome, inventory: Inventory, readings: Sequence[Reading], paths: Sequence[Path]) -> None:
    outcome.faults += oracle.faults(inventory, paths)
    outcome.rules += [each.id for each in inventory.findings]
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        for volume, read in readings:
            outcome.rules += [each.id for each in volume.findings]
            if volume.verdict == "refused" and not isinstance(read, VolumeRefused):
                outcome.faults.append("a refused volume could be read")
            if volume.verdict == "refused" or isinstance(read, VolumeRefused):
                outcome.refused += 1
            else:
                outcome.accepted += 1
                outcome.faults += [*oracle.volume_faults(volume), *oracle.voxel_faults(volume, read)]
                outcome.resampled += volume.regrid is not None
            if isinstance(read, VolumeRefused) and volume.verdict == "accepted":
                outcome.rules += [f"{each.id} (reading)" for each in read.findings]
                # What does not decode may still lie wrongly: the geometry was judged on the headers alone.
                outcome.faults += [each for each in oracle.volume_faults(volume) if "cannot be read" not in each]


def _raised(error: Exception) -> str:
    kind = "a promised error" if isinstance(error, FedsiteError) else "an unpromised error"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "fedsite" in frame.filename]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "?"
    return f"raised {type(error).__name__}, {kind}, in {place}"


@contextlib.contextmanager
def _measured(outcome: Outcome) -> Iterator[None]:
    """Holds processor time and the growth of memory against their limits, those of child processes included."""
    own = _Process("self")
    own.forget_peak()
    before, started, codecs_started = own.memory_mb("VmRSS"), time.process_time(), _codec_seconds()
    for child in own.children():
        child.forget_peak()
    yield
    outcome.cpu_seconds = round(time.process_time() - started, 3)
    outcome.codec_seconds = round(_codec_seconds() - codecs_started, 2)
    growth = own.memory_mb("VmHWM") - before
    outcome.memory_mb = max(0, growth, *(child.memory_mb("VmHWM") for child in own.children()))
    if outcome.cpu_seconds > CPU_SECONDS:
        outcome.faults.append(f"took {outcome.cpu_seconds:.1f} s")
    if outcome.codec_seconds > CODEC_SECONDS:
        outcome.faults.append(f"took a codec {outcome.codec_seconds:.1f} s")
    if outcome.memory_mb > MEMORY_MB:
        outcome.faults.append(f"took {outcome.memory_mb} MB")


def _codec_seconds() -> float:
    """Processor time of child processes, those that have ended included."""
    return sum(os.times()[2:4]) + sum(child.cpu_seconds() for child in _Process("self").children())


@dataclass(frozen=True)
class _Process:
    """What Linux says of a process; nothing where it has ended meanwhile."""

    pid: str

    def children(self) -> list["_Process"]:
        """Its child processes."""
        threads = Path(f"/proc/{self.pid}/task").iterdir()
        return [_Process(pid) for thread in threads for pid in _read(thread / "children").split()]

    def forget_peak(self) -> None:
        """Lets VmHWM begin anew."""
        with contextlib.suppress(OSError):
            Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def memory_mb(self, name: str) -> int:
        """VmRSS, or VmHWM: its peak."""
        lines = _read(Path(f"/proc/{self.pid}/status")).splitlines()
        return next((int(line.split()[1]) // 1024 for line in lines if line.startswith(name)), 0)

    def cpu_seconds(self) -> float:
        """User and system time."""
        fields = _read(Path(f"/proc/{self.pid}/stat")).rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


@contextlib.contextmanager
def _heard() -> Iterator[list[str]]:
    """Collects what is logged, and what anybody writes to the standard streams, codecs in C too."""
    heard: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    handler = Handler()
    logging.getLogger().addHandler(handler)
    with tempfile.TemporaryFile() as file:
        sys.stdout.flush(), sys.stderr.flush()
        saved = os.dup(1), os.dup(2)
        os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
        try:
            yield heard
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            for number, descriptor in enumerate(saved, 1):
                os.dup2(descriptor, number)
                os.close(descriptor)
            logging.getLogger().removeHandler(handler)
            file.seek(0)
            heard.append(file.read(1 << 20).decode("utf-8", "replace"))
