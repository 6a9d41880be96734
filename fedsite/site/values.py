"""Kinds of values that several sections of site.yaml hold."""

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

_NO_ADDRESS = "must be https://HOST/..., or http:// to localhost, without user and password"


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path: cron and systemd start fedsite elsewhere")
    return path


def _web_address(secret: SecretStr) -> SecretStr:
    """Whatever is wrong, the answer does not repeat it: who knows such an address may write to it."""
    text = secret.get_secret_value()
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(_NO_ADDRESS) from None
    right = text.isascii() and text.isprintable() and " " not in text and "@" not in parts.netloc
    right &= bool(re.fullmatch(r"[\w.:-]+", host)) and not parts.fragment
    if not (right and (parts.scheme == "https" or (parts.scheme == "http" and _is_here(host)))):
        raise ValueError(_NO_ADDRESS)
    return secret


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
WebAddress = Annotated[SecretStr, AfterValidator(_web_address)]
MailAddress = Annotated[str, Field(pattern=r"^[\w.+=][\w.+=-]{0,63}@[A-Za-z0-9][A-Za-z0-9.-]{0,253}$")]
