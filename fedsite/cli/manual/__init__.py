"""The manual: of each command what --help says beyond its sentence and its options. Read only when it is asked for."""

from typing import TYPE_CHECKING

from fedsite.cli.manual import coordinator, records, site
from fedsite.cli.manual.page import CODES, Page

if TYPE_CHECKING:  # as in `fedsite.cli.commands`
    from typer._click.formatting import HelpFormatter

PAGES: dict[str, Page] = site.PAGES | records.PAGES | coordinator.PAGES
"""By the command's full name, without `fedsite`."""


def page(command_path: str) -> Page:
    """The page of a command, such as `fedsite privacy show`."""
    return PAGES[command_path.removeprefix("fedsite ")]


def write(shown: Page, formatter: "HelpFormatter") -> None:
    """What follows the options."""
    with formatter.section("Examples"):
        for line, meaning in shown.examples.items():
            for part in line.splitlines():
                formatter.write(f"{'':{formatter.current_indent}}{part}\n")
            if meaning:
                with formatter.indentation(), formatter.indentation():
                    formatter.write_text(meaning)
    for title, text in (("Reads", shown.reads), ("Writes", shown.writes), ("Network", shown.network)):
        if text:
            with formatter.section(title):
                formatter.write_text(text)
    with formatter.section("Exit codes"):
        formatter.write_dl([(str(code), text or CODES[code]) for code, text in sorted(shown.exits.items())])
        formatter.write_text("1, 2, 130, 143: as of every command, see fedsite --help.")
    if shown.see:
        with formatter.section("See also"):
            formatter.write_text(", ".join(f"fedsite {name}" for name in shown.see))


def write_root(formatter: "HelpFormatter") -> None:
    """What follows the commands in `fedsite --help`."""
    for title, rows in (("Exit codes", {str(code): text for code, text in CODES.items()}), ("Files", site.FILES)):
        with formatter.section(title):
            formatter.write_dl(list(rows.items()))
    with formatter.section("Environment"):
        formatter.write_dl(list(site.ENVIRONMENT.items()))
    with formatter.section("The first round"):
        for line in site.FIRST_ROUND:
            formatter.write(f"{'':{formatter.current_indent}}{line}\n")
