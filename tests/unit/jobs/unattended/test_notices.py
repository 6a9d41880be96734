"""What others are told: of any ending, in closed words; by each way, within its time."""

import itertools
import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from support.inbox import inbox, sendmail
from support.listeners import listening, silent
from support.tools import require

from fedsite.errors import OUTCOMES, DataNotFit, FedsiteError
from fedsite.jobs.unattended import endings, mail, notices, notify
from fedsite.jobs.unattended.endings import Ending
from fedsite.jobs.unattended.notices import MEANINGS, Notice
from fedsite.jobs.unattended.streaks import after
from fedsite.site.config import NetworkSettings
from fedsite.site.unattended import NotificationSettings

DIRECT = NetworkSettings(proxy="direct")
SECRETS = "Dice 0.731 of 123 patients, norm 4.2871, case e-abcdefgh in /data/Doe^Jane; epsilon 3.14"
NOW = datetime(2026, 11, 20, 2, 17, tzinfo=UTC)
SPOKEN = ("start", "success", "pending", "failure", "mended", "test")


def settings(**given: Any) -> NotificationSettings:
    return NotificationSettings.model_validate(given)


def every_error() -> list[FedsiteError]:
    """One of each class, with words that must not leave, in message, mend and data."""
    waiting, found = [FedsiteError], []
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        error = kind.__new__(kind)
        FedsiteError.__init__(error, SECRETS, SECRETS)
        error.data = {"secret": SECRETS}
        found.append(error)
    return found


def test_no_body_holds_an_errors_own_words() -> None:
    site = Notice("start", "st-mary", "strokes", 7)
    for error in every_error():
        ending = endings.of_error(error)
        notice = site.ended(ending, after(None, ending, NOW))
        bodies = (notice.headline, notice.text, notice.as_json.decode())
        for word, body in itertools.product(SECRETS.replace(",", "").replace(";", "").split(), bodies):
            if len(word) > 3 and word not in ("patients", "case", "norm"):
                assert word not in body, (type(error), word)
        assert error.exit_code in MEANINGS or ending.expected or error.exit_code in (1, 2)


def test_what_is_told_is_told_in_full() -> None:
    ending = endings.of_error(DataNotFit(SECRETS))
    streak = after(after(None, ending, NOW), ending, NOW)
    told = json.loads(Notice("start", "st-mary", "strokes", 7).ended(ending, streak).as_json)
    assert {name: told[name] for name in told if name not in ("fedsite", "text")} == {
        "schema": 1,
        "event": "failure",
        "site": "st-mary",
        "federation": "strokes",
        "round": 7,
        "outcome": "failed",
        "code": "data-not-fit",
        "exit_code": 65,
        "since": "2026-11-20T02:17:00+00:00",
        "times": 2,
    }
    assert told["text"].startswith("fedsite st-mary: failed (data-not-fit)\nThe data cannot be used as they are.\n")
    assert "The 2nd time in a row, since 2026-11-20 02:17 UTC." in told["text"]


def test_every_event_has_its_words() -> None:
    for event in SPOKEN:
        notice = Notice(event, outcome="failed", exit_code=69)
        assert notice.text
        assert notice.headline.startswith("fedsite: ")
    assert set(OUTCOMES) <= set(notices.MEANINGS)


def test_a_ping_says_how_it_went_by_its_path() -> None:
    with inbox() as took:
        asked = settings(ping=f"{took.address}/alive?room=1")
        for event in SPOKEN:
            notify.tell(asked, DIRECT, Notice(event), aloud=True)
    assert took.paths == ["/alive/start?room=1", *["/alive?room=1"] * 2, "/alive/fail?room=1", "/alive?room=1"]


@pytest.mark.parametrize("status", [301, 404, 500])
def test_an_answer_that_is_no_success_is_a_problem(status: int) -> None:
    with inbox() as took:
        took.status = status
        (made,) = notify.tell(settings(webhook=f"{took.address}/s3cret"), DIRECT, Notice("failure"), aloud=True)
        assert (made.way, made.problem) == ("webhook", f"127.0.0.1 answered {status}.")
        assert len(took.came) == 1, "neither repeated nor followed"


def test_whoever_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "SECONDS", -0.5)
    with listening(silent) as port:
        began = time.monotonic()
        (made,) = notify.tell(settings(ping=f"http://127.0.0.1:{port}/s3cret"), DIRECT, Notice("test"), aloud=True)
    assert made.problem.startswith("No answer within")
    assert time.monotonic() - began < 60


def test_mail_by_sendmail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sendmail(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    asked = settings(mail_to=["a@h.example", "b@h.example"], mail_from="fedsite@h.example")
    notice = Notice("failure", "st-mary").ended(Ending("failed", 69, "unreachable"), None)
    (made,) = notify.tell(asked, DIRECT, notice, aloud=True)
    assert made.problem == ""
    message = message_from_bytes((folder / "messages").read_bytes(), policy=default)
    assert (message["From"], message["To"]) == ("fedsite@h.example", "a@h.example, b@h.example")
    assert message["Subject"] == "fedsite st-mary: failed (unreachable)"
    assert message["Auto-Submitted"] == "auto-generated"
    assert "The federation could not be reached." in message.get_content()
    assert (folder / "arguments").read_text() == "-i a@h.example b@h.example\n"


@pytest.mark.parametrize("gains_nothing", [False, True])
def test_the_mail_server_takes_what_sendmail_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gains_nothing: bool
) -> None:
    folder = sendmail(tmp_path / "bin", code=75)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(mail, "gains_nothing", lambda: gains_nothing)
    asked = settings(mail_to=["a@h.example"])
    heard: list[bytes] = []

    def smtp(line: Any) -> None:
        """As much of RFC 5321 as one message takes."""
        answers = {b"data\r\n": b"354 go on\r\n", b"quit\r\n": b"221 bye\r\n"}
        line.sendall(b"220 here\r\n")
        while part := line.recv(1 << 16):
            heard.append(part)
            line.sendall(answers.get(part.lower(), b"250 taken\r\n"))

    with listening(smtp) as port:
        monkeypatch.setattr(mail, "PORT", port)
        (made,) = notify.tell(asked, DIRECT, Notice("test"), aloud=True)
    assert made.problem == ""
    assert b"rcpt TO:<a@h.example>\r\n" in heard
    assert (folder / "messages").exists() != gains_nothing, "a service that gains no rights does not wait for sendmail"
    (made,) = notify.tell(asked, DIRECT, Notice("test"), aloud=True)
    assert "sendmail ended with code 75." in made.problem
    assert f"Port {port} of this machine takes no mail (ConnectionRefusedError)." in made.problem


def test_sendmail_takes_what_the_mail_server_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(sendmail(tmp_path / "bin")), prepend=":")
    monkeypatch.setattr(mail, "gains_nothing", lambda: True)
    with listening(lambda line: line.sendall(b"554 not here\r\n")) as port:
        monkeypatch.setattr(mail, "PORT", port)
        (made,) = notify.tell(settings(mail_to=["a@h.example"]), DIRECT, Notice("test"), aloud=True)
    assert made.problem == ""
    assert (tmp_path / "bin" / "messages").exists()


@pytest.mark.skipif(mail.gains_nothing(), reason="these tests gain no rights themselves")
@pytest.mark.parametrize(("options", "gains"), [([], "False"), (["--no-new-privs"], "True")])
def test_whether_a_process_gains_nothing(options: list[str], gains: str) -> None:
    ask = [sys.executable, "-c", "from fedsite.jobs.unattended import mail; print(mail.gains_nothing())"]
    told = subprocess.run([require("setpriv", "util-linux"), *options, *ask], capture_output=True, text=True)
    assert told.stdout == f"{gains}\n", told.stderr


@pytest.mark.parametrize(
    "address",
    [
        *("http://hospital.example/s3cret", "ftp://h.example/s3cret", "https://user:s3cret@h.example/", "s3cret"),
        *(
            "https://h.example/#s3cret",
            "https:///s3cret",
            "https://h.example:99999/s3cret",
            "https://h.example/s3 cret",
        ),
        *("http://127.0.0.1.example/s3cret", "https://h.example/s3cret\nx", "http://[::2]/s3cret"),
    ],
)
def test_an_address_that_cannot_be_used_is_not_repeated(address: str) -> None:
    with pytest.raises(ValidationError) as raised:
        settings(webhook=address)
    (fault,) = raised.value.errors(include_input=False, include_url=False, include_context=False)
    assert fault["msg"] == "Value error, must be https://HOST/..., or http:// to localhost, without user and password"


@pytest.mark.parametrize(
    "address", ["https://h.example/a?b=c", "http://localhost:8080/x", "http://[::1]/", "http://127.1.2.3/"]
)
def test_addresses_that_can_be_used(address: str) -> None:
    asked = settings(ping=address)
    assert asked.ping is not None
    assert asked.ping.get_secret_value() == address
    assert address not in asked.model_dump_json() + repr(asked)


@pytest.mark.parametrize(
    "address", ["-oQ/tmp@h.example", "a b@h.example", "a@h.example, b@h", "a@-h", "@h", "a@h\nBcc: x@y"]
)
def test_a_mail_address_is_an_address_and_no_option(address: str) -> None:
    with pytest.raises(ValidationError):
        settings(mail_to=[address])
