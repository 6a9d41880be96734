"""`fedsite audit tickets`."""

from pathlib import Path
from typing import Annotated

import typer

from fedsite.cli.output import Output


def tickets(
    context: typer.Context,
    other: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="What another site has written with --out, to compare with.")
    ] = None,
    destination: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write what this site was shown, for another site to compare with."),
    ] = None,
) -> None:
    """Compares what the server has shown to this site and to another one; tells two truths for one round (exit 76)."""
    from fedsite.errors import UsageError
    from fedsite.jobs.audit import tickets as job
    from fedsite.jobs.site import open_site

    if (other is None) == (destination is None):
        raise UsageError("Name either the other site's file, or with --out one to write.")
    out = Output.of(context)
    with open_site(out.config_path) as site:
        if destination is not None:
            count = job.write(site, destination)
            text = f"{destination} holds {count} tickets. The other site runs: fedsite audit tickets FILE"
            out.result("written", {"file": str(destination), "tickets": count}, text)
            return
        assert other is not None
        found = job.compare(site, other)
    data = {"other_site": found.other_site, "rounds": list(found.rounds)}
    if not found.rounds:
        out.result("nothing-to-do", data, f"This site and {found.other_site} have met no round in common yet.")
        return
    text = f"This site and {found.other_site} were shown the same tickets, up to round {found.rounds[-1]}."
    out.result("same", data, text)
