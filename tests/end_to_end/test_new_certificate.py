"""What README says of a certificate that runs out: a new one comes, and everything else stays."""

from support.federation import Server
from support.site import Site


def test_a_new_certificate_for_the_same_key(server: Server, site: Site) -> None:
    identity = site.state / "identity"
    before = {path.name: path.read_bytes() for path in identity.iterdir()}
    (identity / "site.pem").rename(site.home / "old-site.pem")
    site.ok("enroll", "--invitation", "-", stdin=server.invite("site-a"))
    after = {path.name: path.read_bytes() for path in identity.iterdir()}
    assert {name for name in before if before[name] != after.pop(name)} == {"site.pem"}
    assert after == {}
    assert site.ok("train-round")["outcome"] == "nothing-to-do"
