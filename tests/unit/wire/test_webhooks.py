"""One POST to an address of the site's own choice: by TLS that is verified, through its proxy, and discreet."""

from pathlib import Path

import pytest
import trustme
from support.listeners import listening, saying, speaking_tls
from support.proxies import free_port

from fedsite.errors import Unreachable
from fedsite.wire import webhooks
from fedsite.wire.route import Proxy

TAKEN = b"HTTP/1.1 204 No Content\r\n\r\n"


def test_what_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, heard = trustme.CA(), list[bytes]()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with listening(speaking_tls(authority.issue_cert("localhost"), saying(TAKEN, heard))) as port:
        webhooks.post(f"https://localhost:{port}/a%20b?key=s3cret", b"", "application/json", None)
    (head,) = heard
    assert head.startswith(b"POST /a%20b?key=s3cret HTTP/1.1\r\n")
    assert b"\r\nContent-Type: application/json\r\n" in head
    assert b"User-Agent: fedsite/" in head


def test_whoever_nobody_vouches_for_is_told_nothing() -> None:
    heard: list[bytes] = []
    impostor = speaking_tls(trustme.CA().issue_cert("localhost"), saying(TAKEN, heard))
    refused = pytest.raises(Unreachable, match=r"^localhost: .*certificate verify failed")
    with listening(impostor) as port, refused as raised:
        webhooks.post(f"https://localhost:{port}/s3cret", b"x", "text/plain", None)
    assert heard == []
    assert "s3cret" not in str(raised.value)


def test_it_goes_through_the_proxy() -> None:
    heard: list[bytes] = []
    with listening(saying(b"HTTP/1.1 403 Forbidden\r\n\r\n", heard)) as port:
        proxy = Proxy(f"http://127.0.0.1:{port}", "network.proxy", ("user", "password"))
        with pytest.raises(Unreachable, match=r"^hook\.example: 403 Forbidden\.$"):
            webhooks.post("https://hook.example/s3cret", b"x", "text/plain", proxy)
    (asked,) = heard
    assert asked.startswith(b"CONNECT hook.example:443 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic " in asked
    assert b"s3cret" not in asked


def test_nobody_there() -> None:
    with pytest.raises(Unreachable, match=r"^127\.0\.0\.1: Connection refused\.$"):
        webhooks.post(f"http://127.0.0.1:{free_port()}/s3cret", b"x", "text/plain", None)


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("https://h/uuid", "https://h/uuid/fail"),
        ("https://h/uuid/?a=b", "https://h/uuid/fail?a=b"),
        ("https://h", "https://h/fail"),
    ],
)
def test_a_further_part_of_a_path(address: str, found: str) -> None:
    assert webhooks.below(address, "fail") == found
