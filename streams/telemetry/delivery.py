"""Counting what the broker has acknowledged: records by topic, and dead letters by their reason.

Wraps the one producer of a process, so that what is counted is what was delivered.
"""

from collections import Counter
from collections.abc import Collection
from typing import Final

from schemas.reasons import REASONS
from schemas.topics import MATCH_ASKED
from streams.delivery import Deliver, Outgoing
from streams.telemetry import metrics
from streams.telemetry.registry import Registry, Steps

_REASON: Final = "dlq-reason"
_SOURCE: Final = "dlq-source-topic"
# The only reasons that a question can have.
_OF_QUESTIONS: Final = ("value_missing", "not_json", "schema_violation")


class CountedDelivery:
    """A `Deliver` that counts and times another one."""

    def __init__(
        self, deliver: Deliver, registry: Registry, steps: Steps, sources: Collection[str] = ()
    ) -> None:
        """Take the producer; `sources` are the topics whose records may become dead letters."""
        self._deliver = deliver
        self._steps = steps
        self._delivered = registry.counter(metrics.DELIVERED_RECORDS_TOTAL)
        if not sources:
            return
        self._dead_letters = registry.counter(metrics.DEAD_LETTERS_TOTAL)
        # There from the start: the first dead letter is a rise, and not a new series.
        for source in sources:
            for reason in _OF_QUESTIONS if source == MATCH_ASKED else REASONS:
                self._dead_letters.labels(source, reason)

    async def __call__(self, records: Collection[Outgoing], /) -> None:
        """Deliver; count where that succeeds."""
        if not records:
            return
        with self._steps.time("deliver"):
            await self._deliver(records)
        for topic, number in Counter(record.topic for record in records).items():
            self._delivered.labels(topic).inc(number)
        for record in records:
            if record.topic.endswith("-dlq"):
                ours = {name: (value or b"").decode() for name, value in record.headers[-5:]}
                self._dead_letters.labels(ours[_SOURCE], ours[_REASON]).inc()
