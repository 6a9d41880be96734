"""`fedsite server authority`: what signs the federation's certificates."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedsite.cli.commands import Commands
from fedsite.cli.federation import HERE, Folder
from fedsite.cli.output import Output

if TYPE_CHECKING:
    from fedsite.server.authority.authority import Authority

app = Commands("The federation's certificate authority.")


@app.command()
def show(context: typer.Context, folder: Folder = HERE) -> None:
    """Shows the authority's chain, the root's SHA-256 that sites pin, and when it ends."""
    from fedsite.server.federation import open_federation

    data, text = described(open_federation(folder).authority)
    Output.of(context).result("shown", data, text)


@app.command()
def replace(
    context: typer.Context,
    ca_key: Annotated[Path, typer.Option(metavar="FILE", help="The next intermediate's private key (PEM).")],
    ca_chain: Annotated[
        Path, typer.Option(metavar="FILE", help="Its certificate and those above it, up to the same root (PEM).")
    ],
    folder: Folder = HERE,
) -> None:
    """Puts another intermediate of the same root in place; sites notice nothing."""
    from fedsite.server.federation import open_federation, replace_authority

    data, text = described(replace_authority(open_federation(folder), ca_key, ca_chain))
    Output.of(context).result("replaced", data, f"{text}\nNext: restart fedsite server run.")


def supplied(ca_key: Path | None, ca_chain: Path | None) -> tuple[Path, Path] | None:
    """The files of an intermediate, when there are any. Raises UsageError for one without the other."""
    from fedsite.errors import UsageError

    if ca_key is None and ca_chain is None:
        return None
    if ca_key is None or ca_chain is None:
        raise UsageError("--ca-key and --ca-chain belong together.", "Name both, or neither for a new root.")
    return ca_key, ca_chain


def described(authority: "Authority") -> tuple[dict[str, Any], str]:
    """An authority for programs and for people."""
    from fedsite.server.authority.authority import described as name
    from fedsite.wire.enrolment import fingerprint

    data = {
        "ca_sha256": fingerprint(authority.root),
        "authority_expires": authority.ends.isoformat(),
        "chain": [
            {
                "subject": name(one),
                "sha256": fingerprint(one),
                "expires": one.not_valid_after_utc.isoformat(),
            }
            for one in authority.chain
        ],
    }
    lines = [
        f"Its authority's SHA-256 is {data['ca_sha256']}; it ends on {authority.ends:%Y-%m-%d}.",
        *(f"  {name(one)}, until {one.not_valid_after_utc:%Y-%m-%d}" for one in authority.chain),
    ]
    return data, "\n".join(lines)
