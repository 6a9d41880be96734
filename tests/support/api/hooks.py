"""What schemathesis cannot know: real PKCS#10 requests, and the names of things that are there (in $FEDSITE_FUZZ)."""

import base64
import json
import os
from typing import Any

import schemathesis
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import strategies as st

from fedsite.wire.enrolment import new_key, signing_request

KNOWN: dict[str, Any] = json.loads(os.environ["FEDSITE_FUZZ"])
REQUESTS = [
    base64.encodebytes(signing_request(new_key(), site).public_bytes(Encoding.DER)) for site in ("newcomer", "fuzzer")
]

schemathesis.openapi.media_type("application/pkcs10", st.sampled_from(REQUESTS))
schemathesis.openapi.media_type("application/partial-upload", st.binary(max_size=100))


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Every other name is that of something that is there."""
    return _known(path_parameters, "path")


@schemathesis.hook
def map_headers(context: Any, headers: dict[str, Any] | None) -> dict[str, Any] | None:
    """Every other announcement has the right length, every other part the right offset."""
    return _known(headers, "headers")


def _known(values: dict[str, Any] | None, where: str) -> dict[str, Any] | None:
    if not values:
        return values
    return {
        name: KNOWN[where][name] if name in KNOWN[where] and hash(str(value)) % 2 else value
        for name, value in values.items()
    }


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """To JSON Schema 2.0 is a whole number, to us it is a second way to write 2: messages have one spelling."""
    if not isinstance(body, dict):
        return body
    return {name: int(one) if isinstance(one, float) and one.is_integer() else one for name, one in body.items()}
