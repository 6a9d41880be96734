"""What the DICOM gate and the preparation of a study cost, against other tools on the same machine in the same run.

`bench_reading` measures from a folder of files to voxels, `bench_preparation` from a study to a stored case.
"""

import sys

import bench_preparation
import bench_reading
from bench_rows import Row, main


def measure(quick: bool) -> list[Row]:
    """The rows of both."""
    return [*bench_reading.rows(quick), *bench_preparation.rows(quick)]


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
