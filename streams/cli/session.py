"""What every command does first and last: read the settings, and tell an error by its name.

An error that has a name is printed as one line and ends with exit code 1; with the wrong words on
the command line it is 2.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Final

import typer
from rich.console import Console

from streams import failpoints
from streams.errors import CheckDedupError
from streams.settings import Settings
from streams.telemetry.logs import log_to

out: Final = Console()


@contextlib.contextmanager
def session(*, logs: bool = False) -> Iterator[Settings]:
    """Read the settings; turn errors that have a name into one line and exit code 1."""
    try:
        settings = Settings.from_environment()
        failpoints.arm(os.environ)
        # What a person's command writes is for that person.
        log_to(
            sys.stderr,
            settings.log_level if logs else "ERROR",
            settings.log_format if logs else "text",
        )
        for library in ("faust", "mode", "aiokafka", "streams.engine.transport"):
            logging.getLogger(library).setLevel(max(logging.getLogger().level, logging.WARNING))
        if not logs:
            # The error that a command ends with says what librdkafka repeats a hundred times.
            logging.getLogger("streams.kafka.client").setLevel(logging.CRITICAL)
        yield settings
    except CheckDedupError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


def partitions(settings: Settings, only: int | None) -> range:
    """Give the partitions of a topic, or the one that was asked for."""
    if only is None:
        return range(settings.partitions)
    if only >= settings.partitions:
        raise typer.BadParameter(f"--partition: there are 0 to {settings.partitions - 1}")
    return range(only, only + 1)
