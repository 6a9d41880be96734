"""`fedsite server`: the coordinator's commands. Each one shares the federation's folder with the running server."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from fedsite.cli import server_authority, server_site
from fedsite.cli.federation import HERE, Folder, draw
from fedsite.cli.output import Output, duration

app = typer.Typer(help="Run a federation: its authority, its sites, its rounds.", no_args_is_help=True)
round_app = typer.Typer(help="The federation's rounds.", no_args_is_help=True)
app.add_typer(server_authority.app, name="authority")
app.add_typer(server_site.app, name="site")
app.add_typer(round_app, name="round")


@app.command()
def init(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder, or an empty one.")],
    federation: Annotated[str, typer.Option(help="The federation's name.")],
    name: Annotated[list[str], typer.Option(help="A host name or IP address of the server; may be repeated.")],
    url: Annotated[str, typer.Option(help="Where sites reach the server. [default: https://FIRST-NAME:8443]")] = "",
    agreement: Annotated[Path | None, typer.Option(help="The data-use agreement that sites accept (text).")] = None,
    agreement_until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The last day of the agreement, in UTC.")
    ] = None,
    ca_key: Annotated[
        Path | None, typer.Option(help="An intermediate's private key (PEM), to sign with instead of a new root.")
    ] = None,
    ca_chain: Annotated[
        Path | None, typer.Option(help="Its certificate and those above it, up to the root (PEM).")
    ] = None,
    approve: Annotated[
        bool, typer.Option("--approve", help="A person approves each site: see fedsite server site approve.")
    ] = False,
) -> None:
    """Makes a federation: certificate authority, server certificate, signing keys, database."""
    from fedsite.cli.server_authority import described, supplied
    from fedsite.errors import SourceMissing
    from fedsite.server import federation as federations
    from fedsite.wire.messages import utc_now

    try:
        terms = agreement.read_text(encoding="utf-8") if agreement else ""
    except (OSError, UnicodeDecodeError) as error:
        raise SourceMissing(f"The agreement {agreement} cannot be read as text.") from error
    first = f"[{name[0]}]" if ":" in name[0] else name[0]
    address = url.rstrip("/") or f"https://{first}:8443"
    end = agreement_until and agreement_until.replace(tzinfo=UTC) + timedelta(days=1)
    issuer = supplied(ca_key, ca_chain)
    federations.init(folder, federation, name, address, terms, utc_now(), end, issuer, approve)
    facts, authority = described(federations.open_federation(folder).authority)
    text = (
        f"The federation {federation} is in {folder}; sites will reach it at {address}.\n{authority}\n"
        "Next: fedsite server run, then fedsite server invite SITE."
    )
    data = {"federation": federation, "folder": str(folder), "url": address, "approval": approve}
    Output.of(context).result("created", data | facts, text)


@app.command()
def run(
    context: typer.Context,
    folder: Folder = HERE,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "0.0.0.0",  # noqa: S104 - sites call from outside
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8443,
) -> None:
    """Serves the federation until it is told to stop (SIGTERM, Ctrl-C)."""
    import logging

    from fedsite.server.federation import open_federation
    from fedsite.server.run import serve

    out = Output.of(context)
    level = logging.WARNING if out.quiet else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    federation = open_federation(folder)
    serve(federation, host, port, lambda address: out.note(f"Serving {federation.name} on {address}"))
    out.result("stopped")


@app.command()
def invite(
    context: typer.Context,
    site: Annotated[str, typer.Argument(help="The site's name: lower-case letters, digits, dots, dashes.")],
    folder: Folder = HERE,
    expires: Annotated[str, typer.Option(help="How long the invitation is good, such as 24h or 7d.")] = "24h",
    url: Annotated[str, typer.Option(help="Where this site reaches the server, if not where init said.")] = "",
    approve: Annotated[
        bool | None,
        typer.Option(
            help="Whether a person approves the site's key first. [default: as init said]", show_default=False
        ),
    ] = None,
) -> None:
    """Prints the one line that a site's operator pastes into fedsite enroll."""
    from fedsite.server.enrolment import invite as make
    from fedsite.server.federation import open_federation

    federation = open_federation(folder)
    lifetime = timedelta(seconds=duration(expires))
    approval = federation.approval if approve is None else approve
    line = make(federation, site, lifetime, url.rstrip("/") or federation.url, approval).encode()
    data = {"site": site, "invitation": line, "expires": (federation.clock() + lifetime).isoformat()}
    out = Output.of(context)
    out.result("invited", data | {"approval": approval}, line)
    out.note(f"For {site} alone, once, until {data['expires']}. Send it as you would send a password.")
    if approval:
        out.note(f"Once {site} asks with it, compare its key by telephone, then: fedsite server site approve {site}")


@round_app.command("open")
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
    from fedsite.jobs import algorithms, tasks
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


@round_app.command("list")
def list_rounds(context: typer.Context, folder: Folder = HERE) -> None:
    """Lists the rounds."""
    from fedsite.server.federation import open_federation
    from fedsite.server.reports import rounds

    found = rounds(open_federation(folder))
    columns = ["round", "plan", "status", "updates", "quorum", "opened", "expires", "reason"]
    Output.of(context).result("listed", {"rounds": found}, lambda console: draw(console, columns, found))


@round_app.command()
def show(
    context: typer.Context,
    number: Annotated[int, typer.Argument(metavar="N", help="The round's number.")],
    folder: Folder = HERE,
) -> None:
    """Shows a round: who took part, who was left out, late, refused, absent; what its screen found."""
    from fedsite.server.federation import open_federation
    from fedsite.server.reports import round_report

    report = round_report(open_federation(folder), number)
    Output.of(context).result("shown", report, _round_text(report))


@round_app.command()
def close(
    context: typer.Context,
    number: Annotated[int, typer.Argument(metavar="N", help="The round's number.")],
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


@round_app.command()
def release(
    context: typer.Context,
    number: Annotated[int, typer.Argument(metavar="N", help="The round's number.")],
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
