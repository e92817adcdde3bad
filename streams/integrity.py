"""The indexes of a data directory: looked at, compared with the log, made anew.

Called by `check-dedup index`. Looking works beside a running matcher: RocksDB is opened as a
secondary, which takes no lock and sees what was written so far. Making anew needs the lock.
"""

import fcntl
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from schemas.records import MatchSettings
from schemas.topics import INDEX_LOG
from streams.errors import CorruptStateError, MisconfiguredError
from streams.index.applying import applied
from streams.index.partition import PartitionIndex
from streams.kafka.client import topic_id
from streams.kafka.log import LogReader
from streams.kafka.topics import CREATE, MATCHER_GROUP
from streams.settings import Settings

# A writer that switches files while they are opened makes an opening fail, once.
_OPENINGS: Final = 3
# struct flock of Linux: type, whence, start, length, process id.
_FLOCK: Final = struct.Struct("hhqqi4x")


@dataclass(frozen=True, slots=True)
class Statistics:
    """What one index holds."""

    partition: int
    pictures: int
    removed: int
    marks: int
    workspaces: int
    codes: dict[str, int]
    codes_in_files: dict[str, int]
    next_offset: int
    log_end: int
    rocksdb_bytes: int
    band_files_bytes: int
    generation: int
    damaged_bands: str | None
    settings: MatchSettings | None


def index_directory(settings: Settings, partition: int) -> Path:
    """Say where the index of a partition is."""
    return settings.data_directory / f"partition-{partition}"


def indexes(settings: Settings, only: int | None = None) -> list[int]:
    """List the partitions that have an index in the data directory.

    Raises:
        MisconfiguredError: there is none.
    """
    found = [
        partition
        for partition in range(settings.partitions)
        if only in (None, partition) and index_directory(settings, partition).is_dir()
    ]
    if not found:
        raise MisconfiguredError(
            f"no index in {settings.data_directory}; CHECK_DEDUP_DATA_DIRECTORY names the matcher's"
        )
    return found


@contextmanager
def opened_beside(settings: Settings, partition: int, identity: str) -> Iterator[PartitionIndex]:
    """Open an index as it is now, whoever else has it open.

    Raises:
        CorruptStateError: it does not open, or is damaged.
    """
    directory = index_directory(settings, partition)
    with (
        tempfile.TemporaryDirectory(prefix="check-dedup-") as notes,
        closing(_opened(directory, identity, partition, Path(notes))) as index,
    ):
        yield index


def _opened(directory: Path, identity: str, partition: int, notes: Path) -> PartitionIndex:
    for _ in range(_OPENINGS - 1):
        with suppress(CorruptStateError):
            index = PartitionIndex(directory, identity, partition, beside=notes)
            if index.arrays.damaged is None:
                return index
            index.close()
    return PartitionIndex(directory, identity, partition, beside=notes)


def statistics(settings: Settings, log: LogReader, partition: int) -> Statistics:
    """Count what an index holds.

    Raises:
        CorruptStateError: it does not open, or is damaged.
        RetryableError: the broker does not answer.
    """
    directory = index_directory(settings, partition)
    with opened_beside(settings, partition, topic_id(settings, INDEX_LOG)) as index:
        _, end = log.watermarks(partition)
        return Statistics(
            partition=partition,
            pictures=len(index),
            removed=index.removals,
            marks=index.store.all_marks(),
            workspaces=len(index.workspaces),
            codes={name: len(space) for name, space in index.arrays.spaces.items()},
            codes_in_files={name: len(space.base) for name, space in index.arrays.spaces.items()},
            next_offset=index.next_offset,
            log_end=end,
            rocksdb_bytes=_size_bytes(directory / "rocksdb"),
            band_files_bytes=_size_bytes(directory / "bands"),
            generation=index.arrays.generation,
            damaged_bands=index.arrays.damaged,
            settings=index.settings[-1][1] if index.settings else None,
        )


def rebuild(
    settings: Settings, log: LogReader, partition: int, advance: Callable[[int, int], None]
) -> int:
    """Delete an index and apply the log anew, up to the matchers' committed offset; give that.

    Raises:
        MisconfiguredError: a process has the index open, or the group has committed nothing.
        CorruptStateError: the committed offset is not in the log, or a record is unknown.
        RetryableError: the broker does not answer; running it again goes on.
    """
    directory = index_directory(settings, partition)
    identity = topic_id(settings, INDEX_LOG)
    committed = log.committed(MATCHER_GROUP, partition)
    low, end = log.watermarks(partition)
    if committed is None:
        raise MisconfiguredError(f"{MATCHER_GROUP} has no offset of {INDEX_LOG}; {CREATE}")
    upto = committed.offset
    if not low <= upto <= end:
        raise CorruptStateError(
            f"{INDEX_LOG}[{partition}]: {MATCHER_GROUP} has committed {upto}, the log holds "
            f"{low} to {end}"
        )
    if directory.exists():
        with _locked(directory):
            shutil.rmtree(directory)
    with closing(PartitionIndex(directory, identity, partition)) as index:
        for _ in applied(index, log.read_range(partition, low, upto), upto):
            advance(index.next_offset, upto)
    return upto


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold RocksDB's own lock on an index, which may be damaged.

    Raises:
        MisconfiguredError: another process has it; where it can be known, which.
    """
    path = directory / "rocksdb" / "LOCK"
    if not path.exists():
        yield
        return
    with path.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise MisconfiguredError(
                f"{directory} is in use by {_holder(file.fileno())}; stop it first"
            ) from error
        yield


def _holder(descriptor: int) -> str:
    asked = _FLOCK.pack(fcntl.F_WRLCK, 0, 0, 0, 0)
    *_, holder = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    if holder <= 0:  # of another container
        return "another process"
    try:
        words = Path(f"/proc/{holder}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return f"process {holder}"
    return f"process {holder} ({b' '.join(words).decode(errors='replace').strip()})"


def _size_bytes(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # deleted by the matcher meanwhile
            continue
    return total
