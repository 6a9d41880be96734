"""The way from this machine to the federation: through which proxy, if any, who says so, and with which login."""

import os
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fedsite.errors import ConfigurationError
from fedsite.files import is_private
from fedsite.site.config import DIRECT, NetworkSettings
from fedsite.site.secrets import service_environment
from fedsite.wire.route import Proxy

VARIABLES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


def proxy_for(settings: NetworkSettings, server: str, environment: Mapping[str, str] = os.environ) -> Proxy | None:
    """The proxy for a server: `network.proxy`, else what the usual variables say; None for the direct way.

    What the configuration names holds whatever the environment says, NO_PROXY too: cron and systemd start fedsite
    without the variables of a login. Raises ConfigurationError.
    """
    if settings.proxy == DIRECT:
        return None
    if settings.proxy is not None:
        login = _read_login(settings.proxy_login) if settings.proxy_login else None
        return Proxy(settings.proxy, "network.proxy", login, _read_ca(settings.proxy_ca))
    for variable in VARIABLES:
        if value := environment.get(variable):
            excepted = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
            return None if _is_excepted(server, excepted) else _of_variable(variable, value)
    return None


def _of_variable(variable: str, value: str) -> Proxy:
    """A proxy from the environment, where a login may stand in its URL, percent-encoded (RFC 3986, 3.2.1)."""
    scheme, _, rest = value.rpartition("://")
    login, given, host = rest.rpartition("@")
    try:
        settings = NetworkSettings(proxy=f"{scheme or 'http'}://{host}")
    except ValueError:  # its text may hold the password
        raise ConfigurationError(
            f"${variable} names no HTTP proxy.", "Write http://HOST:PORT there, or set network.proxy in site.yaml."
        ) from None
    user, _, password = login.partition(":")
    return Proxy(str(settings.proxy), f"${variable}", (unquote(user), unquote(password)) if given else None)


def _is_excepted(server: str, no_proxy: str) -> bool:
    """Whether NO_PROXY (names, domains, addresses, networks, or *) covers a server, with its port or without."""
    parts = urlsplit(server)
    host, port = (parts.hostname or "").lower(), parts.port or 443
    return any(_covers(entry, host, port) for entry in no_proxy.lower().replace(",", " ").split())


def _covers(entry: str, host: str, port: int) -> bool:
    entry = entry.removesuffix(f":{port}") if entry.count(":") == 1 or "]" in entry else entry
    try:
        return ip_address(host) in ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        name = entry.lstrip("*.")
        return entry == "*" or (bool(name) and f".{host}".endswith(f".{name}"))


def _read_login(path: Path) -> tuple[str, str]:
    """User and password. The file is held to what a private key's is: nobody else may read it."""
    try:
        if not (is_private(path) or _is_credential(path)):
            raise ConfigurationError(
                f"{path} (network.proxy_login) can be read by others, or belongs to another user.",
                f"Run: chmod 600 {path}. If someone may have read it, change the password.",
            )
        text = path.read_text(encoding="utf-8").strip("\r\n")
    except OSError as error:
        raise _unreadable("proxy_login", path, error) from error
    except UnicodeDecodeError:
        text = ""
    user, found, password = text.partition(":")
    if not found or not text.isprintable():
        raise ConfigurationError(
            f"{path} (network.proxy_login) holds no login.", "Write USER:PASSWORD into it, in one line of UTF-8."
        )
    return user, password


def _is_credential(path: Path) -> bool:
    """Whether systemd gives it to this service (LoadCredential=): a file of root's, shown to the user by an access list
    whose mask stands in the group's bits.
    """
    folder = service_environment().get("CREDENTIALS_DIRECTORY")
    status = path.lstat()
    return bool(folder) and path.parent == Path(str(folder)) and status.st_uid == 0 and not status.st_mode & 0o027


def _read_ca(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path else None
    except OSError as error:
        raise _unreadable("proxy_ca", path, error) from error


def _unreadable(key: str, path: Path | None, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"{path} (network.{key}) cannot be read: {error.strerror}.",
        "Name a file that the user who runs fedsite may read.",
    )
