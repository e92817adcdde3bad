"""The shell of a long-running process: topics checked, agents guarded, an end that is honest.

Used by `check-dedup hasher` and `check-dedup matcher`. An error that no part handles ends the
process at once: nothing is acknowledged on the way out, and the next start takes up at the last
committed watermark.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Never, cast

import faust

from streams import topics
from streams.errors import CheckDedupError, MisconfiguredError
from streams.settings import Settings
from streams.transport import App, source_topic

logger = logging.getLogger(__name__)

Body = Callable[[faust.Stream[Any]], Awaitable[None]]


def require_topics(settings: Settings) -> None:
    """Refuse to start on topics that are not as declared.

    Raises:
        MisconfiguredError: all problems, with their repairs.
    """
    problems = topics.check(settings)
    if problems:
        raise MisconfiguredError("\n".join(problems))


def add_agent(app: App, topic: str, body: Body) -> None:
    """Add an agent whose failure ends the process: Faust would skip the event and go on."""

    async def guarded(stream: faust.StreamT[Any]) -> None:
        try:
            await body(cast("faust.Stream[Any]", stream))
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, it must not be skipped
            die(error)

    app.agent(source_topic(app, topic), name=body.__name__)(guarded)


def run(app: App) -> Never:
    """Run an app until it is told to stop; it exits the process."""
    worker = faust.Worker(app, quiet=True, override_logging=False, redirect_stdouts=False)
    worker.spinner = None  # it writes to standard output, quiet or not
    worker.execute_from_commandline()


def die(error: BaseException) -> Never:
    """End the process before anything more can be acknowledged."""
    if isinstance(error, CheckDedupError):
        logger.critical("%s", error)
    else:
        logger.critical("unexpected: %r", error, exc_info=error)
    logging.shutdown()
    sys.stderr.flush()
    os._exit(1)
