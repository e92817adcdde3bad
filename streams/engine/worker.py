"""The shell of a process with Faust agents: each guarded, so that a failure ends the process.

Used by `check-dedup hasher` and `check-dedup matcher`. An error that no part handles ends the
process at once: nothing is acknowledged on the way out, and the next start takes up at the last
committed watermark.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, Never, cast

import faust

from streams.engine.feed import Feed
from streams.engine.process import die
from streams.engine.transport import App, source_topic
from streams.engine.watchdog import Eyes, Watchdog
from streams.settings import Settings

Body = Callable[[faust.Stream[Any]], Awaitable[None]]


def add_agent(app: App, topic: str, body: Body) -> None:
    """Add an agent whose failure ends the process: Faust would skip the event and go on."""

    async def guarded(stream: faust.StreamT[Any]) -> None:
        try:
            with app.at_work():
                await body(cast("faust.Stream[Any]", stream))
            # Faust ends its agents itself.
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, it must not be skipped
            die(error)

    app.agent(source_topic(app, topic), name=body.__name__)(guarded)


def watched(
    app: App,
    settings: Settings,
    work: Sequence[Feed],
    *,
    moves: Callable[[], Hashable] = lambda: None,
    held: Callable[[], str | None] = lambda: None,
) -> Watchdog:
    """Give the watchdog of an app; `moves` and `held` as in `streams.engine.watchdog.Eyes`."""
    eyes = Eyes(app, work, moves, held)
    return Watchdog(
        eyes.look,
        stall_seconds=settings.stall_timeout_seconds,
        is_stopping=lambda: app.is_stopping,
    )


class _Worker(faust.Worker):
    """Faust's, that ends when all it runs has ended."""

    async def _sentinel_task(self) -> None:
        """Wait for nothing; stock waits a second, with its groups left and its loop empty."""


def run(app: App, watchdog: Watchdog) -> Never:
    """Run an app until it is told to stop, or its watchdog ends it; it exits the process."""
    watchdog.start()
    worker = _Worker(app, quiet=True, override_logging=False, redirect_stdouts=False)
    worker.spinner = None  # it writes to standard output, quiet or not
    worker.execute_from_commandline()
