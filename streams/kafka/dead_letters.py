"""Setting aside what cannot be processed: the record as it was, on the same partition, and why.

Used by the hasher for events and by the matcher for questions.
"""

import asyncio
import logging
from collections.abc import Collection
from typing import Final

from schemas.codec import dead_letter_headers, event_id
from schemas.reasons import Rejection
from schemas.topics import dead_letter_topic_name
from streams.delivery import Deliver, Outgoing, TopicPartition
from streams.entry import LogEntry
from streams.errors import CheckDedupError
from streams.log_fields import source_fields

logger = logging.getLogger(__name__)

# Refused ones are tried for so long: Prometheus is to see it, which looks every 15 s.
_TRIED_SECONDS: Final = 30.0
_AGAIN_SECONDS: Final = 5.0


def dead_letter(
    partition: TopicPartition, entry: LogEntry, rejection: Rejection, workspace: str | None = None
) -> Outgoing:
    """Make the dead letter of a record: as it was, on the same partition, and why."""
    topic = dead_letter_topic_name(partition.topic)
    logger.info(
        "dead letter: %s %d: %s %s",
        partition,
        entry.offset,
        rejection.reason,
        rejection.detail,
        extra={
            "event_id": event_id(topic, *partition, entry.offset),
            "workspace": workspace,
            "reason": rejection.reason,
            **source_fields(*partition, entry.offset),
        },
    )
    headers = dead_letter_headers(
        entry.headers,
        topic=partition.topic,
        partition=partition.partition,
        offset=entry.offset,
        reason=rejection.reason,
    )
    return Outgoing(
        topic=topic,
        key=entry.key,
        value=entry.value,
        headers=tuple(headers),
        partition=partition.partition,
    )


class DeadLetterDelivery:
    """A `Deliver` that tries dead letters again for a while before it lets them end the process.

    Each start would end alike within a second, with nothing but a crash loop to be seen. So the
    reason can be told, and paged; and whoever repairs the topic at once has nothing to restart.
    """

    def __init__(self, deliver: Deliver) -> None:
        """Take what delivers."""
        self._deliver = deliver
        self.undelivered = 0
        """Dead letters that failed and are tried again; in any thread."""

    async def __call__(self, records: Collection[Outgoing], /) -> None:
        """Deliver all; what it raises is what the last try of the dead letters raised."""
        letters = [record for record in records if record.topic.endswith("-dlq")]
        if len(letters) < len(records):
            await self._deliver([one for one in records if not one.topic.endswith("-dlq")])
        if letters:
            await self._deliver_letters(letters)

    async def _deliver_letters(self, letters: Collection[Outgoing]) -> None:
        clock = asyncio.get_running_loop().time
        last_try = clock() + _TRIED_SECONDS
        failing = 0
        try:
            while True:
                try:
                    return await self._deliver(letters)
                except CheckDedupError as error:
                    if clock() + _AGAIN_SECONDS > last_try:
                        raise
                    self.undelivered += len(letters) - failing
                    failing = len(letters)
                    logger.critical("dead letters are not delivered, and tried again: %s", error)
                await asyncio.sleep(_AGAIN_SECONDS)
        finally:
            self.undelivered -= failing
