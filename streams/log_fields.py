"""The fields of a log line that say what it is about; the same names in every process.

`event_id` is that of the record that came of it (its `ce_id` or `dlq-id`), which the exemplars of
`check_dedup_ingest_to_outcome_seconds` name too. `source_*` is where Check's event lies.
"""

from schemas.codec import event_id
from schemas.records import Hashed
from schemas.topics import IMAGE_MATCHED

Fields = dict[str, str | int | None]


def source_fields(topic: str, partition: int, offset: int) -> Fields:
    """Name the record that something comes from."""
    return {"source_topic": topic, "source_partition": partition, "source_offset": offset}


def outcome_fields(record: Hashed, topic: str, partition: int, offset: int) -> Fields:
    """Name an outcome: its picture, its place in the log, and the event (or request) behind it."""
    source = record.source
    behind = (topic, partition, offset)  # of the API: the log is where it was first written down
    if source is not None:
        behind = (source.topic, source.partition, source.offset)
    return {
        "event_id": event_id(IMAGE_MATCHED, record.workspace, record.image_id),
        "workspace": record.workspace,
        "image_id": record.image_id,
        "log_partition": partition,
        "log_offset": offset,
        **source_fields(*behind),
    }
