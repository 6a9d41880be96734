"""Models down, updates up: resumed where they were cut, checked by digest, never more than was announced.

Download: Range and If-Range (RFC 9110, 14.2 and 13.1.5). Upload: the part of the IETF draft "Resumable Uploads for
HTTP" that protocol.md names; creation is idempotent, so every recovery is: create again, go on from its offset.
"""

import base64
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path
from typing import BinaryIO, NoReturn

import httpx

from fedsite.errors import RecordsDamaged, ServerBrokeProtocol, SourceMissing
from fedsite.files import cannot_write, fsync_folder
from fedsite.wire.diagnosis import Trouble, reason
from fedsite.wire.messages import Envelope, MalformedMessage, parse
from fedsite.wire.transport import Answer, Connection, Patience, ask, once, refusal, refused_for_now, retry_after

Progress = Callable[[int, int], None]
PART_BYTES = 16 << 20
BLOCK_BYTES = 1 << 18

_LOCATION = re.compile(r"/v1/uploads/[0-9a-f]{32}")


def silent(_done: int, _total: int) -> None:
    """The progress callback of those who do not watch."""


@dataclass(frozen=True)
class Update:
    """A released update: which round, which file, its digest and ledger row, and its declared weight if any."""

    round: int
    path: Path
    sha256: str
    ledger_sequence: int
    weight: float | None = None


def _renewing(patience: Patience, progress: Progress) -> Progress:
    """The same callback, which also renews the patience with each block that is further than any before.

    What goes over the line again after a cut does not count, nor does a trickle: a server that forgets what it was
    sent, or sends byte by byte, must not hold us for ever.
    """
    furthest = 0

    def told(done: int, total: int) -> None:
        nonlocal furthest
        if done >= furthest + BLOCK_BYTES:
            furthest = done
            patience.progress()
        progress(done, total)

    return told


def repr_digest(sha256: str) -> str:
    """A SHA-256 (hexadecimal) as the value of a Repr-Digest header (RFC 9530)."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"


def upload(http: Connection, update: Update, patience: Patience, progress: Progress) -> Envelope:
    """Sends an update until the server gives its receipt. See `FederationClient.upload`."""
    try:
        file = update.path.open("rb")
    except OSError as error:
        raise SourceMissing("The sealed update is not in the outbox.") from error
    with file:
        if hashlib.file_digest(file, "sha256").hexdigest() != update.sha256:
            raise RecordsDamaged("The sealed update is not the one in the ledger; nothing was sent.")
        size, progress = os.fstat(file.fileno()).st_size, _renewing(patience, progress)
        while True:
            answer = _create(http, update, size, patience)
            if answer.status == 201:
                offset = _offset(answer, size)
                answer = _send(http, file, _location(answer), offset, size, patience, progress)
            if answer.status == 200:
                progress(size, size)
                return _receipt(answer)


def _create(http: Connection, update: Update, size: int, patience: Patience) -> Answer:
    headers = {
        "Repr-Digest": repr_digest(update.sha256),
        "Upload-Length": str(size),
        "Fedsite-Ledger-Sequence": str(update.ledger_sequence),
    }
    if update.weight is not None:
        headers["Fedsite-Weight"] = repr(float(update.weight))
    answer = ask(http, "POST", f"/v1/rounds/{update.round:d}/updates", patience, headers=headers)
    if answer.status not in (200, 201):
        raise ServerBrokeProtocol(f"The server answered {answer.status} when an upload was announced.")
    return answer


def _send(
    http: Connection,
    file: BinaryIO,
    location: str,
    offset: int,
    size: int,
    patience: Patience,
    progress: Progress,
) -> Answer:
    """Appends parts until the server has all (200 with the receipt) or the line fails (the failing answer)."""
    while True:
        length = min(PART_BYTES, size - offset)
        headers = {
            "Content-Type": "application/partial-upload",
            "Content-Length": str(length),
            "Upload-Offset": str(offset),
            "Upload-Complete": "?1" if offset + length == size else "?0",
        }
        try:
            answer = once(http, "PATCH", location, headers, _blocks(file, offset, length, size, progress))
        except httpx.TransportError as error:
            patience.pause(reason(error))
            return Answer(0, httpx.Headers(), b"")
        if answer.status == 200:
            return answer
        if answer.status >= 500 or answer.status == 429:
            patience.pause(refused_for_now(answer), retry_after(answer))
            return answer
        if answer.status not in (204, 409) or "Upload-Offset" not in answer.headers:
            raise refusal(answer)
        reached = _offset(answer, size)
        if reached > offset:
            patience.check(Trouble("the server takes too few bytes"))
        else:
            patience.pause(Trouble("the server takes no bytes"))
        offset = reached


def _blocks(file: BinaryIO, offset: int, length: int, size: int, progress: Progress) -> Iterator[bytes]:
    file.seek(offset)
    end = offset + length
    while offset < end:
        block = file.read(min(BLOCK_BYTES, end - offset))
        if not block:
            raise RecordsDamaged("The sealed update became shorter while it was sent.")
        yield block
        offset += len(block)
        progress(offset, size)


def _offset(answer: Answer, size: int) -> int:
    text = answer.headers.get("Upload-Offset", "")
    if not (text.isascii() and text.isdigit() and int(text) <= size):
        raise ServerBrokeProtocol("The server names no offset, or one beyond the update's end.")
    return int(text)


def _location(answer: Answer) -> str:
    location: str = answer.headers.get("Location", "")
    if not _LOCATION.fullmatch(location):
        raise ServerBrokeProtocol("The server names no place to upload to.")
    return location


def _receipt(answer: Answer) -> Envelope:
    try:
        return parse(Envelope, answer.body)
    except MalformedMessage as error:
        raise ServerBrokeProtocol(f"The server's receipt is broken: {error}.", "Tell the coordinator.") from None


def download(
    http: Connection, sha256: str, size: int, destination: Path, patience: Patience, progress: Progress
) -> None:
    """Fetches the model of a digest. See `FederationClient.download_model`."""
    part = destination.with_suffix(".part")
    try:
        with _open_part(part) as file:
            resumed = file.seek(0, os.SEEK_END) > 0
            found = _fetch_all(http, sha256, size, file, patience, progress)
            if found != sha256 and resumed:  # what an earlier run left may be what is wrong: once more, from nothing
                file.truncate(0)
                found = _fetch_all(http, sha256, size, file, patience, progress)
        if found != sha256:
            part.unlink()
            raise ServerBrokeProtocol("The model is not the one that the ticket names.", "Tell the coordinator.")
        part.replace(destination)
        fsync_folder(destination.parent)
    except OSError as error:
        raise cannot_write(destination, error) from error


def _open_part(part: Path) -> BufferedRandom:
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    return os.fdopen(descriptor, "r+b")


def _fetch_all(
    http: Connection, sha256: str, size: int, file: BufferedRandom, patience: Patience, progress: Progress
) -> str:
    """Fetches until the file has `size` bytes, fsyncs it, and gives its SHA-256."""
    progress = _renewing(patience, progress)
    if file.seek(0, os.SEEK_END) > size:
        file.truncate(0)
    while (reached := file.seek(0, os.SEEK_END)) < size:
        try:
            _fetch(http, sha256, size, file, patience, progress)
        except httpx.TransportError as error:
            patience.pause(reason(error))
        else:
            if file.seek(0, os.SEEK_END) == reached:
                patience.pause(Trouble("the server sends no bytes"))
    file.flush()
    os.fsync(file.fileno())
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(
    http: Connection, sha256: str, size: int, file: BufferedRandom, patience: Patience, progress: Progress
) -> None:
    """One request for what is still missing, appended to the file as it comes."""
    start = file.seek(0, os.SEEK_END)
    headers = {"Range": f"bytes={start}-", "If-Range": f'"{sha256}"'} if start else {}
    with http.exchange("GET", f"/v1/models/{sha256}", headers) as response:
        if response.status_code == 200:
            start = 0
            file.truncate(0)
            file.seek(0)
        elif response.status_code != 206 or not start:
            _refuse(response)
        elif response.headers.get("Content-Range") != f"bytes {start}-{size - 1}/{size}":
            raise ServerBrokeProtocol("The server sends another part of the model than was asked for.")
        done = start
        for block in response.iter_raw():
            done += len(block)
            if done > size:
                raise ServerBrokeProtocol(f"The model is larger than the {size} bytes that the ticket names.")
            file.write(block)
            progress(done, size)
            patience.check(Trouble("the model comes too slowly"))


def _refuse(response: httpx.Response) -> NoReturn:
    """Raises what an answer without a model means: a TransportError where trying again may help."""
    body = b"".join(block for block, _ in zip(response.iter_raw(), range(64), strict=False))
    answer = Answer(response.status_code, response.headers, body)
    if answer.status < 400:
        raise ServerBrokeProtocol(f"The server answered {answer.status} when a model was asked for.")
    if answer.status < 500 and answer.status != 429:
        raise refusal(answer)
    raise httpx.ReadError(f"the server answered {answer.status}", request=response.request)
