"""Setting aside what cannot be processed: the record as it was, on the same partition, and why.

Used by the hasher for events and by the matcher for questions.
"""

import logging

from schemas.codec import dead_letter_headers, event_id
from schemas.reasons import Rejection
from schemas.topics import dead_letter_topic_name
from streams.delivery import Outgoing, TopicPartition
from streams.entry import LogEntry
from streams.log_fields import source_fields

logger = logging.getLogger(__name__)


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
