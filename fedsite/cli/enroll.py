"""`fedsite enroll`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedsite.cli.output import Output
from fedsite.errors import UsageError


def enroll(
    context: typer.Context,
    invitation: Annotated[
        str, typer.Option(help="A file with the invitation, or - for stdin; asked for unseen on a terminal.")
    ] = "",
    accept_agreement: Annotated[
        str, typer.Option(help="Accept the data-use agreement in the name of this person.", metavar="NAME")
    ] = "",
) -> None:
    """Makes this site's key here, gets its certificate, pins the federation. Harmless to repeat."""
    from fedsite.jobs import enroll as job
    from fedsite.jobs.site import open_site
    from fedsite.wire.enrolment import Invitation

    out = Output.of(context)
    with open_site(out.config_path) as site:
        before = job.certificate_of(site)
        if invitation or not before:
            found = job.enroll(site, Invitation.decode(_line(invitation)))
        else:
            found = job.Enrolled(site.pinned, "", [])
        pinned, agreement = found.pinned, found.agreement
        if found.charged:
            out.warn(
                f"The server has had updates of {pinned.site} that this ledger did not know; they are charged now:"
                f" rounds {', '.join(str(one['round']) for one in found.charged)}. See: fedsite privacy show"
            )
        if agreement and not pinned.agreement_accepted_by:
            out.note(f"Data-use agreement of federation {pinned.federation}:\n\n{agreement}\n")
            if not accept_agreement and sys.stdin.isatty() and sys.stderr.isatty():
                accept_agreement = typer.prompt("Who accepts it for this site? (empty: not now)", default="", err=True)
        if accept_agreement:
            pinned = job.accept_agreement(site, accept_agreement)
        elif agreement and not pinned.agreement_accepted_by:
            out.warn("The agreement is not accepted yet: fedsite enroll --accept-agreement NAME")
        changed = job.certificate_of(site) != before
    data = {
        "site": pinned.site,
        "federation": pinned.federation,
        "server": pinned.server,
        "agreement_sha256": pinned.agreement_sha256,
        "agreement_accepted_by": pinned.agreement_accepted_by,
        "charged": found.charged,
    }
    out.result(
        "enrolled" if changed or accept_agreement else "nothing-to-do",
        data,
        f"This is site {pinned.site} of federation {pinned.federation}.\nNext: fedsite check",
    )


def _line(invitation: str) -> str:
    """The invitation from its file, from stdin, or pasted unseen on a terminal. Never from the command line."""
    from fedsite.jobs.enroll import read_invitation

    if invitation == "-":
        return sys.stdin.read()
    if invitation:
        return read_invitation(Path(invitation))
    if not sys.stdin.isatty():
        raise UsageError("No invitation was given.", "Pass --invitation FILE, or --invitation - and the line on stdin.")
    line: str = typer.prompt("Invitation", hide_input=True, err=True)
    return line
