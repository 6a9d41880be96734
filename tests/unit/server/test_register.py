"""A site's certificate that another authority of the federation's root has made."""

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from support.authorities import certificate_of, chain_of_three, write
from support.federation import make

from fedsite.errors import UsageError
from fedsite.server.authority.authority import Authority
from fedsite.server.federation import Federation
from fedsite.server.members import enrolment
from fedsite.server.problems import Refused
from fedsite.wire.enrolment import new_key
from fedsite.wire.messages import utc_now


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return make(tmp_path / "federation", supplied=write(tmp_path / "ca", chain_of_three()))


@pytest.fixture
def hospital() -> Authority:
    """Another issuing authority of the same consortium."""
    return chain_of_three()


def issued(authority: Authority, site: str = "site-a") -> list[x509.Certificate]:
    return [authority.issue_site(new_key().public_key(), site, utc_now()), *authority.intermediates]


def test_it_is_let_in_from_then_on(federation: Federation, hospital: Authority) -> None:
    certificates = issued(hospital, "a name of the hospital's choice")
    der = certificates[0].public_bytes(Encoding.DER)
    with pytest.raises(Refused):
        enrolment.authenticate(federation, der)
    for _ in range(2):
        assert enrolment.register(federation, "site-a", certificates) == certificates[0].not_valid_after_utc
    assert enrolment.authenticate(federation, der) == "site-a"
    (standing,) = enrolment.standings(federation)
    assert (standing.site, standing.status) == ("site-a", "enrolled")
    assert enrolment.revoke(federation, "site-a") == 1
    assert enrolment.standings(federation)[0].status == "revoked"
    with pytest.raises(UsageError, match="it is revoked"):
        enrolment.register(federation, "site-a", certificates)


def test_one_certificate_is_one_site(federation: Federation, hospital: Authority) -> None:
    certificates = issued(hospital)
    enrolment.register(federation, "site-a", certificates)
    with pytest.raises(UsageError, match="it is that of site-a"):
        enrolment.register(federation, "site-b", certificates)
    with pytest.raises(UsageError, match="cannot hold this site"):
        enrolment.register(federation, "Not A Site", issued(hospital))


def test_it_must_lead_to_the_root(federation: Federation, hospital: Authority) -> None:
    certificates = issued(hospital)
    for wrong in (certificates[:1], certificates[:1] + certificates[2:], issued(Authority.create("x", utc_now()))):
        with pytest.raises(UsageError, match="does not lead to this federation's root"):
            enrolment.register(federation, "site-a", wrong)
    enrolment.register(federation, "site-a", certificates[:2])  # the rest of the path is the server's own


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"days": 0.5}, "it is valid from"),
        ({"start": utc_now() + timedelta(days=1)}, "it is valid from"),
        ({"extensions": (x509.BasicConstraints(True, 0),)}, "it is an authority's"),
        ({"extensions": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),)}, "lacks clientAuth"),
        ({"key": rsa.generate_private_key(65537, 2048).public_key()}, "its key must be EC P-256"),
    ],
)
def test_it_must_be_fit_for_a_site(federation: Federation, hospital: Authority, changes: dict, message: str) -> None:
    given: dict = {"key": new_key().public_key(), "extensions": ()} | changes
    certificate = certificate_of("hospital", issuer="issuing", issuer_key=hospital.key, **given)
    with pytest.raises(UsageError, match=message):
        enrolment.register(federation, "site-a", [certificate, *hospital.intermediates])
    plain = certificate_of("hospital", new_key().public_key(), "issuing", hospital.key, extensions=())
    enrolment.register(federation, "site-a", [plain, *hospital.intermediates])
