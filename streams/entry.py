"""One record of a Kafka partition as we pass it around, whichever client fetched it."""

import zlib
from typing import Final, NamedTuple

import msgspec

# The last millisecond of the year 9999, where dates as text end.
_LATEST_MS: Final = 253_402_300_799_999


class Mark(NamedTuple):
    """By what a record is known again: another one at its offset has another checksum."""

    offset: int
    checksum: int


class LogEntry(msgspec.Struct, frozen=True):
    """A record with its place: offset, timestamp, key, value and headers as they were sent."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()

    def __post_init__(self) -> None:
        """Bound the timestamp: a producer may send any, and -1 stands for none."""
        if not 0 <= self.timestamp_ms <= _LATEST_MS:
            bounded = min(max(0, self.timestamp_ms), _LATEST_MS)
            msgspec.structs.force_setattr(self, "timestamp_ms", bounded)

    @property
    def mark(self) -> Mark:
        """CRC-32 of time and key, which tell records apart; values are large."""
        return Mark(self.offset, zlib.crc32(self.key or b"", self.timestamp_ms & 0xFFFF_FFFF))
