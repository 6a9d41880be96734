"""The network as hospitals have it: a round and `fedsite check` through real proxies, and what they say of failures."""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from support.federation import Server
from support.listeners import listening, saying, speaking_tls, telling, the_time
from support.proxies import BASIC, NTLM, free_port, squid
from support.site import Site, prepare_blobs

from fedsite.errors import NotAuthorised
from fedsite.server.authority.context import server_context
from fedsite.wire.client import FederationClient
from fedsite.wire.enrolment import Invitation, encode_certificates, fingerprint

LOCAL = {"steps": 0, "patch_voxels": [16, 16, 16]}
PLAN = {"local": LOCAL, "rounds": {"quorum": 1, "enough": 1, "deadline_seconds": 600}}
USER, PASSWORD = "st-mary", "pass: wörd"
FOUR_HUNDRED_DAYS = r"(400 days, 0:00:0\d|399 days, 23:59:5\d)"  # the other clock is told in whole seconds
INSPECTOR = trustme.CA(organization_name="St Mary's TLS inspection")


@pytest.fixture(autouse=True)
def network(site: Site) -> None:
    """Each test begins with the direct way, and with data: what fails is the network."""
    if not site.data.exists():
        prepare_blobs(site)
    unset = {"proxy": None, "proxy_login": None, "proxy_ca": None, "patience_seconds": 0.2}
    site.configure(network=unset)
    site.environment.clear()


@contextmanager
def elsewhere(site: Site, port: int) -> Iterator[None]:
    """The server's address leads to something else."""
    file = site.state / "identity" / "federation.json"
    before = file.read_bytes()
    file.write_text(json.dumps(json.loads(before) | {"server": f"https://localhost:{port}"}))
    yield
    file.write_bytes(before)


def login(folder: Path, password: str) -> str:
    path = folder / "proxy-login"
    path.write_text(f"{USER}:{password}\n")
    path.chmod(0o600)
    return str(path)


def findings(site: Site) -> dict[str, dict[str, str]]:
    return {one["name"]: one for one in site.run("check").json["data"]["checks"]}


def assert_said(site: Site, code: int, *words: str, mend: str) -> None:
    """By `check`, in its row and by its exit code, and by a round, in its error."""
    check = site.run("check")
    rows = {one["name"]: one for one in check.json["data"]["checks"]}
    row = rows["network"]
    assert (check.code, row["status"], row["exit_code"]) == (code, "error", code), rows
    assert [rows[name]["status"] for name in ("clock", "server", "upload")] == ["skipped"] * 3
    taken = site.run("train-round")
    error = taken.json["error"]
    assert taken.code == code, taken
    for word in words:
        assert word.lower() in row["message"].lower()
        assert word.lower() in error["message"].lower()
    assert mend in row["mend"]
    assert mend in error["mend"]
    assert error["message"] in taken.stderr.replace("\n", " ") or error["message"] in taken.stderr


# --- the matrix of proxies -------------------------------------------------------------------------------------------


def test_directly(server: Server, site: Site, tmp_path: Path) -> None:
    server.open_round(tmp_path, **PLAN)
    found = findings(site)
    assert [found[name]["status"] for name in ("proxy", "network", "clock", "server", "upload")] == ["ok"] * 5
    assert "directly" in found["proxy"]["message"]
    assert "An update of one round (at most 0.00" in found["upload"]["message"]
    assert site.ok("train-round")["outcome"] == "uploaded"


def test_through_a_proxy(server: Server, site: Site, tmp_path: Path) -> None:
    server.open_round(tmp_path, **PLAN)
    with squid() as (port, log):
        site.configure(network={"proxy": f"http://127.0.0.1:{port}"})
        found = findings(site)
        assert found["proxy"]["message"].endswith(f"http://127.0.0.1:{port} (network.proxy), without a login.")
        assert [found[name]["status"] for name in ("network", "clock", "server", "upload")] == ["ok"] * 4
        assert site.ok("train-round")["outcome"] == "uploaded"
        assert "TCP_TUNNEL/200" in log.read_text()


def test_through_a_proxy_of_the_environment(server: Server, site: Site) -> None:
    with squid(*BASIC) as (port, log):
        site.environment["HTTPS_PROXY"] = f"http://{USER}:pass%3A%20w%C3%B6rd@127.0.0.1:{port}"
        row = findings(site)["proxy"]
        assert (row["status"], "$HTTPS_PROXY" in row["message"], "cron" in row["mend"]) == ("warning", True, True)
        assert site.ok("train-round")["outcome"] == "nothing-to-do"
        tunnels = log.read_text().count(f"CONNECT localhost:{server.port} {USER}")
        assert tunnels
        site.environment["NO_PROXY"] = "localhost"
        assert site.ok("train-round")["outcome"] == "nothing-to-do"
        assert log.read_text().count("CONNECT") == tunnels


def test_through_a_proxy_with_a_login_that_is_nowhere_told(server: Server, site: Site, tmp_path: Path) -> None:
    server.open_round(tmp_path, **PLAN)
    with squid(*BASIC) as (port, log):
        site.configure(network={"proxy": f"http://127.0.0.1:{port}", "proxy_login": login(tmp_path, PASSWORD)})
        check, taken = site.run("check", "--verbose"), site.run("train-round", "--verbose")
        assert f"CONNECT localhost:{server.port} {USER} HIER_DIRECT" in log.read_text()
    assert (check.code, taken.code) == (0, 0)
    told = "".join((check.stdout, check.stderr, taken.stdout, taken.stderr)).encode()
    for place in (path for path in site.home.rglob("*") if path.is_file()):
        told += place.read_bytes()
    assert PASSWORD.encode() not in told


@pytest.mark.fault(
    part="line",
    what="a proxy that wants a login (407)",
    where="squid, without credentials",
    promised="named, with the setting that is missing",
)
def test_without_the_login(server: Server, site: Site) -> None:
    with squid(*BASIC) as (port, _):
        site.configure(network={"proxy": f"http://127.0.0.1:{port}"})
        assert_said(site, 78, "asks for a user and a password", mend="network.proxy_login")


@pytest.mark.fault(
    part="line",
    what="a proxy that refuses the login (407)",
    where="squid, with a wrong password",
    promised="named; tried once, so that no account is locked",
)
def test_with_a_wrong_password(server: Server, site: Site, tmp_path: Path) -> None:
    with squid(*BASIC) as (port, log):
        site.configure(network={"proxy": f"http://127.0.0.1:{port}", "proxy_login": login(tmp_path, "of yesterday")})
        assert_said(site, 78, "refuses the user or the password", mend="lock an account")
        assert log.read_text().count("TCP_DENIED/407") == 2, "once by the check, once by the round"


def test_a_proxy_that_wants_ntlm(server: Server, site: Site) -> None:
    with squid(*NTLM) as (port, _):
        site.configure(network={"proxy": f"http://127.0.0.1:{port}"})
        assert_said(site, 78, "asks for a login by NTLM", mend="cntlm or px")


def test_a_proxy_that_forbids_the_port(server: Server, site: Site) -> None:
    with squid("acl TLS port 443", "http_access deny CONNECT !TLS") as (port, _):
        site.configure(network={"proxy": f"http://127.0.0.1:{port}"})
        words = f"forbids the way to localhost:{server.port} (403 Forbidden, ERR_ACCESS_DENIED 0)"
        assert_said(site, 69, words, mend="many proxies allow port 443 alone")


@contextmanager
def inspecting() -> Iterator[tuple[int, Path]]:
    """A squid that opens TLS, reads, and closes it again, whoever the server is."""
    pem = INSPECTOR.issue_cert("localhost").private_key_and_cert_chain_pem.bytes()
    settings = ("ssl_bump bump all", "sslproxy_cert_error allow all", "tls_outgoing_options flags=DONT_VERIFY_PEER")
    bump = "http_port ssl-bump tls-cert={folder}/pem generate-host-certificates=off"
    with squid(*settings, port=bump, files={"pem": pem}) as inspector:
        yield inspector


def test_an_invitation_is_not_shown_to_who_inspects_tls(server: Server, tmp_path: Path) -> None:
    new, invitation = Site(tmp_path / "new"), server.invite("a-new-site")
    new.init()
    with inspecting() as (port, log):
        new.configure(network={"proxy": f"http://127.0.0.1:{port}"})
        stopped = new.run("enroll", "--invitation", "-", stdin=invitation)
        assert (stopped.code, "TLS inspection" in stopped.json["error"]["message"]) == (76, True), stopped
        assert "cacerts" in log.read_text(), "the inspector does read what is asked of it"
        assert "simpleenroll" not in log.read_text()
    with squid(*BASIC) as (port, _):
        of_login = login(tmp_path, PASSWORD)
        new.configure(network={"proxy": f"http://127.0.0.1:{port}", "proxy_login": of_login})
        assert new.enroll(invitation)["outcome"] == "enrolled"


@pytest.mark.fault(
    part="line",
    what="a proxy that inspects TLS",
    where="squid with an authority of its own",
    promised="named with issuer and fingerprint; nothing is sent through it",
)
def test_a_proxy_that_inspects_tls(server: Server, site: Site) -> None:
    with inspecting() as (port, log):
        site.configure(network={"proxy": f"http://127.0.0.1:{port}"})
        words = ("TLS inspection", "O=St Mary's TLS inspection", "SHA-256 ")
        assert_said(site, 76, *words, mend="exempt localhost:")
        assert "GET" not in log.read_text(), "the inspector read a request"


def test_a_proxy_that_speaks_tls(server: Server, site: Site, tmp_path: Path) -> None:
    server.open_round(tmp_path, **PLAN)
    pem = INSPECTOR.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.bytes()
    (tmp_path / "ca.pem").write_bytes(INSPECTOR.cert_pem.bytes())
    with squid(port="https_port tls-cert={folder}/pem", files={"pem": pem}) as (port, log):
        site.configure(network={"proxy": f"https://127.0.0.1:{port}"})
        assert_said(site, 78, "is not trusted: issued by", "St Mary's", mend="network.proxy_ca")
        site.configure(network={"proxy_ca": str(tmp_path / "ca.pem")})
        assert site.run("check").code == 0
        assert site.ok("train-round")["outcome"] == "uploaded"
        assert "TCP_TUNNEL/200" in log.read_text()


@pytest.mark.fault(
    part="line",
    what="a proxy that is down",
    where="its port",
    promised="told from a server that is down",
)
def test_a_proxy_that_is_dead(server: Server, site: Site) -> None:
    site.configure(network={"proxy": f"http://127.0.0.1:{free_port()}"})
    assert_said(site, 69, "the proxy http://127.0.0.1:", "refuses connections", mend="network.proxy")


def test_a_proxy_behind_which_the_server_is_dead(server: Server, site: Site) -> None:
    with squid() as (port, _), elsewhere(site, free_port()):
        site.configure(network={"proxy": f"http://127.0.0.1:{port}"})
        assert_said(site, 69, "does not get through", "503 Service Unavailable, ERR_CONNECT_FAIL", mend="operators")


# --- without a proxy ------------------------------------------------------------------------------------------------


def test_a_server_that_is_dead(server: Server, site: Site) -> None:
    with elsewhere(site, free_port()):
        assert_said(site, 69, "refuses connections", mend="Ask the coordinator whether the server runs")


def test_a_port_of_plain_http(server: Server, site: Site) -> None:
    with listening(saying(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port, elsewhere(site, port):
        assert_said(site, 76, "speaks no TLS", mend="Ask the coordinator for the server's address and port.")


def test_a_name_that_cannot_be_found(server: Server, site: Site) -> None:
    site.configure(network={"proxy": "http://no-such-proxy.invalid:3128"})
    assert_said(site, 69, "the name server (DNS)", "no-such-proxy.invalid", mend="network.proxy")


# --- clocks ---------------------------------------------------------------------------------------------------------


@pytest.mark.fault(
    part="time",
    what="this machine's clock is wrong by hours, or by 40 days",
    where="the server's Date",
    promised="`fedsite check` says by how much, and what to do",
)
@pytest.mark.parametrize(("hours", "words"), [(-3, "ahead of"), (24 * 40, "behind")])
def test_a_clock_that_is_wrong(server: Server, site: Site, hours: float, words: str) -> None:
    federation = server.federation
    context = server_context(federation.server_certificate, federation.ca_certificate)
    there = telling(datetime.now(UTC) + timedelta(hours=hours))
    with listening(speaking_tls(context, there)) as port, elsewhere(site, port):
        check = site.run("check")
    row = next(one for one in check.json["data"]["checks"] if one["name"] == "clock")
    assert (check.code, row["status"], row["exit_code"]) == (77, "error", 77)
    size = "3:00:0" if hours == -3 else "40 days, 0:00:00"
    assert row["message"].startswith(f"This machine's clock is {size}") or "39 days, 23:59:5" in row["message"]
    assert words in row["message"]
    assert "NTP" in row["mend"]


@pytest.mark.fault(
    part="time",
    what="a certificate seems to have expired by a clock that is off by 400 days",
    where="this machine's clock, both ways",
    promised="the clock is named, not the certificate",
)
def test_a_certificate_that_only_a_wrong_clock_ends(server: Server, tmp_path: Path) -> None:
    tls = server.enrol("a-wrong-clock", tmp_path / "identity")
    for days in (400, -400):
        with pytest.raises(NotAuthorised, match=FOUR_HUNDRED_DAYS) as caught:
            FederationClient(server.url, tls, clock=lambda days=days: datetime.now(UTC) + timedelta(days=days))
        assert "clock" in caught.value.mend
    server.stop()
    with pytest.raises(NotAuthorised, match="expired on") as caught:
        FederationClient(server.url, tls, clock=lambda: datetime.now(UTC) + timedelta(days=400))
    server.start()
    assert "invitation" in caught.value.mend, "nobody could tell the time"


@pytest.mark.parametrize("days", [-400, 400])
def test_a_clock_that_is_wrong_at_enrolment(tmp_path: Path, days: int) -> None:
    """The server's certificate is not valid by it; how wrong it is tells the server, by the time that it has."""
    there, federation = datetime.now(UTC) + timedelta(days=days), trustme.CA()
    leaf = federation.issue_cert("localhost", not_before=there - timedelta(days=1), not_after=there + timedelta(days=1))
    root = x509.load_pem_x509_certificate(federation.cert_pem.bytes())
    certificates = encode_certificates([root])

    def server(line: socket.socket) -> None:
        asked = line.recv(1 << 16)
        if b"cacerts" in asked:
            line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(certificates), certificates))
        else:
            line.sendall(the_time(there))

    new = Site(tmp_path / "new")
    new.init(network={"patience_seconds": 0.2})
    with listening(speaking_tls(leaf, server)) as port:
        invitation = Invitation(f"https://localhost:{port}", "a-new-site", "s" * 43, fingerprint(root))
        stopped = new.run("enroll", "--invitation", "-", stdin=invitation.encode())
    assert stopped.code == 77
    assert re.search(f"This machine's clock is {FOUR_HUNDRED_DAYS}", stopped.json["error"]["message"])
    assert "NTP" in stopped.json["error"]["mend"]
