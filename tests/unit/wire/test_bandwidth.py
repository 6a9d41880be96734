"""The way up, measured: enough bytes for a figure, not so many that a slow line is blocked."""

import pytest

from fedsite.wire.bandwidth import MAX_PROBE_BYTES, upload_rate


class Line:
    """So many bytes a second, so many seconds for an answer, and a handshake before the first."""

    def __init__(self, rate: float, latency: float = 0.0, handshake: float = 0.0) -> None:
        self.rate, self.latency, self.handshake = rate, latency, handshake
        self.now, self.sent = 0.0, [-1]

    def send(self, content: bytes) -> None:
        self.now += self.handshake + self.latency + len(content) / self.rate
        self.handshake = 0.0
        self.sent.append(len(content))


@pytest.mark.parametrize("rate", [1e3, 20e3, 1e6, 100e6])
@pytest.mark.parametrize("latency", [0.0, 0.3])
def test_the_rate_is_found(rate: float, latency: float) -> None:
    line = Line(rate, latency, handshake=2.0)
    assert upload_rate(line.send, lambda: line.now) == pytest.approx(rate, rel=0.01)


def test_a_slow_line_is_not_blocked_and_a_fast_one_is_used() -> None:
    slow, fast = Line(50e3), Line(1e9)
    upload_rate(slow.send, lambda: slow.now)
    assert slow.sent[-1] == 64 << 10
    upload_rate(fast.send, lambda: fast.now)
    assert fast.sent[-1] == MAX_PROBE_BYTES
    assert sum(fast.sent) < 2 * MAX_PROBE_BYTES


def test_a_line_that_takes_no_time_has_a_rate() -> None:
    assert upload_rate(lambda _: None, lambda: 0.0) > 0
