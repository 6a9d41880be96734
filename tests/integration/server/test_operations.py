"""What the server tells those who run it: metrics on a port of their own, a log that machines read."""

import json
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.federation import Server, make, tensors, update_file

from fedsite.files import sha256_of
from fedsite.server.rounds import reports
from fedsite.wire.client import TlsIdentity
from fedsite.wire.enrolment import Invitation

PLAIN = re.compile(r'^([a-z_]+)(\{[a-z_]+="[^"]*"(?:,[a-z_]+="[^"]*")*\})? (\S+)$')


class Watched(Server):
    """A server with metrics, and a log in JSON."""

    metrics = ""

    def start(self) -> None:
        options = ["--port", "0", "--metrics-port", "0", "--log-format", "json"]
        with self.folder.with_suffix(".log").open("a") as log:
            self.process = self._begin(["server", "run", "--dir", str(self.folder), *options], log)
        end = time.monotonic() + 60
        while "serving %s on %s" not in (told := {one["event"]: one["message"] for one in self.records}):
            assert self.process.poll() is None, self.log
            assert time.monotonic() < end, self.log
            time.sleep(0.02)
        self.port = int(told["serving %s on %s"].rpartition(":")[2])
        self.metrics = told["metrics are at %s"].split()[-1]

    @property
    def records(self) -> list[dict[str, Any]]:
        """What it has logged, line by line."""
        return [json.loads(line) for line in self.log.splitlines(keepends=True) if line.endswith("\n")]

    @property
    def figures(self) -> dict[str, float]:
        """Every sample by its name and labels; the whole answer must be in the format."""
        with urllib.request.urlopen(self.metrics, timeout=10) as answer:
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            lines = answer.read().decode().splitlines()
        found: dict[str, float] = {}
        typed = [line.split()[2] for line in lines if line.startswith("# TYPE ")]
        assert typed == [line.split()[2] for line in lines if line.startswith("# HELP ")]
        assert len(typed) == len(set(typed))
        for line in lines:
            if not line.startswith("#"):
                sample = PLAIN.match(line)
                assert sample is not None, line
                assert sample[1] in typed
                found[sample[1] + (sample[2] or "")] = float(sample[3])
        return found


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched") / "server"
    make(folder).database.close()
    server = Watched(folder)
    server.start()
    yield server
    assert server.process is not None
    if server.process.poll() is None:
        server.stop()


@pytest.fixture(scope="module")
def identity(watched: Watched, tmp_path_factory: pytest.TempPathFactory) -> TlsIdentity:
    return watched.enrol("site-a", tmp_path_factory.mktemp("site-a"))


def test_a_federation_without_rounds_has_metrics(watched: Watched) -> None:
    figures = watched.figures
    assert figures["fedsite_authority_expires_timestamp_seconds"] > figures["process_start_time_seconds"] > 1e9
    assert figures["process_resident_memory_bytes"] > 1e7
    assert "fedsite_round_number" not in figures


def test_the_metrics_say_what_happened(watched: Watched, identity: TlsIdentity, tmp_path: Path) -> None:
    number = watched.open_round(tmp_path, rounds={"quorum": 1, "deadline_seconds": 600})
    update = update_file(tmp_path / "update", tensors(1))
    with watched.client(identity) as client:
        client.upload(number, update, sha256_of(update), 1)
    figures = watched.figures
    assert (figures["fedsite_round_number"], figures["fedsite_round_updates"]) == (number, 1)
    assert (figures["fedsite_round_unfinished"], figures["fedsite_round_quorum"]) == (1, 1)
    assert figures['fedsite_sites{status="enrolled"}'] == 1
    assert figures['fedsite_site_contributions_total{site="site-a"}'] == 1
    assert figures['fedsite_site_seen_timestamp_seconds{site="site-a"}'] > figures["process_start_time_seconds"] - 1
    assert figures['fedsite_answers_total{code="201"}'] >= 1
    listed = watched.run("server", "site", "list", "--json")
    (site,) = json.loads(listed.stdout)["data"]["sites"]
    assert site["certificate_days"] in (89, 90), "seconds are rounded"
    assert (site["contributions"], site["refusals"], site["rejected"]) == (1, 0, 0)
    assert site["last_seen"] is not None
    watched.close_rounds()
    assert reports.round_report(watched.federation, number)["status"] == "aggregated"
    assert watched.figures['fedsite_rounds{status="aggregated"}'] == 1


def test_the_sites_port_has_none_and_theirs_nothing_else(watched: Watched, identity: TlsIdentity) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(watched.metrics.replace("/metrics", "/v1/federation"), timeout=10)
    with refused.value as answer:
        assert answer.code == 404
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{watched.url}/metrics", timeout=10, context=identity.context())
    with refused.value as answer:
        assert answer.code == 404


def test_only_this_machine_is_told(watched: Watched) -> None:
    port = int(re.findall(r":(\d+)/", watched.metrics)[0])
    listening = Path("/proc/net/tcp").read_text()
    assert f"0100007F:{port:04X} 00000000:0000 0A" in listening
    assert f"00000000:{port:04X} 00000000:0000 0A" not in listening


def test_who_says_nothing_holds_nobody_up_for_long(watched: Watched) -> None:
    port = int(re.findall(r":(\d+)/", watched.metrics)[0])
    with socket.create_connection(("127.0.0.1", port)):
        assert watched.figures["process_cpu_seconds_total"] > 0


def test_every_line_of_the_log_is_json_and_keeps_secrets(watched: Watched, tmp_path: Path) -> None:
    invitation = Invitation.decode(watched.invite("site-b"))
    watched.enrol("site-c", tmp_path / "site-c")
    assert watched.stop() == 0
    records = watched.records
    assert any(one["message"].startswith("site-c has a new certificate until") for one in records)
    assert all(one.keys() >= {"time", "level", "logger", "event", "message"} for one in records)
    assert watched.log.endswith("\n")
    assert invitation.secret not in watched.log
