"""One record of a Kafka partition as we pass it around, whichever client fetched it."""

from dataclasses import dataclass
from typing import Final

# The last millisecond of the year 9999, where dates as text end.
_LATEST_MS: Final = 253_402_300_799_999


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A record with its place: offset, timestamp, key, value and headers as they were sent."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()

    def __post_init__(self) -> None:
        """Bound the timestamp: a producer may send any, and -1 stands for none."""
        bounded = min(max(0, self.timestamp_ms), _LATEST_MS)
        if bounded != self.timestamp_ms:
            object.__setattr__(self, "timestamp_ms", bounded)
