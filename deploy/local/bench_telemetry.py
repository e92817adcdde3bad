"""What the metrics cost: all calls for one picture alone in its group, times what a call takes.

Called by `make bench`, which holds it against the time of a picture. In groups, as they come under
load, a picture's share is smaller.
"""

import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from agents.match_images import Finding, Outcome
from schemas.records import Fingerprint, Hashed, Match
from streams.delivery import Outgoing, TopicPartition, Watermarks
from streams.engine.feed import Stretch
from streams.engine.watchdog import LoopBeat
from streams.entry import LogEntry
from streams.index.partition import Arrival
from streams.index.store import Row
from streams.telemetry.delivery import CountedDelivery
from streams.telemetry.flow import Flow
from streams.telemetry.matching import MatchMetrics
from streams.telemetry.registry import Registry, Steps

_RUNS = 10
_CALLS = 200


class MetricsCost(NamedTuple):
    """Seconds that the metrics of one picture take in each process."""

    hasher: float
    matcher: float


def metrics_cost(made: Fingerprint) -> MetricsCost:
    """Measure what is told of one picture that has one match."""
    with tempfile.TemporaryDirectory() as directory:
        hasher, matcher = _told(made, Path(directory))
        return MetricsCost(seconds_of(hasher, _CALLS), seconds_of(matcher, _CALLS))


def seconds_of(work: Callable[[], object], times: int = 1) -> float:
    """Give the time of one call where nothing else disturbs: the best of ten runs."""
    return min(timeit.repeat(work, number=times, repeat=_RUNS)) / times


class _Signal:
    """A signal that nobody sends."""

    def connect(self, *_: object, **__: object) -> None:
        """Take a handler."""


class _Application:
    """A Faust app, as far as the flow asks."""

    def __init__(self) -> None:
        self.watermarks = Watermarks()
        self.beat = LoopBeat()
        self.on_partitions_assigned = self.on_partitions_revoked = _Signal()


async def _delivered(_: object, /) -> None:
    """Deliver at once."""


def _finish(coroutine: Any) -> None:  # noqa: ANN401 - a coroutine that never waits
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError


def _told(made: Fingerprint, directory: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    """Give what the hasher and what the matcher call for one picture."""
    record = Hashed(1, "w", "image", "event", made, time.time_ns() // 1_000_000)
    match = Match(
        "0" * 64, "other", 3, 9, "near_identical", "confirmed_sibling", 1.0, ("a", "b"), "event"
    )
    outcome = Outcome(Row(7, 0, 0, record), b"{}", Finding([], [match]))

    hasher, matcher, app = Registry("hasher"), Registry("matcher"), _Application()
    hasher_steps = Steps(hasher)
    faust_app: Any = app
    flow = Flow(hasher, faust_app, ("image-ingested",))
    from_hasher = CountedDelivery(_delivered, hasher, hasher_steps, ("image-ingested",))
    told = MatchMetrics(matcher, indexes=dict, data_directory=directory)
    from_matcher = CountedDelivery(_delivered, matcher, told.steps)
    matcher_flow = Flow(matcher, faust_app, ("index-log",))
    events, log = TopicPartition("image-ingested", 0), TopicPartition("index-log", 0)
    entries = [LogEntry(7, 0, b"k", b"v")]
    stretches = Stretch(events, 1, 7, entries, 8), Stretch(log, 1, 7, entries, 8)

    def in_hasher() -> None:
        flow.taken(stretches[0])
        app.watermarks.advance(events, 1, 8)
        for step in ("fetch", "queue", "decode", "hash"):
            hasher_steps.took(step, 0.01)
        _finish(from_hasher([Outgoing("index-log", b"k", b"v")]))

    def in_matcher() -> None:
        matcher_flow.taken(stretches[1])
        with told.steps.time("stage"):
            pass
        told.steps.took("search", 0.01)
        told.steps.took("decide", 0.01)
        told.candidates_found([1, 2])
        _finish(from_matcher([Outgoing("image-matched", b"k", b"v")]))
        with told.steps.time("apply"):
            pass
        told.told(1, [Arrival(7, 7, record)], {7: outcome}, set())

    return in_hasher, in_matcher
