"""Errors as HTTP answers (RFC 9457): an exception that the application turns into a `messages.Problem`."""

import logging
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import Response

from fedsite.errors import TryAgainLater
from fedsite.wire.messages import Problem

MEDIA_TYPE = "application/problem+json"

log = logging.getLogger("fedsite.server")


class Refused(Exception):
    """A request that gets a 4xx or 5xx. `kind` is the stable word that clients decide by."""

    def __init__(self, status: HTTPStatus, kind: str, title: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(title)
        self.problem = Problem(type=kind, title=title, status=status)
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """The answer."""
        return Response(self.problem.to_bytes(), self.problem.status, self.headers, MEDIA_TYPE)


def no_such_round() -> Refused:
    """404: there is no such round."""
    return Refused(HTTPStatus.NOT_FOUND, "no-such-round", "There is no such round.")


def round_closed(number: int) -> Refused:
    """409: the round takes nothing any more."""
    return Refused(HTTPStatus.CONFLICT, "round-closed", f"Round {number} is closed.")


def busy(error: TryAgainLater) -> Refused:
    """503: the database is not there for the moment. Why is for the log."""
    log.warning("%s", error)
    return Refused(HTTPStatus.SERVICE_UNAVAILABLE, "busy", error.message, {"Retry-After": "1"})


def no_space() -> Refused:
    """507: the disk is full; what is durable stays."""
    headers = {"Retry-After": "600"}
    return Refused(HTTPStatus.INSUFFICIENT_STORAGE, "no-space", "The server has no free space.", headers)
