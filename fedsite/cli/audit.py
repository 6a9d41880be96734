"""`fedsite audit`."""

from pathlib import Path
from typing import Annotated

import typer

from fedsite.cli.output import Output

app = typer.Typer(help="The hash-chained record of everything that left or was refused.")


@app.command()
def show(
    context: typer.Context, last: Annotated[int, typer.Option(min=1, help="How many records, newest last.")] = 50
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
        Path | None, typer.Argument(help="A ledger that fedsite privacy export has written, instead of this site's.")
    ] = None,
) -> None:
    """Recomputes both chains; names the first record that is altered, missing or out of order (exit 74)."""
    from fedsite.jobs.site import open_state

    out = Output.of(context)
    if file is not None:
        _verify_file(out, file)
        return
    with open_state(out.config_path) as state:
        lengths = state.verify()
    out.result(
        "whole",
        {"records": lengths},
        f"The ledger ({lengths['ledger']} records) and the audit ({lengths['audit']} records) are whole.",
    )


def _verify_file(out: Output, file: Path) -> None:
    """Chain, signatures and sums of an exported ledger; no site needs to be here."""
    from fedsite.jobs import ledger_file

    data = ledger_file.verify(file)
    out.result(
        "whole",
        data,
        f"The exported ledger is whole: {data['records']} records, {data['charges']} charges that add up to"
        f" {data['guarantee']}; {data['receipts']} signed receipts.\nHead    {data['head']}",
    )


def _line(record: dict[str, object]) -> str:
    facts = {key: value for key, value in record.items() if key not in ("sequence", "time", "event", "hash")}
    details = "  ".join(f"{key}={value}" for key, value in facts.items())
    return f"{record['sequence']:>6}  {record['time']}  {record['event']}  {details}"
