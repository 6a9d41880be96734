"""Certificates renew themselves, with a new key, and whatever goes wrong the old one works on."""

import base64
import ssl
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from support.certificates import files_of, generous, grow_old
from support.federation import Server
from support.site import Site

from fedsite.errors import NotAuthorised, ServerBrokeProtocol, TryAgainLater, Unreachable, UsageError
from fedsite.jobs import site as sites
from fedsite.jobs.checks import identity as check_identity
from fedsite.jobs.identity import enroll as enrolling
from fedsite.jobs.identity import renew
from fedsite.jobs.lock import only_run
from fedsite.jobs.site import open_site
from fedsite.server.authority.authority import Authority
from fedsite.server.members import enrolment as admissions
from fedsite.site import identity, versions
from fedsite.site.identity import Certificate
from fedsite.wire import enrolment
from fedsite.wire.enrolment import EST, Invitation
from fedsite.wire.messages import utc_now

PKCS10 = {"Content-Type": "application/pkcs10", "Content-Transfer-Encoding": "base64"}
WARNED: list[str] = []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that issues as many certificates as these tests ask for."""
    with generous(tmp_path_factory.mktemp("federation") / "server") as server:
        yield server


@pytest.fixture
def opened(site: Site) -> Iterator[sites.Site]:
    """The site as a command opens it."""
    WARNED.clear()
    with open_site(site.config, WARNED.append) as opened:
        yield opened


def present(site: Site) -> Certificate:
    return identity.certificate(files_of(site))


def events(site: sites.Site, event: str) -> list[dict[str, Any]]:
    return [record.body for record in site.state.records("audit") if record.body.get("event") == event]


def works(site: sites.Site) -> bool:
    """Whether the server takes what is in use, without any renewal."""
    server = site.pinned.server
    with sites.client_of(site.files, site.config, server, site.witness, site.files.current) as client:
        return client.trust().site == "site-a"


# --- when, and with what --------------------------------------------------------------------------------------------


def test_a_run_renews_what_two_thirds_of_its_life_are_over_of(server: Server, site: Site) -> None:
    grow_old(server, site, days=59)
    before, key = present(site), files_of(site).key.read_bytes()
    with open_site(site.config) as opened:
        renew.renew_if_due(opened)
    assert present(site) == before

    grow_old(server, site, days=61)
    before = present(site)
    answer = site.run("train-round")
    assert (answer.code, answer.stderr) == (0, "")
    after = present(site)
    assert after.days_left() > 89 > before.days_left()
    assert files_of(site).key.read_bytes() != key
    with open_site(site.config) as again:
        recorded = events(again, "certificate renewed")[-1]
    assert recorded["certificate_sha256"] == after.sha256


def test_the_new_key_is_another_one(server: Server, opened: sites.Site) -> None:
    old = renew.key_of(opened.files.current).public_key()
    renew.renew(opened)
    assert renew.key_of(opened.files.current).public_key() != old
    assert [path.name for path in opened.files.versions.iterdir()] == [str(opened.files.current.number)]
    assert works(opened)
    kept = list(opened.files.folder.rglob("*"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept if path.is_file()} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept if path.is_dir()} == {0o700}


def test_a_command_renews_once(server: Server, site: Site, opened: sites.Site) -> None:
    grow_old(server, site, days=61)
    for _ in range(2):
        with opened.client() as client:
            client.trust()
    assert opened.version == opened.files.current
    assert WARNED == []
    assert len([one for one in events(opened, "request") if one["path"].endswith("simplereenroll")]) > 0
    asked = len(events(opened, "request"))
    with opened.client() as client:
        client.trust()
    assert len(events(opened, "request")) == asked + 1


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_server_that_is_away_costs_a_warning(server: Server, site: Site, opened: sites.Site) -> None:
    grow_old(server, site, days=61)
    before = present(site)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(enrolment, "reenroll", _raising(Unreachable("No progress: the line is dead.", "Wait.")))
        with opened.client() as client:
            assert client.trust().site == "site-a"
    assert len(WARNED) == 1
    assert "was to be renewed: No progress: the line is dead.\n" in WARNED[0]
    assert "good for another 29 days" in WARNED[0]
    assert events(opened, "renewal failed")[-1]["message"] == "No progress: the line is dead."
    assert present(site) == before
    key = renew.key_of(versions.pending(opened.files)).public_key()  # type: ignore[arg-type]
    renew.renew_if_due(opened)
    assert renew.key_of(opened.files.current).public_key() == key, "the key that asked before asks again"


@pytest.mark.parametrize("failure", [NotAuthorised("Away with you."), ServerBrokeProtocol("Not mine.")])
def test_a_new_certificate_that_does_not_work_is_not_switched_to(
    server: Server, site: Site, opened: sites.Site, failure: Exception
) -> None:
    grow_old(server, site, days=61)
    before = present(site)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedsite.wire.client.FederationClient.trust", _raising(failure))
        renew.renew_if_due(opened)
    assert present(site) == before
    assert len(WARNED) == 1
    assert works(opened)
    renew.renew_if_due(opened)
    assert present(site) != before
    assert len(WARNED) == 1


def test_where_a_person_must_approve_the_old_one_goes_on(server: Server, site: Site, opened: sites.Site) -> None:
    grow_old(server, site, days=61)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(enrolment, "reenroll", _raising(TryAgainLater("The coordinator must approve this first.")))
        with opened.client() as client:
            client.trust()
    assert "approve" in WARNED[0]


def test_a_waiting_key_that_cannot_be_opened_any_more_gives_way(server: Server, site: Site, opened: sites.Site) -> None:
    grow_old(server, site, days=61)
    waiting = renew.take_up(opened, opened.files.current.choice)
    assert renew.take_up(opened, opened.files.current.choice) == waiting
    (waiting.folder / "passphrase").unlink()
    renew.renew_if_due(opened)
    assert WARNED == []
    assert present(site).days_left() > 89


def test_two_runs_do_not_renew_at_once(server: Server, site: Site, opened: sites.Site) -> None:
    grow_old(server, site, days=61)
    with only_run(opened.files.folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(renew, "OTHERS_SECONDS", 0)
        renew.renew_if_due(opened)
        with pytest.raises(TryAgainLater):
            renew.renew(opened)
    assert "at work" in WARNED[0]
    assert works(opened)


@pytest.mark.fault(
    part="time",
    what="a site's certificate has expired",
    where="before a run",
    promised="told, with the way back (exit 77); nothing is tried",
)
def test_an_expired_one_is_told_its_way_back(server: Server, site: Site, opened: sites.Site) -> None:
    grow_old(server, site, days=91)
    answer = site.run("train-round")
    assert answer.code == 77
    assert "expired on" in answer.json["error"]["message"]
    assert "new invitation" in answer.json["error"]["mend"]
    with pytest.raises(NotAuthorised, match="expired on"):
        renew.renew(opened)
    assert versions.pending(opened.files) is None
    forgotten = site.run("enroll")
    assert (forgotten.code, "No invitation" in forgotten.json["error"]["message"]) == (2, True), "it is not enrolled"
    assert site.ok("enroll", "--invitation", "-", stdin=server.invite("site-a"))["outcome"] == "enrolled"
    assert works(opened)


def test_a_pinned_root_that_is_gone_is_named_and_brought_back(server: Server, site: Site) -> None:
    root = files_of(site).authority
    for content in (None, b"no certificate"):
        root.unlink() if content is None else root.write_bytes(content)
        for command in ("check", "identity show"):
            answer = site.run(*command.split())
            said = answer.json["error"] or next(
                one for one in answer.json["data"]["checks"] if one["name"] == "network"
            )
            assert "identity/ca.pem" in said["message"], answer
            assert answer.code != 1
    root.unlink()
    assert site.ok("enroll", "--invitation", "-", stdin=server.invite("site-a"))["outcome"] == "enrolled"
    assert root.is_file()


def test_a_revoked_site_is_not_renewed(server: Server, tmp_path: Path) -> None:
    other = Site(tmp_path / "other")
    other.init()
    with open_site(other.config) as opened:
        enrolling.enroll(opened, Invitation.decode(server.invite("revoked")))
        admissions.revoke(server.federation, "revoked")
        with pytest.raises(NotAuthorised, match="revoked"):
            renew.renew(opened)


def _raising(error: Exception) -> Any:
    def act(*_: object, **__: object) -> None:
        raise error

    return act


def test_an_invitation_that_was_refused_binds_nobody(server: Server, tmp_path: Path) -> None:
    """Before its first enrolment a site belongs to no federation, whichever it has asked."""
    other = Site(tmp_path / "undecided")
    other.init()
    line = Invitation.decode(server.invite("undecided"))
    with open_site(other.config) as opened:
        with pytest.raises(NotAuthorised):
            enrolling.enroll(opened, replace(line, secret="x" * 43))
        opened.files.authority.write_bytes(another_root())
        assert enrolling.enroll(opened, line).pinned.site == "undecided"
        with pytest.raises(UsageError, match="another federation"):
            enrolling.enroll(opened, replace(line, ca_sha256="ab" * 32))


def another_root() -> bytes:
    return enrolment.to_pem([Authority.create("another", utc_now()).root])


# --- an identity of 0.1.0 -------------------------------------------------------------------------------------------


def test_the_files_of_0_1_0_work_and_are_renewed(server: Server, site: Site, opened: sites.Site) -> None:
    files = opened.files
    for name in ("key.pem", "site.pem", "passphrase"):
        (files.current.folder / name).rename(files.folder / name)
    (files.current.folder / "choice.json").unlink()
    files.current.folder.rmdir()
    files.versions.rmdir()
    files.pointer.unlink()
    assert works(opened)
    assert check_identity.key_as_cron(site.config).status == "ok"
    renew.renew(opened)
    assert files.current.number == 1
    assert not (files.folder / "key.pem").exists()
    assert works(opened)


# --- an authority of the consortium's own ---------------------------------------------------------------------------


def sign_elsewhere(server: Server, request: Path, answer: Path) -> None:
    """What an authority of the same root does, of which the federation's server knows nothing."""
    key = x509.load_pem_x509_csr(request.read_bytes()).public_key()
    answer.write_bytes(enrolment.to_pem([server.federation.authority.issue_site(key, "by-file", utc_now())]))


def hand_in(server: Server, invitation: str, request: Path, answer: Path) -> None:
    """What the coordinator may do with a request that came by mail: any EST client can hand it in."""
    line = Invitation.decode(invitation)
    der = x509.load_pem_x509_csr(request.read_bytes()).public_bytes(Encoding.DER)
    trusted = ssl.create_default_context(cadata=server.federation.authority.root.public_bytes(Encoding.PEM).decode())
    with httpx.Client(base_url=server.url, verify=trusted, trust_env=False) as http:
        said = http.post(
            f"{EST}/simpleenroll", content=base64.encodebytes(der), headers=PKCS10, auth=(line.site, line.secret)
        )
    assert said.status_code == 200, said.text
    answer.write_bytes(enrolment.to_pem(enrolment.decode_certificates(said.content)))


def test_a_certificate_is_asked_for_and_imported_by_file(server: Server, tmp_path: Path) -> None:
    site = Site(tmp_path / "by-file")
    site.init()
    request, answer, line = tmp_path / "request.pem", tmp_path / "answer.pem", server.invite("by-file")
    invitation = tmp_path / "invitation"
    invitation.write_text(line)
    refused = site.run("enroll", "--invitation", str(invitation), "--import", str(request))
    assert refused.code == 2
    assert "--csr-only" in refused.json["error"]["mend"]

    given = ("--invitation", str(invitation))
    assert site.ok("enroll", *given, "--csr-only", str(request))["outcome"] == "requested"
    first = request.read_bytes()
    assert x509.load_pem_x509_csr(first).is_signature_valid
    site.ok("enroll", *given, "--csr-only", str(request))
    key = x509.load_pem_x509_csr(first).public_key()
    assert x509.load_pem_x509_csr(request.read_bytes()).public_key() == key, "the same key asks again"
    assert not files_of(site).pointer.exists(), "nothing is in use yet"

    sign_elsewhere(server, request, answer)
    early = site.run("enroll", *given, "--import", str(answer))
    assert early.code == 77
    assert "fedsite server site import by-file" in early.json["error"]["mend"]
    admissions.register(server.federation, "by-file", x509.load_pem_x509_certificates(answer.read_bytes()))
    assert site.ok("enroll", *given, "--import", str(answer), "--accept-agreement", "Ada")["outcome"] == "enrolled"
    assert files_of(site).current.choice.imported
    renewing = site.run("identity", "renew")
    assert renewing.code == 2
    assert "--csr-only" in renewing.json["error"]["mend"]

    # The next one needs no invitation at the site, and the old one works until it has come.
    site.ok("enroll", "--csr-only", str(request))
    assert files_of(site).current.number == 1
    hand_in(server, server.invite("by-file"), request, answer)
    site.ok("enroll", "--import", str(answer))
    assert files_of(site).current.number == 2


def test_no_other_certificate_is_imported(server: Server, site: Site, opened: sites.Site, tmp_path: Path) -> None:
    before = present(site)
    known = enrolling.known_federation(opened)
    request, answer = tmp_path / "request.pem", tmp_path / "answer.pem"
    enrolling.request_certificate(opened, known, "auto", request)
    for content in (b"", b"no certificate", opened.files.certificate.read_bytes(), opened.files.authority.read_bytes()):
        answer.write_bytes(content)
        with pytest.raises(UsageError, match="cannot be used"):
            enrolling.import_certificate(opened, known, answer)
    assert present(site) == before

    # By itself nothing is renewed over the request; a person may.
    grow_old_but_waiting(server, site, opened, request)
    renew.renew_if_due(opened)
    assert "awaited" in WARNED[-1]
    renew.renew(opened)
    assert versions.pending(opened.files) is None
    with pytest.raises(UsageError, match="No key waits"):
        enrolling.import_certificate(opened, known, answer)


def grow_old_but_waiting(server: Server, site: Site, opened: sites.Site, request: Path) -> None:
    grow_old(server, site, days=61)
    enrolling.request_certificate(opened, enrolling.known_federation(opened), "auto", request)


# --- what check says ------------------------------------------------------------------------------------------------


def test_check_renews_and_names_what_is_left(server: Server, site: Site) -> None:
    for age, status, words in ((0, "ok", "will be renewed from"), (61, "ok", "good for 90 days")):
        grow_old(server, site, days=age)
        with open_site(site.config) as one:
            found = check_identity.certificate(one)
        assert (found.status, words in found.message) == (status, True), found
    grow_old(server, site, days=80)
    with open_site(site.config) as one, pytest.MonkeyPatch.context() as patch:
        patch.setattr(enrolment, "reenroll", _raising(Unreachable("The line is dead.")))
        found = check_identity.certificate(one)
    assert (found.status, found.exit_code) == ("warning", 0)
    assert "ends in 10 days, and should have been renewed" in found.message
    assert "fedsite identity renew" in found.mend
    grow_old(server, site, days=91)
    with open_site(site.config) as one, pytest.raises(NotAuthorised, match="expired"):
        check_identity.certificate(one)
