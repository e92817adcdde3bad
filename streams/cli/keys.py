"""`check-dedup keys`: the keys of the API."""

import time
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from streams.cli.session import out, session

keys_app = typer.Typer(help="The keys of the API.", no_args_is_help=True)


@keys_app.command("create")
def create_key(
    workspace: Annotated[str, typer.Option(help="Whose pictures the key is for.")],
    right: Annotated[
        list[str],
        typer.Option(help="match, read or admin (all); give it again for another right."),
    ],
) -> None:
    """Make an API key and print it, this once; the file keeps only a salted hash."""
    with session() as settings:
        from streams.api import keys

        now_ms = time.time_ns() // 1_000_000
        typer.echo(keys.create(settings.keys_file, workspace, right, now_ms=now_ms))


@keys_app.command("list")
def list_keys() -> None:
    """List the API keys: id, workspace, rights, and when each was made."""
    with session() as settings:
        from streams.api import keys

        table = Table(box=None, header_style="bold", pad_edge=False)
        for heading in ("id", "made", "rights", "workspace"):
            table.add_column(heading, overflow="fold")
        for key in keys.read(settings.keys_file):
            made = datetime.fromtimestamp(key.created_at_ms // 1000, UTC).isoformat()
            table.add_row(key.id, made, " ".join(key.rights), Text(key.workspace))
        out.print(table)


@keys_app.command("revoke")
def revoke_key(identifier: Annotated[str, typer.Argument(help="The id, as listed.")]) -> None:
    """Revoke an API key; running servers refuse it from their next request on."""
    with session() as settings:
        from streams.api import keys

        if not keys.revoke(settings.keys_file, identifier):
            typer.echo(f"error: there is no key {identifier}", err=True)
            raise typer.Exit(1)
        out.print(f"{identifier} is revoked")
