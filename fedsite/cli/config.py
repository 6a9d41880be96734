"""`fedsite config`."""

from typing import Annotated

import typer

from fedsite.cli.commands import Commands
from fedsite.cli.output import Output
from fedsite.errors import UsageError

app = Commands("The configuration: what it says, whether it is valid, what a key means.")


@app.command()
def show(context: typer.Context) -> None:
    """Shows the configuration in force, defaults and overrides included."""
    from fedsite.site import config

    out = Output.of(context)
    path = config.find(out.config_path)
    settings = config.load(out.config_path).model_dump(mode="json")
    out.result("shown", {"file": str(path), "settings": settings}, lambda console: console.print_json(data=settings))


@app.command()
def validate(context: typer.Context) -> None:
    """Checks the configuration and says where it lies."""
    from fedsite.site import config

    out = Output.of(context)
    config.load(out.config_path)
    path = config.find(out.config_path)
    out.result("valid", {"file": str(path)}, f"{path} is valid.")


@app.command()
def schema(context: typer.Context) -> None:
    """Prints the configuration's JSON Schema, for editors."""
    from fedsite.site import config

    body = config.SiteConfig.model_json_schema()
    Output.of(context).result("shown", body, lambda console: console.print_json(data=body))


@app.command()
def explain(
    context: typer.Context,
    key: Annotated[str, typer.Argument(metavar="KEY", help="A key, such as policy.maximum_steps.")],
) -> None:
    """Says what one key means, and its default."""
    from fedsite.site import config

    found = config.describe(key)
    if found is None:
        raise UsageError(f"There is no key {key!r}.", config.suggestion(key, config.SiteConfig))
    Output.of(context).result("shown", found, lambda console: console.print_json(data=found))
