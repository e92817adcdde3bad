"""One record of a Kafka partition as we pass it around, whichever client fetched it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A record with its place: offset, timestamp, key, value and headers as they were sent."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
