"""`fedsite train-round`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedsite.cli.output import Output, duration

if TYPE_CHECKING:
    from fedsite.jobs.participate import Outcome


def train_round(
    context: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Train, then show what would leave and what it would cost; send nothing.")
    ] = False,
    wait: Annotated[
        str, typer.Option(help="How long to wait for another run that holds the lock, such as 30s, 10m, 1h.")
    ] = "0s",
    devices: Annotated[
        str, typer.Option(help="GPUs to train on side by side, such as 0,1, instead of training.devices.")
    ] = "",
) -> None:
    """Takes part in one round: fetch, train, clip, add noise, charge the ledger, upload once."""
    from fedsite.jobs import participate
    from fedsite.jobs.site import open_site

    out = Output.of(context)
    with open_site(out.config_path) as site:
        if devices:
            site = site.on_devices(devices)
        outcome = participate.take_part(site, out.step, dry_run=dry_run, wait_seconds=duration(wait))
    out.result(outcome.outcome, outcome.data, _sentence(outcome))


def _sentence(outcome: "Outcome") -> str:
    data = outcome.data
    if outcome.outcome == "nothing-to-do":
        return "Nothing to do: no round is waiting for this site."
    if outcome.outcome == "previewed":
        return "\n".join(
            [
                f"Round {data['round']}, dry run: nothing was charged, nothing left.",
                f"  would leave    {len(data['tensors'])} tensors, {data['values']:,} values, {data['bytes']:,} bytes",
                f"  algorithm      {data['composition']}",
                f"  update's norm  {data['norm_before']:.4g} before clipping, {data['norm_after_clipping']:.4g} after",
                f"  noise          standard deviation {data['noise_standard_deviation']:.4g} on every value",
                f"  ledger before  {_epsilon(data['epsilon_before'])}",
                f"  ledger after   {data['guarantee_after']}",
            ]
        )
    lines = [f"Round {data['round']}: the update is at the server ({data['bytes_sent']:,} bytes), receipt verified."]
    lines.append(f"Spent so far: {data['guarantee']}.")
    if data["signal_to_noise"] is not None:
        lines.append(f"Signal to noise of this update: at most {data['signal_to_noise']:.3g}.")
    lines += _quality(data)
    return "\n".join(lines)


def _quality(data: dict[str, Any]) -> list[str]:
    """What is known at home of the models before and after training here."""
    before, after = data["evaluation"], data["evaluation_after"]
    lines = []
    if before:
        told = f"Global model before this round: Dice {_dice(before)} on {before['cases']} held-out cases"
        told += f", trained here {_dice(after)}" if after else ""
        lines.append(f"{told}; measured in {_seconds(before, after)} s, it stays at home.")
    if data["report"]:
        lines.append(f"All rounds: {data['report']}")
    return lines


def _dice(found: dict[str, Any]) -> str:
    interval = "" if found["low"] is None else f" (95%: {found['low']:.3f} to {found['high']:.3f})"
    return f"{found['mean_dice']:.3f}{interval}"


def _seconds(*found: dict[str, Any] | None) -> str:
    return f"{sum(one['seconds'] or 0 for one in found if one):.0f}"


def _epsilon(value: float | None) -> str:
    return "not private" if value is None else f"epsilon {value:,.4g}"
