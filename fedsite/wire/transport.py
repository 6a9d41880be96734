"""HTTPS as enrolment and the client share it: who we are, whom we trust, how long we wait, what answers mean."""

import secrets
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType

import httpx
from cryptography import x509

import fedsite
from fedsite.errors import (
    ConfigurationError,
    FedsiteError,
    NotAuthorised,
    RecordsDamaged,
    ServerBrokeProtocol,
    TryAgainLater,
    Unreachable,
    UpdateRefused,
)
from fedsite.wire.diagnosis import Trouble, reason
from fedsite.wire.messages import MAX_MESSAGE_BYTES, MalformedMessage, Problem, parse
from fedsite.wire.route import Journey, Proxy, usable
from fedsite.wire.watchdog import Watchdog

TIMEOUT = httpx.Timeout(30.0, connect=10.0)
LONGEST_ANSWER = 60.0
TOLERATED_SKEW = 120.0
"""Seconds that this machine's clock and the server's may differ by."""

X509_V_FLAG_NO_CHECK_TIME = 0x200000  # OpenSSL's; ssl.VerifyFlags does not name it
ENROL_AGAIN = "Ask the coordinator for a new invitation, then: fedsite enroll --invitation FILE"
SET_CLOCK = "Set this machine's clock, best by NTP; then run the command again."
KEPT = "What was reached so far is kept; run the command again, or fedsite check to see what is in the way."


@dataclass(frozen=True)
class TlsIdentity:
    """What a site shows and what it trusts, as files: PEM certificate, encrypted PKCS#8 key, the federation's CA."""

    certificate: Path
    key: Path
    passphrase: str = field(repr=False)
    ca: Path

    def context(self) -> ssl.SSLContext:
        """A TLS context that shows this certificate; raises NotAuthorised or RecordsDamaged when it cannot."""
        try:
            context = trusting(self.ca.read_bytes())
            context.load_cert_chain(self.certificate, self.key, lambda: self.passphrase)
        except FileNotFoundError as error:
            raise NotAuthorised("This site has no certificate for the federation.", ENROL_AGAIN) from error
        except (OSError, ValueError) as error:
            raise RecordsDamaged("This site's key, certificate or passphrase does not fit.", ENROL_AGAIN) from error
        return context

    def check_dates(self, now: datetime) -> None:
        """Raises NotAuthorised outside the certificate's validity.

        Asked before every connection: a server can only refuse such a certificate by closing the line.
        """
        try:
            certificate = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        except FileNotFoundError as error:
            raise NotAuthorised("This site has no certificate for the federation.", ENROL_AGAIN) from error
        except ValueError as error:
            raise RecordsDamaged("This site's certificate cannot be read.", ENROL_AGAIN) from error
        first, last = (
            f"{instant:%Y-%m-%d %H:%M:%S} UTC"
            for instant in (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
        )
        if now >= certificate.not_valid_after_utc:
            raise NotAuthorised(f"This site's certificate expired on {last}.", ENROL_AGAIN)
        if now < certificate.not_valid_before_utc:
            raise NotAuthorised(
                f"This site's certificate is valid from {first}, but it is {now:%Y-%m-%d %H:%M:%S} UTC here.",
                "Set this machine's clock.",
            )


class NotKnown(ServerBrokeProtocol):
    """The server does not know what it was asked: it may speak another version of the protocol."""


class Patience:
    """The end of every wait: retries with full jitter until `budget` seconds have passed without progress."""

    def __init__(
        self,
        budget: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._budget, self._clock, self._sleep = budget, clock, sleep
        self._failures, self._since = 0, clock()

    def progress(self) -> None:
        """Something was reached: the budget starts anew."""
        self._failures, self._since = 0, self._clock()

    def check(self, trouble: Trouble) -> None:
        """Raises Unreachable once the budget is spent."""
        if self._clock() - self._since < self._budget:
            return
        if self._budget == 0:  # one attempt was wanted
            raise Unreachable(f"{trouble.what[0].upper()}{trouble.what[1:]}.", trouble.mend or KEPT)
        raise Unreachable(
            f"No progress for {self._budget:.0f} seconds: {trouble.what}.", f"{trouble.mend} {KEPT}".strip()
        )

    def pause(self, trouble: Trouble, at_least: float = 0.0) -> None:
        """Waits before the next attempt; raises Unreachable when it could not come within the budget."""
        self.check(trouble)
        delay = at_least + secrets.SystemRandom().uniform(0, min(15.0, 0.25 * 2 ** min(self._failures, 10)))
        left = self._since + self._budget - self._clock()
        if at_least > left:
            raise TryAgainLater(f"The federation server asks to wait {at_least:.0f} seconds: {trouble.what}.", KEPT)
        self._failures += 1
        self._sleep(min(delay, left))


@dataclass(frozen=True)
class Exchange:
    """One request and what became of it, for the record: bytes are those of the bodies, `status` 0 means no answer.

    `sent` counts what was handed to the network: where the line was cut, less may have arrived. `ahead` is by how many
    seconds this machine's clock is ahead of the server's, None when the server told no time.
    """

    method: str
    path: str
    status: int
    sent: int
    received: int
    seconds: float
    ahead: float | None


Witness = Callable[[Exchange], None]


def nobody(_exchange: Exchange) -> None:
    """The witness of those who keep no record."""


class Connection:
    """An HTTP client whose every request is shown to a witness, however it ends; a context manager."""

    def __init__(self, http: httpx.Client, witness: Witness = nobody, proxy: Proxy | None = None) -> None:
        self._http, self._witness, self._proxy, self._watchdog = http, witness, proxy, Watchdog()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the line; nothing can be asked afterwards."""
        self._watchdog.close()
        self._http.close()

    @contextmanager
    def exchange(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        content: bytes | Iterable[bytes] | None = None,
        auth: tuple[str, str] | None = None,
    ) -> Iterator[httpx.Response]:
        """One request, one attempt. The witness hears of it once the answer has been read or given up."""
        sent = status = received = 0
        ahead = None
        began = time.monotonic()

        def counted(blocks: Iterable[bytes]) -> Iterator[bytes]:
            nonlocal sent
            for block in blocks:
                sent += len(block)
                self._watchdog.progress()
                yield block

        if isinstance(content, bytes):
            headers, content = {**(headers or {}), "Content-Length": str(len(content))}, [content]
        if content is not None:
            content = counted(content)
        try:
            journey = Journey(self._http.base_url, self._proxy, told=self._watchdog)
            with self._http.stream(
                method, path, headers=headers, content=content, auth=auth, extensions={"trace": journey}
            ) as response:
                status, ahead = response.status_code, clock_skew(response.headers, datetime.now(UTC))
                try:
                    yield response
                finally:
                    received = response.num_bytes_downloaded
        finally:
            self._witness(Exchange(method, path, status, sent, received, time.monotonic() - began, ahead))


@dataclass(frozen=True)
class Answer:
    """An HTTP answer read whole."""

    status: int
    headers: httpx.Headers
    body: bytes


def trusting(ca_pem: bytes, *, at_any_time: bool = False) -> ssl.SSLContext:
    """A TLS context that trusts one CA and nothing else (TLS 1.2 or later, the server's name checked).

    `at_any_time` leaves out the certificates' dates: to ask a server for the time, and for nothing else.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=ca_pem.decode("ascii"))
    if at_any_time:
        context.verify_flags |= X509_V_FLAG_NO_CHECK_TIME
    return context


def open_http(
    server: str, context: ssl.SSLContext, proxy: Proxy | None = None, witness: Witness = nobody
) -> Connection:
    """An HTTP/1.1 client for one server. No variable of the environment has a say: `proxy` is the way, or none."""
    if not server.startswith("https://"):
        raise ConfigurationError(f"The server's address {server!r} does not start with https://.")
    if proxy and ":" in usable(server).host:  # httpcore 1.0.9 leaves out the brackets when it asks a proxy
        raise ConfigurationError(
            f"The server's address {server} is one of IPv6, which fedsite cannot ask of a proxy.",
            "Ask the coordinator for the name by which sites reach the server.",
        )
    return open_line(server, context, proxy, witness)


def open_line(base: str, context: ssl.SSLContext, proxy: Proxy | None, witness: Witness = nobody) -> Connection:
    """The same for any address: SCHEME://HOST:PORT."""
    http = httpx.Client(
        base_url=usable(base),
        verify=context,
        proxy=proxy.for_httpx() if proxy else None,
        trust_env=False,
        timeout=TIMEOUT,
        headers={"User-Agent": f"fedsite/{fedsite.__version__}", "Accept-Encoding": "identity"},
    )
    return Connection(http, witness, proxy)


def ask(
    http: Connection,
    method: str,
    path: str,
    patience: Patience,
    headers: Mapping[str, str] | None = None,
    content: bytes | None = None,
    auth: tuple[str, str] | None = None,
    expected: tuple[int, ...] = (),
) -> Answer:
    """One idempotent request, repeated after connection errors and 5xx; a 3xx or 4xx raises what it means, unless
    expected.
    """
    while True:
        try:
            answer = once(http, method, path, headers, content, auth)
        except httpx.TransportError as error:
            patience.pause(reason(error))
            continue
        if answer.status < 300 or answer.status in expected:
            return answer
        if answer.status < 500 and answer.status != 429:
            raise refusal(answer)
        patience.pause(refused_for_now(answer), retry_after(answer))


def once(
    http: Connection,
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    content: bytes | Iterable[bytes] | None = None,
    auth: tuple[str, str] | None = None,
) -> Answer:
    """One request, one attempt; the answer is read up to the size of the largest message, for a minute at most."""
    with http.exchange(method, path, headers, content, auth) as response:
        body, end = bytearray(), time.monotonic() + LONGEST_ANSWER
        for block in response.iter_raw():
            body += block
            if len(body) > MAX_MESSAGE_BYTES:
                raise ServerBrokeProtocol(f"The server's answer is larger than {MAX_MESSAGE_BYTES} bytes.")
            if time.monotonic() > end:
                raise httpx.ReadTimeout(
                    f"an answer took more than {LONGEST_ANSWER:.0f} seconds", request=response.request
                )
        return Answer(response.status_code, response.headers, bytes(body))


def refused_for_now(answer: Answer) -> Trouble:
    """What a 5xx or 429 means to a site."""
    return Trouble(f"the server answered {answer.status}", "The server's log tells its coordinator why.")


def retry_after(answer: Answer) -> float:
    """The seconds of a Retry-After header, 0 when there is none (its date form is never sent by our server)."""
    text = answer.headers.get("Retry-After", "")
    return min(float(text), 86_400.0) if text.isascii() and text.isdigit() else 0.0


def refusal(answer: Answer) -> FedsiteError:
    """What a 4xx (or 507) means to a site."""
    problem = _problem(answer)
    text = f"{problem.title} {problem.detail}".strip()[:500]
    text = "".join(sign if sign.isprintable() else " " for sign in text)
    if problem.type in ("no-such-round", "round-closed"):
        return TryAgainLater(f"The round no longer stands: {text}", "Nothing is to be done; the next round will come.")
    if problem.type == "another-update":
        return RecordsDamaged(
            f"The server holds something else from this site than this site remembers: {text}",
            "Was the state folder restored from a backup? See fedsite audit verify.",
        )
    if problem.type == "update-refused":
        return UpdateRefused(text, "Tell the coordinator; the next round is not affected.")
    if problem.type in ("protocol-version", "not-found"):
        return NotKnown(f"The server answered {answer.status}: {text}", "Tell the coordinator.")
    if answer.status in (401, 403):
        return NotAuthorised(f"The server refused this site: {text}", ENROL_AGAIN)
    return ServerBrokeProtocol(f"The server answered {answer.status}: {text}", "Tell the coordinator.")


def clock_skew(headers: httpx.Headers, now: datetime) -> float | None:
    """By how many seconds this machine's clock is ahead of the server's, None when the server told no time."""
    try:
        told = datetime.strptime(headers.get("Date", ""), "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
    except ValueError:
        return None
    return (now - told).total_seconds()


def off_by(skew: float) -> str:
    """A clock's error in words; `skew` in seconds, above 0 where it is ahead."""
    size = timedelta(seconds=round(abs(skew)))
    return f"This machine's clock is {size} {'ahead of' if skew > 0 else 'behind'} the server's."


def _problem(answer: Answer) -> Problem:
    try:
        return parse(Problem, answer.body)
    except MalformedMessage:
        return Problem(type="unexplained", title="It gave no reason.", status=answer.status)
