"""`fedsite train-round`."""

import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedsite.cli.output import Output, duration

if TYPE_CHECKING:
    from fedsite.jobs.round.participate import Outcome

HISTOGRAM_COLUMNS = 30
MUCH = 0.1  # of an update to be lost
BARS, PLAIN_BARS = " ▁▂▃▄▅▆▇█", " .:-=+*#@"


def train_round(
    context: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Train, then show what would leave and what it would cost; send nothing.")
    ] = False,
    wait: Annotated[
        str,
        typer.Option(
            metavar="DURATION", help="How long to wait for another run that holds the lock, such as 30s, 10m, 1h."
        ),
    ] = "0s",
    devices: Annotated[
        str,
        typer.Option(
            metavar="NUMBERS", help="GPUs to train on side by side, such as 0,1, instead of training.devices."
        ),
    ] = "",
) -> None:
    """Takes part in one round: fetch, train, clip, add noise, charge the ledger, upload once."""
    from fedsite.jobs.unattended import watch

    out = Output.of(context)
    job = watch.rehearse if dry_run else watch.take_part
    outcome = job(out.config_path, out.step, out.warn, devices=devices, wait_seconds=duration(wait))
    out.result(outcome.outcome, outcome.data, _sentence(outcome))


def _sentence(outcome: "Outcome") -> str:
    data = outcome.data
    if outcome.outcome == "nothing-to-do":
        return "Nothing to do: no round is waiting for this site."
    if outcome.outcome == "previewed":
        return _preview(data)
    lines = [f"Round {data['round']}: the update is at the server ({data['bytes_sent']:,} bytes), receipt verified."]
    lines.append(f"Spent so far: {data['guarantee']}.")
    if data["signal_to_noise"] is not None:
        lines.append(f"Signal to noise of this update: at most {data['signal_to_noise']:.3g}.")
    lines += _quality(data)
    return "\n".join(lines)


def _preview(data: dict[str, Any]) -> str:
    """What would leave, and what it would cost."""
    from fedsite.privacy.statement import NOT_PRIVATE

    stepwise = data["mechanism"] == "dp-sgd"
    if data["noise_standard_deviation"]:
        noise = f"standard deviation {data['noise_standard_deviation']:.4g} on every value"
        noise += f"{' of each step' if stepwise else ''}, signal to noise at most {data['signal_to_noise_at_most']:.3g}"
    else:
        noise = f"none: {NOT_PRIVATE}"
    norm = f"{data['norm_after']:.4g}, made of clipped and noised steps"
    if not stepwise:
        norm = f"{data['norm_before']:.4g} before clipping, {data['norm_after']:.4g} after"
        if data["lost_on_the_grid"] > MUCH:
            norm += f"; {data['lost_on_the_grid']:.0%} of it is lost\n{' ' * 17}"
            norm += "A release has steps of clip_norm / 2^20; this clip_norm is far above the update's norm:"
            norm += f"\n{' ' * 17}tell the coordinator."
    return "\n".join(
        [
            f"Round {data['round']}, dry run: nothing was charged, nothing left.",
            f"  would leave    {len(data['tensors'])} tensors, {data['values']:,} values, {data['bytes']:,} bytes",
            f"  algorithm      {data['composition']}",
            f"  mechanism      {data['mechanism']}, clip norm {data['clip_norm']:g}",
            f"  update's norm  {norm}",
            f"  noise          {noise}",
            f"  ledger before  {data['guarantee_before']}",
            f"  ledger after   {data['guarantee_after']}",
            *_blocks(data),
        ]
    )


def _blocks(data: dict[str, Any]) -> list[str]:
    """The network's blocks, and how large their values are: each column is a power of two, the same in all rows."""
    from fedsite.jobs.pages.curves import noise_by_powers

    clipped = data["norm_before"] is not None
    noise = noise_by_powers(data["noise_standard_deviation"]) if clipped and data["noise_standard_deviation"] else {}
    spreads = [dict(enumerate(block["counts"], block["lowest"])) for block in data["blocks"]]
    highest = max((exponent for spread in (*spreads, noise) for exponent in spread), default=0)
    shown = {"values": "values", "norm_before": "norm", "norm_after": "clipped" if clipped else "norm"}
    shown |= {"noise_norm": "noise", "signal_to_noise": "ratio"}
    names = [name for name in shown if clipped or name in ("values", "norm_after")]
    lines = [_row("block", [shown[name] for name in names], "size of values, small to large")]
    for block, spread in zip(data["blocks"], spreads, strict=True):
        figures = ["" if block[name] is None else f"{block[name]:,.3g}" for name in names[1:]]
        lines.append(_row(block["name"], [f"{block['values']:,}", *figures], _strip(spread, highest)))
    return [*lines, _row("noise", [""] * len(names), _strip(noise, highest))] if noise else lines


def _row(name: str, figures: list[str], spread: str) -> str:
    values, *norms = figures
    return f"  {name:<11}{values:>11}{''.join(f'{norm:>9}' for norm in norms)}  {spread}".rstrip()


def _strip(spread: Mapping[int, float], highest: int) -> str:
    """A histogram in one line; what is smaller than its columns reach is left out."""
    bars = BARS if (sys.stdout.encoding or "").lower().startswith("utf") else PLAIN_BARS
    top = max(spread.values(), default=1)
    heights = (spread.get(exponent, 0) / top for exponent in range(highest - HISTOGRAM_COLUMNS + 1, highest + 1))
    return "".join(bars[math.ceil(height * (len(bars) - 1))] for height in heights)


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
