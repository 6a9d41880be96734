"""`fedsite privacy recover` and `fedsite privacy export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedsite.cli.output import Output

if TYPE_CHECKING:
    from fedsite.jobs.recovery.recover import Recovery

ENROL = "Nobody is enrolled here: enrol with a new invitation, which charges what the server has had of this site."
WITHDRAWN = "Who was withdrawn from this site's data is not known any more: withdraw them again (fedsite data exclude)."


def recover(context: typer.Context) -> None:
    """Charges what the server has had of this site and its ledger does not know; makes damaged records anew."""
    from fedsite.jobs.recovery import recover as job
    from fedsite.jobs.site import open_ledger
    from fedsite.privacy.statement import guarantee

    out = Output.of(context)
    with out.step("Asking the server"):
        found = job.recover(out.config_path, out.warn)
    with open_ledger(out.config_path) as (ledger, _):
        spent, terms = ledger.spent(), ledger.terms
    if not found.asked:
        out.warn(ENROL)
    if not found.withdrawals_known:
        out.warn(WITHDRAWN)
    data = {
        "charged": list(found.charged),
        "damage": found.damage,
        "kept": found.kept and str(found.kept),
        "withdrawals_known": found.withdrawals_known,
        "enrolled": found.asked,
        "epsilon": spent.epsilon,
        "delta": terms.delta,
        "guarantee": guarantee(spent.epsilon, terms.delta),
    }
    out.result("recovered" if found.charged or found.damage else "nothing-to-do", data, _recovered(found, data))


def export(
    context: typer.Context,
    out_path: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where to write it.")] = Path(
        "ledger.json"
    ),
) -> None:
    """Writes the ledger as a file for an auditor, with the signed plans and receipts that it takes to verify it."""
    from fedsite.jobs.audit import ledger_file

    out = Output.of(context)
    data = ledger_file.export(out.config_path, out_path.absolute())
    text = "\n".join(
        [
            f"{out_path}: {data['records']} records, {data['charges']} charges, {data['receipts']} signed receipts.",
            f"Spent   {data['guarantee']}",
            f"Head    {data['head']}",
            f"The auditor verifies it anywhere: fedsite audit verify {out_path}",
        ]
    )
    out.result("exported", {"path": str(out_path.absolute()), **data}, text)


def _recovered(found: "Recovery", data: dict[str, Any]) -> str:
    lines = [f"The records were damaged: {found.damage}"] if found.damage else []
    if found.kept:
        lines.append(f"They were made anew. The old ones are kept for the auditor: {found.kept}")
    lines += [_charge(one) for one in found.charged]
    if not lines:
        lines.append("Nothing to do: the server has had nothing of this site that its ledger does not know.")
    return "\n".join([*lines, f"Spent   {data['guarantee']}"])


def _charge(one: dict[str, Any]) -> str:
    told = "with the server's receipt" if one["receipt"] else "without a receipt"
    if one["reserved_before"]:
        price = "its reservation here had paid for it"
    elif one["priced"]:
        price = f"charged as {one['mechanism']}"
    else:
        price = "nobody can prove its price: all that the budget had left is taken"
    return f"Round {one['round']}, {told}: {price}."
