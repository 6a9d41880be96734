"""The OpenAPI document (3.1), made from the routes and the messages: what FastAPI cannot know of them is added here."""

from typing import Any

from fastapi import FastAPI

from fedsite.server.problems import MEDIA_TYPE
from fedsite.server.web.door import OPEN
from fedsite.wire.enrolment import EST
from fedsite.wire.messages import Closed, Problem

_PROBLEM = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": _PROBLEM | {"description": "Refused"},
    "5XX": _PROBLEM | {"description": "Failed, full or busy: what is durable stays"},
}
"""What every route may answer."""

_CERTIFICATE, _INVITATION = "certificate", "invitation"


def describe(app: FastAPI) -> dict[str, Any]:
    """The document of an application whose routes name `PROBLEMS` among their answers."""
    document = app.openapi()
    components = document["components"]
    components["schemas"]["Problem"] = Problem.model_json_schema()
    components["securitySchemes"] = {
        _CERTIFICATE: {"type": "mutualTLS", "description": "A certificate that this federation has issued"},
        _INVITATION: {"type": "http", "scheme": "basic", "description": "Site and secret of an invitation"},
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            operation["security"] = _security(method.upper(), path)
    return document


def takes(kind: type[Closed]) -> dict[str, Any]:
    """A JSON body, for a route that reads it itself, strictly."""
    return body("application/json", kind.model_json_schema())


def body(media_type: str, schema: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    """A body of any kind, for a route that reads it itself."""
    return {"requestBody": {"required": required, "content": {media_type: {"schema": schema}}}}


def _security(method: str, path: str) -> list[dict[str, list[str]]]:
    if path == f"{EST}/simpleenroll":
        return [{_INVITATION: []}]
    return [] if (method, path) in OPEN else [{_CERTIFICATE: []}]
