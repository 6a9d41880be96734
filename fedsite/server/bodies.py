"""Bodies of requests, read whole and up to a limit."""

from http import HTTPStatus

from fastapi import Request

from fedsite.server.problems import Refused


async def read_body(request: Request, limit: int) -> bytes:
    """A request's body; 413 when it is longer than `limit` bytes."""
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > limit:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", f"The body is above {limit} bytes.")
    return bytes(body)
