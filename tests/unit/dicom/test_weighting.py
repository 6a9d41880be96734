"""What an MR image shows, from the times of protocols in use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import dicom_maker as maker

from fedsite.dicom.header.frames import read_frames
from fedsite.dicom.header.values import tolerant_reading
from fedsite.dicom.header.weighting import weighting

MAGNITUDE = ("ORIGINAL", "PRIMARY", "M")


def shown(sequence="SE", *, tr=None, te=None, ti=None, flip=None, image_type=MAGNITUDE, **others):
    times = {"RepetitionTime": tr, "EchoTime": te, "InversionTime": ti, "FlipAngle": flip}
    stated = {key: str(value) for key, value in times.items() if value is not None}
    return weighting({"ScanningSequence": sequence.split("\\"), **stated, **others}, image_type)


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ({"tr": 500, "te": 12}, "T1"),  # spin echo, 1.5 T
        ({"tr": 700, "te": 9.1}, "T1"),  # turbo spin echo, 3 T
        ({"sequence": "GR\\IR", "tr": 2300, "te": 2.98, "ti": 900, "flip": 9}, "T1"),  # MPRAGE
        ({"sequence": "GR", "tr": 6.96, "te": 2.8, "ti": 400, "flip": 11}, "T1"),  # IR-SPGR (BRAVO)
        ({"sequence": "GR", "tr": 8.1, "te": 3.7, "flip": 8}, "T1"),  # 3D TFE, inversion not stated
        ({"sequence": "GR", "tr": 250, "te": 2.5, "flip": 80}, "T1"),  # FLASH, 2D
        ({"sequence": "SE\\IR", "tr": 2200, "te": 25, "ti": 950}, "T1"),  # T1-FLAIR
        ({"tr": 4000, "te": 100}, "T2"),
        ({"tr": 3200, "te": 408}, "T2"),  # SPACE
        ({"sequence": "SE\\IR", "tr": 9000, "te": 81, "ti": 2500}, "FLAIR"),
        ({"sequence": "SE\\IR", "tr": 5000, "te": 394, "ti": 1800}, "FLAIR"),  # 3D, 3 T
        ({"tr": 4800, "te": 300, "ti": 1650}, "FLAIR"),
        ({"tr": 2500, "te": 20}, "other"),  # proton density
        ({"sequence": "SE\\IR", "tr": 4000, "te": 70, "ti": 170}, "other"),  # STIR
        ({"sequence": "GR", "tr": 28, "te": 20, "flip": 15}, "other"),  # SWI
        ({"sequence": "GR", "tr": 600, "te": 20, "flip": 20}, "other"),  # T2*
        ({"sequence": "GR", "tr": 5.9, "te": 2.6, "flip": 50}, "other"),  # CISS
        ({"sequence": "EP\\SE", "tr": 4500, "te": 90}, "other"),  # diffusion, b = 0
        ({"sequence": "GR", "tr": 22, "te": 3.6, "flip": 18, "AngioFlag": "Y"}, "other"),  # TOF
        ({"sequence": "GR", "tr": 500, "te": 5, "image_type": ("ORIGINAL", "PRIMARY", "P")}, "other"),  # field map
        ({"tr": 500}, ""),
        ({"te": 12}, ""),
        ({"tr": "x", "te": 0}, ""),
        ({"tr": 500, "te": 12, "AcquisitionContrast": "PROTON_DENSITY"}, "other"),
        ({"AcquisitionContrast": "FLUID_ATTENUATED"}, "FLAIR"),
        ({"tr": 500, "te": 12, "AcquisitionContrast": "UNKNOWN"}, "T1"),
        ({"tr": 500, "EffectiveEchoTime": 100.0, "te": 12}, "other"),
        ({"tr": 9000, "te": 100, "InversionTimes": [2500.0]}, "FLAIR"),
        ({"tr": 4000, "te": 100, "ti": 0}, "T2"),  # some state 0 for none
    ],
)
def test_protocols(protocol, expected):
    assert shown(**protocol) == expected


@given(
    st.dictionaries(
        st.sampled_from(["RepetitionTime", "EchoTime", "InversionTime", "FlipAngle", "ScanningSequence"]),
        st.one_of(st.floats(), st.text(max_size=5), st.lists(st.text(max_size=3), max_size=3)),
    )
)
def test_damaged_headers_give_an_answer(header):
    assert weighting(header, ()) in {"T1", "T2", "FLAIR", "other", ""}


def frame_of(images, folder):
    with tolerant_reading():
        return read_frames(str(maker.write(folder, images)[0]))[0]


def test_classic_images_are_read(tmp_path):
    times = {"ScanningSequence": ["SE", "IR"], "RepetitionTime": "9000", "EchoTime": "81", "InversionTime": "2500"}
    assert frame_of(maker.classic("MR", **times), tmp_path).weighting == "FLAIR"
    assert frame_of(maker.classic("CT"), tmp_path / "ct").weighting == ""


def test_enhanced_objects_are_read(tmp_path):
    groups = {
        "MRTimingAndRelatedParametersSequence": {"RepetitionTime": 9000.0},
        "MREchoSequence": {"EffectiveEchoTime": 81.0},
        "MRModifierSequence": {"InversionTimes": 2500.0},
    }
    assert frame_of([maker.enhanced("MR", groups=[groups])], tmp_path / "times").weighting == "FLAIR"
    stated = {"MRImageFrameTypeSequence": {"AcquisitionContrast": "T2"}}
    assert frame_of([maker.enhanced("MR", groups=[stated])], tmp_path / "stated").weighting == "T2"
