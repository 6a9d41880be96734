"""`fedsite status`."""

import shutil
import textwrap
from datetime import datetime
from typing import Any

import typer

from fedsite.cli.output import Output

NAMES, WIDEST, BAR = 13, 110, 24


def status(context: typer.Context) -> None:
    """Shows on one screen who this site is, its data, its last rounds, its privacy budget, and what is wrong."""
    from fedsite.jobs import status as job

    out = Output.of(context)
    data = job.status(out.config_path)
    out.result("shown", data, _screen(data))


def _screen(data: dict[str, Any]) -> str:
    """One screen: a name, then what there is to say of it, in as many columns as there are."""
    width = min(WIDEST, shutil.get_terminal_size().columns)
    rows = [*_site(data["identity"]), _cases(data["data"]), *_privacy(data["privacy"]), *_rounds(data)]
    for one in data["warnings"]:
        rows += [("Warning", one["message"]), ("", one["mend"])]
    indent = " " * NAMES
    return "\n".join(
        textwrap.fill(text, width, initial_indent=f"{name:<{NAMES}}", subsequent_indent=indent, break_long_words=False)
        for name, text in rows
        if text
    )


def _site(identity: dict[str, Any] | None) -> list[tuple[str, str]]:
    if identity is None:
        return [("Site", "not enrolled; next: fedsite enroll --invitation FILE")]
    renewal = f"to be renewed from {identity['renewed_from']} on"
    return [
        ("Site", f"{identity['site']} in federation {identity['federation']}"),
        ("Server", identity["server"]),
        ("Certificate", f"{identity['days_left']:.0f} days left, {renewal}"),
    ]


def _cases(cases: dict[str, Any] | None) -> tuple[str, str]:
    if cases is None:
        return "Data", "none prepared; next: fedsite prepare-data SOURCE --task TASK"
    return "Data", f"{cases['training']} training, {cases['validation']} held out ({cases['task']})"


def _privacy(privacy: dict[str, Any]) -> list[tuple[str, str]]:
    share = privacy["left"] / privacy["budget"] if privacy["budget"] else 0.0
    full = round(BAR * share)
    told = f"epsilon {privacy['left']:,.4g} of {privacy['budget']:,.4g} left, {privacy['releases']} releases"
    return [
        ("Privacy", privacy["guarantee"]),
        ("Budget", f"[{'#' * full}{'-' * (BAR - full)}] {told}"),
    ]


def _rounds(data: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("" if number else "Rounds", f"{one['round']:<4} {_minute(one['changed'])}  {one['outcome']}")
        for number, one in enumerate(reversed(data["rounds"]))
    ] or [("Rounds", "none yet")]
    if last := data["last_run"]:
        told = last["outcome"].replace("-", " ") + (f" ({last['code']})" if last["code"] else "")
        rows.append(("Last run", f"{_minute(last['time'])}  {told}, {last['seconds']:.0f} s"))
    if data["next_run"]:
        rows.append(("Next run", f"{datetime.fromisoformat(data['next_run']):%a %Y-%m-%d %H:%M} by this site's clock"))
    else:
        rows.append(("Next run", "none by itself; fedsite schedule install"))
    return rows


def _minute(time: str) -> str:
    return f"{time[:16].replace('T', ' ')} UTC"
