"""The site's side of `/v1`: one class, one method per request of protocol.md.

It carries bytes and checks their form; signatures, policy and ledger are the round job's business. Raises
Unreachable (after `patience` without progress), NotAuthorised, TryAgainLater (the round no longer stands),
RecordsDamaged (the server holds another update of this site), UpdateRefused and ServerBrokeProtocol.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import httpx

from fedsite.errors import FedsiteError, NotAuthorised, ServerBrokeProtocol, Unreachable
from fedsite.wire import bandwidth, transfer
from fedsite.wire.messages import (
    PROTOCOL_VERSIONS,
    Arrival,
    Arrivals,
    Closed,
    Envelope,
    FederationInfo,
    MalformedMessage,
    Message,
    Participation,
    ParticipationRequest,
    Refusal,
    RefusalReason,
    RoundAnswer,
    Tickets,
    Trust,
    parse,
)
from fedsite.wire.route import Proxy
from fedsite.wire.shown import OutOfDate
from fedsite.wire.transfer import Progress, silent
from fedsite.wire.transport import (
    ENROL_AGAIN,
    SET_CLOCK,
    TOLERATED_SKEW,
    Answer,
    NotKnown,
    Patience,
    TlsIdentity,
    Witness,
    ask,
    clock_skew,
    nobody,
    off_by,
    once,
    open_http,
    trusting,
)

__all__ = ["FederationClient", "OutOfDate", "TlsIdentity", "ask_federation", "or_clock", "require_common_version"]

Result = TypeVar("Result")


class FederationClient:
    """A connection to the federation server as one enrolled site; a context manager.

    `patience` is the number of seconds without progress after which a request is given up; at 0 there is one attempt.
    `witness` is shown every request, those included that fail.
    """

    def __init__(
        self,
        server: str,
        tls: TlsIdentity,
        *,
        proxy: Proxy | None = None,
        patience: float = 120.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        witness: Witness = nobody,
    ) -> None:
        self._server, self._tls, self._proxy, self._budget, self._clock = server, tls, proxy, patience, clock
        self._witness = witness
        try:
            tls.check_dates(clock())
        except NotAuthorised as error:
            raise self.or_clock(error) from error
        self._http = open_http(server, tls.context(), proxy, witness)

    def __enter__(self) -> "FederationClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def clock_skew(self) -> float | None:
        """By how many seconds this machine's clock is ahead of the server's (None: the server told no time)."""
        return self._ask_the_time(self._budget)

    def trust(self) -> Trust:
        """What a site pins at enrolment: plan keys, agreement, its own name."""
        return self._get(Trust, "/v1/trust")

    def participate(self, request: ParticipationRequest) -> Participation:
        """Whether something is due. Signatures in the answer are not verified here."""
        answer = self._ask("POST", "/v1/participation", request)
        return _read(Participation, answer)

    def tickets(self, after: int) -> Tickets:
        """The chain of round tickets after a round, in order."""
        return self._get(Tickets, f"/v1/tickets?after={after:d}")

    def plan(self, sha256: str) -> Envelope | None:
        """The signed plan of a digest; None where the server has none."""
        answer = self._ask("GET", f"/v1/plans/{sha256}", expected=(404,))
        return None if answer.status == 404 else _read(Envelope, answer)

    def updates(self, after: int = 0) -> list[Arrival] | None:
        """All that this site has ever sent for rounds after one; None where the server is too old to tell."""
        found: list[Arrival] = []
        while True:
            last = found[-1].round if found else after
            answer = self._ask("GET", f"/v1/updates?after={last:d}", expected=(404,))
            if answer.status == 404:
                return None
            page = _read(Arrivals, answer).arrivals
            if not page:
                return found
            if any(later <= earlier for earlier, later in pairwise([last, *(one.round for one in page)])):
                raise ServerBrokeProtocol("The server's list of this site's updates is out of order.")
            found += page

    def round_answer(self, number: int) -> RoundAnswer:
        """Whether a round still stands."""
        return self._get(RoundAnswer, f"/v1/rounds/{number:d}")

    def result(self) -> Envelope | None:
        """The newest model that a round has made, as its signed Result; None before the first."""
        answer = self._ask("GET", "/v1/results/latest", expected=(404,))
        return None if answer.status == 404 else _read(Envelope, answer)

    def upload_rate(self) -> float | None:
        """Bytes a second on the way up; None where the server is too old to measure against."""
        return None if self._probe(b"").status == 404 else bandwidth.upload_rate(self._probe)

    def _probe(self, content: bytes) -> Answer:
        headers, patience = {"Content-Type": "application/octet-stream"}, self._patience()
        return self._explained(
            lambda: ask(self._http, "POST", bandwidth.PROBE, patience, headers, content, expected=(404,))
        )

    def refuse(self, number: int, reason: RefusalReason) -> None:
        """Says that this site does not take part in a round, in one of four words."""
        self._ask("POST", f"/v1/rounds/{number:d}/refusal", Refusal(reason=reason))

    def download_model(self, sha256: str, size: int, destination: Path, progress: Progress = silent) -> None:
        """Fetches a model of known digest and size (bytes) to `destination`.

        A cut download leaves `destination.with_suffix(".part")` and goes on from there. Raises CannotWrite when the
        disk is full, ServerBrokeProtocol when the bytes are not those of the digest.
        """
        self._explained(lambda: transfer.download(self._http, sha256, size, destination, self._patience(), progress))

    def upload(
        self,
        number: int,
        path: Path,
        sha256: str,
        ledger_sequence: int,
        *,
        weight: float | None = None,
        progress: Progress = silent,
    ) -> Envelope:
        """Sends the released update of a round, resuming where the server's copy ends; gives the signed receipt.

        The digest must be the one in the ledger: RecordsDamaged is raised, and nothing sent, when the file's is
        another. `weight` is given where the plan's weights are declared. Sending the same again gives the same receipt.
        UpdateRefused when the server does not admit the update, TryAgainLater when the round no longer stands.
        """
        update = transfer.Update(number, path, sha256, ledger_sequence, weight)
        return self._explained(lambda: transfer.upload(self._http, update, self._patience(), progress))

    def _get(self, kind: type[Message], path: str) -> Message:
        return _read(kind, self._ask("GET", path))

    def _ask(self, method: str, path: str, message: Closed | None = None, expected: tuple[int, ...] = ()) -> Answer:
        headers = {"Content-Type": "application/json"} if message else None
        content = message.to_bytes() if message else None
        patience = self._patience()
        return self._explained(lambda: ask(self._http, method, path, patience, headers, content, expected=expected))

    def _patience(self) -> Patience:
        return Patience(self._budget)

    def _ask_the_time(self, patience: float) -> float | None:
        """Without the certificate: anyone may know."""
        return ask_federation(
            self._server, self._tls.ca, proxy=self._proxy, patience=patience, clock=self._clock, witness=self._witness
        )[1]

    def _require_common_version(self) -> None:
        try:
            info, _ = ask_federation(self._server, self._tls.ca, proxy=self._proxy, patience=0, witness=self._witness)
        except FedsiteError:
            return
        require_common_version(info.protocol_versions)

    def or_clock(self, error: FedsiteError) -> FedsiteError:
        """An error that a wrong clock explains, with the clock named where the server tells the time; else as it is."""
        return or_clock(error, self._server, self._tls.ca, proxy=self._proxy, clock=self._clock, witness=self._witness)

    def _explained(self, act: Callable[[], Result]) -> Result:
        """Runs a request; tells a wrong clock, and a server that closes the line on this certificate, from one that is
        not there, and one that speaks another version from one that errs.
        """
        try:
            return act()
        except NotKnown:
            self._require_common_version()
            raise
        except OutOfDate as error:
            raise self.or_clock(error) from error
        except Unreachable as error:
            try:
                self._ask_the_time(0)
                once(self._http, "GET", "/v1/trust")
            except FedsiteError:
                raise error from None
            except httpx.TransportError:
                shut = NotAuthorised("The server answers, but not once this site shows its certificate.", ENROL_AGAIN)
                raise self.or_clock(shut) from error
            raise


def require_common_version(theirs: Sequence[int], ours: Sequence[int] = PROTOCOL_VERSIONS) -> None:
    """Raises ServerBrokeProtocol, naming the side that must be upgraded, where no version of the protocol is common."""
    if set(theirs) & set(ours):
        return
    spoken, known = (", ".join(map(str, versions)) or "none" for versions in (theirs, ours))
    mend = "This site must be upgraded: install a newer fedsite here (README, Upgrading)."
    if max(theirs, default=0) < min(ours):
        mend = "The server must be upgraded: tell the coordinator. Nothing is lost; the next run tries again."
    raise ServerBrokeProtocol(f"The server speaks version {spoken} of the protocol, this site version {known}.", mend)


def or_clock(
    error: FedsiteError,
    server: str,
    ca: Path,
    *,
    proxy: Proxy | None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    witness: Witness,
) -> FedsiteError:
    """An error that a wrong clock explains, with the clock named where the server tells the time; else as it is."""
    try:
        _, skew = ask_federation(server, ca, proxy=proxy, patience=0, clock=clock, witness=witness)
    except (FedsiteError, OSError):
        return error
    if skew is None or abs(skew) <= TOLERATED_SKEW:
        return error
    return NotAuthorised(f"{error.message} {off_by(skew)}", SET_CLOCK)


def ask_federation(
    server: str,
    ca: Path,
    *,
    proxy: Proxy | None = None,
    patience: float = 120.0,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    witness: Witness = nobody,
) -> tuple[FederationInfo, float | None]:
    """`GET /v1/federation` without a certificate: the versions, and this clock's seconds ahead of the server's.

    The server shows that it is the federation's; whether its certificate is valid now is not asked, lest a wrong clock
    could not be found out.
    """
    with open_http(server, trusting(ca.read_bytes(), at_any_time=True), proxy, witness) as http:
        answer = ask(http, "GET", "/v1/federation", Patience(patience))
    return _read(FederationInfo, answer), clock_skew(answer.headers, clock())


def _read(kind: type[Message], answer: Answer) -> Message:
    try:
        return parse(kind, answer.body)
    except MalformedMessage as error:
        raise ServerBrokeProtocol(f"The server's answer is broken: {error}.", "Tell the coordinator.") from None
