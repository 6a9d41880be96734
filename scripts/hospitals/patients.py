"""Patients who were never born. Their names and numbers are unusual: a search for leaks finds no chance hits."""

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from pydicom.uid import UID, generate_uid

SYLLABLES = (
    "quo",
    "xan",
    "thra",
    "vex",
    "zyl",
    "orb",
    "miq",
    "wolf",
    "jyn",
    "kaz",
    "ptol",
    "ghur",
    "fyx",
    "udra",
    "ysk",
)


@dataclass(frozen=True)
class Patient:
    """Who, and which visit. Dates as DICOM writes them (YYYYMMDD)."""

    family_name: str
    given_name: str
    patient_id: str
    birth_date: str
    sex: str
    accession: str
    study_date: str
    study_time: str
    age_years: int
    entropy: str

    def uid(self, *what: str) -> UID:
        """A unique identifier of this patient's study, series or image: the same in every run with the same seed."""
        return generate_uid(entropy_srcs=["fedsite hospitals", self.entropy, *what])


def invent_patient(hospital: str, number: int, seed: int, rng: np.random.Generator) -> Patient:
    """Patient `number` of a hospital: everything follows from the arguments."""
    family, given = ("".join(rng.choice(SYLLABLES, 3)).capitalize() for _ in range(2))
    born = date(1926, 1, 1) + timedelta(days=int(rng.integers(0, 20 * 365)))
    seen = date(2022, 1, 1) + timedelta(days=int(rng.integers(0, 2 * 365)))
    code = "".join(rng.choice(list("BCDFGHJKLMNPQRSTVWXZ"), 4))
    return Patient(
        family_name=family,
        given_name=given,
        patient_id=f"{code}-{rng.integers(10**5, 10**6)}-{number:04d}",
        birth_date=born.strftime("%Y%m%d"),
        sex=str(rng.choice(["F", "M"])),
        accession=f"A{code}{rng.integers(10**8, 10**9)}",
        study_date=seen.strftime("%Y%m%d"),
        study_time=f"{rng.integers(0, 24):02d}{rng.integers(0, 60):02d}{rng.integers(0, 60):02d}",
        age_years=(seen - born).days // 365,
        entropy=f"{hospital}/{seed}/{number}",
    )
