"""`check-dedup index`: what the indexes of a data directory hold, whether it is right, anew."""

import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from streams.cli.session import out, partitions, session

if TYPE_CHECKING:
    from streams.settings import Settings

index_app = typer.Typer(
    help="The indexes in a matcher's data directory; each is a function of index-log.",
    no_args_is_help=True,
)

_SAMPLED_PICTURES: Final = 500
# What is quicker than that needs no bar.
_BAR_SECONDS: Final = 2.0

Partition = Annotated[int | None, typer.Option(help="Only this one.", min=0)]
Data = Annotated[
    Path | None, typer.Option(help="Instead of CHECK_DEDUP_DATA_DIRECTORY.", file_okay=False)
]
Advance = Callable[[str, int, int], None]


@index_app.command("stats")
def stats(*, partition: Partition = None, data: Data = None) -> None:
    """Say what each index holds and how far it is; also beside a running matcher."""
    with _session(data) as settings:
        from schemas.topics import INDEX_LOG
        from streams import integrity
        from streams.errors import CorruptStateError
        from streams.kafka.log import LogReader

        failed = False
        with closing(LogReader(settings, INDEX_LOG)) as log:
            for number in integrity.indexes(settings, partition):
                try:
                    found = integrity.statistics(settings, log, number)
                except CorruptStateError as error:
                    _print(f"partition {number}: {error}")
                    failed = True
                    continue
                _print(
                    f"partition {number}: {found.pictures} pictures, {found.removed} of them "
                    f"removed, {found.marks} marks of removal, {found.workspaces} workspaces"
                )
                for name, codes in sorted(found.codes.items()):
                    _print(f"    {name}: {codes} codes, {found.codes_in_files[name]} in band files")
                behind = found.log_end - found.next_offset
                _print(
                    f"    next offset {found.next_offset} of {found.log_end}, {behind} behind\n"
                    f"    RocksDB {_mebibytes(found.rocksdb_bytes)}, band files "
                    f"{_mebibytes(found.band_files_bytes)} in generation {found.generation}"
                )
                if found.damaged_bands is not None:
                    _print(f"    band files, damaged: {found.damaged_bands}")
                    failed = True
                if found.settings is not None:
                    named = {
                        name: getattr(found.settings, name)
                        for name in found.settings.__struct_fields__
                    }
                    words = " ".join(f"{name}={value}" for name, value in named.items())
                    _print(f"    settings {words}")
        if failed:
            raise typer.Exit(1)


@index_app.command("verify")
def verify(
    *,
    partition: Partition = None,
    sample: Annotated[
        int, typer.Option(help="Compare so many pictures of each index.", min=1)
    ] = _SAMPLED_PICTURES,
    full: Annotated[bool, typer.Option("--full", help="Compare everything.")] = False,
    seed: Annotated[int | None, typer.Option(help="Choose as that run did.", min=0)] = None,
    data: Data = None,
) -> None:
    """Compare each index with index-log, and its search with a plain scan; exit 1 if it differs.

    Also beside a running matcher, whose index is then compared as it is when that begins.
    """
    with _session(data) as settings:
        from schemas.topics import INDEX_LOG
        from streams import integrity
        from streams.errors import CorruptStateError
        from streams.index.verify import Verification
        from streams.kafka.client import topic_id
        from streams.kafka.log import LogReader

        chosen = secrets.randbelow(2**31) if seed is None else seed
        _print("everything is compared" if full else f"{sample} pictures each, seed {chosen}")
        failed = False
        with closing(LogReader(settings, INDEX_LOG)) as log:
            identity = topic_id(settings, INDEX_LOG)
            for number in integrity.indexes(settings, partition):
                try:
                    with (
                        _bar() as advance,
                        integrity.opened_beside(settings, number, identity) as index,
                    ):
                        low, end = log.watermarks(number)
                        verification = Verification(
                            index,
                            number,
                            partial(log.read_range, number),
                            low,
                            end,
                            chance=random.Random(chosen),  # noqa: S311 - a run that can be repeated
                            advance=advance,
                        )
                        if full:
                            verification.full()
                        else:
                            verification.sampled(sample)
                except CorruptStateError as error:
                    _print(f"partition {number}: {error}")
                    failed = True
                    continue
                for difference in verification.differences:
                    _print(difference)
                if verification.unnamed:
                    _print(f"partition {number}: and {verification.unnamed} more differences")
                failed |= bool(verification.differences)
                said = ", ".join(f"{count} {what}" for what, count in verification.compared.items())
                _print(f"partition {number}: compared {said or 'nothing'}")
        if failed:
            typer.echo(
                "error: an index differs from the log; stop its matcher, run check-dedup index "
                "rebuild",
                err=True,
            )
            raise typer.Exit(1)
        _print("no difference")


@index_app.command("rebuild")
def rebuild(*, partition: Partition = None, data: Data = None) -> None:
    """Delete each index and make it anew from index-log, as far as the matchers had come.

    Their matcher must not be running. Interrupted, run it again, or start the matcher: it goes on.
    """
    with _session(data) as settings:
        from schemas.topics import INDEX_LOG
        from streams import integrity
        from streams.kafka.log import LogReader

        wanted = partitions(settings, partition)
        found = integrity.indexes(settings, partition) if partition is None else list(wanted)
        with closing(LogReader(settings, INDEX_LOG)) as log:
            for number in found:
                began = time.monotonic()
                with _bar() as advance:
                    upto = integrity.rebuild(
                        settings,
                        log,
                        number,
                        partial(advance, "records"),
                    )
                seconds = max(time.monotonic() - began, 1e-3)
                _print(
                    f"partition {number}: rebuilt up to offset {upto} in {seconds:.1f} s, "
                    f"{upto / seconds:.0f} records/s"
                )


@contextmanager
def _session(data: Path | None) -> "Iterator[Settings]":
    with session() as settings:
        yield settings if data is None else replace(settings, data_directory=data)


@contextmanager
def _bar() -> Iterator[Advance]:
    """Show how far it is, where anybody sees it and it takes a while."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(show_speed=True),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=True) as progress:
        task = progress.add_task("")

        def advance(what: str, done: int, total: int) -> None:
            late = time.monotonic() - began > _BAR_SECONDS
            if progress.disable and console.is_terminal and late:
                progress.disable = False
                progress.start()
            progress.update(task, description=what, completed=done, total=total or None)

        yield advance


def _print(text: str) -> None:
    out.print(text, highlight=False, markup=False, soft_wrap=True, emoji=False)


def _mebibytes(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB"
