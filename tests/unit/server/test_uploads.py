"""Uploads without HTTP: crashes between two writes, a full disk, parts that meet."""

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest
from support.federation import tensors, update_file

from fedsite.server.exchange import uploads
from fedsite.server.problems import Refused
from fedsite.server.rounds import rounds
from fedsite.server.store.storage import UploadRow
from fedsite.server.web import receiver
from fedsite.server.web.receiver import Receiver

OPEN = {"rounds": {"quorum": 1, "enough": 9, "deadline_seconds": 600}}


@pytest.fixture
def upload(bench, tmp_path: Path):
    number = bench.open(**OPEN)
    return bench.announce("site-a", number, update_file(tmp_path / "update", tensors(1)))


@pytest.fixture
def content(tmp_path: Path, upload) -> bytes:
    return (tmp_path / "update").read_bytes()


def test_a_crash_between_rename_and_row_is_repaired(bench, upload, content, monkeypatch) -> None:
    bench.send(upload, content)

    class PowerCutError(Exception):
        pass

    def cut(*args: object) -> None:
        raise PowerCutError

    monkeypatch.setattr(uploads, "_acknowledge", cut)
    with pytest.raises(PowerCutError):
        uploads.conclude(bench.federation, "site-a", upload.id)
    monkeypatch.undo()
    again = uploads.find(bench.federation, "site-a", upload.id)
    assert (again.state, again.offset) == ("receiving", len(content))
    uploads.Part(bench.federation, again, len(content)).close()
    assert uploads.conclude(bench.federation, "site-a", upload.id).state == "accepted"


def test_only_durable_bytes_count(bench, upload, content, monkeypatch) -> None:
    monkeypatch.setattr(uploads, "SYNC_BYTES", 1000)
    part = uploads.Part(bench.federation, upload, 0)
    part.write(content[:1500])
    assert uploads.find(bench.federation, "site-a", upload.id).offset == 1500
    part.write(content[1500:1600])
    assert uploads.find(bench.federation, "site-a", upload.id).offset == 1500, "the server may die here"
    part._file.close()
    after_crash = uploads.Part(bench.federation, uploads.find(bench.federation, "site-a", upload.id), 1500)
    after_crash.write(content[1500:])
    after_crash.close()
    assert uploads.conclude(bench.federation, "site-a", upload.id).state == "accepted"


def test_a_lost_file_is_sent_again(bench, upload, content) -> None:
    bench.send(upload, content)
    (bench.federation.folder / "incoming" / upload.id).unlink()
    with pytest.raises(Refused) as caught:
        uploads.Part(bench.federation, uploads.find(bench.federation, "site-a", upload.id), len(content))
    assert (caught.value.problem.type, caught.value.headers["Upload-Offset"]) == ("offset-wrong", "0")


def test_a_full_disk_is_507_and_the_offset_stays_true(bench, upload, content, monkeypatch) -> None:
    monkeypatch.setattr(receiver, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(uploads, "SYNC_BYTES", 1000)
    original, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(descriptor)

    async def body():
        for start in range(0, len(content), 1000):
            yield content[start : start + 1000]

    monkeypatch.setattr(uploads.os, "fsync", full)
    receiving = Receiver(bench.federation, lambda: None)
    with pytest.raises(Refused) as caught:
        asyncio.run(receiving.append("site-a", upload.id, 0, body()))
    assert caught.value.problem.status == 507
    assert caught.value.headers["Retry-After"] == "600"
    monkeypatch.undo()
    reached = uploads.find(bench.federation, "site-a", upload.id).offset
    assert 0 < reached < len(content)
    done = asyncio.run(receiving.append("site-a", upload.id, reached, _stream(content[reached:])))
    assert done.state == "accepted"


def test_a_broken_or_stalled_line_keeps_what_came(bench, upload, content, monkeypatch) -> None:
    monkeypatch.setattr(receiver, "STALL_SECONDS", 0.05)

    async def stalls():
        yield content[:700]
        await asyncio.sleep(5)
        yield content[700:]

    receiving = Receiver(bench.federation, lambda: None)
    reached = asyncio.run(receiving.append("site-a", upload.id, 0, stalls()))
    assert (reached.state, reached.offset) == ("receiving", 700)


def test_many_waiting_for_one_conclusion_get_one_receipt(bench, upload, content, monkeypatch) -> None:
    bench.send(upload, content)
    concluded, accepted = [], []
    original = uploads.conclude

    def counted(*args):
        concluded.append(args)
        return original(*args)

    monkeypatch.setattr(uploads, "conclude", counted)
    receiving = Receiver(bench.federation, lambda: accepted.append(1))

    async def all_at_once():
        return await asyncio.gather(
            *(receiving.append("site-a", upload.id, len(content), _stream(b"")) for _ in range(5)),
            return_exceptions=True,
        )

    answers = asyncio.run(all_at_once())
    receipts = {one.receipt for one in answers if not isinstance(one, Exception)}
    others = [one for one in answers if isinstance(one, Exception)]
    assert len(receipts) == 1
    assert None not in receipts
    assert all(isinstance(one, Refused) and one.problem.type == "superseded" for one in others)
    assert len(concluded) == 1
    assert accepted


def test_a_request_that_comes_during_the_conclusion_leaves_the_accepted_file_alone(
    bench, upload, content, monkeypatch
) -> None:
    bench.send(upload, content)
    original = uploads.conclude
    receiving = Receiver(bench.federation, lambda: None)

    async def scene():
        began, may_end = threading.Event(), threading.Event()

        def slow(*args):
            began.set()
            may_end.wait(5)
            return original(*args)

        monkeypatch.setattr(uploads, "conclude", slow)
        first = asyncio.create_task(receiving.append("site-a", upload.id, len(content), _stream(b"")))
        await asyncio.to_thread(began.wait, 5)
        second = asyncio.create_task(receiving.append("site-a", upload.id, len(content), _stream(b"")))
        await asyncio.sleep(0.05)
        may_end.set()
        third = asyncio.create_task(receiving.append("site-a", upload.id, len(content), _stream(b"")))
        return await asyncio.gather(first, second, third)

    answers = asyncio.run(scene())
    assert len({one.receipt for one in answers}) == 1
    assert (bench.federation.folder / "updates" / upload.id).read_bytes() == content
    assert list((bench.federation.folder / "incoming").iterdir()) == []


def test_what_a_site_can_make_the_server_take_has_an_end(bench, upload, content) -> None:
    wrong = bytes([content[0] ^ 1]) + content[1:]
    kinds = []
    for _ in range(uploads.MAX_FAILURES):
        bench.send(uploads.find(bench.federation, "site-a", upload.id), wrong)
        with pytest.raises(Refused) as caught:
            uploads.conclude(bench.federation, "site-a", upload.id)
        kinds.append(caught.value.problem.type)
    assert kinds == ["digest-wrong"] * (uploads.MAX_FAILURES - 1) + ["update-refused"]
    with pytest.raises(Refused, match="were not those of its digest"):
        uploads.find(bench.federation, "site-a", upload.id)
    assert list((bench.federation.folder / "incoming").iterdir()) == []


def test_only_the_newest_refused_updates_of_a_site_are_kept(bench, tmp_path: Path) -> None:
    apart = bench.federation.folder / "refused"
    for _ in range(uploads.REFUSED_KEPT + 2):
        number = bench.open(**OPEN)
        with pytest.raises(Refused, match="norm"):
            bench.deliver("site-a", number, tensors(1, scale=1e6))
        with pytest.raises(Refused, match="norm"):
            bench.deliver("site-b", number, tensors(2, scale=1e6))
        rounds.close_now(bench.federation, number)
    with bench.federation.database.reading() as session:
        newest = {one.id for one in session.query(UploadRow).filter(UploadRow.round > 2)}
    assert {path.name for path in apart.iterdir()} == newest
    assert len(newest) == 2 * uploads.REFUSED_KEPT


@pytest.mark.parametrize(
    "headers",
    [
        {"repr-digest": "md5=:AAAA:"},
        {"repr-digest": "sha-256=:" + "A" * 42 + ":"},
        {"upload-length": "0"},
        {"upload-length": "-5"},
        {"upload-length": "1e3"},
        {"upload-length": "\uff19"},
        {"fedsite-ledger-sequence": "0"},
        {"fedsite-weight": "nan"},
        {"fedsite-weight": "inf"},
        {"fedsite-weight": "-1"},
        {"fedsite-weight": "0"},
        {"fedsite-weight": "many"},
    ],
)
def test_headers_out_of_range(headers: dict[str, str]) -> None:
    good = {
        "repr-digest": "sha-256=:" + "A" * 43 + "=:",
        "upload-length": "10",
        "fedsite-ledger-sequence": "1",
        "fedsite-weight": "1.5",
    }
    assert uploads.read_announcement(good).weight == 1.5
    with pytest.raises(Refused) as caught:
        uploads.read_announcement(good | headers)
    assert caught.value.problem.status == 400


async def _stream(content: bytes):
    yield content
