"""Bodies of requests, read whole: up to a limit, and in time."""

import asyncio
from http import HTTPStatus

from fastapi import Request
from starlette.requests import ClientDisconnect

from fedsite.server.problems import Refused

BODY_SECONDS = 60.0


async def read_body(request: Request, limit: int) -> bytes:
    """A request's body; 413 when it is above `limit` bytes, 408 when it takes too long, 400 when it ends early."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for block in request.stream():
                body += block
                if len(body) > limit:
                    raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", f"The body is above {limit} bytes.")
    except TimeoutError:
        raise Refused(HTTPStatus.REQUEST_TIMEOUT, "too-slow", "The body did not come in time.") from None
    except ClientDisconnect:
        raise Refused(HTTPStatus.BAD_REQUEST, "cut-off", "The body ended early.") from None
    return bytes(body)
