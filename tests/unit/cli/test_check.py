"""The findings of `fedsite check` on a terminal."""

import io

from rich.console import Console

from fedsite.cli.check import _table
from fedsite.jobs.checks.findings import Check

FINGERPRINT = "SHA-256 " + ":".join(["AB"] * 31 + ["99"])


def shown(finding: Check, width: int = 60) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(_table([Check("configuration", "ok", "Fine."), finding]))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_fingerprint_is_shown_to_its_last_digit() -> None:
    text = shown(Check("network", "error", f"Issued by somebody, {FINGERPRINT}, not this federation's.", "Ask.", 76))
    assert "…" not in text
    assert FINGERPRINT.replace(" ", "") in "".join(line[20:].strip() for line in text.splitlines()).replace(" ", "")


def test_what_another_machine_calls_itself_is_text() -> None:
    for name in ("O=[/] Brackets", "O=[bold red]Red", "O=[link=x]y"):
        assert name in shown(Check("network", "error", f"Issued by {name}."))
