"""The headers that an upload speaks in: how they are read, and what the OpenAPI document says of them."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fedsite.server.problems import Refused

_DIGEST = r"sha-256=:([A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=):"
_WEIGHT = r"[0-9]+(\.[0-9]+)?(e[+-]?[0-9]{1,3})?"
_MAX_WEIGHT = 1e6


@dataclass(frozen=True)
class WholeNumber:
    """A header that must be there and hold a whole number from `low` to `high`."""

    name: str
    low: int
    high: int

    def read(self, headers: Mapping[str, str]) -> int:
        """Its value; refuses with 400."""
        text = headers.get(self.name.lower(), "")
        if not re.fullmatch(r"[0-9]{1,16}", text) or not self.low <= int(text) <= self.high:
            raise malformed(f"{self.name} must be a whole number from {self.low} to {self.high}.")
        return int(text)

    @property
    def described(self) -> dict[str, Any]:
        """As the OpenAPI document has it."""
        return described(self.name, {"type": "integer", "minimum": self.low, "maximum": self.high})


LENGTH = WholeNumber("Upload-Length", 1, 1 << 40)
OFFSET = WholeNumber("Upload-Offset", 0, 1 << 40)
SEQUENCE = WholeNumber("Fedsite-Ledger-Sequence", 1, 1 << 53)


def read_digest(headers: Mapping[str, str]) -> str:
    """The SHA-256 of Repr-Digest (RFC 9530) in hexadecimal digits; refuses with 400."""
    found = re.fullmatch(_DIGEST, headers.get("repr-digest", ""))
    if found is None:
        raise malformed("Repr-Digest must be sha-256=:BASE64:.")
    return base64.b64decode(found.group(1)).hex()


def read_weight(headers: Mapping[str, str]) -> float | None:
    """Fedsite-Weight, None when it is not there; refuses with 400."""
    text = headers.get("fedsite-weight")
    if text is None:
        return None
    if not re.fullmatch(_WEIGHT, text) or not 0 < float(text) <= _MAX_WEIGHT:
        raise malformed("Fedsite-Weight must be a number above 0, at most a million.")
    return float(text)


def malformed(title: str) -> Refused:
    """400: what was sent is not of its form."""
    return Refused(HTTPStatus.BAD_REQUEST, "malformed", title)


def described(name: str, schema: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    """A header as the OpenAPI document has it."""
    return {"name": name, "in": "header", "required": required, "schema": schema}


ANNOUNCEMENT = [
    described("Repr-Digest", {"type": "string", "pattern": f"^{_DIGEST}$"}),
    LENGTH.described,
    SEQUENCE.described,
    described("Fedsite-Weight", {"type": "number", "exclusiveMinimum": 0, "maximum": _MAX_WEIGHT}, required=False),
]
"""What a site says of its update before it sends it. The weight: where the plan's weights are declared, only there."""
