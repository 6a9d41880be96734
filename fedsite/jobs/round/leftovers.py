"""What earlier runs have left behind: rounds that the server has gone past, and files that nobody goes on with."""

from collections.abc import Callable
from pathlib import Path

from fedsite.files import remove
from fedsite.jobs.models import kept
from fedsite.jobs.round.state_machine import FINAL, PENDING, Round, payload_of

LATE_KEPT = 1
"""Of so many rounds that ended before an update arrived, the newest, it stays here, in case they are opened again."""


def clear_overtaken(here: Round) -> None:
    """Closes rounds that ended while this site was still training: their weights must not lie about.

    Models stay while their round does. Of what is sealed, late and unfinished rounds' stays, and nothing else.
    """
    site, federation = here.site, here.offer.plan.federation
    for record in site.state.rounds(federation):
        if record.round != here.number and record.state not in (*FINAL, *PENDING):
            site.state.put_round(record.federation, record.round, "abandoned", record.body)
            site.warn(f"Round {record.round} ended while this site was at work ({record.state}); nothing was sent.")
    records = site.state.rounds(federation)
    late = [one.round for one in records if one.state == "late"]
    unfinished = frozenset([*late[-LATE_KEPT:], *(one.round for one in records if one.state not in FINAL)])
    kept.tidy(site.state, federation, unfinished)
    models = (here.model, kept.server_control(site.state, here.offer.ticket))
    sealed = {payload_of(site, number) for number in unfinished}
    _keep(here.checkpoint.parent, lambda file: file.name.startswith(f"round-{here.number}."))
    _keep(here.model.parent, lambda file: file.with_suffix(here.model.suffix) in models)  # half of one, too
    _keep(here.payload.parent, lambda file: file in sealed)


def _keep(folder: Path, is_needed: Callable[[Path], bool]) -> None:
    """Leaves nothing else in a folder. Another command may be fetching a model, or renaming one, at that moment."""
    for file in folder.iterdir():
        if not is_needed(file):
            remove(file)
