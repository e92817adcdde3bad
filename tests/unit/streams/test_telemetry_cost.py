"""What the metrics cost: all calls for one picture, timed, as a share of the picture's time."""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from agents.decode import DecodeLimits
from agents.match_images import Finding, Outcome
from schemas.records import Fingerprint, Hashed, Match
from streams.decoding.timed import timed_fingerprint
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

MOST_PERCENT = 2.0


class Signal:
    """A signal that nobody sends."""

    def connect(self, *_: object, **__: object) -> None:
        """Take a handler."""


class Application:
    """A Faust app, as far as the flow asks."""

    def __init__(self) -> None:
        self.watermarks = Watermarks()
        self.beat = LoopBeat()
        self.on_partitions_assigned = self.on_partitions_revoked = Signal()


def seconds_of(work: Callable[[], object], times: int) -> float:
    """The time of one call where nothing else disturbs: the best of ten runs."""
    runs = []
    for _ in range(10):
        began = time.perf_counter()
        for _ in range(times):
            work()
        runs.append((time.perf_counter() - began) / times)
    return min(runs)


async def delivered(_: object, /) -> None:
    """Deliver at once."""


def finish(coroutine: Any) -> None:  # noqa: ANN401 - a coroutine that never waits
    """Run a coroutine to its end."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError


def photograph() -> bytes:
    """A small picture: larger ones take longer, and their metrics do not."""
    grid = np.random.default_rng(1).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(grid).resize((320, 240)).save(file, "JPEG")
        return file.getvalue()


def test_metrics_cost_little(tmp_path: Path) -> None:
    """All calls of hasher and matcher for one picture, alone in its group, are below 2 percent."""
    content = photograph()
    made, *_ = timed_fingerprint(content, DecodeLimits(pixels=10**6))
    assert isinstance(made, Fingerprint)
    record = Hashed(1, "w", "image", "event", made, time.time_ns() // 1_000_000)
    match = Match(
        "0" * 64, "other", 3, 9, "near_identical", "confirmed_sibling", 1.0, ("a", "b"), "event"
    )
    outcome = Outcome(Row(7, 0, 0, record), b"{}", Finding([], [match]))

    hasher, matcher, app = Registry("hasher"), Registry("matcher"), Application()
    hasher_steps = Steps(hasher)
    faust_app: Any = app
    flow = Flow(hasher, faust_app, ("image-ingested",))
    from_hasher = CountedDelivery(delivered, hasher, hasher_steps, ("image-ingested",))
    told = MatchMetrics(matcher, indexes=dict, data_directory=tmp_path)
    from_matcher = CountedDelivery(delivered, matcher, told.steps)
    matcher_flow = Flow(matcher, faust_app, ("index-log",))
    events, log = TopicPartition("image-ingested", 0), TopicPartition("index-log", 0)
    entries = [LogEntry(7, 0, b"k", b"v")]
    stretches = Stretch(events, 1, 7, entries, 8), Stretch(log, 1, 7, entries, 8)

    def in_hasher() -> None:
        flow.taken(stretches[0])
        app.watermarks.advance(events, 1, 8)
        for step in ("fetch", "queue", "decode", "hash"):
            hasher_steps.took(step, 0.01)
        finish(from_hasher([Outgoing("index-log", b"k", b"v")]))

    def in_matcher() -> None:
        matcher_flow.taken(stretches[1])
        with told.steps.time("stage"):
            pass
        told.steps.took("search", 0.01)
        told.steps.took("decide", 0.01)
        told.candidates_found([1, 2])
        finish(from_matcher([Outgoing("image-matched", b"k", b"v")]))
        with told.steps.time("apply"):
            pass
        told.told(1, [Arrival(7, 7, record)], {7: outcome}, set())

    cost = seconds_of(in_hasher, 200), seconds_of(in_matcher, 200)
    picture = seconds_of(lambda: timed_fingerprint(content, DecodeLimits(pixels=10**6)), 1)
    percent = 100 * sum(cost) / picture
    print(  # noqa: T201 - the figure
        f"metrics of one picture: {cost[0] * 1e6:.0f} us in the hasher, {cost[1] * 1e6:.0f} us in "
        f"the matcher; decoding and hashing it: {picture * 1e3:.1f} ms; {percent:.2f} %"
    )
    assert percent < MOST_PERCENT
