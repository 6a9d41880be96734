"""What `fedsite check` says of hooks, notifications, failures and the key; what `fedsite status` warns of."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from example_site import make_site
from support.inbox import inbox, sendmail

from fedsite.errors import Unreachable
from fedsite.jobs import status
from fedsite.jobs.checks import identity, unattended
from fedsite.jobs.checks.findings import Check
from fedsite.jobs.checks.preflight import _guarded
from fedsite.jobs.identity.as_cron import Answer
from fedsite.jobs.site import Site, open_site
from fedsite.jobs.unattended import endings, mail, streaks

NOW = datetime(2026, 11, 20, 2, 17, tzinfo=UTC)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site(tmp_path_factory.mktemp("site"), rounds=0, cases=1)


def found(path: Path, act: Callable[[Site], Check], **settings: Any) -> Check:
    """The finding, with such settings."""
    content = yaml.safe_load(path.read_text())
    for section in ("notifications", "hooks"):
        content[section] = settings.get(section, {})
    path.write_text(yaml.safe_dump(content))
    with open_site(path) as site:
        return _guarded("it", act, site)


def test_hooks_are_looked_at_and_not_run(path: Path, tmp_path: Path) -> None:
    assert found(path, unattended.own_programs).status == "ok"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o700)
    good = found(path, unattended.own_programs, hooks={"after_round": str(program)})
    assert (good.status, good.message) == ("ok", "after_round can be run; 300 s for each.")
    program.chmod(0o770)
    bad = found(path, unattended.own_programs, hooks={"after_round": str(program)})
    assert (bad.status, bad.exit_code) == ("error", 78)
    assert "chmod go-w" in bad.mend
    assert not (tmp_path / "ran").exists()


def test_who_would_be_told_is_said_without_telling(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Nobody is told" in found(path, unattended.notifications).message
    monkeypatch.setenv("PATH", str(sendmail(tmp_path / "bin")), prepend=":")
    with inbox() as took:
        asked = {"webhook": "https://chat.example/s3cret", "ping": f"{took.address}/s3cret", "mail_to": ["a@h.example"]}
        good = found(path, unattended.notifications, notifications=asked)
        assert took.came == []
    assert good.status == "ok"
    assert good.message.startswith(f"ping to 127.0.0.1; webhook to chat.example; mail by {tmp_path}/bin/sendmail")
    assert "s3cret" not in good.message
    assert not (tmp_path / "bin" / "messages").exists()
    monkeypatch.setattr(mail, "program_found", lambda: None)
    monkeypatch.setattr(mail, "server_listens", lambda: False)
    bad = found(path, unattended.notifications, notifications={"mail_to": ["a@h.example"]})
    assert (bad.status, bad.message) == ("warning", "This machine has no sendmail program and no mail server.")


def test_a_test_is_sent_where_it_is_asked_for(path: Path) -> None:
    assert found(path, unattended.try_notifications).status == "warning"
    with inbox() as took:
        asked = {"ping": f"{took.address}/alive", "webhook": f"{took.address}/hook", "events": []}
        assert found(path, unattended.try_notifications, notifications=asked).message == (
            "A test was taken by: ping, webhook."
        )
        assert json.loads(took.came[-1][1])["event"] == "test"
        took.status = 404
        bad = found(path, unattended.try_notifications, notifications=asked)
    assert (bad.status, bad.exit_code) == ("warning", 0)
    assert bad.message == "ping: 127.0.0.1 answered 404. webhook: 127.0.0.1 answered 404."


def test_failures_are_told_since_when_and_how_often(path: Path) -> None:
    ending, streak = endings.of_error(Unreachable("No progress.", "Look.")), None
    for days in range(3):
        streak = streaks.after(streak, ending, NOW + timedelta(days=days))
    with open_site(path) as site:
        streaks.save(site.state.folder, streak)
        bad = unattended.failures(site)
        warned = status.of(site)["warnings"]
        streaks.save(site.state.folder, None)
        assert unattended.failures(site).status == "ok"
        assert status.of(site)["warnings"] == []
    message = "No progress. This was the 3rd time in a row, since 2026-11-20 02:17 UTC."
    assert (bad.status, bad.message, bad.mend) == ("warning", message, "Look.")
    assert warned == [{"message": message, "mend": "Look."}]


def test_the_key_is_tried_where_nobody_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `--as-cron` tries it, whose process has tests of its own: it has two seconds, which no test may count on."""
    asked: list[object] = []
    answers = [Answer("file"), Answer(error="Closed.", mend="Open it.", exit_code=78)]
    monkeypatch.setattr(identity.as_cron, "opens", lambda *given: asked.append(given) or answers[len(asked) - 1])
    with open_site(path) as site:
        good, bad = identity.key_unattended(site), identity.key_unattended(site)
        assert asked == [(site.files.folder, site.version.number)] * 2
    assert (good.name, good.status) == ("key-as-cron", "ok")
    assert bad == Check("key-as-cron", "error", "Closed.", "Open it.", 78)
