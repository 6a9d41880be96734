"""A site as it looks after some time: enrolled, with prepared data and a ledger of rounds. No server, no images.

For whoever measures or tests what the command line does at home; the certificate is signed by a CA made on the spot.
"""

from datetime import UTC, datetime
from pathlib import Path

from fedsite import __version__
from fedsite.dataset import manifest
from fedsite.dataset.manifest import CaseRecord, Manifest
from fedsite.jobs.init import Answers, initialise
from fedsite.privacy import accountant
from fedsite.privacy.ledger import Charge, Ledger
from fedsite.server.authority.authority import Authority
from fedsite.site import secrets, versions
from fedsite.site.identity import Choice, IdentityFiles, Pinned, pin
from fedsite.site.state import State
from fedsite.wire import enrolment

FEDERATION, SITE, TASK = "example", "st-example", "stroke-dwi"
DIGEST = "0" * 64
NOISE_MULTIPLIER = 60.0


def make_site(folder: Path, rounds: int = 24, cases: int = 40) -> Path:
    """Makes the site in `folder`; gives the path of its configuration."""
    config, state, data = folder / "site.yaml", folder / "state", folder / "data"
    initialise(config, Answers(state, data, (TASK,), epsilon=8.0, delta=1e-6, nominal_patients=cases))
    with State.open(state) as opened:
        _enrol(IdentityFiles(state / "identity"))
        for number in range(1, rounds + 1):
            _take_part(opened, number)
    data.mkdir()
    manifest.save(data, _prepared(cases))
    return config


def _enrol(files: IdentityFiles) -> None:
    now, key = datetime.now(UTC), enrolment.new_key()
    authority = Authority.create(FEDERATION, now)
    chosen = Choice(secrets.choose("file"))
    version = versions.begin(files, chosen, lambda passphrase: enrolment.key_to_pem(key, passphrase))
    files.authority.write_bytes(enrolment.to_pem([authority.root]))
    version.certificate.write_bytes(enrolment.to_pem([authority.issue_site(key.public_key(), SITE, now)]))
    versions.switch(files, version)
    pin(files, Pinned("https://federation.example:8443", SITE, FEDERATION, (DIGEST,), 1, DIGEST, "A. Person"))


def _take_part(state: State, number: int) -> None:
    ledger = Ledger(state)
    charge = Charge(
        federation=FEDERATION,
        round=number,
        plan_sha256=DIGEST,
        ticket_sha256=DIGEST,
        mechanism="gaussian-update",
        sensitivity=2.0,
        clip_norm=1.0,
        noise_multiplier=NOISE_MULTIPLIER,
        sampling_rate=1.0,
        steps=1,
        release=accountant.gaussian_update(NOISE_MULTIPLIER),
        delta_tail=0.0,
        generator="none",
    )
    reservation = ledger.reserve(charge)
    ledger.release(reservation, DIGEST, payload_bytes=1)
    ledger.acknowledge(reservation, DIGEST)
    state.put_round(FEDERATION, number, "acknowledged", {"ticket_sha256": DIGEST, "payload_sha256": DIGEST})


def _prepared(cases: int) -> Manifest:
    return Manifest(
        fedsite=__version__,
        task=TASK,
        channels=("dwi",),
        source="dicom",
        spacing_mm=(2.0, 2.0, 2.0),
        input_state="whole-head",
        validation_fraction=0.2,
        cases=tuple(_case(number) for number in range(cases)),
    )


def _case(number: int) -> CaseRecord:
    return CaseRecord(
        id=f"e-{number:016}",
        patient=f"p-{number:016}",
        split="validation" if number % 5 == 0 else "training",
        file=f"cases/e-{number:016}.safetensors",
        sha256=DIGEST,
        shape=(96, 112, 96),
        lesion_ml=1.0,
        source_shape=(256, 256, 30),
        source_spacing_mm=(0.9, 0.9, 5.0),
        b_value=1000.0,
        scanner="none",
        input_state="whole-head",
        fingerprint=DIGEST,
    )
