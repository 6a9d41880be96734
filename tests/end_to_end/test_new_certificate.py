"""What README says of a certificate that has ended or was revoked: a new one comes, and everything else stays."""

from support.federation import Server
from support.site import Site


def files_of(site: Site) -> dict[str, bytes]:
    folder = site.state / "identity"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
    again = site.ok("enroll", "--invitation", "-", stdin=line)
    assert again["outcome"] == "nothing-to-do"
    assert files_of(site) == before


def test_an_invitation_that_has_expired_changes_nothing(server: Server, site: Site) -> None:
    before = files_of(site)
    site.ok("enroll", "--invitation", "-", stdin=server.invite("site-a", hours=-1))
    assert files_of(site) == before
