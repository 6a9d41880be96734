"""Appending to uploads without blocking the event loop: one request at a time per upload, the newest one wins."""

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus

from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from fedsite.server.exchange import uploads
from fedsite.server.federation import Federation
from fedsite.server.problems import Refused, no_space
from fedsite.server.store.storage import UploadRow

STALL_SECONDS = 60.0
BLOCK_BYTES = 1 << 17
"""What is written at once. Of each upload that is under way the server holds a small multiple of this."""


class Receiver:
    """Takes the bodies of PATCH requests; `accepted` is called when an update has got its receipt.

    When a line dies unnoticed, its client comes back while the old request still waits for bytes: the new one takes
    over. An upload is either appended to or being concluded, never both; `_turn` guards the change between the two.
    """

    def __init__(self, federation: Federation, accepted: Callable[[], None]) -> None:
        self._federation, self._accepted = federation, accepted
        self._parts: dict[str, uploads.Part] = {}
        self._concluding: dict[str, asyncio.Task[UploadRow]] = {}
        self._turn = asyncio.Lock()

    async def append(self, site: str, upload_id: str, offset: int, stream: AsyncIterator[bytes]) -> UploadRow:
        """Appends a request's body at an offset and tells where the upload stands then.

        Concludes the upload when it is complete. Refuses as `uploads.find`, `Part` and `conclude` do; 507 when the
        disk is full.
        """
        with _full_disk_is_507():
            part = await self._open(site, upload_id, offset)
            if part is not None:
                try:
                    await _copy(stream, part)
                finally:
                    await asyncio.shield(run_in_threadpool(part.close))
                    if self._parts.get(upload_id) is part:
                        del self._parts[upload_id]
            upload = await run_in_threadpool(uploads.find, self._federation, site, upload_id)
            if upload.state == "accepted" or upload.offset < upload.size:
                return upload
            return await self._conclude(site, upload_id)

    async def _open(self, site: str, upload_id: str, offset: int) -> uploads.Part | None:
        """The upload's file, taken over from any older request; None when it is complete already."""
        async with self._turn:
            older = self._parts.pop(upload_id, None)
            if older is not None:
                await run_in_threadpool(older.close)
            if upload_id in self._concluding:
                return None
            upload = await run_in_threadpool(uploads.find, self._federation, site, upload_id)
            if upload.state == "accepted":
                return None
            part = await run_in_threadpool(uploads.Part, self._federation, upload, offset)
            self._parts[upload_id] = part
            return part

    async def _conclude(self, site: str, upload_id: str) -> UploadRow:
        """Admission and receipt: done once, for all who wait, whether or not they stay on the line."""
        async with self._turn:
            if upload_id in self._parts:
                raise Refused(HTTPStatus.CONFLICT, "superseded", "A newer request appends to this upload.")
            task = self._concluding.get(upload_id)
            if task is None:
                work = run_in_threadpool(uploads.conclude, self._federation, site, upload_id)
                task = self._concluding[upload_id] = asyncio.create_task(work)
                task.add_done_callback(lambda _: self._concluding.pop(upload_id))
        upload = await asyncio.shield(task)
        self._accepted()
        return upload


@contextmanager
def _full_disk_is_507() -> Iterator[None]:
    """Answers a full disk as such: what is durable stays, the client may come back."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space() from error
        raise


async def _copy(stream: AsyncIterator[bytes], part: uploads.Part) -> None:
    """Writes a body in blocks. A line that breaks or stalls ends it: what came is kept."""
    waiting: list[bytes] = []
    size = 0
    try:
        async for block in _steady(stream):
            waiting.append(block)
            size += len(block)
            if size >= BLOCK_BYTES:
                await run_in_threadpool(part.write, b"".join(waiting))
                waiting.clear()
                size = 0
    except (ClientDisconnect, TimeoutError):
        pass
    await run_in_threadpool(part.write, b"".join(waiting))


async def _steady(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    while True:
        async with asyncio.timeout(STALL_SECONDS):
            block = await anext(stream, None)
        if block is None:
            return
        yield block
