"""How far a process with a consumer group is: what it owns, what waits, and for how long.

Told by the hasher and the matcher of what they take in; the rest is asked of the broker, every
two seconds in a thread that needs nothing of the event loop, and joined at the time of a scrape.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from confluent_kafka import KafkaException

from streams.delivery import TopicPartition, Watermarks
from streams.engine.feed import LOSSES, Stretch
from streams.engine.transport import App
from streams.errors import CheckDedupError
from streams.kafka.ends import Ends, time_ms
from streams.settings import Settings
from streams.telemetry import metrics
from streams.telemetry.registry import Registry, Samples

logger = logging.getLogger(__name__)

_ASK_SECONDS: Final = 2.0
_ANSWER_SECONDS: Final = 5.0
# What is in hand is known by its own time: as much as a window or a stretch holds, and no more.
_TIMES_REMEMBERED: Final = 4096


@dataclass(frozen=True, slots=True)
class _Seen:
    """A partition as the broker told it."""

    end: int
    oldest: int
    """Offset of the oldest record without a result then, and its timestamp."""
    oldest_ms: int
    moved_at: float
    """When the watermark was last seen to move, or nothing waited; `time.monotonic`."""


class Flow:
    """The partitions that a process owns, and how far each is."""

    def __init__(
        self,
        registry: Registry,
        app: App,
        topics: Sequence[str],
        *,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Hear of the assignments of `app`."""
        self._watermarks: Watermarks = app.watermarks
        self._topics = tuple(topics)
        self._clock_ms = clock_ms
        self._owned: frozenset[TopicPartition] = frozenset()
        self._is_member = False
        # The assignment, and the offset that it began at.
        self._begun: dict[TopicPartition, tuple[int, int]] = {}
        self._times: dict[TopicPartition, deque[tuple[int, int]]] = {}
        self._seen: dict[TopicPartition, _Seen] = {}
        self._asked_ms = 0
        events = registry.counter(metrics.EVENTS_TOTAL)
        self._events = {topic: events.labels(topic) for topic in topics}
        self._lost = registry.counter(metrics.LOST_RANGES_TOTAL)
        for topic in topics:
            for cause in LOSSES:
                self._lost.labels(topic, cause)
        self._rebalances = registry.counter(metrics.REBALANCES_TOTAL)
        app.on_partitions_assigned.connect(self._on_assigned, weak=False)
        app.on_partitions_revoked.connect(self._on_revoked, weak=False)
        for metric, read in (
            (metrics.ASSIGNED_PARTITIONS, self._assigned),
            (metrics.LAG_RECORDS, self._lag_records),
            (metrics.LAG_SECONDS, self._lag_seconds),
            (metrics.WATERMARK_OFFSET, self._watermark_offsets),
            (metrics.END_OFFSET, self._end_offsets),
            (metrics.WATERMARK_AGE_SECONDS, self._watermark_ages),
            (metrics.EVENT_LOOP_DELAY_SECONDS, app.beat.late_seconds),
            (metrics.LAG_SAMPLE_TIMESTAMP_SECONDS, lambda: self._asked_ms / 1000),
        ):
            registry.computed(metric, read)

    def taken(self, stretch: Stretch) -> None:
        """Count what was taken in."""
        partition = stretch.partition
        known = self._begun.get(partition)
        if known is None or known[0] != stretch.assignment:
            self._times[partition] = deque(maxlen=_TIMES_REMEMBERED)
            self._begun[partition] = (stretch.assignment, stretch.start)
        if stretch.lost is not None:
            self._lost.labels(partition.topic, stretch.lost).inc()
        if stretch.entries:
            times = self._times[partition]
            watermark = self.watermark(partition) or 0
            while times and times[0][0] < watermark:
                times.popleft()
            times.extend((entry.offset, entry.timestamp_ms) for entry in stretch.entries)
            self._events[partition.topic].inc(len(stretch.entries))

    def watermark(self, partition: TopicPartition) -> int | None:
        """Give how far a partition is in its present assignment; None before its first stretch."""
        begun = self._begun.get(partition)
        if begun is None:
            return None
        assignment, start = begun
        reached_in, offset = self._watermarks.reached(partition) or (assignment, start)
        return offset if reached_in == assignment else start

    def owned(self) -> frozenset[TopicPartition]:
        """Give the partitions that are assigned now."""
        return self._owned

    def unready(self) -> str | None:
        """Say why no work is done: a check of `Probes`; an assignment of nothing is one."""
        return None if self._is_member else "the group has assigned nothing yet"

    def watch(self, settings: Settings) -> None:
        """Ask the broker for ends and times, from now on."""
        target = _Watch(self, settings).run
        threading.Thread(target=target, name="lag", daemon=True).start()

    def saw(self, partition: TopicPartition, end: int, oldest_ms: Callable[[int], int]) -> None:
        """Take a partition's end; `oldest_ms` reads the timestamp at an offset from the log."""
        watermark, now = self.watermark(partition), time.monotonic()
        if watermark is None:
            return
        known = self._seen.get(partition)
        if watermark >= end:
            self._seen[partition] = _Seen(end, end, 0, now)
            return
        moved = known is None or watermark > known.oldest or known.oldest >= known.end
        moved_at = now if moved or known is None else known.moved_at
        in_hand = list(self._times[partition])
        time_ms = next((ms for offset, ms in in_hand if offset >= watermark), None)
        if time_ms is None:
            time_ms = oldest_ms(watermark)
        self._seen[partition] = _Seen(end, watermark, time_ms, moved_at)

    def complete(self) -> None:
        """Note that all partitions were told."""
        self._asked_ms = self._clock_ms()

    async def _on_assigned(self, *sent: Any, **_: Any) -> None:  # noqa: ANN401 - as Faust sends
        _app, assigned = sent  # all that it owns now
        self._rebalances.inc()
        self._owned = frozenset(TopicPartition(*partition) for partition in assigned)
        self._is_member = True
        self._seen = {}

    async def _on_revoked(self, *_: object, **__: object) -> None:
        self._owned = frozenset()
        self._is_member = False

    def _assigned(self) -> Samples:
        owned = self._owned
        return {(topic,): sum(p.topic == topic for p in owned) for topic in self._topics}

    def _present(self) -> dict[tuple[str, str], tuple[_Seen, int]]:
        """Give what was seen of each owned partition, and where its watermark is now."""
        found = {}
        for partition in self._owned:
            seen, watermark = self._seen.get(partition), self.watermark(partition)
            if seen is not None and watermark is not None:
                found[partition.topic, str(partition.partition)] = (seen, watermark)
        return found

    def _lag_records(self) -> Samples:
        return {
            labels: max(0, seen.end - watermark)
            for labels, (seen, watermark) in self._present().items()
        }

    def _lag_seconds(self) -> Samples:
        now_ms = self._clock_ms()
        return {
            labels: max(0, now_ms - seen.oldest_ms) / 1000 if watermark < seen.end else 0.0
            for labels, (seen, watermark) in self._present().items()
        }

    def _watermark_offsets(self) -> Samples:
        return {labels: watermark for labels, (_, watermark) in self._present().items()}

    def _end_offsets(self) -> Samples:
        return {
            labels: max(seen.end, watermark)
            for labels, (seen, watermark) in self._present().items()
        }

    def _watermark_ages(self) -> Samples:
        now = time.monotonic()
        return {
            labels: now - seen.moved_at if watermark == seen.oldest < seen.end else 0.0
            for labels, (seen, watermark) in self._present().items()
        }


class _Watch:
    """Asks the broker, for as long as the process runs; what it does not tell stays as it was."""

    def __init__(self, flow: Flow, settings: Settings) -> None:
        self._flow = flow
        self._settings = settings
        self._ends = Ends(settings)

    def run(self) -> None:
        while True:
            try:
                self._ask()
                self._flow.complete()
            except (KafkaException, CheckDedupError) as error:
                logger.warning("the ends of partitions are not known: %s", error)
            except Exception:
                logger.exception("asking for the ends of partitions")
            time.sleep(_ASK_SECONDS)

    def _ask(self) -> None:
        for partition in sorted(self._flow.owned()):
            _, end = self._ends.watermarks(*partition, _ANSWER_SECONDS)
            self._flow.saw(partition, end, partial(self._time_ms, partition))

    def _time_ms(self, partition: TopicPartition, offset: int) -> int:
        """Read it from the log; where no record comes, none is that old."""
        found = time_ms(self._settings, *partition, offset, _ANSWER_SECONDS)
        return time.time_ns() // 1_000_000 if found is None else found
