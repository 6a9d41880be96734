"""`fedsite server backup`, `restore`, `upgrade`: what keeps a federation's database and models for years."""

from pathlib import Path
from typing import Annotated

import typer

from fedsite.cli.federation import HERE, Folder
from fedsite.cli.output import Output

Database = Annotated[
    str,
    typer.Option(
        metavar="URL",
        help="An empty PostgreSQL database, such as postgresql://USER@HOST/DATABASE, without a password in it."
        " [default: SQLite in the folder]",
        show_default=False,
    ),
]


def backup(
    context: typer.Context,
    to: Annotated[Path, typer.Argument(metavar="TO", help="A new folder, or the one of the backup before.")],
    folder: Folder = HERE,
) -> None:
    """Backs the federation up while it runs; into the folder of the backup before goes only what is new."""
    from fedsite.server.federation import open_federation
    from fedsite.server.keeping import backups

    made = backups.backup(open_federation(folder), to)
    text = (
        f"Backed up to {to}: {made.files} files, {made.copied} of them new. Whoever reads it has the federation's keys."
    )
    Output.of(context).result("backed-up", {"folder": str(to), "files": made.files, "copied": made.copied}, text)


def restore(
    context: typer.Context,
    backup: Annotated[Path, typer.Argument(metavar="BACKUP", help="The folder of a backup.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder, or an empty one.")],
    database: Database = "",
) -> None:
    """Makes a federation from a backup: on SQLite, or on PostgreSQL, wherever it was before."""
    from fedsite.server.keeping import backups

    newest = backups.restore(backup, folder, database)
    text = (
        f"The federation is in {folder}, as it was in round {newest}. Sites that took part in a later one will"
        " refuse it (exit 76).\nNext: fedsite server run. Never run two copies of one federation."
    )
    Output.of(context).result("restored", {"folder": str(folder), "newest_round": newest}, text)


def upgrade(
    context: typer.Context,
    folder: Folder = HERE,
    dumped: Annotated[bool, typer.Option("--dumped", help="A dump of the PostgreSQL database has been made.")] = False,
) -> None:
    """Brings the database of an older fedsite up to date, after a copy. Stop fedsite server run first."""
    from fedsite.server.keeping import upgrades

    copy = upgrades.upgrade(folder, dumped=dumped)
    text = "The database is up to date." + (f" What it was before is in {copy}." if copy else "")
    Output.of(context).result("up-to-date", {"copy": copy and str(copy)}, text)
