"""What the matcher tells of its outcomes and of its indexes.

Called by `streams.matcher` after each group that is durable. Nothing here changes an outcome.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Final, get_args

from agents.match_images import Index, Outcome
from schemas.codec import event_id
from schemas.records import Hashed, MatchSettings, Origin, Relation, Tier
from schemas.topics import IMAGE_MATCHED
from streams.index.partition import Arrival, PartitionIndex
from streams.index.store import Row, block_cache_bytes
from streams.telemetry import metrics
from streams.telemetry.metrics import Metric
from streams.telemetry.registry import Registry, Samples, Steps
from streams.telemetry.workspaces import BusiestWorkspaces

logger = logging.getLogger(__name__)

_NONE: Final = "none"


class MatchMetrics:
    """What is told of outcomes, and of the indexes that are open."""

    def __init__(
        self,
        registry: Registry,
        *,
        indexes: Callable[[], Mapping[int, PartitionIndex]],
        data_directory: Path,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Take what gives the open indexes; it is called in any thread."""
        self._indexes = indexes
        self._clock_ms = clock_ms
        self.steps = Steps(registry)
        latency = registry.histogram(metrics.INGEST_TO_OUTCOME_SECONDS)
        outcomes = registry.counter(metrics.OUTCOMES_TOTAL)
        repeated = registry.counter(metrics.OUTCOMES_REPEATED_TOTAL)
        self._candidates = registry.histogram(metrics.INDEX_CANDIDATES)
        self._group_records = registry.histogram(metrics.GROUP_RECORDS)
        self._rebuilt = registry.counter(metrics.INDEX_REBUILT_RECORDS_TOTAL)
        # Records left to rebuild, by partition.
        self._remaining: dict[int, int] = {}
        registry.computed(metrics.INDEX_REBUILD_REMAINING_RECORDS, self._left)
        self._ready = registry.gauge(metrics.INDEX_READY_SECONDS)
        self._ready_rebuilt = registry.gauge(metrics.INDEX_READY_REBUILT_RECORDS)
        # Of the last assignment: its partitions that do not answer yet, since when, and for what.
        self._unready: set[int] = set()
        self._assigned_at = 0.0
        self._rebuilt_records = 0
        self._was_ready = False
        self._score = registry.histogram(metrics.MATCH_SCORE)
        self._weight = registry.histogram(metrics.MATCH_WEIGHT_RATIO)
        self._matches = registry.histogram(metrics.MATCHES)
        self._plain = registry.counter(metrics.PLAIN_PICTURES_TOTAL)
        self._workspaces = BusiestWorkspaces(time.monotonic)
        # All series there from the start, and not looked up again for each picture.
        origins, relations, tiers = get_args(Origin), get_args(Relation), get_args(Tier)
        kinds = [(_NONE, _NONE), *product(relations, tiers)]
        self._latency = {origin: latency.labels(origin) for origin in origins}
        self._outcomes = {
            (origin, *kind): outcomes.labels(origin, *kind) for origin in origins for kind in kinds
        }
        self._redelivered = repeated.labels("redelivered")
        self._ids_reused = repeated.labels("id_reused")
        registry.computed(metrics.TOP_WORKSPACE_PICTURES, self._workspaces.busiest)
        reads: tuple[tuple[Metric, Callable[[PartitionIndex], Samples]], ...] = (
            (metrics.INDEX_PICTURES, lambda index: {(): index.numbers.pictures}),
            (metrics.INDEX_CODES, lambda index: {(): index.numbers.codes}),
            (metrics.INDEX_BAND_MERGES_TOTAL, lambda index: {(): index.numbers.merges}),
            (metrics.INDEX_BAND_FILES_BYTES, lambda index: {(): index.numbers.band_files_bytes}),
            (metrics.INDEX_DELTA_BYTES, lambda index: {(): index.numbers.delta_bytes}),
            (metrics.ROCKSDB_SIZE_BYTES, _sizes),
            (
                metrics.ROCKSDB_PENDING_COMPACTION_BYTES,
                lambda index: {(): index.storage().pending_compaction_bytes},
            ),
            (metrics.ROCKSDB_WRITE_STALLS_TOTAL, _stalls),
            (
                metrics.ROCKSDB_WRITE_STOPPED,
                lambda index: {(): int(index.storage().writes_stopped)},
            ),
        )
        for metric, read in reads:
            registry.computed(metric, self._of_each(read))
        registry.computed(metrics.ROCKSDB_BLOCK_CACHE_BYTES, block_cache_bytes)
        directory = data_directory.absolute()
        registry.computed(metrics.DISK_FREE_BYTES, lambda: _disk(directory).free)
        registry.computed(metrics.DISK_SIZE_BYTES, lambda: _disk(directory).total)

    def searched(self, index: PartitionIndex) -> "SearchedIndex":
        """Give an index that times its searches and counts what they find."""
        return SearchedIndex(index, self.candidates_found)

    def candidates_found(self, ordinals: Sequence[int]) -> None:
        """Count the candidates of one picture."""
        self._candidates.observe(len(ordinals))

    def told(
        self,
        records: int,
        arrivals: Sequence[Arrival],
        outcomes: Mapping[int, Outcome[Row]],
        repeats: set[int],
    ) -> None:
        """Count what a group of log records brought: first outcomes, and those sent again.

        `repeats`: offsets of the arrivals that reuse the id of another picture.
        """
        now_ms = self._clock_ms()
        self._group_records.observe(records)
        for arrival in arrivals:
            outcome = outcomes[arrival.first]
            if arrival.offset in repeats:
                self._ids_reused.inc()
            elif arrival.offset != arrival.first or not outcome.fresh:
                self._redelivered.inc()
            else:
                self._first(arrival.record, outcome, now_ms)

    def rebuilt(self, partition: int, records: int, remaining: int) -> None:
        """Count records that were applied without an outcome."""
        self._rebuilt.inc(records)
        self._rebuilt_records += records
        self._remaining[partition] = remaining

    def assigned(self, partitions: Collection[int]) -> None:
        """Begin to wait until all partitions of a new assignment can answer."""
        self._unready = set(partitions)
        self._assigned_at = time.monotonic()
        self._rebuilt_records = 0

    def ready(self, partition: int) -> None:
        """Note that a partition can answer: its index holds all below the next record."""
        if partition not in self._unready:
            return
        self._unready.discard(partition)
        if self._unready:
            return
        self._ready.labels("assignment").set(time.monotonic() - self._assigned_at)
        self._ready_rebuilt.set(self._rebuilt_records)
        if not self._was_ready:
            self._was_ready = True
            self._ready.labels("start").set(_process_age_seconds())

    @property
    def remaining(self) -> int:
        """Records left to rebuild, in all open indexes."""
        return int(sum(self._left().values()))

    def _left(self) -> dict[tuple[str, ...], float]:
        return {(str(number),): self._remaining.get(number, 0) for number in list(self._indexes())}

    def _first(self, record: Hashed, outcome: Outcome[Row], now_ms: int) -> None:
        matches = () if outcome.finding is None else outcome.finding.matches
        same_item = next((match for match in matches if match.relation != "other_text"), None)
        best = same_item or next(iter(matches), None)
        relation, tier = (_NONE, _NONE) if best is None else (best.relation, best.tier)
        self._outcomes[record.origin, relation, tier].inc()
        self._matches.observe(len(matches))
        if same_item is not None:
            self._score.observe(same_item.score)
            self._weight.observe(same_item.weight)
        if record.fingerprint.low_information:
            self._plain.inc()
        self._workspaces.count(record.workspace)
        exemplar = {"event_id": event_id(IMAGE_MATCHED, record.workspace, record.image_id)}
        seconds = max(0, now_ms - record.ingested_at_ms) / 1000
        self._latency[record.origin].observe(seconds, exemplar)

    def _of_each(
        self, read: Callable[[PartitionIndex], Samples]
    ) -> Callable[[], dict[tuple[str, ...], float]]:
        def samples() -> dict[tuple[str, ...], float]:
            found: dict[tuple[str, ...], float] = {}
            for partition, index in dict(self._indexes()).items():
                try:
                    read_now = read(index)
                except Exception as error:  # noqa: BLE001 - rocksdict's error for one just closed
                    logger.debug("partition %d was closed meanwhile: %r", partition, error)
                    continue
                found |= {(str(partition), *labels): value for labels, value in read_now.items()}
            return found

        return samples


class SearchedIndex:
    """An index whose searches are timed; what matching asks of an index, and nothing else."""

    def __init__(self, index: Index[Row], found: Callable[[Sequence[int]], None]) -> None:
        """Take the index, and whom to tell of each picture's candidates."""
        self._found = found
        self.seconds = 0.0
        self.settings_at: Callable[[int], MatchSettings] = index.settings_at
        self.rows: Callable[[Sequence[int]], list[Row]] = index.rows
        self.outcomes: Callable[[Sequence[int]], dict[int, bytes]] = index.outcomes
        self._search = index.candidates

    def candidates(
        self, rows: Sequence[Row], codes: Sequence[Sequence[bytes]], radius: int, bound: int, /
    ) -> list[Sequence[int]]:
        """Search."""
        began = time.perf_counter()
        found = self._search(rows, codes, radius, bound)
        self.seconds += time.perf_counter() - began
        for ordinals in found:
            self._found(ordinals)
        return found


def _process_age_seconds() -> float:
    """Give the age of this process, by a clock that nobody sets (man 5 proc_pid_stat, field 22)."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def _sizes(index: PartitionIndex) -> Samples:
    return {(part,): size for part, size in index.storage().sizes_bytes.items()}


def _stalls(index: PartitionIndex) -> Samples:
    storage = index.storage()
    return {("delay",): storage.write_delays, ("stop",): storage.write_stops}


def _disk(directory: Path) -> "shutil._ntuple_diskusage":
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(directory)
