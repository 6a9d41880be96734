"""`fedsite identity`."""

import typer

from fedsite.cli.output import Output

app = typer.Typer(help="Who this site is: its certificate and how long it lasts.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Who this site is: its certificate and how long it lasts."""


@app.command()
def show(context: typer.Context) -> None:
    """Shows the certificate, its days left, and what was pinned about the federation."""
    from fedsite.jobs.site import open_site
    from fedsite.site import identity

    out = Output.of(context)
    with open_site(out.config_path) as site:
        pinned = site.pinned
        certificate = identity.certificate(site.files)
        authority = identity.authority_sha256(site.files)
    data = {
        "site": pinned.site,
        "federation": pinned.federation,
        "server": pinned.server,
        "subject": certificate.subject,
        "issuer": certificate.issuer,
        "serial": certificate.serial,
        "not_before": certificate.not_before.isoformat(),
        "not_after": certificate.not_after.isoformat(),
        "days_left": round(certificate.days_left(), 1),
        "ca_sha256": authority,
        "plan_keys": list(pinned.plan_keys),
        "agreement_sha256": pinned.agreement_sha256,
        "agreement_accepted_by": pinned.agreement_accepted_by,
    }
    from rich.table import Table

    table = Table(box=None, show_header=False)
    for name, value in data.items():
        table.add_row(name.replace("_", " "), str(value))
    out.result("shown", data, lambda console: console.print(table))
