"""`fedsite privacy attack`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsite.cli.output import Output

if TYPE_CHECKING:
    from fedsite.jobs.privacy.attack import Found


def attack(
    context: typer.Context,
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="PLAN.yaml",
            help="The plan whose mechanism is attacked; default: the newest that this site has met.",
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The model that a round begins with; default: fresh weights, which say most."
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the HTML page goes; default: below the state folder.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Which patients and patches; the noise is the system's.")
    ] = 0,
) -> None:
    """Attacks, at home, what this site would release under a plan: an audit on the own data. Nothing leaves."""
    from fedsite.jobs.privacy import attack as job
    from fedsite.jobs.site import open_site

    out = Output.of(context)
    with open_site(out.config_path) as site:
        found = job.attack_at_home(site, job.Order(plan, model, report, seed), out.step)
    out.result("attacked", job.summary(found), _text(found))


def _text(found: "Found") -> str:
    audit, inverted, who = found.audit, found.inversion, found.membership
    between = f"{inverted.interval[0]:.3f} to {inverted.interval[1]:.3f}"
    rows = {
        "Stated": f"{audit.stated}, for one round",
        "Audit": f"{audit.at_least} ({100 * audit.bound.confidence:g}% confidence)",
        "Guesses": f"{100 * audit.accuracy.right / audit.accuracy.guesses:.1f}% right (allowed:"
        f" {100 * audit.accuracy.allowed:.1f}%)",
        "Patch": f"correlation {inverted.raw:.3f} raw, {inverted.released:.3f} released (noise alone: {between})",
        "Members": f"area {who.raw.area:.3f} raw, {who.released.area:.3f} released (allowed: {who.allowed:.3f})",
    }
    lines = [f"{name:<8} {text}" for name, text in rows.items()]
    lines.append("An audit shows a lower bound and proves nothing; it sees factors of 2 to 3.")
    lines.append(f"It took {found.seconds:.0f} s and stays at home. Pictures: {found.report}")
    return "\n".join(lines)
