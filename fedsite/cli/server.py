"""`fedsite server`: the coordinator's commands. Each one shares the federation's folder with the running server."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import typer

from fedsite.cli import server_authority, server_round, server_site, server_storage
from fedsite.cli.commands import Commands
from fedsite.cli.federation import HERE, Folder
from fedsite.cli.output import Output, duration
from fedsite.cli.server_storage import Database

LogFormat = Literal["text", "json"]

app = Commands("Run a federation: its authority, its sites, its rounds.")
app.add_typer(server_authority.app, name="authority")
app.add_typer(server_site.app, name="site")
app.add_typer(server_round.app, name="round")


@app.command()
def init(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder, or an empty one.")],
    federation: Annotated[str, typer.Option(metavar="NAME", help="The federation's name.")],
    name: Annotated[
        list[str], typer.Option(metavar="HOST", help="A host name or IP address of the server; may be repeated.")
    ],
    url: Annotated[
        str, typer.Option(metavar="URL", help="Where sites reach the server. [default: https://FIRST-NAME:8443]")
    ] = "",
    agreement: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The data-use agreement that sites accept (text).")
    ] = None,
    agreement_until: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], metavar="YYYY-MM-DD", help="The last day of the agreement, in UTC."),
    ] = None,
    ca_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="An intermediate's private key (PEM), to sign with instead of a new root."),
    ] = None,
    ca_chain: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its certificate and those above it, up to the root (PEM).")
    ] = None,
    approve: Annotated[
        bool, typer.Option("--approve", help="A person approves each site: see fedsite server site approve.")
    ] = False,
    database: Database = "",
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
    federations.init(folder, federation, name, address, terms, utc_now(), end, issuer, approve, database)
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
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="The address to listen on.")] = "0.0.0.0",  # noqa: S104 - sites are other machines
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="PORT", help="The port; 0 takes a free one.")] = 8443,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, metavar="PORT", help="Prometheus metrics, on 127.0.0.1 alone.")
    ] = None,
    log_format: Annotated[LogFormat, typer.Option(help="The log as text, or as one JSON object a line.")] = "text",
) -> None:
    """Serves the federation until it is told to stop (SIGTERM, Ctrl-C)."""
    import logging

    from fedsite.server.federation import open_federation
    from fedsite.server.web.logs import JsonLines
    from fedsite.server.web.run import serve

    out = Output.of(context)
    level = logging.WARNING if out.quiet else logging.INFO
    handler = logging.StreamHandler()
    as_json = log_format == "json"
    handler.setFormatter(JsonLines() if as_json else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    federation = open_federation(folder)

    def listening(address: str) -> None:
        if as_json:
            logging.getLogger("fedsite.server").info("serving %s on %s", federation.name, address)
        else:
            out.note(f"Serving {federation.name} on {address}")

    serve(federation, host, port, listening, metrics_port)
    out.result("stopped")


@app.command()
def invite(
    context: typer.Context,
    site: Annotated[
        str, typer.Argument(metavar="SITE", help="The site's name: lower-case letters, digits, dots, dashes.")
    ],
    folder: Folder = HERE,
    expires: Annotated[
        str, typer.Option(metavar="DURATION", help="How long the invitation is good, such as 24h or 7d.")
    ] = "24h",
    url: Annotated[
        str, typer.Option(metavar="URL", help="Where this site reaches the server, if not where init said.")
    ] = "",
    approve: Annotated[
        bool | None,
        typer.Option(
            help="Whether a person approves the site's key first. [default: as init said]", show_default=False
        ),
    ] = None,
) -> None:
    """Prints the one line that a site's operator pastes into fedsite enroll."""
    from fedsite.server.federation import open_federation
    from fedsite.server.members.enrolment import invite as make

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


for command in (server_storage.backup, server_storage.restore, server_storage.upgrade):
    app.command()(command)
