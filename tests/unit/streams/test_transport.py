"""What is changed of Faust's consumer, without a broker."""

from types import SimpleNamespace
from typing import Any, cast

import faust
import pytest
from faust.exceptions import ConsumerNotStarted
from faust.types import TP

from streams.engine.transport import WatermarkConsumer, build_app
from streams.settings import Settings

MESSAGE = cast("faust.types.Message", SimpleNamespace(tp=TP("index-log", 3), offset=7))


def consumer(deliver: Any = None) -> WatermarkConsumer:  # noqa: ANN401 - Faust's callback
    """Give one that hands over to Faust's own conductor, or to something else."""
    app = build_app(Settings(), "group", buffered_events=1)
    return WatermarkConsumer(
        app.transport,
        callback=deliver or app.topics.on_message,
        on_partitions_revoked=None,
        on_partitions_assigned=None,
    )


async def test_an_event_whose_partition_has_no_agent_yet_ends_nobody() -> None:
    """Faust itself raises there; the feed reads it from the log, or it is fetched again."""
    taken = consumer()
    with pytest.raises(KeyError):
        await taken.app.topics.on_message(MESSAGE)
    await taken.callback(MESSAGE)


async def test_other_errors_are_not_hidden() -> None:
    """Also of the same kind."""

    async def fail(_: object) -> None:
        raise KeyError("another")

    with pytest.raises(KeyError, match="another"):
        await consumer(fail).callback(MESSAGE)


def test_fausts_own_guesses_about_slow_partitions_are_not_told() -> None:
    """It errs after each take-over; the watchdog knows, by the log."""
    taken, partition = consumer(), TP("index-log", 3)
    with pytest.raises(ConsumerNotStarted):  # it would look
        super(WatermarkConsumer, taken).verify_event_path(0.0, partition)
    taken.verify_event_path(0.0, partition)
