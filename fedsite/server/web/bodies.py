"""Bodies of requests: up to a limit, and in time."""

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus

from fastapi import Request
from starlette.requests import ClientDisconnect

from fedsite.server.problems import Refused

BODY_SECONDS = 60.0


async def read_body(request: Request, limit: int) -> bytes:
    """A request's body, whole. Refuses as `blocks` does."""
    body = bytearray()
    async for block in blocks(request, limit):
        body += block
    return bytes(body)


async def blocks(request: Request, limit: int) -> AsyncIterator[bytes]:
    """A request's body as it comes; 413 once it is above `limit` bytes, 408 when it takes too long, 400 when it ends
    early.
    """
    size, stream = 0, request.stream()
    end = asyncio.get_running_loop().time() + BODY_SECONDS
    while True:
        try:
            async with asyncio.timeout_at(end):
                block = await anext(stream, None)
        except TimeoutError:
            raise Refused(HTTPStatus.REQUEST_TIMEOUT, "too-slow", "The body did not come in time.") from None
        except ClientDisconnect:
            raise Refused(HTTPStatus.BAD_REQUEST, "cut-off", "The body ended early.") from None
        if block is None:
            return
        size += len(block)
        if size > limit:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", f"The body is above {limit} bytes.")
        yield block
