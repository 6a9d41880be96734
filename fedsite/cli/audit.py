"""`fedsite audit`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fedsite.cli.commands import Commands
from fedsite.cli.output import Output

app = Commands("The hash-chained record of everything that left or was refused.")

KEY = "The audit key that the site has told (64 hexadecimal digits; fedsite identity show)."
SINCE = "An earlier export of the same site: what it knew must still be there."


@app.command()
def show(
    context: typer.Context,
    last: Annotated[int, typer.Option(min=1, metavar="N", help="How many records, newest last.")] = 50,
) -> None:
    """Shows the newest records."""
    from fedsite.jobs.site import open_state

    out = Output.of(context)
    with open_state(out.config_path) as state:
        newest = state.last("audit")
        after = max(0, (newest.sequence if newest else 0) - last)
        records = [
            {"sequence": record.sequence, "time": record.time, **record.body, "hash": record.hash}
            for record in state.records("audit", after)
        ]
    text = "\n".join(_line(record) for record in records)
    out.result("shown", {"records": records}, text)


@app.command()
def verify(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="What fedsite audit export or fedsite privacy export has written, instead of this site's.",
        ),
    ] = None,
    key: Annotated[str, typer.Option(metavar="HEX", help=KEY)] = "",
    since: Annotated[Path | None, typer.Option(metavar="FILE", help=SINCE)] = None,
    server: Annotated[bool, typer.Option("--server", help="Compares receipts with the server, too.")] = False,
) -> None:
    """Recomputes both chains; names the first record that is altered, missing or out of order (exit 74)."""
    from fedsite.jobs.audit import verify

    out = Output.of(context)
    if file is None:
        data = verify.verify_own(out.config_path, key=key, since=since, server=server)
    else:
        data = verify.verify_file(file, key=key, since=since, server=server)
    out.result("whole", data, _whole(data))
    if file is not None and "key" in data and not key:
        out.note("Whose key that is, only the site can say, by another way than this file: --key KEY")


@app.command()
def export(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Where to write the records, as JSON Lines.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where to write the page for an ethics board: what left, when, at what cost."
        ),
    ] = None,
) -> None:
    """Writes the records with a signed checkpoint, which fedsite audit verify takes anywhere, or a page about them."""
    from fedsite.errors import UsageError
    from fedsite.jobs.audit import audit_file, ethics_report

    out = Output.of(context)
    if file is None and report is None:
        raise UsageError("There is nothing to write.", "Name a FILE for the records, or --report FILE for the page.")
    data: dict[str, Any] = {}
    lines = []
    if file is not None:
        data |= {"path": str(file.absolute()), **audit_file.export(out.config_path, file.absolute())}
        lines += [f"{file}:", _whole(data), f"Anyone verifies it: fedsite audit verify {file} --key {data['key']}"]
    if report is not None:
        ethics_report.write(out.config_path, report.absolute())
        data["report"] = str(report.absolute())
        lines.append(f"The page: {report}")
    out.result("exported", data, "\n".join(lines))


def _whole(data: dict[str, Any]) -> str:
    """What was found whole, for people."""
    records = data["records"]
    if "charges" in data:
        return (
            f"The exported ledger is whole: {records} records, {data['charges']} charges that add up to"
            f" {data['guarantee']}; {data['receipts']} signed receipts.\nHead    {data['head']}"
        )
    lines = [f"The ledger ({records['ledger']} records) and the audit ({records['audit']} records) are whole."]
    if "key" in data:
        lines += [f"Site    {data['site'] or 'not enrolled'}, exported {data['exported']}", f"Signed  {data['key']}"]
    if "receipts" in data:
        lines.append(f"The server knows all {data['receipts']} receipts that this site holds.")
    return "\n".join(lines)


def _line(record: dict[str, object]) -> str:
    left_out = ("sequence", "time", "event", "hash", "policy")
    facts = {key: value for key, value in record.items() if key not in left_out}
    details = "  ".join(f"{key}={value}" for key, value in facts.items())
    return f"{record['sequence']:>6}  {record['time']}  {record['event']}  {details}"
