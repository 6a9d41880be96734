"""`fedsite server round`: series of rounds are opened, paused and resumed, rounds looked at, and ended by hand."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedsite.cli.asking import confirm
from fedsite.cli.commands import Commands
from fedsite.cli.federation import HERE, Folder, draw
from fedsite.cli.output import Output
from fedsite.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from fedsite.server.federation import Federation

app = Commands("The federation's rounds.")

Number = Annotated[int, typer.Argument(metavar="ROUND", help="The round's number.")]
Without = Annotated[list[str] | None, typer.Option(metavar="SITE", help="Leave this site's update out.")]

SHOWN = ("took_part", "left_out", "rejected", "late", "refused", "revoked", "at_work", "dropped", "absent")
LONGEST_REASON = 200
GOES_ON = "To go on: fedsite server round resume"


@app.command("open")
def open_round(
    context: typer.Context,
    plan: Annotated[Path, typer.Argument(metavar="PLAN.yaml", help="The plan (YAML, see sample_configs/plan.yaml).")],
    model: Annotated[Path, typer.Option(metavar="FILE", help="The model to start from (see fedsite model init).")],
    folder: Folder = HERE,
    rounds: Annotated[
        int, typer.Option(min=1, max=100_000, metavar="N", help="How many rounds run one after the other.")
    ] = 1,
    task: Annotated[
        Path | None, typer.Option(metavar="TASK.yaml", help="The file of the plan's task, where it is sites' own.")
    ] = None,
) -> None:
    """Signs a plan and opens the first of its rounds; the others follow by themselves."""
    from fedsite.jobs import tasks
    from fedsite.jobs.plan import algorithms
    from fedsite.server.federation import open_federation
    from fedsite.server.rounds import screen, stops
    from fedsite.server.rounds.reports import round_report
    from fedsite.server.rounds.series import open_series
    from fedsite.wire.payload import layout_of
    from fedsite.wire.plans import read_draft

    federation = open_federation(folder)
    draft = tasks.described_by(read_draft(plan), task)
    algorithms.check(draft)
    row = open_series(federation, draft, model, rounds)
    values = layout_of(model).values
    said = {
        "composition": algorithms.composition(draft, values),
        "screening": screen.outlook(draft, values),
        "stopping": stops.outlook(draft, values),
    }
    opened = f"Round {row.number} is open until {row.expires}, 1 of {rounds} in its series."
    report = round_report(federation, row.number)
    Output.of(context).result("opened", report | said, "\n  ".join([opened, *filter(None, said.values())]))


@app.command("list")
def list_rounds(context: typer.Context, folder: Folder = HERE) -> None:
    """Lists the rounds, and says how the newest series stands."""
    from fedsite.server.federation import open_federation
    from fedsite.server.rounds.reports import rounds

    found = rounds(open_federation(folder))
    columns = ["round", "plan", "status", "updates", "quorum", "opened", "expires", "reason"]

    def table(console: "Console") -> None:
        draw(console, columns, found)
        for line in _series_lines(found[-1]) if found else ():
            console.print(line, markup=False)

    Output.of(context).result("listed", {"rounds": found}, table)


@app.command()
def show(
    context: typer.Context,
    number: Number,
    folder: Folder = HERE,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the round until it has ended.")] = False,
) -> None:
    """Shows a round: which sites took part, and what became of each other one; what its screen found."""
    from fedsite.cli.watching import follow
    from fedsite.server.federation import open_federation
    from fedsite.server.rounds.reports import round_report

    out, federation = Output.of(context), open_federation(folder)
    report = follow(out, federation, number, _round_text) if watch else round_report(federation, number)
    out.result("shown", report, _round_text(report))


@app.command("report")
def write_report(
    context: typer.Context,
    number: Number,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Where to write the page (HTML).")],
    folder: Folder = HERE,
) -> None:
    """Writes the page of a round: who, when, how much; refusals, screen, and where its model comes from."""
    from fedsite.jobs.pages import round_page
    from fedsite.server.federation import open_federation
    from fedsite.server.rounds.reports import model_report, round_report

    federation = open_federation(folder)
    report = round_report(federation, number)
    round_page.write(output, report, model_report(federation, report["model_sha256"])["line"])
    Output.of(context).result("written", {"report": str(output), "round": number}, f"The page is {output}.")


@app.command()
def close(
    context: typer.Context,
    number: Number,
    folder: Folder = HERE,
    without: Without = None,
) -> None:
    """Closes a round now, as its deadline would: aggregated with a quorum, failed without."""
    from fedsite.server.federation import open_federation
    from fedsite.server.rounds import rounds

    federation = open_federation(folder)
    rounds.close_now(federation, number, without or [])
    _show_now(context, "closed", federation, number)


@app.command()
def release(
    context: typer.Context,
    number: Number,
    folder: Folder = HERE,
    without: Without = None,
) -> None:
    """Goes on with a round that its screen holds: with all updates, or without those of some sites."""
    from fedsite.server.federation import open_federation
    from fedsite.server.rounds import rounds

    federation = open_federation(folder)
    rounds.release(federation, number, without or [])
    _show_now(context, "released", federation, number)


@app.command()
def abort(
    context: typer.Context,
    number: Number,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Why: it stands in the round's report, where sites' people may read it.")
    ],
    folder: Folder = HERE,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; needed where there is no terminal.")] = False,
) -> None:
    """Ends a round without a model, and pauses its series. What sites have spent of their privacy stays spent."""
    from fedsite.server.federation import open_federation
    from fedsite.server.rounds import rounds
    from fedsite.server.rounds.reports import round_report

    out, federation = Output.of(context), open_federation(folder)
    reason = _one_line(reason)
    before = round_report(federation, number)
    here = [one["site"] for one in (*before["took_part"], *before["left_out"])]
    others = before["asked"].keys() - set(here)
    spent = (
        f"Updates of {', '.join(here) or 'no site'} are here, and {len(others)} more sites have had the round: what"
        " privacy they have spent on it stays spent."
    )
    out.warn(spent)
    if not yes:
        confirm(f"End round {number} without a model?")
    rounds.abort(federation, number, reason)
    _show_now(context, "aborted", federation, number, spent=spent)


@app.command()
def pause(
    context: typer.Context,
    folder: Folder = HERE,
    after_this_round: Annotated[
        bool, typer.Option("--after-this-round", help="Give the open round to further sites until it ends.")
    ] = False,
) -> None:
    """Opens no further round until `resume`; the open one ends as ever."""
    from fedsite.server.federation import open_federation
    from fedsite.server.rounds import series

    row = series.pause(open_federation(folder), after_this_round=after_this_round)
    data = {"state": row.state, "reason": row.reason, "withheld": row.withheld}
    still = "goes on" if after_this_round else "goes on for those sites alone that have had it"
    Output.of(context).result("paused", data, f"The series is paused; its open round {still}.\n{GOES_ON}")


@app.command()
def resume(context: typer.Context, folder: Folder = HERE) -> None:
    """Lets a paused series go on from its last model: after a pause, an aborted round, or one that has failed."""
    from fedsite.server.federation import open_federation
    from fedsite.server.rounds import series
    from fedsite.server.rounds.reports import round_report

    federation = open_federation(folder)
    row = series.resume(federation)
    report = round_report(federation, row.number)
    text = f"The series runs: round {row.number}, {report['place_in_series']} of {report['rounds_in_series']}."
    Output.of(context).result("resumed", report, text)


def _show_now(context: typer.Context, outcome: str, federation: "Federation", number: int, **more: str) -> None:
    """The result of a command that has changed a round: how it stands now."""
    from fedsite.server.rounds.reports import round_report

    report = round_report(federation, number)
    Output.of(context).result(outcome, report | more, _round_text(report))


def _one_line(reason: str) -> str:
    """A reason that fits into a report and a log."""
    if not (reason.strip() and reason.isprintable() and len(reason) <= LONGEST_REASON):
        raise UsageError(f"A reason is one line of 1 to {LONGEST_REASON} characters.")
    return reason.strip()


def _round_text(report: dict[str, Any]) -> str:
    facts = ("reason", "opened", "expires", "closed", "model_sha256", "result_sha256")
    found = {name: str(report[name]) for name in facts if report[name]}
    if step := report["step"]:
        found["step"] = f"norm {step['norm']:.4g} over {step['values']} values; {step['judged']}"
    for name in SHOWN:
        found[name] = ", ".join(map(_with_reason, report[name])) or "-"
    lines = [f"  {name.replace('_', ' '):14} {value}" for name, value in found.items()]
    lines += _screen_lines(report["round"], report["screen"]) if report["screen"] else []
    title = f"Round {report['round']} of plan {report['plan']}: {report['status']}"
    return "\n".join([title, *lines, *_series_lines(report)])


def _series_lines(report: dict[str, Any]) -> list[str]:
    """Why a round's series does not go on by itself; nothing while it does."""
    series = report["series"]
    if series["state"] == "running":
        return []
    ended = [f"The series of plan {report['plan']} is {series['state']} since {series['since']}: {series['reason']}."]
    return ended + ([GOES_ON] if series["state"] == "paused" else [])


def _screen_lines(number: int, screen: dict[str, Any]) -> list[str]:
    """What a round's screen has measured of each update, which of them stand out and why, what becomes of these."""
    judged = {"informative": "judged"}
    cosines, others = (judged.get(screen[name], screen[name]) for name in ("cosine", "others"))
    lines = [f"  {'screen':14} {screen['rule']}; norms and outliers {others}; cosines {cosines}"]
    for site, one in screen["updates"].items():
        cosine = "-" if one["cosine"] is None else f"{one['cosine']:.3f}"
        reasons = "; ".join(screen["findings"].get(site, []))
        measured = f"norm {one['norm']:.4g}, cosine {cosine}, outliers {one['outliers']:.1%}"
        lines.append(f"    {site:12} {measured}{f'  conspicuous: {reasons}' if reasons else ''}")
    if screen["decision"]:
        lines.append(f"  {'decision':14} {screen['decision']}")
    elif screen["held_until"]:
        lines.append(f"  {'held until':14} {screen['held_until']}, then without what is conspicuous")
        lines.append(f"  {'to decide':14} fedsite server round release {number} [--without SITE]...")
    return lines


def _with_reason(entry: dict[str, Any]) -> str:
    reasons = [entry.get("reason", ""), f"revoked since {entry['revoked']}" if entry.get("revoked") else ""]
    said = "; ".join(filter(None, reasons))
    return f"{entry['site']} ({said})" if said else str(entry["site"])
