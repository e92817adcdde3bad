"""`check-dedup status`: the terminal's view of lag, rates, outcomes, dead letters, the index."""

import time
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from streams.cli.session import session

if TYPE_CHECKING:
    from streams.status import Status


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command()(status)


def status(
    metrics: Annotated[
        list[str] | None,
        typer.Option(help="URL of a process's metrics; again for others. Default: of `make up`."),
    ] = None,
    every_seconds: Annotated[float, typer.Option(help="Between two looks.", min=0.2)] = 2.0,
    *,
    once: Annotated[bool, typer.Option("--once", help="Look once, print plain text.")] = False,
) -> None:
    """Show lag, rates, outcomes, dead letters, index, recovery; exit code 1 without Kafka."""
    with session() as settings:
        from streams.status import ENDPOINTS, Reader, lines

        with closing(Reader(settings, metrics or ENDPOINTS)) as reader:
            now = reader.read()
            if once:
                for what, how in lines(now):
                    typer.echo(f"{what}: {how}")
                return
            before: Status | None = None
            with Live(console=Console(), auto_refresh=False) as live:
                while True:
                    live.update(_table(lines(now, before)), refresh=True)
                    time.sleep(every_seconds)
                    before, now = now, reader.read()


def _table(found: list[tuple[str, str]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for what, how in found:
        table.add_row(what, how)
    return table
