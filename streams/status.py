"""How the product does, at a glance: what waits, what came of it, and how large the index is.

Called by `check-dedup status`. Lag, outcomes and dead letters are asked of Kafka, so they are there
whether or not any process runs; the index is what the processes tell that are asked.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaException

from schemas.topics import IMAGE_MATCHED, TOPICS
from streams.kafka.client import admin_client, classified, committed_of, require_access
from streams.kafka.ends import Ends, time_ms
from streams.kafka.topics import GROUP_TOPICS
from streams.settings import Settings
from streams.telemetry.scrape import Scrape

# The first ports of `make up`; which of them answer is seen by asking.
ENDPOINTS: Final = tuple(f"http://127.0.0.1:{port}/metrics" for port in range(9101, 9109))

_ANSWER_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Group:
    """One consumer group. `done`: records below its committed offsets, for its rate."""

    name: str
    members: int
    lag_records: int
    lag_seconds: float
    done: int


@dataclass(frozen=True, slots=True)
class Index:
    """What the matchers that answered have in their indexes, and how soon they had them ready."""

    matchers: int
    pictures: int
    disk_free_bytes: int
    ready: "Ready | None" = None


@dataclass(frozen=True, slots=True)
class Ready:
    """Until a matcher could answer, the slowest of those that do. `rebuilt`: since it was assigned.

    Seconds since its process began, and since its last assignment of partitions.
    """

    start_seconds: float
    assignment_seconds: float
    rebuilt_records: int


@dataclass(frozen=True, slots=True)
class Status:
    """All of it, at one time."""

    monotonic_seconds: float
    groups: tuple[Group, ...]
    outcomes: int
    """Still in the topic, and all that ever were, for their rate."""
    outcomes_ever: int
    dead_letters: int
    dead_letters_ever: int
    processes: int
    session_timeout_seconds: int
    index: Index | None


class Reader:
    """Reads the status, again and again."""

    def __init__(self, settings: Settings, endpoints: Sequence[str] = ENDPOINTS) -> None:
        """Connect.

        Raises:
            RetryableError: Kafka does not answer.
            MisconfiguredError: it refuses us.
        """
        require_access(settings)
        self._settings = settings
        self._endpoints = tuple(endpoints)
        self._admin = admin_client(settings)
        self._ends = Ends(settings)

    def close(self) -> None:
        """Disconnect."""
        self._ends.close()

    def read(self) -> Status:
        """Ask all.

        Raises:
            RetryableError: Kafka does not answer.
            MisconfiguredError: a topic is missing, or we may not see it.
        """
        try:
            groups = tuple(self._group(name, topics) for name, topics in GROUP_TOPICS.items())
            outcomes, outcomes_ever = self._size(IMAGE_MATCHED)
            letters = [self._size(name) for name in TOPICS if name.endswith("-dlq")]
        except KafkaException as error:
            raise classified(error.args[0], "asking for the status") from error
        scrape = Scrape.of(*self._endpoints)
        return Status(
            monotonic_seconds=time.monotonic(),
            groups=groups,
            outcomes=outcomes,
            outcomes_ever=outcomes_ever,
            dead_letters=sum(now for now, _ in letters),
            dead_letters_ever=sum(ever for _, ever in letters),
            processes=len(scrape.values("check_dedup_build_info")),
            session_timeout_seconds=self._settings.session_timeout_seconds,
            index=_index(scrape),
        )

    def _group(self, name: str, topics: Sequence[str]) -> Group:
        asked = self._admin.describe_consumer_groups([name], request_timeout=_ANSWER_SECONDS)
        members = len(asked[name].result(_ANSWER_SECONDS).members)
        places = [(t, number) for t in topics for number in range(self._settings.partitions)]
        found = committed_of(self._settings, name, places, _ANSWER_SECONDS)
        lag_records, done, oldest_ms = 0, 0, None
        for place, committed in found.items():
            low, high = self._ends.watermarks(*place)
            offset = low if committed is None else max(committed.offset, low)
            done += offset
            if offset < high:
                lag_records += high - offset
                at_ms = time_ms(self._settings, *place, offset, _ANSWER_SECONDS)
                oldest_ms = min(filter(None, (oldest_ms, at_ms)), default=None)
        age = 0.0 if oldest_ms is None else max(0.0, time.time() - oldest_ms / 1000)
        return Group(name, members, lag_records, age, done)

    def _size(self, topic: str) -> tuple[int, int]:
        ends = [self._ends.watermarks(topic, number) for number in range(self._settings.partitions)]
        return sum(high - low for low, high in ends), sum(high for _, high in ends)


def _index(scrape: Scrape) -> Index | None:
    free = scrape.values("check_dedup_disk_free_bytes")
    if not free:
        return None
    pictures = int(scrape.total("check_dedup_index_pictures"))
    return Index(len(free), pictures, int(min(free)), _ready(scrape))


def _ready(scrape: Scrape) -> Ready | None:
    start, assignment = (
        max(scrape.values("check_dedup_index_ready_seconds", since=since), default=None)
        for since in ("start", "assignment")
    )
    if start is None or assignment is None:
        return None
    rebuilt = max(scrape.values("check_dedup_index_ready_rebuilt_records"), default=0.0)
    return Ready(start, assignment, int(rebuilt))


def lines(now: Status, before: Status | None = None) -> list[tuple[str, str]]:
    """Give the status as lines, (what, how it is); with rates where there is an earlier one."""
    seconds = 0.0 if before is None else now.monotonic_seconds - before.monotonic_seconds

    def rate(ever: int, earlier: int) -> str:
        return f", {max(0, ever - earlier) / seconds:.1f}/s" if seconds > 0 else ""

    found = []
    for place, group in enumerate(now.groups):
        earlier = group.done if before is None else before.groups[place].done
        members = f"{group.members} member{'s' * (group.members != 1)}"
        lag = f"lag {group.lag_records} records, {group.lag_seconds:.1f} s"
        how = f"{lag}{rate(group.done, earlier)}; {members}"
        found.append((group.name.removeprefix("check-dedup-"), how))
    known = now if before is None else before
    outcomes = f"{now.outcomes}{rate(now.outcomes_ever, known.outcomes_ever)}"
    letters = f"{now.dead_letters}{rate(now.dead_letters_ever, known.dead_letters_ever)}"
    index = restart = takeover = "no matcher tells; name its metrics with --metrics"
    if now.index is not None:
        free = now.index.disk_free_bytes / 1024**3
        index = f"{now.index.pictures} pictures; at least {free:.1f} GiB left on disk"
        restart = takeover = "no matcher is ready yet"
        if (ready := now.index.ready) is not None:
            restart = f"a matcher answered {ready.start_seconds:.1f} s after its start"
            takeover = (
                f"session timeout {now.session_timeout_seconds} s, then rebuild: "
                f"{ready.rebuilt_records} records in {ready.assignment_seconds:.1f} s at the last "
                "assignment"
            )
    return [
        *found,
        ("outcomes", outcomes),
        ("dead letters", letters),
        ("index", index),
        ("restart", restart),
        ("takeover", takeover),
        ("processes", f"{now.processes} tell their metrics"),
    ]
