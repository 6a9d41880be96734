"""`fedsite enroll`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedsite.cli.asking import somebody_is_there
from fedsite.cli.output import Output
from fedsite.errors import UsageError

if TYPE_CHECKING:
    from fedsite.jobs.identity.enroll import Enrolled
    from fedsite.jobs.site import Site
    from fedsite.site.identity import Pinned
    from fedsite.wire.enrolment import Invitation

KeyStorage = Annotated[
    Literal["auto", "credentials", "file", "keyring"],
    typer.Option(help="Where the key's passphrase is kept; auto: as before, else systemd's credentials, else a file."),
]


def enroll(
    context: typer.Context,
    invitation: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="A file with the invitation, or - for stdin; asked for unseen on a terminal."
        ),
    ] = "",
    accept_agreement: Annotated[
        str, typer.Option(help="Accept the data-use agreement in the name of this person.", metavar="NAME")
    ] = "",
    key_storage: KeyStorage = "auto",
    csr_only: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a certificate request for another authority here, and stop."),
    ] = None,
    import_path: Annotated[
        Path | None,
        typer.Option("--import", metavar="FILE", help="Take the certificate that the other authority has made (PEM)."),
    ] = None,
) -> None:
    """Makes this site's key here, gets its certificate, pins the federation. Harmless to repeat."""
    from fedsite.jobs.identity import enroll as job
    from fedsite.jobs.site import open_site

    out = Output.of(context)
    with open_site(out.config_path, out.warn) as site:
        if csr_only:
            job.request_certificate(site, _federation(site, invitation), key_storage, csr_only)
            text = f"{csr_only} is for the authority. Its answer: fedsite enroll --import FILE"
            out.result("requested", {"path": str(csr_only.absolute())}, text)
            return
        before = job.certificate_of(site)
        if import_path:
            found = job.import_certificate(site, _federation(site, invitation), import_path)
        elif invitation or job.needs_invitation(site):
            found = job.enroll(site, _invitation(invitation), key_storage)
        else:
            found = job.Enrolled(site.pinned, "", []) if accept_agreement else job.enrolled(site)
        pinned = _agreed(out, site, found, accept_agreement)
        changed = job.certificate_of(site) != before
    data = {
        "site": pinned.site,
        "federation": pinned.federation,
        "server": pinned.server,
        "agreement_sha256": pinned.agreement_sha256,
        "agreement_accepted_by": pinned.agreement_accepted_by,
        "agreement_expires": pinned.agreement_expires,
        "charged": found.charged,
    }
    out.result(
        "enrolled" if changed or accept_agreement else "nothing-to-do",
        data,
        f"This is site {pinned.site} of federation {pinned.federation}.\nNext: fedsite check",
    )


def _agreed(out: Output, site: "Site", found: "Enrolled", person: str) -> "Pinned":
    """Shows what the server has told, and records who accepts the agreement, if anybody does."""
    from fedsite.jobs.identity import enroll as job

    pinned, agreement = found.pinned, found.agreement
    if found.charged:
        out.warn(
            f"The server has had updates of {pinned.site} that this ledger did not know; they are charged now:"
            f" rounds {', '.join(str(one['round']) for one in found.charged)}. See: fedsite privacy show"
        )
    if agreement and not pinned.agreement_accepted_by:
        out.note(f"Data-use agreement of federation {pinned.federation}:\n\n{agreement}\n")
        if pinned.agreement_expires:
            out.note(f"It ends at {pinned.agreement_expires}.\n")
        if not person and somebody_is_there():
            person = typer.prompt("Who accepts it for this site? (empty: not now)", default="", err=True)
    if person:
        return job.accept_agreement(site, person)
    if agreement and not pinned.agreement_accepted_by:
        out.warn("The agreement is not accepted yet: fedsite enroll --accept-agreement NAME")
    return pinned


def _federation(site: "Site", invitation: str) -> "Invitation":
    """Whom another authority's certificate is for: once a site is enrolled, it needs no invitation to say so."""
    from fedsite.jobs.identity import enroll as job

    known = not invitation and site.files.federation.is_file()
    return job.known_federation(site) if known else _invitation(invitation)


def _invitation(given: str) -> "Invitation":
    """The invitation from its file, from stdin, or pasted unseen on a terminal. Never from the command line."""
    from fedsite.jobs.identity import enroll as job
    from fedsite.wire.enrolment import Invitation

    if given == "-":
        return Invitation.decode(sys.stdin.read())
    if given:
        return Invitation.decode(job.read_invitation(Path(given)))
    if not sys.stdin.isatty():
        raise UsageError("No invitation was given.", "Pass --invitation FILE, or --invitation - and the line on stdin.")
    return Invitation.decode(typer.prompt("Invitation", hide_input=True, err=True))
