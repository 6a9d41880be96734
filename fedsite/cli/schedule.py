"""`fedsite schedule`."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fedsite.cli.commands import Commands
from fedsite.cli.output import Output, duration
from fedsite.errors import UsageError

if TYPE_CHECKING:
    from fedsite.jobs.schedule.install import Installed
    from fedsite.jobs.schedule.run import Scope
    from fedsite.site.hours import Hours

MINUTE, DAY = 60, 86_400

app = Commands("Taking part by itself, by systemd or cron.")


@app.command()
def install(
    context: typer.Context,
    every: Annotated[
        str, typer.Option(metavar="DURATION", help="How often to look whether a round is due: 1m to 24h.")
    ] = "6h",
    window: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HH:MM-HH:MM",
            help="When runs may start, such as 20:00-06:00; repeat for several. Default: policy.hours.",
        ),
    ] = None,
    weekends: Annotated[bool, typer.Option("--weekends", help="Also all day on Saturdays and Sundays.")] = False,
    way: Annotated[
        Literal["cron", "systemd"] | None,
        typer.Option("--with", help="What starts the runs; default: what runs on this machine.", show_default=False),
    ] = None,
    system: Annotated[
        bool | None,
        typer.Option("--system/--user", help="For the machine, as root, or for this user.", show_default=False),
    ] = None,
) -> None:
    """Lets this site take part by itself from now on: a systemd timer or lines for cron. Harmless to repeat."""
    from fedsite.jobs.schedule import install as job

    out = Output.of(context)
    scope: Scope | None = None if system is None else ("system" if system else "user")
    asked = job.Asked(_minutes(every), tuple(_hours(text) for text in window or ()), weekends, way, scope)
    done = job.install(out.config_path, asked, out.warn)
    data = {**_data(done.installed), "reason": done.reason}
    text = f"{done.outcome.capitalize()}, with {done.installed.way} ({done.reason}).\n{_text(done.installed)}"
    out.result(done.outcome, data, text)


@app.command()
def show(context: typer.Context) -> None:
    """Shows what is installed, where, when it runs next, and whether somebody has changed it by hand."""
    from fedsite.jobs.schedule import install as job

    out = Output.of(context)
    found = job.show(out.config_path)
    text = "\n".join(_text(one) for one in found) or "Nothing is scheduled; next: fedsite schedule install"
    out.result("shown", {"installed": [_data(one) for one in found]}, text)


@app.command()
def remove(context: typer.Context) -> None:
    """Takes the schedule away, wherever it is. A run that is at work goes on."""
    from fedsite.jobs.schedule import install as job

    out = Output.of(context)
    removed = job.remove(out.config_path)
    text = "\n".join(f"Removed: {where}" for where in removed) or "Nothing was scheduled."
    out.result("removed" if removed else "nothing-to-do", {"removed": removed}, text)


def _minutes(every: str) -> int:
    seconds = duration(every)
    if seconds % MINUTE or not MINUTE <= seconds <= DAY:
        raise UsageError(f"--every {every} is no number of minutes from 1m to 24h.", "Such as --every 6h.")
    return int(seconds) // MINUTE


def _hours(window: str) -> "Hours":
    from fedsite.site.hours import read_hours

    try:
        return read_hours(window)
    except ValueError as error:
        raise UsageError(f"--window {window} {error}.") from None


def _data(found: "Installed") -> dict[str, Any]:
    schedule = found.schedule
    return {
        "with": found.way,
        "scope": found.scope,
        "where": found.where,
        "changed_by_hand": schedule is None,
        "every_minutes": schedule.every if schedule else None,
        "windows": list(schedule.hours) if schedule else None,
        "days": list(schedule.days) if schedule else None,
        "weekends": schedule.weekends if schedule else None,
        "runs": found.runs,
        "next_run": found.next_run.isoformat() if found.next_run else None,
        "jitter_seconds": found.jitter_seconds,
    }


def _text(found: "Installed") -> str:
    words = found.schedule.in_words() if found.schedule else "changed by hand since it was installed"
    lines = [f"{found.way} ({found.scope}): {found.where}", f"  When      {words}"]
    if found.next_run:
        late = f"up to {found.jitter_seconds // 60} min" if found.jitter_seconds >= MINUTE else "some seconds"
        lines.append(f"  Next run  {found.next_run:%a %Y-%m-%d %H:%M %Z}, or {late} later")
    elif not found.runs:
        lines.append(f"  Next run  none: {found.way} does not run it at present")
    else:
        lines.append("  Next run  not known; fedsite schedule install puts it right")
    return "\n".join(lines)
