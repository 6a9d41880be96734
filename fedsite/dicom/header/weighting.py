"""What an MR image shows: T1, T2 or FLAIR, told by how it was acquired. Names of series are anybody's choice.

Enhanced objects say it (AcquisitionContrast, PS3.3 C.8.13.3.1.1); of classic ones the times do. The bounds are those
between which protocols of the head lie at 1 to 3 T (Bernstein, King and Zhou 2004, "Handbook of MRI pulse sequences"),
with gaps between them: what lies in a gap is nothing rather than a guess.
"""

import math

from fedsite.dicom.header.values import Header, number, text, words

OTHER = "other"
_NO_MAGNITUDE = frozenset({"P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY"})
_STATED = {"T1": "T1", "T2": "T2", "FLUID_ATTENUATED": "FLAIR"}
_NOT_STATED = frozenset({"", "UNKNOWN", "MIXED"})

# Times in ms. Fluid is suppressed by an inversion time of about 2500 at 1.5 T, 1650 in 3D at 3 T.
_FLUID_INVERSION = (1500.0, 3500.0)
# That of MPRAGE, IR-prepared gradient echoes and T1-FLAIR; a shorter one suppresses fat (STIR).
_T1_INVERSION = (300.0, 1400.0)
_T1_REPETITION = 1100.0
_T1_ECHO = {"spin": 35.0, "gradient": 10.0}  # a longer one of a gradient echo weights by T2*, as in SWI
_T2_REPETITION, _T2_ECHO = 1800.0, 60.0
# Degrees: with a short repetition time, above this it is no spoiled echo but a steady state (CISS, FIESTA).
_SPOILED_FLIP, _SHORT_REPETITION = 35.0, 15.0


def weighting(header: Header, image_type: tuple[str, ...]) -> str:
    """T1, T2 or FLAIR, "other" for all else; "" where the header does not say enough."""
    stated = text(header, "AcquisitionContrast").upper()
    if stated not in _NOT_STATED:
        return _STATED.get(stated, OTHER)
    sequence = set(words(header, "ScanningSequence"))
    if "EP" in sequence or text(header, "AngioFlag").upper() == "Y" or not _NO_MAGNITUDE.isdisjoint(image_type):
        return OTHER
    echo, repetition = echo_time(header), number(header, "RepetitionTime")
    if echo is None or repetition is None:
        return ""
    inversion = _inversion_time(header)
    if inversion is not None and _FLUID_INVERSION[0] <= inversion <= _FLUID_INVERSION[1] and echo >= _T2_ECHO:
        return "FLAIR"
    kind = "gradient" if "GR" in sequence and "SE" not in sequence else "spin"
    if inversion is None and kind == "spin" and echo >= _T2_ECHO and repetition >= _T2_REPETITION:
        return "T2"
    if inversion is None:
        short = repetition <= _T1_REPETITION and not _is_steady_state(header, kind, repetition)
    else:
        short = _T1_INVERSION[0] <= inversion <= _T1_INVERSION[1]
    return "T1" if short and echo <= _T1_ECHO[kind] else OTHER


def echo_time(header: Header) -> float | None:
    """The effective echo time, ms."""
    times = (number(header, keyword) for keyword in ("EffectiveEchoTime", "EchoTime"))
    return next((time for time in times if time and math.isfinite(time)), None)


def _inversion_time(header: Header) -> float | None:
    """ms; None also where it is stated as 0, as some scanners do for none."""
    times = (number(header, keyword) for keyword in ("InversionTime", "InversionTimes"))
    return next((time for time in times if time and math.isfinite(time)), None)


def _is_steady_state(header: Header, kind: str, repetition: float) -> bool:
    flip = number(header, "FlipAngle")
    return kind == "gradient" and repetition <= _SHORT_REPETITION and flip is not None and flip > _SPOILED_FLIP
