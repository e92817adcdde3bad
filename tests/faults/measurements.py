"""What a run under faults is measured by: latency, recovery, restarts, growth.

Pure: computed after the run, from the records' own timestamps and from samples that were taken
meanwhile. Called by `make chaos`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
import numpy as np
from scipy import stats

from schemas.codec import decode_log
from schemas.records import Hashed, ImageMatched
from schemas.topics import IMAGE_INGESTED, IMAGE_MATCHED, INDEX_LOG
from tests.faults.traffic import Event
from tests.oracle import History, Picture

LATE_SECONDS: Final = 1.0
# What is sent just before the next fault is that fault's.
_BEFORE_NEXT_SECONDS: Final = 1.0
# Fewer pictures have no p99.
_JUDGED_SECONDS: Final = 2.0
_STEP_SECONDS: Final = 0.25

# Growth is judged when start-up is over: caches fill, the first pictures come.
_WARM_UP_SHARE: Final = 1 / 3
_BLOCKS: Final = 12
_SAMPLES_TO_JUDGE: Final = 10 * _BLOCKS
_CONFIDENCE: Final = 0.95


@dataclass(frozen=True, slots=True)
class Latency:
    """One picture: when it was published (seconds since 1970), and how long its outcome took."""

    published: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Window:
    """Pictures published from `at` on for a while, and how long their outcomes took."""

    at: float
    pictures: int
    p50_seconds: float
    p99_seconds: float


@dataclass(frozen=True, slots=True)
class Fault:
    """What was done, from when to when; all times in seconds since 1970.

    `partitions`: what the process that was hit worked on; empty where it is not known, or where
    no process was to come back.
    """

    what: str
    kind: str
    began: float
    healed: float
    restarted: Literal["hasher", "matcher"] | None = None
    partitions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """A process at one time."""

    at: float
    own_bytes: float
    open_files: int


@dataclass(frozen=True, slots=True)
class Growth:
    """How a quantity moved after the warm-up; `slope` and `error` are per hour."""

    medians: list[float]
    """Of the blocks, oldest first."""
    mean: float
    slope: float
    error: float
    allowed: float

    @property
    def is_flat(self) -> bool:
        """Whether it does not certainly grow by more than is allowed."""
        return self.slope - self.error <= self.allowed


def latencies(history: History, sent: Iterable[Event]) -> list[Latency]:
    """From a picture's first event to its first outcome, by the records' timestamps."""
    pictures = {(event.key, event.value): event.picture for event in sent}
    asked: dict[Picture, int] = {}
    for _, entry in history.of(IMAGE_INGESTED):
        picture = pictures.get((entry.key, entry.value))
        if picture is not None:
            asked[picture] = min(asked.get(picture, entry.timestamp_ms), entry.timestamp_ms)
    told: dict[Picture, int] = {}
    for _, entry in history.of(IMAGE_MATCHED):
        outcome = msgspec.json.decode(entry.value or b"", type=ImageMatched)
        picture = Picture(outcome.workspace, outcome.image_id)
        told[picture] = min(told.get(picture, entry.timestamp_ms), entry.timestamp_ms)
    return sorted(
        (
            Latency(at / 1000, (told[picture] - at) / 1000)
            for picture, at in asked.items()
            if picture in told
        ),
        key=lambda each: each.published,
    )


def windows(found: Sequence[Latency], seconds: float) -> list[Window]:
    """Cut into windows by the time of publication."""
    if not found:
        return []
    first = found[0].published
    by_window: dict[int, list[float]] = {}
    for each in found:
        by_window.setdefault(int((each.published - first) / seconds), []).append(each.seconds)
    return [
        Window(first + number * seconds, len(took), *np.percentile(took, [50, 99]).tolist())
        for number, took in sorted(by_window.items())
    ]


def seconds_until_prompt(found: Sequence[Latency], healed: float, until: float) -> float | None:
    """From a heal to when p99 of all that is published from then on stays under a second.

    `until` is when the next fault began. None: not before that.
    """
    end = until - _BEFORE_NEXT_SECONDS
    after = [each for each in found if healed <= each.published < end]
    published = np.array([each.published for each in after])
    took = np.array([each.seconds for each in after])
    start = healed
    while start <= end - _JUDGED_SECONDS:
        remaining = took[published >= start]
        if len(remaining) and np.percentile(remaining, 99) < LATE_SECONDS:
            return start - healed
        start += _STEP_SECONDS
    return None


def first_results(history: History) -> dict[str, list[tuple[float, int]]]:
    """Give by role when a result came, and for which partition it works on; in order of time.

    A matcher's are the first outcomes, by partition of `index-log`; a hasher's the records there,
    by the partition of their source.
    """
    outcomes: dict[Picture, tuple[float, int]] = {}
    for _, entry in history.of(IMAGE_MATCHED):
        outcome = msgspec.json.decode(entry.value or b"", type=ImageMatched)
        picture = Picture(outcome.workspace, outcome.image_id)
        at = entry.timestamp_ms / 1000
        outcomes[picture] = min(outcomes.get(picture, (at, 0)), (at, outcome.position.partition))
    hashed = [
        (entry.timestamp_ms / 1000, record.source.partition)
        for _, entry in history.of(INDEX_LOG)
        if isinstance(record := decode_log(entry.value or b""), Hashed)
        and record.source is not None
    ]
    return {"matcher": sorted(outcomes.values()), "hasher": sorted(hashed)}


def seconds_to_result(
    results: Mapping[str, Sequence[tuple[float, int]]], fault: Fault, since: float
) -> float | None:
    """From `since` to the first result of what the process worked on; None where none came."""
    if fault.restarted is None:
        return None
    times = (at for at, place in results[fault.restarted] if place in fault.partitions)
    return next((at - since for at in times if at > since), None)


def growth(times: Sequence[float], values: Sequence[float], *, allowed: float) -> Growth | None:
    """Fit a line through the medians of blocks after the warm-up; None where that is too short.

    Blocks, because neighbouring samples are not independent and would make the error look small.
    `allowed` is what may be added in an hour.
    """
    first = int(len(times) * _WARM_UP_SHARE)
    if len(times) - first < _SAMPLES_TO_JUDGE:
        return None
    hours = [float(np.median(block)) / 3600 for block in np.array_split(times[first:], _BLOCKS)]
    medians = [float(np.median(block)) for block in np.array_split(values[first:], _BLOCKS)]
    line = stats.linregress(hours, medians)
    # What never moves at all has no defined error.
    error = 0.0 if np.ptp(medians) == 0 else line.stderr
    quantile = stats.t.ppf(0.5 + _CONFIDENCE / 2, _BLOCKS - 2)
    return Growth(
        medians, float(np.mean(medians)), float(line.slope), float(quantile * error), allowed
    )
