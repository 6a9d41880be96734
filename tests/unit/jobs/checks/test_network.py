"""What `fedsite check` says of proxy and bandwidth; the troubles are in tests/integration/jobs/test_network.py."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fedsite.jobs.checks import network
from fedsite.jobs.checks.findings import Check
from fedsite.site.config import NetworkSettings
from fedsite.wire.messages import Envelope, Signature, Ticket, Tickets

NOW = datetime(2026, 5, 4, tzinfo=UTC)
MEGABYTES = 10**6


def envelope(payload: bytes) -> Envelope:
    signature = Signature(keyid="k", sig="cw==")
    return Envelope(payload=base64.b64encode(payload).decode(), payloadType="t", signatures=[signature])


def ticket(size: int, seconds: float = 600) -> Envelope:
    lasts = timedelta(seconds=seconds)
    content = Ticket(
        federation="f", plan_sha256="0" * 64, round=1, previous_ticket=None, model_sha256="0" * 64,
        model_bytes=size, opened=NOW, expires=NOW + lasts,
    )  # fmt: skip
    return envelope(content.to_bytes())


class Site:
    """As much of a site as the rows ask for, and its client."""

    def __init__(self, rate: float | None = 1.0, tickets: list[Envelope] | None = None, **network: Any) -> None:
        self.rate, self.chain = rate, tickets or []
        self.config = self
        self.network = NetworkSettings(**network)
        self.pinned = self
        self.server = "https://federation.example:8443"

    def client(self) -> "Site":
        return self

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def upload_rate(self) -> float | None:
        return self.rate

    def tickets(self, after: int) -> Tickets:
        assert after == 0
        return Tickets(tickets=self.chain)


def upload(rate: float | None, *tickets: Envelope) -> Check:
    return network.upload(Site(rate, list(tickets)))  # type: ignore[arg-type]


def test_the_time_of_a_rounds_upload_is_that_of_the_newest_ticket() -> None:
    found = upload(2.0 * MEGABYTES, ticket(10), ticket(100 * MEGABYTES))
    assert found.status == "ok"
    assert found.message == "An update of one round (at most 100 MB) takes 50.0 s at 2 MB/s."


@pytest.mark.parametrize(("rate", "said"), [(200, "under 0.1 s at 200 MB/s"), (0.02, "0:08:20 at 0.02 MB/s")])
def test_short_and_long_times(rate: float, said: str) -> None:
    assert said in upload(rate * MEGABYTES, ticket(10 * MEGABYTES, seconds=6000)).message


def test_an_upload_that_takes_most_of_a_round_is_a_warning() -> None:
    assert upload(MEGABYTES, ticket(300 * MEGABYTES, seconds=600)).status == "ok"
    found = upload(MEGABYTES, ticket(301 * MEGABYTES, seconds=600))
    assert found.status == "warning"
    assert "more than half the time of a round" in found.mend


@pytest.mark.parametrize("broken", [b"no ticket", b"{}"])
def test_without_a_ticket_that_can_be_read_there_is_a_figure_all_the_same(broken: bytes) -> None:
    expected = "No round has been opened yet; 100 MB would take 10.0 s at 10 MB/s."
    assert upload(10 * MEGABYTES).message == expected
    assert upload(10 * MEGABYTES, envelope(broken)).message == expected
    assert upload(10 * MEGABYTES, Envelope.model_construct(payload="!", payloadType="t", signatures=[])).status == "ok"


def test_an_older_server_is_no_fault() -> None:
    assert (upload(None).status, upload(None).exit_code) == ("skipped", 0)


def test_the_proxy_and_who_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)

    def said(**settings: Any) -> Check:
        return network.proxy(Site(**settings))  # type: ignore[arg-type]

    assert said().message == "The server is to be reached directly (nothing names a proxy for it)."
    assert said(proxy="direct").message == "The server is to be reached directly (network.proxy)."
    assert "by http://proxy:3128 (network.proxy), without a login" in said(proxy="http://proxy:3128").message
    monkeypatch.setenv("HTTPS_PROXY", "http://mary:s3cret@proxy:3128")
    found = said()
    assert (found.status, "by http://proxy:3128 ($HTTPS_PROXY), with a login" in found.message) == ("warning", True)
    assert "s3cret" not in found.message + found.mend
    assert said(proxy="direct").status == "ok"
