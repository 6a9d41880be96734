"""`fedsite server site`: who takes part."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedsite.cli.commands import Commands
from fedsite.cli.federation import HERE, Folder, draw
from fedsite.cli.output import Output

if TYPE_CHECKING:
    from rich.console import Console

    from fedsite.server.members.enrolment import SiteStanding

app = Commands("The federation's sites.")

Name = Annotated[str, typer.Argument(metavar="SITE", help="The site's name.")]
COLUMNS = ["site", "status", "last_seen", "certificate_days", "contributions", "refusals", "rejected"]


@app.command("list")
def list_sites(context: typer.Context, folder: Folder = HERE) -> None:
    """Lists the sites: last seen, days of the certificate, contributions, refusals; keys that await approval."""
    from fedsite.server.federation import open_federation
    from fedsite.server.members.enrolment import standings

    federation = open_federation(folder)
    found = standings(federation)
    now = federation.clock()
    sites = [
        {
            "site": one.site,
            "status": one.status,
            "certificate_expires": one.certificate_expires and one.certificate_expires.isoformat(),
            "certificate_days": one.certificate_expires and (one.certificate_expires - now).days,
            "last_seen": one.seen and one.seen.isoformat(),
            "contributions": one.contributions,
            "refusals": one.refusals,
            "rejected": one.rejected,
            "pending": [{"key_sha256": key.sha256, "since": key.since.isoformat()} for key in one.pending],
        }
        for one in found
    ]
    Output.of(context).result("listed", {"sites": sites}, lambda console: _draw(console, sites, found))


@app.command()
def approve(
    context: typer.Context,
    site: Name,
    folder: Folder = HERE,
    key: Annotated[
        str, typer.Option(metavar="HEX", help="How the key's SHA-256 begins; needed where several ask.")
    ] = "",
) -> None:
    """Says yes to the key that asks for a site's certificate; compare its SHA-256 by telephone first."""
    from fedsite.server.federation import open_federation
    from fedsite.server.members.enrolment import approve as consent

    approved = consent(open_federation(folder), site, key)
    text = f"{site} is approved with the key of SHA-256 {approved}.\nNext, at the site: the same fedsite enroll again."
    Output.of(context).result("approved", {"site": site, "key_sha256": approved}, text)


@app.command("import")
def import_certificate(
    context: typer.Context,
    site: Name,
    certificate: Annotated[
        Path, typer.Argument(metavar="CERTIFICATE", help="Its certificate, then what leads to the root (PEM).")
    ],
    folder: Folder = HERE,
) -> None:
    """Takes in a site's certificate that another authority of the same root has made (fedsite enroll --csr-only)."""
    from fedsite.server.authority.intermediate import read_chain
    from fedsite.server.federation import open_federation
    from fedsite.server.members.enrolment import register

    ends = register(open_federation(folder), site, read_chain(certificate))
    data = {"site": site, "certificate_expires": ends.isoformat()}
    text = f"{site} may show this certificate until {ends:%Y-%m-%d}.\nNext, at the site: fedsite enroll --import FILE"
    Output.of(context).result("imported", data, text)


@app.command()
def revoke(context: typer.Context, site: Name, folder: Folder = HERE) -> None:
    """Revokes a site's certificates and invitations: from its next request on, and in the middle of an upload."""
    from fedsite.server.federation import open_federation
    from fedsite.server.members.enrolment import revoke as withdraw

    count = withdraw(open_federation(folder), site)
    data = {"site": site, "certificates": count}
    Output.of(context).result("revoked", data, f"{site} is out: {count} certificates revoked.")


def _draw(console: "Console", sites: list[dict[str, Any]], found: "list[SiteStanding]") -> None:
    shown = [
        {**one, "last_seen": one["last_seen"] and f"{one['last_seen'][:16].replace('T', ' ')} UTC"} for one in sites
    ]
    draw(console, COLUMNS, shown)
    for one in found:
        for key in one.pending:
            console.print(
                f"{one.site} asks since {key.since:%Y-%m-%d %H:%M} UTC, with the key of SHA-256\n  {key.sha256}\n"
                f"If the site's operator reads you the same: fedsite server site approve {one.site}"
            )
