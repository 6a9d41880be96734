"""`fedsite identity`."""

from typing import Annotated, Literal

import typer

from fedsite.cli.asking import somebody_is_there
from fedsite.cli.commands import Commands
from fedsite.cli.output import Output
from fedsite.errors import UsageError

app = Commands("Who this site is: its key and certificate.")


@app.command()
def show(context: typer.Context) -> None:
    """Shows the certificate, its days left, and what was pinned about the federation."""
    from fedsite.jobs.audit import checkpoints
    from fedsite.jobs.site import open_site
    from fedsite.site import identity

    out = Output.of(context)
    with open_site(out.config_path) as site:
        audit_key = checkpoints.public_key(site.state)
        pinned, version = site.pinned, site.files.current
        certificate = identity.certificate(version)
        authority = identity.authority_sha256(site.files)
    data = {
        "site": pinned.site,
        "federation": pinned.federation,
        "server": pinned.server,
        "subject": certificate.subject,
        "issuer": certificate.issuer,
        "serial": certificate.serial,
        "sha256": certificate.sha256,
        "not_before": certificate.not_before.isoformat(),
        "not_after": certificate.not_after.isoformat(),
        "days_left": round(certificate.days_left(), 1),
        "renewed_from": certificate.renewed_from.isoformat(),
        "imported": version.choice.imported,
        "version": version.number,
        "key_storage": version.choice.place.storage,
        "ca_sha256": authority,
        "plan_keys": list(pinned.plan_keys),
        "audit_key": audit_key,
        "agreement_sha256": pinned.agreement_sha256,
        "agreement_accepted_by": pinned.agreement_accepted_by,
        "agreement_expires": pinned.agreement_expires,
    }
    from rich.table import Table

    table = Table(box=None, show_header=False)
    table.add_column()
    table.add_column(overflow="fold")  # what is compared by telephone is shown whole
    for name, value in data.items():
        table.add_row(name.replace("_", " "), "\n".join(value) if isinstance(value, list) else str(value))
    out.result("shown", data, lambda console: console.print(table))


@app.command()
def renew(
    context: typer.Context,
    key_storage: Annotated[
        Literal["credentials", "file", "keyring"] | None,
        typer.Option(help="Keep the new key's passphrase in another place.", show_default=False),
    ] = None,
) -> None:
    """Gets a new key and certificate now; by itself that happens once two thirds of the lifetime are over."""
    from fedsite.jobs.identity import renew as job
    from fedsite.jobs.site import open_site

    out = Output.of(context)
    with open_site(out.config_path) as site:
        found = job.renew(site, key_storage)
        storage = site.files.current.choice.place.storage
    data = {"sha256": found.sha256, "not_after": found.not_after.isoformat(), "key_storage": storage}
    out.result("renewed", data, f"The certificate is new, and good for {found.days_left():.0f} days.")


@app.command()
def retire(
    context: typer.Context,
    confirm: Annotated[str, typer.Option(help="The site's name, to say that it is meant.", metavar="SITE")] = "",
) -> None:
    """Removes this machine's private key and certificate for good; ledger, audit and pseudonyms stay."""
    from fedsite.jobs.identity import retire as job
    from fedsite.jobs.site import open_site

    out = Output.of(context)
    with open_site(out.config_path) as site:
        name = site.pinned.site
        if not confirm and somebody_is_there():
            question = f"This machine will not act as {name} any more. To retire it, type its name"
            confirm = typer.prompt(question, default="", show_default=False, err=True)
        if confirm != name:
            raise UsageError("Nothing was retired.", f"To mean it: fedsite identity retire --confirm {name}")
        pinned = job.retire(site)
    text = [
        f"Site {name} is retired on this machine: its key is gone. Its ledger, audit and pseudonyms are kept.",
        f"1. Tell the coordinator of {pinned.federation}, who runs: fedsite server site revoke {name}",
        "2. Let nothing start it any more: fedsite schedule remove",
        "3. Keep the state folder: the ledger is the record of what was promised to the patients.",
        "To come back later: a new invitation, and fedsite enroll --invitation FILE. It goes on with the same ledger.",
    ]
    out.result("retired", {"site": name, "federation": pinned.federation}, "\n".join(text))
