"""Which proxy is used: the configuration's, else the environment's, and never a word of its password."""

import os
from pathlib import Path

import pytest
import yaml

from fedsite.errors import ConfigurationError
from fedsite.jobs.network import proxy_for
from fedsite.site import config as configuration
from fedsite.site.config import NetworkSettings
from fedsite.wire.route import Proxy

SERVER = "https://federation.example.org:8443"
SECRET = "s3cret"


def by(environment: dict[str, str], server: str = SERVER, **settings: object) -> Proxy | None:
    return proxy_for(NetworkSettings.model_validate(settings), server, environment)


def login_file(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    path = folder / "login"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_without_a_word_the_way_is_direct() -> None:
    assert by({}) is None
    assert by({"HTTP_PROXY": "http://proxy:3128", "https_proxy": ""}) is None


def test_the_configuration_goes_before_the_environment() -> None:
    environment = {"HTTPS_PROXY": "http://other:1", "NO_PROXY": "*"}
    assert by(environment, proxy="http://proxy:3128") == Proxy("http://proxy:3128", "network.proxy")
    assert by({"HTTPS_PROXY": "http://other:1"}, proxy="direct") is None


@pytest.mark.parametrize(
    ("environment", "url", "said_by"),
    [
        ({"HTTPS_PROXY": "http://proxy:3128/"}, "http://proxy:3128/", "$HTTPS_PROXY"),
        ({"HTTPS_PROXY": "proxy:3128"}, "http://proxy:3128", "$HTTPS_PROXY"),
        ({"HTTPS_PROXY": "http://one:1", "https_proxy": "http://two:2"}, "http://two:2", "$https_proxy"),
        ({"ALL_PROXY": "http://all:1"}, "http://all:1", "$ALL_PROXY"),
        ({"ALL_PROXY": "http://all:1", "HTTPS_PROXY": "https://one:1"}, "https://one:1", "$HTTPS_PROXY"),
        ({"HTTPS_PROXY": "http://[2001:db8::1]:3128"}, "http://[2001:db8::1]:3128", "$HTTPS_PROXY"),
    ],
)
def test_the_usual_variables(environment: dict[str, str], url: str, said_by: str) -> None:
    assert by(environment) == Proxy(url, said_by)


@pytest.mark.parametrize(
    ("url", "login"),
    [
        (f"http://mary:{SECRET}@proxy:3128", ("mary", SECRET)),
        ("http://a%40b:p%3A%C3%B6@proxy:3128", ("a@b", "p:ö")),
        ("http://mary@proxy:3128", ("mary", "")),
        (f"http://mary:{SECRET}@x@proxy:3128", ("mary", f"{SECRET}@x")),
    ],
)
def test_a_login_in_a_variable(url: str, login: tuple[str, str]) -> None:
    proxy = by({"HTTPS_PROXY": url})
    assert proxy is not None
    assert (proxy.url, proxy.login) == ("http://proxy:3128", login)
    assert login[1] == "" or login[1] not in repr(proxy)
    assert SECRET not in repr(proxy)
    sent = proxy.for_httpx()
    assert sent.raw_auth == (login[0].encode(), login[1].encode())


@pytest.mark.parametrize(
    "value",
    [f"socks5://mary:{SECRET}@proxy:1080", f"http://mary:{SECRET}@", f"mary:{SECRET}@:x", f"{SECRET} y", "direct@"],
)
def test_a_variable_that_names_no_proxy_does_not_tell_its_password(value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"\$HTTPS_PROXY names no HTTP proxy") as refused:
        by({"HTTPS_PROXY": value})
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


@pytest.mark.parametrize(
    ("no_proxy", "server", "excepted"),
    [
        ("*", SERVER, True),
        ("federation.example.org", SERVER, True),
        ("FEDERATION.example.org", SERVER, True),
        ("example.org", SERVER, True),
        (".example.org", SERVER, True),
        ("*.example.org", SERVER, True),
        ("localhost, .example.org", SERVER, True),
        ("localhost .example.org", SERVER, True),
        ("example.org:8443", SERVER, True),
        ("example.org:443", SERVER, False),
        ("ample.org", SERVER, False),
        ("other.example.org", SERVER, False),
        (".", SERVER, False),
        (",, ,", SERVER, False),
        ("", SERVER, False),
        ("10.0.0.0/8", "https://10.1.2.3:8443", True),
        ("10.9.9.9/8", "https://10.1.2.3:8443", True),
        ("10.1.2.3", "https://10.1.2.3:8443", True),
        ("10.1.2.3:8443", "https://10.1.2.3:8443", True),
        ("10.0.0.0/8", "https://11.1.2.3:8443", False),
        ("10.1.2.0/24", SERVER, False),
        ("2001:db8::/32", "https://[2001:db8::1]:8443", True),
        ("[2001:db8::1]", "https://[2001:db8::1]:8443", True),
        ("[2001:db8::1]:8443", "https://[2001:db8::1]:8443", True),
        ("[2001:db8::2]", "https://[2001:db8::1]:8443", False),
        ("example.org:443", "https://example.org", True),
    ],
)
def test_no_proxy(no_proxy: str, server: str, excepted: bool) -> None:
    proxy = by({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": no_proxy}, server)
    assert (proxy is None) == excepted


def test_a_login_from_its_file(tmp_path: Path) -> None:
    for content, login in (
        (b"mary:pass: w\xc3\xb6rd\n", ("mary", "pass: wörd")),
        (b"DOM\\mary:x\r\n", ("DOM\\mary", "x")),
        (b"mary:", ("mary", "")),
    ):
        path = login_file(tmp_path, content)
        assert by({}, proxy="http://proxy:3128", proxy_login=path) == Proxy("http://proxy:3128", "network.proxy", login)


@pytest.mark.parametrize("content", [b"", b"mary\n", b"mary:\xff\n", b"mary:a\nmore:b\n", b"mary:a\x00b"])
def test_a_file_that_holds_no_login(tmp_path: Path, content: bytes) -> None:
    path = login_file(tmp_path, content)
    with pytest.raises(ConfigurationError, match="holds no login") as refused:
        by({}, proxy="http://proxy:3128", proxy_login=path)
    assert "mary" not in str(refused.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_login_that_others_can_read(tmp_path: Path, mode: int) -> None:
    path = login_file(tmp_path, b"mary:x", mode)
    with pytest.raises(ConfigurationError, match="can be read by others") as refused:
        by({}, proxy="http://proxy:3128", proxy_login=path)
    assert f"chmod 600 {path}" in refused.value.mend


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a file of root's")
def test_a_login_that_systemd_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = login_file(tmp_path, b"mary:x", 0o440)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert by({}, proxy="http://proxy:3128", proxy_login=path) == Proxy(
        "http://proxy:3128", "network.proxy", ("mary", "x")
    )
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path.parent))
    with pytest.raises(ConfigurationError, match="can be read by others"):
        by({}, proxy="http://proxy:3128", proxy_login=path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    path.chmod(0o444)
    with pytest.raises(ConfigurationError, match="can be read by others"):
        by({}, proxy="http://proxy:3128", proxy_login=path)


@pytest.mark.parametrize("key", ["proxy_login", "proxy_ca"])
def test_a_file_that_is_not_there(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"network\.{key}\) cannot be read: No such file"):
        by({}, proxy="https://proxy:3128", **{key: tmp_path / "absent"})


def test_the_authority_of_a_proxy(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(b"some PEM")
    proxy = by({}, proxy="https://proxy:3128", proxy_ca=tmp_path / "ca.pem")
    assert proxy is not None
    assert proxy.ca == b"some PEM"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"proxy": f"http://mary:{SECRET}@proxy:3128"}, "network.proxy_login"),
        ({"proxy": f"mary:{SECRET}@proxy"}, "network.proxy_login"),
        ({"proxy": "socks5://proxy:1080"}, "http://HOST:PORT"),
        ({"proxy": "proxy:3128"}, "http://HOST:PORT"),
        ({"proxy": "http://proxy:3128/path"}, "http://HOST:PORT"),
        ({"proxy": ""}, "http://HOST:PORT"),
        ({"proxy_login": "/etc/login"}, "proxy_login: it is for the proxy"),
        ({"proxy": "direct", "proxy_login": "/etc/login"}, "proxy_login: it is for the proxy"),
        ({"proxy": "http://proxy:3128", "proxy_ca": "/etc/ca.pem"}, "proxy_ca: it is for a proxy that speaks TLS"),
        ({"proxy": "http://proxy:3128", "proxy_login": "login"}, "absolute path"),
    ],
)
def test_what_site_yaml_may_not_say(tmp_path: Path, settings: dict[str, str], complaint: str) -> None:
    path = tmp_path / "site.yaml"
    whole = {
        "paths": {"state": "/s", "data": "/d"},
        "privacy": {"epsilon": 1.0, "nominal_patients": 10},
        "network": settings,
    }
    path.write_text(yaml.safe_dump(whole))
    path.chmod(0o600)
    with pytest.raises(ConfigurationError) as refused:
        configuration.load(path, {})
    assert complaint in refused.value.message
    assert SECRET not in str(refused.value)
