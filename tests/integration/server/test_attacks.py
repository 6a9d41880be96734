"""What a malicious site may try with its update, against a real server: refused, nothing changed, memory bounded.

All attacks meet one round, in which an honest site is half-way through its upload; at the end that site's update, and
nothing else, makes the next model.
"""

import hashlib
import io
import json
import os
import pickle
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from support.attacks import Attack, cases
from support.federation import Server, model_file, running, tensors, update_file

from fedsite.server.members import enrolment as admissions
from fedsite.server.rounds.rounds import close_now
from fedsite.server.store.storage import ModelRow, RoundRow, UploadRow
from fedsite.server.web.limits import DEFAULT_LIMITS
from fedsite.wire.client import TlsIdentity
from fedsite.wire.messages import MAX_DEPTH
from fedsite.wire.payload import tensors_of
from fedsite.wire.transfer import repr_digest
from fedsite.wire.transport import trusting

SHAPES = {"weight": (1024, 2048), "bias": (2048,)}
MAX_NORM = 4000.0
NEVER = {"rounds": {"quorum": 1, "enough": 1000, "deadline_seconds": 3600}}
MEMORY = 8 << 20
"""By how much an attack may raise the peak of the server's memory (bytes): less than one update."""
HALF = 5000

Header = dict[str, Any]


@dataclass(frozen=True)
class Scene:
    """An attacker, the round that it attacks, and what is there to be damaged."""

    server: Server
    folder: Path
    round: int
    closed_round: int
    honest: bytes
    site: str
    accepted_upload: str
    victims_upload: str
    http: httpx.Client
    accepted: httpx.Client
    victim: httpx.Client
    nobody: httpx.Client

    @property
    def canary(self) -> Path:
        """What code in an update would make."""
        return self.folder / "canary"

    def announce(
        self, update: bytes, number: int | None = None, by: httpx.Client | None = None, **headers: str
    ) -> httpx.Response:
        said = {
            "Repr-Digest": repr_digest(hashlib.sha256(update).hexdigest()),
            "Upload-Length": str(len(update)),
            "Fedsite-Ledger-Sequence": "1",
        }
        return (by or self.http).post(f"/v1/rounds/{number or self.round}/updates", headers=said | _named(headers))

    def append(
        self, place: str, content: Any, offset: int = 0, by: httpx.Client | None = None, **headers: str
    ) -> httpx.Response:
        said = {"Content-Type": "application/partial-upload", "Upload-Offset": str(offset)}
        return (by or self.http).patch(place, content=content, headers=said | _named(headers))

    def send(self, content: bytes, **headers: str) -> httpx.Response:
        """Announces an update and sends it; the answer that ends it."""
        created = self.announce(content)
        return self.append(created.headers["Location"], content, **headers) if created.status_code == 201 else created


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


Act = Callable[[Scene], httpx.Response]


@dataclass(frozen=True)
class OnUpdate(Attack):
    """`act` carries it out. It must be answered with this status and type of problem; 0: the line is cut."""

    act: Act
    status: int = 422
    kind: str = "update-refused"


# --- files that are no updates ---------------------------------------------------------------------------------------


def fitted(content: bytes, honest: bytes) -> bytes:
    """Exactly as long as an honest update: whatever else is wrong must be found by looking."""
    return content[: len(honest)].ljust(len(honest), b"\0")


def sends(made: Callable[[bytes], bytes]) -> Act:
    """Sends what is made of an honest update."""
    return lambda scene: scene.send(fitted(made(scene.honest), scene.honest))


def reheaded(change: Callable[[Header], object]) -> Act:
    """Sends an honest update's values under another header."""

    def made(honest: bytes) -> bytes:
        length = int.from_bytes(honest[:8], "little")
        header = json.loads(honest[8 : 8 + length])
        change(header)
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text + honest[8 + length :]

    return sends(made)


def valued(place: int, value: float) -> Act:
    """Sends an honest update with one other value."""

    def made(honest: bytes) -> bytes:
        content = bytearray(honest)
        start = len(honest) - 4 * (1 + place)
        content[start : start + 4] = np.array(value, "<f4").tobytes()
        return bytes(content)

    return sends(made)


def length_said(length: int) -> Act:
    return sends(lambda honest: length.to_bytes(8, "little") + honest[8:])


def pickled(scene: Scene) -> httpx.Response:
    class Runs:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, (f"touch {scene.canary}",)

    return scene.send(fitted(pickle.dumps(Runs()), scene.honest))


def zipped(honest: bytes) -> bytes:
    """A zip of 64 MB of zeros, at the end of the file, where readers of zips look."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("archive/data.pkl", "w") as member:
        for _ in range(64):
            member.write(bytes(1 << 20))
    return honest[: -len(packed.getvalue())] + packed.getvalue()


def scaled(factor: float) -> Act:
    def made(honest: bytes) -> bytes:
        start = 8 + int.from_bytes(honest[:8], "little")
        return honest[:start] + (np.frombuffer(honest[start:], "<f4") * np.float32(factor)).tobytes()

    return sends(made)


def with_extra(header: Header) -> None:
    header["extra"] = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def exchanged(header: Header) -> None:
    header["bias"]["data_offsets"], header["weight"]["data_offsets"] = (
        header["weight"]["data_offsets"],
        header["bias"]["data_offsets"],
    )


# --- uploads that are none -------------------------------------------------------------------------------------------


def wrong_digest_for_ever(scene: Scene) -> httpx.Response:
    place = scene.announce(scene.honest).headers["Location"]
    other = scene.honest[:-1] + bytes([scene.honest[-1] ^ 1])
    answers = [scene.append(place, other) for _ in range(3)]
    assert [one.status_code for one in answers] == [400, 400, 422]
    assert scene.append(place, scene.honest).status_code == 422
    return answers[-1]


def claims_to_be_complete(scene: Scene) -> httpx.Response:
    place = scene.announce(scene.honest).headers["Location"]
    answer = scene.append(place, scene.honest[:1000], Upload_Complete="?1")
    assert (answer.status_code, answer.headers["Upload-Offset"]) == (204, "1000")
    return scene.append(place, scene.honest, offset=2000)


def endless(scene: Scene) -> httpx.Response:
    def blocks() -> Iterator[bytes]:
        for _ in range(3):
            yield scene.honest

    return scene.append(scene.announce(scene.honest).headers["Location"], blocks())


def rewrites_what_was_accepted(scene: Scene) -> httpx.Response:
    """As somebody may who has stolen the key of a site that has taken part."""
    return scene.append(scene.accepted_upload, bytes(100), by=scene.accepted)


def second_update(scene: Scene) -> httpx.Response:
    assert scene.announce(scene.honest).status_code == 201
    return scene.announce(scene.honest + b"another")


def other_sequence(scene: Scene) -> httpx.Response:
    assert scene.announce(scene.honest).status_code == 201
    return scene.announce(scene.honest, Fedsite_Ledger_Sequence="2")


def revoked(scene: Scene) -> httpx.Response:
    place = scene.announce(scene.honest).headers["Location"]
    admissions.revoke(scene.server.federation, scene.site)
    return scene.append(place, scene.honest)


def many_at_once(scene: Scene) -> httpx.Response:
    """Questions that do not end, and one more."""
    enough = threading.Event()

    def endless_question() -> Iterator[bytes]:
        yield b"{"
        enough.wait(20)

    with ThreadPoolExecutor(4 * DEFAULT_LIMITS.requests.at_once) as threads:
        try:
            end = time.monotonic() + 10
            while (answer := scene.http.get("/v1/trust")).status_code == 200 and time.monotonic() < end:
                threads.submit(scene.http.post, "/v1/participation", content=endless_question())
                time.sleep(0.05)
        finally:
            enough.set()
    assert int(answer.headers["Retry-After"]) > 0
    return answer


def asks(body: bytes) -> Act:
    """A question in the form of JSON that is none."""
    return lambda scene: scene.http.post("/v1/participation", content=body)


NOT_THE_MODELS = "refused: the header must be the model's, byte for byte"
COMPARED = "refused: lengths are compared, never believed"
AT_ONCE = "refused when it is announced, before a byte of it"

ATTACKS = (
    OnUpdate(
        "pickle",
        "a pickle that runs a command, as long as an update",
        "refused by its first bytes; never unpickled",
        pickled,
    ),
    OnUpdate(
        "zip-bomb",
        "a zip of 64 MB of zeros, as PyTorch saves models, as long as an update",
        "refused by its first bytes; never unpacked",
        sends(zipped),
    ),
    OnUpdate("header-of-8-eib", "a header that says that it is 8 EiB long", COMPARED, length_said(1 << 63)),
    OnUpdate("header-beyond-the-file", "a header longer than the file", COMPARED, length_said(1 << 30)),
    OnUpdate("no-header", "a header of length 0", "refused by its first bytes", length_said(0)),
    OnUpdate(
        "overlapping-offsets",
        "two tensors that share their bytes",
        NOT_THE_MODELS,
        reheaded(lambda header: header["bias"].update(data_offsets=[0, 8192])),
    ),
    OnUpdate(
        "offsets-beyond-the-file",
        "a tensor that ends after the file does",
        NOT_THE_MODELS,
        reheaded(lambda header: header["bias"].update(data_offsets=[0, 1 << 62])),
    ),
    OnUpdate("exchanged-offsets", "two tensors in each other's place", NOT_THE_MODELS, reheaded(exchanged)),
    OnUpdate(
        "wrong-dtype",
        "values of another type and the same size",
        NOT_THE_MODELS,
        reheaded(lambda header: header["weight"].update(dtype="I32")),
    ),
    OnUpdate(
        "wrong-shape",
        "a tensor turned on its side",
        NOT_THE_MODELS,
        reheaded(lambda header: header["weight"].update(shape=[2048, 1024])),
    ),
    OnUpdate(
        "renamed-tensor",
        "a tensor of another name",
        NOT_THE_MODELS,
        reheaded(lambda header: header.update(bier=header.pop("bias"))),
    ),
    OnUpdate("missing-tensor", "a tensor left out", NOT_THE_MODELS, reheaded(lambda header: header.pop("bias"))),
    OnUpdate("extra-tensor", "one tensor more, in a file of the right size", NOT_THE_MODELS, reheaded(with_extra)),
    OnUpdate(
        "metadata",
        "metadata beside the tensors",
        NOT_THE_MODELS,
        reheaded(lambda header: header.update(__metadata__={"format": "pt"})),
    ),
    OnUpdate("nan", "one value that is no number", "refused: a value is not finite", valued(0, np.nan)),
    OnUpdate("infinity", "one infinite value", "refused: a value is not finite", valued(2047, np.inf)),
    OnUpdate(
        "huge-value",
        "one value of 3e38, whose square is finite only in double precision",
        "refused: the norm is above the plan's bound",
        valued(100_000, 3e38),
    ),
    OnUpdate(
        "huge-norm",
        "an update three times as long as the plan allows",
        "refused: the norm is above the plan's bound",
        scaled(9),
    ),
    OnUpdate("truncated", "an update four bytes too short", AT_ONCE, lambda scene: scene.announce(scene.honest[:-4])),
    OnUpdate("longer", "an update with a tail", AT_ONCE, lambda scene: scene.announce(scene.honest + b"tail")),
    OnUpdate(
        "announced-tebibyte",
        "an announcement of 1 TiB",
        AT_ONCE,
        lambda scene: scene.announce(scene.honest, Upload_Length=str(1 << 40)),
    ),
    OnUpdate(
        "announced-8-eib",
        "an announcement of 8 EiB",
        "malformed: lengths have a range",
        lambda scene: scene.announce(scene.honest, Upload_Length=str(1 << 63)),
        400,
        "malformed",
    ),
    OnUpdate(
        "wrong-digest",
        "other bytes than those of the announced digest, three times",
        "not taken, and after the third time the update is refused for good",
        wrong_digest_for_ever,
    ),
    OnUpdate(
        "gap",
        "a claim to be complete after 1,000 bytes, then bytes from 2,000 on",
        "409: the offset that the server has is what counts",
        claims_to_be_complete,
        409,
        "offset-wrong",
    ),
    OnUpdate("endless-body", "a body without end", "cut off at the announced length", endless, 400, "too-long"),
    OnUpdate(
        "compressed-body",
        "a body that unpacks to more than it is (Content-Encoding)",
        "415: nothing is ever unpacked",
        lambda scene: scene.send(scene.honest, Content_Encoding="gzip"),
        415,
        "media-type",
    ),
    OnUpdate(
        "another-sites-session",
        "bytes for the upload of another site",
        "404: an upload is its own site's",
        lambda scene: scene.append(scene.victims_upload, bytes(100), HALF),
        404,
        "no-such-upload",
    ),
    OnUpdate(
        "rewritten",
        "with a stolen key: other bytes for an update that has its receipt",
        "the same receipt again; the bytes stay",
        rewrites_what_was_accepted,
        200,
        "",
    ),
    OnUpdate(
        "second-update",
        "a second update for the same round",
        "409: one update a site and round",
        second_update,
        409,
        "another-update",
    ),
    OnUpdate(
        "other-ledger-sequence",
        "the same update under another ledger sequence",
        "409: what was announced stands",
        other_sequence,
        409,
        "another-update",
    ),
    OnUpdate(
        "closed-round",
        "an update for a round that has ended",
        "409: the round is closed",
        lambda scene: scene.announce(scene.honest, scene.closed_round),
        409,
        "round-closed",
    ),
    OnUpdate(
        "unknown-round",
        "an update for a round that never was",
        "404",
        lambda scene: scene.announce(scene.honest, 999),
        404,
        "no-such-round",
    ),
    OnUpdate(
        "declared-weight",
        "a weight where the plan's weights are equal",
        "malformed",
        lambda scene: scene.announce(scene.honest, Fedsite_Weight="1000000"),
        400,
        "malformed",
    ),
    OnUpdate(
        "path-in-the-address",
        "a path in place of an upload's name",
        "404: a name is 32 hexadecimal digits",
        lambda scene: scene.append("/v1/uploads/..%2f..%2fkeys%2fplan.key", b"x"),
        404,
        "not-found",
    ),
    OnUpdate(
        "no-certificate",
        "an update without a certificate, and with a header that claims one",
        "401: only TLS says who asks",
        lambda scene: scene.nobody.post(
            f"/v1/rounds/{scene.round}/updates", headers={"X-SSL-Client-Verify": "SUCCESS"}
        ),
        401,
        "certificate-needed",
    ),
    OnUpdate(
        "revoked",
        "bytes for an upload that began before the site was revoked",
        "403: asked at every request",
        revoked,
        403,
        "certificate-revoked",
    ),
    OnUpdate(
        "many-at-once",
        "questions that do not end, and one more beside them",
        "429 with the time to wait, for this site alone",
        many_at_once,
        429,
        "too-many-requests",
    ),
    OnUpdate(
        "endless-head",
        "a header of 4 MB, without a certificate",
        "the line is cut after 64 KiB",
        lambda scene: scene.nobody.get("/v1/federation", headers={"X": "x" * (4 << 20)}),
        0,
        "",
    ),
    OnUpdate("large-question", "a question of 1 MB", "413 after 16 KiB", asks(b" " * (1 << 20)), 413, "too-large"),
    OnUpdate(
        "deep-json",
        "JSON nested deeper than any message",
        "malformed, before it is parsed",
        asks(b"[" * (MAX_DEPTH + 1)),
        400,
        "malformed",
    ),
    OnUpdate(
        "duplicate-key",
        "JSON with a key twice",
        "malformed",
        asks(b'{"protocol":1,"ledger_sequence":0,"ledger_sequence":9}'),
        400,
        "malformed",
    ),
)


# --- what they meet --------------------------------------------------------------------------------------------------


def client_of(server: Server, identity: TlsIdentity) -> httpx.Client:
    return httpx.Client(base_url=server.url, verify=identity.context(), trust_env=False, timeout=30)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The round under attack: one site has taken part, another is half-way; the attacker is still missing."""
    folder = tmp_path_factory.mktemp("attacks")
    with running(folder / "federation") as server:
        closed = server.open_round(folder, shapes=SHAPES, **NEVER)
        close_now(server.federation, closed)
        number = server.open_round(folder, shapes=SHAPES, max_update_norm=MAX_NORM, **NEVER)
        honest = update_file(folder / "honest", tensors(1, SHAPES)).read_bytes()
        accepted, victim = (client_of(server, server.enrol(name, folder / name)) for name in ("accepted", "victim"))
        nobody = httpx.Client(
            base_url=server.url, verify=trusting(server.federation.ca_certificate.read_bytes()), trust_env=False
        )
        with accepted, victim, nobody:
            empty = Scene(
                server, folder, number, closed, honest, "attacker", "", "", accepted, accepted, victim, nobody
            )
            taken = empty.send(honest)
            assert taken.status_code == 200
            place = empty.announce(honest, by=victim).headers["Location"]
            assert empty.append(place, honest[:HALF], by=victim).status_code == 204
            yield replace(empty, accepted_upload=taken.headers["Location"], victims_upload=place)


@pytest.fixture
def scene(stage: Scene, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """The stage with an attacker of its own, who is enrolled."""
    name = f"attacker-{request.node.callspec.id}"[:60]
    with client_of(stage.server, stage.server.enrol(name, stage.folder / name)) as http:
        yield replace(stage, http=http, site=name)


def state_of(scene: Scene) -> dict[str, Any]:
    """What an attack must not change: rounds, models, updates, keys, and the victim's upload."""
    federation = scene.server.federation
    with federation.database.reading() as session:
        rows = [*session.query(RoundRow), *session.query(ModelRow)]
        uploads = session.query(UploadRow).filter(UploadRow.site.in_(["accepted", "victim"])).order_by(UploadRow.site)
        known = [repr(row) for row in [*rows, *uploads]]
        accepted = session.query(UploadRow).filter_by(state="accepted").count()
    federation.database.close()
    files = [path for name in ("keys", "models", "updates") for path in (federation.folder / name).iterdir()]
    victims = federation.folder / "incoming" / scene.victims_upload.rpartition("/")[2]
    return {"rows": known, "accepted": accepted} | {path.name: written(path) for path in [*files, victims]}


def written(path: Path) -> tuple[int, int, int]:
    """Changes whenever a file is written or replaced."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def peak_memory(scene: Scene) -> int:
    """The most memory that the server has ever had (bytes)."""
    assert scene.server.process is not None
    status = Path(f"/proc/{scene.server.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


@pytest.mark.parametrize("attack", cases(ATTACKS))
def test_attack(attack: OnUpdate, scene: Scene) -> None:
    before, memory = state_of(scene), peak_memory(scene)
    try:
        answer = attack.act(scene)
        told = answer.status_code, answer.json()["type"] if answer.status_code >= 400 else ""
    except httpx.TransportError:
        told = 0, ""
    assert told == (attack.status, attack.kind)
    assert state_of(scene) == before
    assert peak_memory(scene) - memory < MEMORY
    assert not scene.canary.exists()
    assert scene.nobody.get("/v1/federation").status_code == 200, "the others are served"


def test_only_honest_updates_made_the_model(stage: Scene) -> None:
    """After all attacks: the victim finishes its upload, and the next model is the mean of the two honest updates."""
    honest = tensors(1, SHAPES)
    done = stage.append(stage.victims_upload, stage.honest[HALF:], HALF, by=stage.victim)
    assert done.status_code == 200
    row = close_now(stage.server.federation, stage.round)
    assert (row.status, row.reason) == ("aggregated", "closed by the coordinator: 2 updates, quorum 1")
    before = tensors_of(model_file(stage.folder / "again", shapes=SHAPES))
    after = tensors_of(stage.server.federation.models.path(str(row.result_sha256)))
    for name in SHAPES:
        np.testing.assert_array_equal(after[name], (before[name].astype(float) + honest[name]).astype(np.float32))
