"""Pictures through the product's own index and decision, as the matcher takes them.

Called by the measuring commands. The index is a `PartitionIndex` of its own, RocksDB and all, in a
folder that is deleted afterwards; the log is a list.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from agents.match_images import findings
from schemas.codec import encode_log
from schemas.records import Fingerprint, Hashed, Match, MatchSettings
from streams.entry import LogEntry
from streams.index.partition import PartitionIndex

_GROUP: Final = 64


@dataclass(frozen=True, slots=True)
class Related:
    """A picture and an earlier one that it relates to, by their places in the collection."""

    picture: int
    earlier: int
    match: Match


class Collection:
    """An index that pictures are asked of and then added to; a context that ends with it.

    Each workspace is a collection of its own, as everywhere.
    """

    def __init__(self, settings: MatchSettings) -> None:
        self._settings = settings
        self._folder = tempfile.TemporaryDirectory(prefix="check-dedup-")
        self._index = PartitionIndex(Path(self._folder.name), "measured", 0)
        self._pictures = 0
        self._log_bytes = 0
        self._apply([encode_log(settings)])

    def __enter__(self) -> Self:
        """Nothing more to begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the index and delete it."""
        self._index.close()
        self._folder.cleanup()

    def relate_all(
        self, pictures: Sequence[Fingerprint], workspace: str = "measured"
    ) -> Iterator[Related]:
        """Add pictures one after the other; every relation to one before, best first."""
        for start in range(0, len(pictures), _GROUP):
            records = [
                Hashed(1, workspace, str(start + number), "event", picture, 0)
                for number, picture in enumerate(pictures[start : start + _GROUP])
            ]
            encoded = [encode_log(record) for record in records]
            self._pictures += len(encoded)
            self._log_bytes += sum(map(len, encoded))
            ordinals = self._stage(encoded)
            found = findings(self._index, self._index.rows(ordinals), self._settings)
            for record, finding in zip(records, found, strict=True):
                for match in finding.matches:
                    yield Related(int(record.image_id), int(match.image_id), match)
            self._index.commit({})

    def bytes_per_picture(self) -> tuple[float, float]:
        """In the log, and in the index on disk, on average over all pictures added so far."""
        self._index.close()  # writes what is in memory only
        files = (path for path in Path(self._folder.name).rglob("*") if path.is_file())
        on_disk = sum(path.stat().st_size for path in files)
        self._index = PartitionIndex(Path(self._folder.name), "measured", 0)
        return self._log_bytes / self._pictures, on_disk / self._pictures

    def _apply(self, encoded: Sequence[bytes]) -> None:
        self._stage(encoded)
        self._index.commit({})

    def _stage(self, encoded: Sequence[bytes]) -> list[int]:
        first = self._index.next_offset
        entries = [LogEntry(first + n, 0, b"measured", value) for n, value in enumerate(encoded)]
        return [arrival.first for arrival in self._index.stage(entries, first + len(entries))]
