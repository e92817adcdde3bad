"""`check-dedup log`: read `index-log`, which is MessagePack, with one's own eyes."""

from typing import Annotated, Final

import typer

from streams.cli.session import partitions, session

log_app = typer.Typer(help="The log that the index is a function of.", no_args_is_help=True)

_SHOWN_RECORDS: Final = 100


@log_app.callback()
def _log() -> None:
    """Keep `show` a command of its own, however few there are."""


@log_app.command("show")
def show(
    *,
    partition: Annotated[int | None, typer.Option(help="Only this one.", min=0)] = None,
    start: Annotated[
        int, typer.Option("--from", help="From this offset of each partition on.", min=0)
    ] = 0,
    most: Annotated[
        int, typer.Option(help="At most so many of each partition.", min=1)
    ] = _SHOWN_RECORDS,
    as_json: Annotated[
        bool, typer.Option("--json", help="All of each record, one JSON object a line.")
    ] = False,
) -> None:
    """Print records of index-log, one a line, oldest first.

    A record that this program does not know, and one that was erased, are shown as such.
    """
    with session() as settings:
        from contextlib import closing

        from schemas.topics import INDEX_LOG
        from streams.kafka.log import LogReader
        from streams.kafka.log_text import json_line, line

        wanted = partitions(settings, partition)
        with closing(LogReader(settings, INDEX_LOG)) as log:
            for number in wanted:
                low, high = log.watermarks(number)
                left = most
                for entries in log.read_range(number, max(start, low), high):
                    for entry in entries[:left]:
                        typer.echo(json_line(number, entry) if as_json else line(number, entry))
                    left -= len(entries)
                    if left <= 0:
                        break
