"""What a connection that fails is said to fail of, against real sockets that do what hospitals' networks do."""

import hashlib
import os
import socket
import ssl
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from support.listeners import Talk, listening, saying, silent, speaking_tls, swallowing
from support.proxies import free_port

from fedsite.errors import ConfigurationError, FedsiteError, ServerBrokeProtocol, Unreachable
from fedsite.wire import shown, transport
from fedsite.wire.route import Proxy
from fedsite.wire.shown import OutOfDate
from fedsite.wire.transport import Patience, ask, open_http, trusting

CA = trustme.CA(organization_name="The federation")
FOREIGN = trustme.CA(organization_name="Some \x1b[2JInspection")
OURS = CA.issue_cert("localhost")
HTTP = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "TIMEOUT", httpx.Timeout(0.5))


def failure(port: int, proxy: Proxy | None = None, host: str = "localhost") -> FedsiteError:
    """What one attempt to ask a server says."""
    with open_http(f"https://{host}:{port}", trusting(CA.cert_pem.bytes()), proxy) as http:
        with pytest.raises(FedsiteError) as caught:
            ask(http, "GET", "/v1/federation", Patience(0))
        return caught.value


def through(port: int, scheme: str = "http", login: tuple[str, str] | None = None, ca: bytes | None = None) -> Proxy:
    return Proxy(f"{scheme}://localhost:{port}", "network.proxy", login, ca)


def sha256_of(leaf: trustme.LeafCert) -> str:
    """A certificate's fingerprint as `openssl x509 -fingerprint -sha256` writes it."""
    der = ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())
    return hashlib.sha256(der).digest().hex(":").upper()


def refusing(status: str, *headers: str, heard: list[bytes] | None = None) -> Talk:
    """A proxy's answer to CONNECT."""
    lines = [f"HTTP/1.1 {status}", *headers, "Content-Length: 0", "", ""]
    return saying("\r\n".join(lines).encode(), heard)


# --- the direct way -------------------------------------------------------------------------------------------------


def test_nothing_listens() -> None:
    port = free_port()
    error = failure(port)
    assert isinstance(error, Unreachable)
    assert error.message.startswith(f"The server localhost:{port} refuses connections: ")
    assert f"whether this machine may reach localhost:{port}" in error.mend


def test_no_variable_of_the_environment_has_a_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    with (
        listening(speaking_tls(OURS, saying(FINE))) as port,
        open_http(f"https://localhost:{port}", trusting(CA.cert_pem.bytes())) as http,
    ):
        assert ask(http, "GET", "/v1/federation", Patience(0)).status == 200


@pytest.mark.fault(
    part="line",
    what="a firewall drops everything",
    where="no answer to the first packet",
    promised="named after the patience that was set (exit 69), nothing is lost",
)
def test_a_black_hole() -> None:
    with swallowing() as port:
        error = failure(port)
    assert isinstance(error, Unreachable)
    assert error.message == (
        f"Nothing answers at the server localhost:{port}; a firewall may swallow what is sent there."
    )
    assert "network.proxy" in error.mend


@pytest.mark.fault(
    part="line",
    what="DNS is gone, or gives no answer",
    where="the resolver's two errors",
    promised="named (exit 69), told from a server that is down",
)
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (socket.EAI_NONAME, "The name server (DNS) does not know federation.example."),
        (socket.EAI_AGAIN, "The name server (DNS) gives no answer about federation.example."),
    ],
)
def test_a_name_that_cannot_be_found(monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    def getaddrinfo(*_: object, **__: object) -> None:
        raise socket.gaierror(number, "told by the resolver")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    error = failure(8443, host="federation.example")
    assert isinstance(error, Unreachable)
    assert error.message == words
    assert failure(8443, through(3128)).message.endswith(" localhost.")
    assert "network.proxy" in failure(8443, through(3128)).mend


@pytest.mark.parametrize("answer", [HTTP, b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", b"220 mail ESMTP\r\n"])
def test_another_service_without_tls(answer: bytes) -> None:
    with listening(saying(answer)) as port:
        error = failure(port)
    assert isinstance(error, ServerBrokeProtocol)
    assert error.message == f"What answers at localhost:{port} speaks no TLS: it is another service, or plain HTTP."
    assert "coordinator" in error.mend


def test_another_service_that_waits_to_be_spoken_to() -> None:
    with listening(silent) as port:
        error = failure(port)
    assert isinstance(error, Unreachable)
    assert "takes the connection, but does not answer its TLS" in error.message
    assert "firewall" in error.mend


@pytest.mark.fault(
    part="line",
    what="a firewall that cuts TLS",
    where="in the handshake",
    promised="named, with what to ask the network's people for",
)
def test_a_firewall_that_cuts_tls() -> None:
    with listening(saying(b"")) as port:
        error = failure(port)
    assert isinstance(error, Unreachable)
    assert "ends the connection while TLS begins" in error.message


def test_tls_that_is_too_old() -> None:
    alert = b"\x15\x03\x01\x00\x02\x02\x46"  # fatal, protocol_version
    with listening(saying(alert)) as port:
        error = failure(port)
    assert isinstance(error, ServerBrokeProtocol)
    assert "no TLS later than 1.1" in error.message


def test_another_server() -> None:
    leaf = FOREIGN.issue_cert("www.example.org")
    with listening(speaking_tls(leaf, saying(FINE))) as port:
        error = failure(port)
    assert isinstance(error, ServerBrokeProtocol)
    assert f"What answers at localhost:{port} is not this federation's server" in error.message
    assert sha256_of(leaf) in error.message
    assert "nothing was sent" in error.mend


def test_inspection_names_issuer_and_fingerprint_and_sends_nothing() -> None:
    heard: list[bytes] = []
    leaf = FOREIGN.issue_cert("localhost")
    with listening(speaking_tls(leaf, lambda line: heard.append(line.recv(1 << 16)))) as port:
        error = failure(port)
    assert isinstance(error, ServerBrokeProtocol)
    assert f"TLS to localhost:{port} is opened on the way (TLS inspection)" in error.message
    assert "Inspection" in error.message
    assert error.message.isprintable(), "the issuer's name is anybody's choice"
    assert sha256_of(leaf) in error.message
    assert f"exempt localhost:{port} from inspection" in error.mend
    assert heard in ([], [b""], [b"", b""]), "not a byte of a request"


@pytest.mark.parametrize("names", [["*.example", "*.localdomain"], [], ["LOCALHOST"]])
def test_names_in_a_foreign_certificate(names: list[str]) -> None:
    """Only what answers in the server's own name is called an inspection."""
    leaf = FOREIGN.issue_cert(*names, common_name="localhost")
    with listening(speaking_tls(leaf, saying(FINE))) as port:
        assert ("(TLS inspection)" in failure(port).message) == (names == ["LOCALHOST"])


@pytest.mark.parametrize("value", [b"\x30\x02\xa3\x00", b"\x30\x03\x82\x01\xff", b"", b"no DER"])
def test_a_certificate_whose_names_cannot_be_read_has_none(value: bytes) -> None:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    builder = x509.CertificateBuilder(x509.Name([]), x509.Name([]), key.public_key(), 1, now, now + timedelta(days=1))
    odd = builder.add_extension(x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, value), critical=False)
    certificate = odd.sign(key, hashes.SHA256())
    assert shown.names(certificate) == set()
    assert shown.described(certificate).startswith("issued by nobody, SHA-256 ")


def test_the_federations_certificate_for_another_name() -> None:
    with listening(speaking_tls(CA.issue_cert("federation.example"), saying(FINE))) as port:
        error = failure(port)
    assert isinstance(error, ServerBrokeProtocol)
    assert error.message == f"The certificate that is shown at localhost:{port} is made for federation.example."


@pytest.mark.parametrize("days", [-400, 400])
def test_a_certificate_of_another_time(days: int) -> None:
    now = datetime.now(UTC) + timedelta(days=days)
    leaf = CA.issue_cert("localhost", not_before=now - timedelta(days=1), not_after=now + timedelta(days=1))
    with listening(speaking_tls(leaf, saying(FINE))) as port:
        error = failure(port)
        with open_http(f"https://localhost:{port}", trusting(CA.cert_pem.bytes(), at_any_time=True)) as http:
            assert ask(http, "GET", "/v1/federation", Patience(0)).body == b"{}"
    assert isinstance(error, OutOfDate)
    assert f"valid from {now - timedelta(days=1):%Y-%m-%d %H:%M} UTC" in error.message
    assert f"it is {datetime.now(UTC):%Y-%m-%d}" in error.message
    assert "clock" in error.mend


def test_at_any_time_is_not_from_anybody() -> None:
    with (
        listening(speaking_tls(FOREIGN.issue_cert("localhost"), saying(FINE))) as port,
        open_http(f"https://localhost:{port}", trusting(CA.cert_pem.bytes(), at_any_time=True)) as http,
        pytest.raises(ServerBrokeProtocol),
    ):
        ask(http, "GET", "/v1/federation", Patience(0))


@pytest.mark.parametrize(
    ("answer", "words"),
    [(b"", "disconnected without sending"), (b"no HTTP\r\n\r\n", "illegal"), (FINE[:-2], "")],
)
def test_the_server_itself_breaks_off(answer: bytes, words: str) -> None:
    with listening(speaking_tls(OURS, saying(answer))) as port:
        error = failure(port)
    assert isinstance(error, Unreachable)
    assert error.message.startswith(f"The server localhost:{port}: ")
    assert words in error.message


def test_garbage_within_tls_is_no_other_service() -> None:
    def break_in(line: socket.socket) -> None:
        line.recv(1 << 16)
        with socket.socket(fileno=os.dup(line.fileno())) as below:
            below.sendall(HTTP)

    with listening(speaking_tls(OURS, break_in)) as port:
        error = failure(port)
    assert isinstance(error, Unreachable)
    assert error.message.startswith(f"The server localhost:{port}: ")


def test_the_server_itself_falls_silent() -> None:
    with listening(speaking_tls(OURS, silent)) as port:
        assert failure(port).message == f"The server localhost:{port} has fallen silent."


def test_what_was_tried_for_long_says_so() -> None:
    with listening(silent) as port, open_http(f"https://localhost:{port}", trusting(CA.cert_pem.bytes())) as http:
        with pytest.raises(Unreachable, match=f"No progress for 1 seconds: the server localhost:{port}") as caught:
            ask(http, "GET", "/", Patience(1.0, sleep=lambda seconds: None))
        assert "What was reached so far is kept" in caught.value.mend


# --- through a proxy ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "headers", "kind", "words"),
    [
        ("403 Forbidden", ["X-Squid-Error: ERR_ACCESS_DENIED 0"], Unreachable, "(403 Forbidden, ERR_ACCESS_DENIED 0)"),
        ("503 Service Unavailable", ["X-Squid-Error: ERR_DNS_FAIL 0"], Unreachable, "does not get through"),
        ("502 Bad \x1b[2J", [], Unreachable, "(502 Bad Gateway)"),
        ("599 Whatever", [], Unreachable, "(599)"),
        ("405 Method Not Allowed", [], ConfigurationError, "is no proxy for HTTPS (405 Method Not Allowed)"),
        ("400 Bad Request", [], ConfigurationError, "is no proxy for HTTPS"),
        ("501 Not Implemented", [], ConfigurationError, "is no proxy for HTTPS"),
    ],
)
def test_a_proxy_that_does_not_open_the_way(
    status: str, headers: list[str], kind: type[FedsiteError], words: str
) -> None:
    with listening(refusing(status, *headers)) as port:
        error = failure(8443, through(port))
    assert type(error) is kind
    assert words in error.message
    assert f"http://localhost:{port}" in error.message
    assert error.message.isprintable()


def test_a_proxy_that_forbids_the_port_says_what_to_ask_for() -> None:
    with listening(refusing("403 Forbidden")) as port:
        assert "allow CONNECT to localhost:8443; many proxies allow port 443 alone" in failure(8443, through(port)).mend


@pytest.mark.parametrize(
    ("offered", "login", "words", "mend"),
    [
        (["Basic realm=x"], None, "asks for a user and a password", "network.proxy_login"),
        (["Basic realm=x"], ("mary", "s3cret"), "refuses the user or the password", "lock an account"),
        (["Negotiate", "NTLM"], None, "by Negotiate or NTLM, which fedsite does not speak", "cntlm or px"),
        (["Negotiate", "NTLM"], ("mary", "s3cret"), "by Negotiate or NTLM", "cntlm or px"),
        (['Digest realm="a, Basic b"'], None, "by Digest", "px"),
        (["Negotiate, Basic realm=x"], None, "asks for a user and a password", "network.proxy_login"),
        ([], None, "asks for a user and a password", "network.proxy_login"),
    ],
)
def test_a_proxy_that_wants_a_login(offered: list[str], login: tuple[str, str] | None, words: str, mend: str) -> None:
    heard: list[bytes] = []
    challenges = [f"Proxy-Authenticate: {one}" for one in offered]
    with listening(refusing("407 Proxy Authentication Required", *challenges, heard=heard)) as port:
        error = failure(8443, through(port, login=login))
    assert isinstance(error, ConfigurationError)
    assert words in error.message
    assert mend in error.mend
    assert "s3cret" not in str(error)
    assert len(heard) == 1, "one attempt: more may lock the account"


def test_a_proxy_that_calls_a_wrong_password_what_servers_call_it() -> None:
    """As tinyproxy does; trying on would lock the account there as well."""
    heard: list[bytes] = []
    with listening(refusing("401 Unauthorized", heard=heard)) as port:
        error = failure(8443, through(port, login=("mary", "s3cret")))
    assert isinstance(error, ConfigurationError)
    assert "refuses the user or the password" in error.message
    assert len(heard) == 1


def test_what_listens_there_is_no_proxy() -> None:
    with listening(saying(b"220 mail ESMTP\r\n500 unrecognised command\r\n\r\n")) as port:
        error = failure(8443, through(port))
    assert isinstance(error, ConfigurationError)
    assert error.message == (
        f"What answers as the proxy http://localhost:{port} is no proxy for HTTPS (it speaks another protocol)."
    )
    assert "Is network.proxy what the network's operators say?" in error.mend


def test_a_proxy_that_says_nothing() -> None:
    with listening(silent) as port:
        error = failure(8443, through(port))
    assert isinstance(error, Unreachable)
    assert error.message == f"The proxy http://localhost:{port} was asked for localhost:8443, and has fallen silent."


def test_a_proxy_that_is_not_there() -> None:
    port = free_port()
    error = failure(8443, through(port))
    assert isinstance(error, Unreachable)
    assert error.message.startswith(f"The proxy http://localhost:{port} refuses connections: ")
    with swallowing() as port:
        error = failure(8443, through(port))
    assert error.message.startswith(f"Nothing answers at the proxy http://localhost:{port}; ")


def test_a_proxy_that_speaks_tls_though_it_should_not() -> None:
    with listening(speaking_tls(OURS, saying(FINE))) as port:
        error = failure(8443, through(port))
    assert isinstance(error, Unreachable)
    assert "write https:// there" in error.mend


def test_a_proxy_that_speaks_no_tls_though_it_should() -> None:
    with listening(saying(HTTP)) as port:
        error = failure(8443, through(port, "https", ca=CA.cert_pem.bytes()))
    assert isinstance(error, ConfigurationError)
    assert error.message == f"The proxy https://localhost:{port} speaks no TLS."
    assert "http://" in error.mend


@pytest.mark.parametrize("ca", [None, CA.cert_pem.bytes()])
def test_a_proxy_whose_certificate_is_not_trusted(ca: bytes | None) -> None:
    leaf = FOREIGN.issue_cert("localhost")
    with listening(speaking_tls(leaf, saying(FINE))) as port:
        error = failure(8443, through(port, "https", ("mary", "s3cret"), ca))
    assert isinstance(error, ConfigurationError)
    assert f"The certificate of the proxy https://localhost:{port} is not trusted: issued by" in error.message
    assert sha256_of(leaf) in error.message
    assert "network.proxy_ca" in error.mend


def test_an_authority_that_is_none() -> None:
    for ca in (b"", b"\xff", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(ConfigurationError, match=r"network\.proxy_ca holds no certificate"):
            through(3128, "https", ca=ca).for_httpx()


@pytest.mark.parametrize(
    "url",
    [
        "https://localhost:65536",
        "https://localhost:99999",
        "https://:1",
        "https://[::1",
        "https://a..b",
        f"https://{'a' * 64}",
    ],
)
def test_an_address_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be used"):
        open_http(url, trusting(CA.cert_pem.bytes()))


def test_an_address_that_cannot_be_asked_of_a_proxy() -> None:
    with pytest.raises(ConfigurationError, match="cannot ask of a proxy"):
        open_http("https://[::1]:8443", trusting(CA.cert_pem.bytes()), through(3128))
    open_http("https://[::1]:8443", trusting(CA.cert_pem.bytes())).close()
