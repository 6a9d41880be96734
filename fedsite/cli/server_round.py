"""`fedsite server round`: rounds are opened, looked at, and closed or released by hand."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fedsite.cli.federation import HERE, Folder, draw
from fedsite.cli.output import Output

app = typer.Typer(help="The federation's rounds.", no_args_is_help=True)

Number = Annotated[int, typer.Argument(metavar="N", help="The round's number.")]


@app.command("open")
def open_round(
    context: typer.Context,
    plan: Annotated[Path, typer.Argument(help="The plan (YAML, see sample_configs/plan.yaml).")],
    model: Annotated[Path, typer.Option(help="The model to start from (see fedsite model init).")],
    folder: Folder = HERE,
    rounds: Annotated[int, typer.Option(min=1, max=100_000, help="How many rounds run one after the other.")] = 1,
    task: Annotated[Path | None, typer.Option(help="The file of the plan's task, where it is sites' own.")] = None,
) -> None:
    """Signs a plan and opens the first of its rounds; the others follow by themselves.

    One series of rounds runs at a time: a second is refused until the first has ended.
    """
    from fedsite.jobs import tasks
    from fedsite.jobs.plan import algorithms
    from fedsite.server import screen
    from fedsite.server.federation import open_federation
    from fedsite.server.reports import round_report
    from fedsite.server.rounds import open_series
    from fedsite.wire.payload import layout_of
    from fedsite.wire.plans import read_draft

    federation = open_federation(folder)
    draft = tasks.described_by(read_draft(plan), task)
    algorithms.check(draft)
    row = open_series(federation, draft, model, rounds)
    values = layout_of(model).values
    said = {"composition": algorithms.composition(draft, values), "screening": screen.outlook(draft, values)}
    lines = [f"Round {row.number} of {rounds} is open until {row.expires}.", *filter(None, said.values())]
    report = round_report(federation, row.number)
    Output.of(context).result("opened", report | said, "\n  ".join(lines))


@app.command("list")
def list_rounds(context: typer.Context, folder: Folder = HERE) -> None:
    """Lists the rounds."""
    from fedsite.server.federation import open_federation
    from fedsite.server.reports import rounds

    found = rounds(open_federation(folder))
    columns = ["round", "plan", "status", "updates", "quorum", "opened", "expires", "reason"]
    Output.of(context).result("listed", {"rounds": found}, lambda console: draw(console, columns, found))


@app.command()
def show(
    context: typer.Context,
    number: Number,
    folder: Folder = HERE,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the round until it has ended.")] = False,
) -> None:
    """Shows a round: who took part, who was left out, late, refused, absent; what its screen found.

    With --watch it is drawn anew as it goes on, and shown once more at its end; where stderr is no terminal, what
    changes is told line by line.
    """
    from fedsite.cli.watching import follow
    from fedsite.server.federation import open_federation
    from fedsite.server.reports import round_report

    out, federation = Output.of(context), open_federation(folder)
    report = follow(out, federation, number, _round_text) if watch else round_report(federation, number)
    out.result("shown", report, _round_text(report))


@app.command("report")
def write_report(
    context: typer.Context,
    number: Number,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write the page (HTML).")],
    folder: Folder = HERE,
) -> None:
    """Writes the page of a round: who, when, how much; refusals, screen, and where its model comes from."""
    from fedsite.jobs.pages import round_page
    from fedsite.server.federation import open_federation
    from fedsite.server.reports import model_report, round_report

    federation = open_federation(folder)
    report = round_report(federation, number)
    round_page.write(output, report, model_report(federation, report["model_sha256"])["line"])
    Output.of(context).result("written", {"report": str(output), "round": number}, f"The page is {output}.")


@app.command()
def close(
    context: typer.Context,
    number: Number,
    folder: Folder = HERE,
) -> None:
    """Closes a round now, as its deadline would: aggregated with a quorum, failed without."""
    from fedsite.server.federation import open_federation
    from fedsite.server.reports import round_report
    from fedsite.server.rounds import close_now

    federation = open_federation(folder)
    close_now(federation, number)
    report = round_report(federation, number)
    Output.of(context).result("closed", report, _round_text(report))


@app.command()
def release(
    context: typer.Context,
    number: Number,
    folder: Folder = HERE,
    without: Annotated[list[str] | None, typer.Option(metavar="SITE", help="Leave this site's update out.")] = None,
) -> None:
    """Goes on with a round that its screen holds: with all updates, or without those of some sites."""
    from fedsite.server import rounds
    from fedsite.server.federation import open_federation
    from fedsite.server.reports import round_report

    federation = open_federation(folder)
    rounds.release(federation, number, without or [])
    report = round_report(federation, number)
    Output.of(context).result("released", report, _round_text(report))


def _round_text(report: dict[str, Any]) -> str:
    facts = ("reason", "opened", "expires", "closed", "model_sha256", "result_sha256")
    found = {name: str(report[name]) for name in facts if report[name]}
    for name in ("took_part", "left_out", "rejected", "refused", "late", "absent"):
        sites = [one if isinstance(one, str) else _with_reason(one) for one in report[name]]
        found[name] = ", ".join(sites) or "-"
    lines = [f"  {name.replace('_', ' '):14} {value}" for name, value in found.items()]
    lines += _screen_lines(report["round"], report["screen"]) if report["screen"] else []
    return "\n".join([f"Round {report['round']} of plan {report['plan']}: {report['status']}", *lines])


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
    return f"{entry['site']} ({entry['reason']})" if "reason" in entry else str(entry["site"])
