"""The HTTP face of a federation: thin routes over enrolment, participation and uploads.

`door` refuses everything to a request without a valid site certificate. JSON goes through `messages.parse`, and the
OpenAPI document is made from the same messages.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

import fedsite
from fedsite.errors import CannotWrite, TryAgainLater
from fedsite.server.exchange import participation, uploads
from fedsite.server.exchange.headers import ANNOUNCEMENT, OFFSET
from fedsite.server.federation import Federation
from fedsite.server.members import enrolment
from fedsite.server.problems import Refused, busy, no_space
from fedsite.server.store.storage import ControlRow, ModelRow, UploadRow
from fedsite.server.web.bodies import blocks, read_body
from fedsite.server.web.document import PROBLEMS, body, describe, takes
from fedsite.server.web.door import Door
from fedsite.server.web.est import add_enrolment
from fedsite.server.web.limits import DEFAULT_LIMITS, Limits
from fedsite.server.web.receiver import Receiver
from fedsite.wire.bandwidth import MAX_PROBE_BYTES, PROBE
from fedsite.wire.messages import (
    PROTOCOL_VERSIONS,
    Arrivals,
    Envelope,
    FederationInfo,
    MalformedMessage,
    Message,
    Participation,
    ParticipationRequest,
    Refusal,
    RoundAnswer,
    Tickets,
    Trust,
    parse,
)

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
Number = Annotated[int, Path(ge=1, le=1_000_000)]
Digest = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
UploadId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]

MAX_QUESTION_BYTES = 16 << 10
PART_TYPE = "application/partial-upload"

_RECEIPT: dict[int | str, dict[str, Any]] = {200: {"model": Envelope, "description": "The signed receipt"}}
_BYTES = {"type": "string", "format": "binary"}
_MODEL: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file", "content": {"application/octet-stream": {"schema": _BYTES}}},
    206: {"description": "A part of it", "content": {"application/octet-stream": {"schema": _BYTES}}},
}


def create_app(
    federation: Federation,
    accepted: Callable[[], None],
    lifespan: Lifespan | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> FastAPI:
    """The application for one federation; `accepted` is called when an update has its receipt."""
    app = FastAPI(
        title="fedsite",
        version=fedsite.__version__,
        summary="What passes between a site and the federation server",
        openapi_url=None,
        lifespan=lifespan,
        responses=PROBLEMS,
    )
    app.add_middleware(Door, federation=federation, limits=limits)
    _explain_errors(app)
    add_enrolment(app, federation)
    _add_rounds(app, federation)
    _add_transfers(app, federation, Receiver(federation, accepted))

    @app.get("/v1/openapi.json", include_in_schema=False)
    def openapi() -> dict[str, Any]:
        return describe(app)

    return app


def _add_rounds(app: FastAPI, federation: Federation) -> None:
    """Questions and answers about rounds."""

    @app.get("/v1/federation")
    def information() -> FederationInfo:
        """The protocol versions that this server speaks."""
        return FederationInfo(protocol_versions=list(PROTOCOL_VERSIONS))

    @app.get("/v1/trust")
    def trust(request: Request) -> Trust:
        """What a site pins."""
        return enrolment.trust(federation, request.state.site)

    @app.post("/v1/participation", openapi_extra=takes(ParticipationRequest))
    async def participate(request: Request) -> Participation:
        """Is anything due?"""
        asked = await _message(request, ParticipationRequest)
        return await run_in_threadpool(participation.participate, federation, request.state.site, asked)

    @app.get("/v1/tickets")
    def tickets(after: Annotated[int, Query(ge=0, le=1_000_000)] = 0) -> Tickets:
        """The chain of tickets after a round."""
        return participation.tickets(federation, after)

    @app.get("/v1/plans/{sha256}")
    def plan(sha256: Digest) -> Envelope:
        """A plan, by its digest."""
        return participation.plan(federation, sha256)

    @app.get("/v1/updates")
    def updates(request: Request, after: Annotated[int, Query(ge=0, le=1_000_000)] = 0) -> Arrivals:
        """What this site has sent for the rounds after one."""
        return participation.arrivals(federation, request.state.site, after)

    @app.get("/v1/rounds/{number}")
    def round_answer(number: Number) -> RoundAnswer:
        """Does this round still stand?"""
        return participation.answer(federation, number)

    @app.get("/v1/results/latest")
    def latest_result() -> Envelope:
        """The newest model that a round has made, signed by the round key."""
        return participation.latest_result(federation)

    @app.post("/v1/rounds/{number}/refusal", status_code=HTTPStatus.NO_CONTENT, openapi_extra=takes(Refusal))
    async def refuse(number: Number, request: Request) -> None:
        """This site does not take part."""
        refusal = await _message(request, Refusal)
        await run_in_threadpool(participation.refuse, federation, request.state.site, number, refusal)


def _add_transfers(app: FastAPI, federation: Federation, receiver: Receiver) -> None:
    """Models down, updates up."""

    @app.post(
        PROBE, status_code=HTTPStatus.NO_CONTENT, openapi_extra=body("application/octet-stream", _BYTES, required=False)
    )
    async def probe(request: Request) -> None:
        """Takes bytes and throws them away: a site measures the way up."""
        async for _ in blocks(request, MAX_PROBE_BYTES):
            pass

    @app.get("/v1/models/{sha256}", response_class=FileResponse, responses=_MODEL)
    def model(sha256: Digest) -> FileResponse:
        """A global model, or a control in its form; Range and If-Range are honoured."""
        with federation.database.reading() as session:
            if session.get(ModelRow, sha256) is None and session.get(ControlRow, sha256) is None:
                raise Refused(HTTPStatus.NOT_FOUND, "no-such-model", "There is no such model.")
        headers = {"ETag": f'"{sha256}"', "Cache-Control": "private, immutable"}
        return ModelResponse(federation.models.path(sha256), headers=headers, media_type="application/octet-stream")

    @app.post(
        "/v1/rounds/{number}/updates",
        status_code=HTTPStatus.CREATED,
        response_class=Response,
        responses=_RECEIPT,
        openapi_extra={"parameters": ANNOUNCEMENT},
    )
    def announce(number: Number, request: Request) -> Response:
        """Announces an update: 201 with where to send it, or 200 with its receipt when it is here already."""
        said = uploads.read_announcement(request.headers)
        upload = uploads.announce(federation, request.state.site, number, said)
        return _standing(upload, HTTPStatus.CREATED)

    @app.head("/v1/uploads/{upload_id}", status_code=HTTPStatus.NO_CONTENT, response_class=Response)
    def upload_state(upload_id: UploadId, request: Request) -> Response:
        """How much of an upload is durable."""
        upload = uploads.find(federation, request.state.site, upload_id)
        return Response(status_code=HTTPStatus.NO_CONTENT, headers=uploads.state_headers(upload))

    @app.patch(
        "/v1/uploads/{upload_id}",
        status_code=HTTPStatus.NO_CONTENT,
        response_class=Response,
        responses=_RECEIPT,
        openapi_extra={"parameters": [OFFSET.described], **body(PART_TYPE, _BYTES)},
    )
    async def append(upload_id: UploadId, request: Request) -> Response:
        """Appends at Upload-Offset: 204 with the new offset, or 200 with the receipt at the end."""
        if request.headers.get("content-type") != PART_TYPE or "content-encoding" in request.headers:
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "media-type", f"Parts are {PART_TYPE}, as they are.")
        offset = OFFSET.read(request.headers)
        upload = await receiver.append(request.state.site, upload_id, offset, request.stream())
        return _standing(upload, HTTPStatus.NO_CONTENT)


class ModelResponse(FileResponse):
    """A file sent in pieces that are worth a thread's while, and small enough for many sites at once."""

    chunk_size = 1 << 17


def _standing(upload: UploadRow, unfinished: HTTPStatus) -> Response:
    headers = uploads.state_headers(upload)
    if upload.receipt is None:
        return Response(status_code=unfinished, headers=headers)
    return Response(upload.receipt, HTTPStatus.OK, headers, "application/json")


async def _message(request: Request, kind: type[Message]) -> Message:
    try:
        return parse(kind, await read_body(request, MAX_QUESTION_BYTES))
    except MalformedMessage as error:
        raise Refused(HTTPStatus.BAD_REQUEST, "malformed", f"{error}.") from None


def _explain_errors(app: FastAPI) -> None:
    """Every error is a Problem, the framework's own too."""

    @app.exception_handler(Refused)
    async def refused(_request: Request, error: Refused) -> Response:
        return error.response()

    @app.exception_handler(CannotWrite)
    async def full(_request: Request, _error: CannotWrite) -> Response:
        return no_space().response()

    @app.exception_handler(TryAgainLater)
    async def waits(_request: Request, error: TryAgainLater) -> Response:
        return busy(error).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        return Refused(HTTPStatus.BAD_REQUEST, "malformed", f"{place} is out of range.").response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        status, headers = HTTPStatus(error.status_code), dict(error.headers or {})
        if status is HTTPStatus.METHOD_NOT_ALLOWED:  # the framework names the methods of the path's first route alone
            headers["Allow"] = ", ".join(sorted(_methods(request)))
        return Refused(status, status.phrase.lower().replace(" ", "-"), f"{status.phrase}.", headers).response()

    @app.exception_handler(Exception)
    async def failed(_request: Request, _error: Exception) -> Response:
        return Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "The server failed; its log says why.").response()


def _methods(request: Request) -> set[str]:
    """The methods of all routes at the request's path."""
    routes = [one for one in request.app.routes if one.matches(request.scope)[0] is not Match.NONE]
    return {method for one in routes for method in one.methods}
