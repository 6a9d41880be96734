"""What README says of a site's first certificate, and of one that has ended or was revoked."""

from datetime import timedelta
from pathlib import Path

from support.federation import Server
from support.site import Site

from fedsite.server.members import enrolment as admissions


def files_of(site: Site) -> dict[str, bytes]:
    """All but the lock, which says who held it last."""
    folder = site.state / "identity"
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_new_invitation_brings_a_new_certificate(server: Server, site: Site) -> None:
    before = files_of(site)
    site.ok("enroll", "--invitation", "-", stdin=server.invite("site-a"))
    after = files_of(site)
    assert {name for name in before.keys() & after.keys() if before[name] != after[name]} == {"current"}
    version = {"choice.json", "key.pem", "passphrase", "site.pem"}
    assert before.keys() - after.keys() == {f"versions/1/{name}" for name in version}
    assert after.keys() - before.keys() == {f"versions/2/{name}" for name in version}
    assert site.ok("train-round")["outcome"] == "nothing-to-do"


def test_a_revoked_site_comes_back_by_a_new_invitation(server: Server, site: Site) -> None:
    assert server.run("server", "site", "revoke", "site-a").returncode == 0
    assert site.run("train-round").code == 77
    site.ok("enroll", "--invitation", "-", stdin=server.invite("site-a"))
    assert site.ok("train-round")["outcome"] == "nothing-to-do"


def test_the_same_invitation_again_changes_nothing(server: Server, site: Site) -> None:
    line = server.invite("site-a")
    site.ok("enroll", "--invitation", "-", stdin=line)
    before = files_of(site)
    again = site.run("enroll", "--invitation", "-", stdin=line)
    assert (again.code, again.json["outcome"]) == (0, "nothing-to-do")
    assert "served another key. The present certificate stays." in again.stderr
    assert files_of(site) == before


def test_an_invitation_that_has_expired_changes_nothing(server: Server, site: Site) -> None:
    before = files_of(site)
    site.ok("enroll", "--invitation", "-", stdin=server.invite("site-a", hours=-1))
    assert files_of(site) == before


def test_a_site_waits_for_a_persons_yes(server: Server, tmp_path: Path) -> None:
    site = Site(tmp_path / "careful")
    site.init()
    line = admissions.invite(server.federation, "careful", timedelta(hours=1), server.url, approval=True).encode()
    enroll = ("enroll", "--invitation", "-", "--accept-agreement", "Ada")
    waits = site.run(*enroll, stdin=line)
    assert (waits.code, waits.json["outcome"]) == (75, "pending")
    (asking,) = (one.pending for one in admissions.standings(server.federation) if one.site == "careful")
    assert asking[0].sha256 in waits.json["error"]["message"]
    assert "by telephone" in waits.json["error"]["mend"]
    assert line not in waits.stdout + waits.stderr
    assert site.run("train-round").code == 77, "it is not enrolled"

    again = site.run(*enroll, stdin=line)
    assert again.json["error"]["message"] == waits.json["error"]["message"], "the same key asks again"
    admissions.approve(server.federation, "careful")
    assert site.ok(*enroll, stdin=line)["outcome"] == "enrolled"
    assert site.ok("train-round")["outcome"] == "nothing-to-do"
