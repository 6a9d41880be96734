"""Scanning a source of 100,000 single-slice files in 400 series: time, memory, and what a second scan costs.

The files are small (8 x 8), with headers as long as a scanner's. Each scan runs in a process of its own, whose peak
memory counts; the disk cache is warm for all of them. pydicom reads a sample of the same headers in the same run.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_rows import Row, compare, main

SERIES, SLICES = 400, 250
QUICK_SERIES = 40
SAMPLE = 2000
AGAIN = 3
MEMORY_MIB = 512
MIB = 1 << 20

# What differs from file to file stands in the template in so many characters.
SERIES_MARK, IMAGE_MARK, NUMBER_MARK = "7" * 20, "8" * 20, "123456"
POSITION_MARK = "-1234.5678"


def measure(quick: bool) -> list[Row]:
    """Seconds and MiB of a scan, and the second scan as a part of the first."""
    series = QUICK_SERIES if quick else SERIES
    files = series * SLICES
    with tempfile.TemporaryDirectory() as folder:
        source, index = Path(folder, "source"), Path(folder, "index", "headers.db")
        make_source(source, series)
        pydicom = _in_a_process("pydicom", source, index)
        plain, first = (_in_a_process(kind, source, index) for kind in ("plain", "index"))
        again = [_in_a_process("index", source, index) for _ in range(AGAIN)]
        second = {what: statistics.median(run[what] for run in again) for what in first}
    name = f"of {files:,} files"
    by_pydicom = f"pydicom on {SAMPLE:,} of them, CPU a file"
    return [
        compare(f"scan {name}, CPU a file", plain["cpu"] / files, "s", by_pydicom, pydicom["cpu"] / SAMPLE, 0.5),
        compare(f"scan {name} that fills the index", first["wall"], "s", "without an index", plain["wall"]),
        compare(f"second scan {name}", second["wall"], "s", "the first", first["wall"], 0.1),
        compare("  its CPU", second["cpu"], "s", "the first", first["cpu"], 0.1),
        compare(f"peak memory of a scan {name}", plain["peak"], "MiB", "MiB allowed", MEMORY_MIB, 1),
        compare("  of the second", second["peak"], "MiB", "MiB allowed", MEMORY_MIB, 1),
    ]


def make_source(source: Path, series: int) -> None:
    """Writes the files: one template, in which bytes are replaced."""
    template = _template()
    for number in range(series):
        folder = source / f"patient{number // 4:04}" / f"series{number:04}"
        folder.mkdir(parents=True)
        of_series = template.replace(SERIES_MARK.encode(), b"%020d" % (number + 1))
        for image in range(SLICES):
            content = of_series.replace(IMAGE_MARK.encode(), b"%020d" % (number * SLICES + image + 1))
            content = content.replace(POSITION_MARK.encode(), b"%10.4f" % (image * 1.5 - 180))
            content = content.replace(NUMBER_MARK.encode(), b"%06d" % (image + 1))
            (folder / f"{(image * 7919) % 100_003:08}.dcm").write_bytes(content)


def _template() -> bytes:
    """A CT slice with a header of the usual length, private attributes and sequences included."""
    from io import BytesIO

    import pydicom
    from pydicom import uid
    from pydicom.dataset import Dataset, FileMetaDataset

    def code(value: str, meaning: str) -> Dataset:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SRT", meaning
        return item

    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = uid.CTImageStorage
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = uid.UID(f"2.25.1{IMAGE_MARK}")
    image.SeriesInstanceUID, image.StudyInstanceUID = f"2.25.2{SERIES_MARK}", f"2.25.3{SERIES_MARK}"
    image.FrameOfReferenceUID, image.PatientID = f"2.25.4{SERIES_MARK}", f"P{SERIES_MARK}"
    image.Modality, image.Manufacturer, image.ManufacturerModelName = "CT", "SIEMENS", "Sensation 64"
    image.SpecificCharacterSet, image.ImageType = "ISO_IR 100", ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"]
    image.InstanceNumber, image.AcquisitionNumber = NUMBER_MARK, 2
    image.ImagePositionPatient = ["-125.000000", "-125.000000", POSITION_MARK]
    image.ImageOrientationPatient, image.PixelSpacing = [1, 0, 0, 0, 1, 0], ["0.48828125", "0.48828125"]
    image.SliceThickness, image.RescaleSlope, image.RescaleIntercept = "1.5", 1, -1024
    image.PatientPosition, image.BodyPartExamined = "HFS", "HEAD"
    image.Rows = image.Columns = 8
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 0
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.PixelData = bytes(range(128))
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "PatientBirthDate"):
        setattr(image, keyword, "20010203")
    for keyword in ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"):
        setattr(image, keyword, "101112.131415")
    for keyword in ("PatientName", "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName"):
        setattr(image, keyword, "Sample^Name")
    for keyword in ("StudyDescription", "SeriesDescription", "ProtocolName", "InstitutionName", "StationName"):
        setattr(image, keyword, "Head routine")
    for keyword in ("KVP", "ExposureTime", "XRayTubeCurrent", "GeneratorPower", "TableHeight", "WindowCenter"):
        setattr(image, keyword, 120)
    image.ProcedureCodeSequence = [code("P5-0808A", "CT of head")]
    image.AnatomicRegionSequence = [code("T-D1100", "Head"), code("T-A0100", "Brain")]
    for group, creator in ((0x0019, "SIEMENS CT VA0  COAD"), (0x0021, "SIEMENS MED"), (0x0029, "SIEMENS CSA HEADER")):
        block = image.private_block(group, creator, create=True)
        for element in range(0x10, 0x28):
            block.add_new(element, "LO", f"private value {element}")
        block.add_new(0x40, "OB", bytes(500))
    buffer = BytesIO()
    with pydicom.config.disable_value_validation():
        image.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _in_a_process(kind: str, source: Path, index: Path) -> dict[str, float]:
    answer = subprocess.run(
        [sys.executable, __file__, "--work", kind, source, index], stdout=subprocess.PIPE, check=True, text=True
    )
    result: dict[str, float] = json.loads(answer.stdout)
    return result


def work(kind: str, source: Path, index: Path) -> None:
    """What one process measures of itself."""
    import pydicom

    from fedsite.dicom.header.frames import WANTED
    from fedsite.dicom.index import Index
    from fedsite.dicom.scan import scan
    from fedsite.site.pseudonyms import Pseudonyms

    wall, cpu = time.perf_counter(), time.process_time()
    if kind == "pydicom":
        # Without the private attributes: their long list would cost pydicom more than reading them.
        standard = [tag for tag in WANTED.values() if not tag.is_private]
        for path in sorted(source.rglob("*.dcm"))[:SAMPLE]:
            dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=standard)
            for element in dataset.iterall():
                assert element.value is not ...
    else:
        used = Index(index, b"k" * 32) if kind == "index" else None
        inventory = scan(source, Pseudonyms(b"k" * 32), index=used)
        assert all(volume.verdict == "accepted" for volume in inventory.volumes)
        assert len(inventory.volumes) * SLICES == inventory.files
    measured = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB
    print(json.dumps({**measured, "peak": peak}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
        sys.exit()
    sys.exit(main(__doc__ or "", measure))
