"""The scanners: each one's tags, grid, looks, and way of exporting diffusion."""

from dataclasses import dataclass, replace
from typing import Literal

Export = Literal["one-series", "two-series", "multi-frame"]
BValueTags = Literal["siemens-private", "ge-private", "standard"]


@dataclass(frozen=True)
class Scanner:
    """What makes images of one scanner differ from another's. Lengths in mm, b-value in s/mm2.

    `gain` is the stored value of healthy grey matter at b = 0; `noise` the standard deviation of each receiver channel
    as a fraction of it; `bias` the logarithmic standard deviation of the coil's shading; `blur_mm` the sigma of the
    reconstruction filter; `tilt_degrees` the slices' rotation about the ear-to-ear axis; `slope` the rescale
    slope. `masks_flipped`: the annotator's program turned the rows, as dcm2niix does: same grid, other storage order.

    What goes wrong in echo-planar images: `pile_up` is the range of the gain in signal near air (susceptibility);
    `ghost` the share of the signal that comes again half a field of view away (Nyquist ghost); `fat` the signal of
    scalp whose fat is not suppressed, which lies `fat_shift_mm` too far back (chemical shift).
    """

    name: str
    manufacturer: str
    model: str
    software: str
    field_strength_t: float
    matrix: int
    pixel_mm: float
    slices: int
    spacing_mm: float
    thickness_mm: float
    tilt_degrees: float
    b_value: int
    echo_time_ms: float
    repetition_time_ms: float
    gain: float
    noise: float
    bias: float
    blur_mm: float
    export: Export
    b_value_tags: BValueTags
    slope: float = 1.0
    adc_series: bool = False
    masks_flipped: bool = False
    pile_up: tuple[float, float] = (0.1, 0.6)
    ghost: float = 0.0
    fat: float = 0.0
    fat_shift_mm: float = 24.0

    def coarser(self, factor: float) -> "Scanner":
        """The same scanner with voxels `factor` times as long on each axis: quicker to make and to train on."""
        return replace(
            self,
            matrix=max(8, round(self.matrix / factor)),
            pixel_mm=self.pixel_mm * factor,
            slices=max(4, round(self.slices / factor)),
            spacing_mm=self.spacing_mm * factor,
            thickness_mm=self.thickness_mm * factor,
        )


SCANNERS = (
    Scanner(
        name="siemens", manufacturer="SIEMENS", model="Aera", software="syngo MR E11", field_strength_t=1.5,
        matrix=104, pixel_mm=2.2, slices=30, spacing_mm=5.5, thickness_mm=5.0, tilt_degrees=-9.0, b_value=1000,
        echo_time_ms=89.0, repetition_time_ms=5900.0, gain=310.0, noise=0.030, bias=0.10, blur_mm=0.6,
        export="one-series", b_value_tags="siemens-private",
    ),
    Scanner(
        name="philips", manufacturer="Philips Medical Systems", model="Ingenia", software="5.7.1", field_strength_t=3.0,
        matrix=128, pixel_mm=1.8, slices=36, spacing_mm=4.4, thickness_mm=4.0, tilt_degrees=0.0, b_value=1000,
        echo_time_ms=81.0, repetition_time_ms=4350.0, gain=900.0, noise=0.045, bias=0.18, blur_mm=1.1,
        export="two-series", b_value_tags="standard", slope=1.7, adc_series=True, masks_flipped=True,
    ),
    Scanner(
        name="ge", manufacturer="GE MEDICAL SYSTEMS", model="DISCOVERY MR750w", software="DV26.0_R03",
        field_strength_t=3.0, matrix=96, pixel_mm=2.5, slices=28, spacing_mm=6.0, thickness_mm=5.0, tilt_degrees=-15.0,
        b_value=1000, echo_time_ms=74.0, repetition_time_ms=8000.0, gain=1500.0, noise=0.055, bias=0.16, blur_mm=1.6,
        export="one-series", b_value_tags="ge-private",
    ),
    Scanner(
        name="canon", manufacturer="CANON_MEC", model="Vantage Galan 3T", software="V6.0", field_strength_t=3.0,
        matrix=112, pixel_mm=2.0, slices=33, spacing_mm=5.0, thickness_mm=5.0, tilt_degrees=-5.0, b_value=1000,
        echo_time_ms=70.0, repetition_time_ms=5200.0, gain=2400.0, noise=0.065, bias=0.15, blur_mm=0.9,
        export="multi-frame", b_value_tags="standard", slope=0.8,
    ),
    Scanner(
        name="united", manufacturer="UIH", model="uMR 780", software="R011", field_strength_t=3.0,
        matrix=128, pixel_mm=1.9, slices=34, spacing_mm=5.0, thickness_mm=4.6, tilt_degrees=-12.0, b_value=800,
        echo_time_ms=77.0, repetition_time_ms=3600.0, gain=640.0, noise=0.040, bias=0.14, blur_mm=1.3,
        export="two-series", b_value_tags="standard",
    ),
)  # fmt: skip
"""The demo's three hospitals take the first three; the others are the unseen scanners of a bench."""
