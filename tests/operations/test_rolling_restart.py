"""A rolling restart of every process while pictures come in: late for seconds, and none lost.

As Kubernetes does it: a new hasher is there before an old one stops, matchers stop and come back
under their names, one after the other. The index holds 20,000 pictures before, and 20 events more
arrive each second. Latency is taken from the timestamps of the records, as a reader of both topics
sees them.
"""

import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np
import pytest

from deploy.local.bench import append
from schemas.records import ImageMatched
from schemas.topics import IMAGE_INGESTED, IMAGE_MATCHED, INDEX_LOG, dead_letter_topic_name
from streams.kafka.client import committed_offset
from streams.kafka.topics import MATCHER_GROUP
from tests.faults.harness import PARTITIONS, ROOT, Publisher, System, Worker, seed_from_environment
from tests.faults.traffic import Event
from tests.oracle import History, Picture, read_history

PICTURES_BEFORE: Final = 20_000
EVENTS_PER_SECOND: Final = 20.0
P99_LIMIT_SECONDS: Final = 15.0
APPLIED_SECONDS: Final = 180.0
# As minReadySeconds of deploy/k8s/base.
READY_SECONDS: Final = 5.0


@pytest.fixture
def system() -> Iterator[System]:
    """Two hashers and two matchers on a Kafka of their own; logs stay in build/operations."""
    seed = seed_from_environment()
    directory = ROOT / "build" / "operations" / f"rolling-{seed}-{time.time_ns()}"
    directory.mkdir(parents=True)
    with System(directory, seed) as started:
        started.timeline.add(f"seed {seed}; logs in {directory}")
        yield started


def await_applied(system: System, records: int) -> None:
    """Wait until the matchers have committed this much of index-log."""
    deadline = time.monotonic() + APPLIED_SECONDS
    while True:
        done = sum(
            committed_offset(system.settings, MATCHER_GROUP, INDEX_LOG, partition) or 0
            for partition in range(PARTITIONS)
        )
        if done >= records:
            return
        assert time.monotonic() < deadline, system.describe(f"{done} of {records} applied")
        system.pause(0.5)


def stretch() -> float:
    """How much longer than its CPU time a start takes before any load of ours; 1 on idle cores.

    What makes outcomes late is processes that start. On a machine that is busy with something else
    they start later, and that is no fault of theirs.
    """
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([sys.executable, "-c", "import streams.hasher"], cwd=ROOT, check=True)
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return max(1.0, wall / busy)


def replace_hasher(system: System, old: Worker) -> None:
    """Start another, wait until it is ready, and stop the old one, as a Deployment does."""
    number = len(system.of("hasher"))
    name = f"hasher-{number}"
    environment = dict(old.environment) | {"CHECK_DEDUP_INSTANCE_ID": name}
    system.timeline.add(f"{name} instead of {old.name}")
    new = system.start("hasher", name, environment)
    system.await_true(f"{name} is ready", new.is_ready)
    system.pause(READY_SECONDS)
    code = old.terminate()
    assert code == 0, system.describe(f"{old.name} ended with {code}")


def latencies(history: History, sent: list[Event]) -> dict[Picture, float]:
    """From a picture's first event to its first outcome, in seconds."""
    pictures = {(event.key, event.value): event.picture for event in sent}
    asked: dict[Picture, int] = {}
    for _, entry in history.of(IMAGE_INGESTED):
        picture = pictures[entry.key, entry.value]
        if picture is not None:
            asked[picture] = min(asked.get(picture, entry.timestamp_ms), entry.timestamp_ms)
    told: dict[Picture, int] = {}
    said: dict[Picture, bytes] = {}
    for _, entry in history.of(IMAGE_MATCHED):
        outcome = msgspec.json.decode(entry.value or b"", type=ImageMatched)
        picture = Picture(outcome.workspace, outcome.image_id)
        assert said.setdefault(picture, entry.value or b"") == entry.value, f"two of {picture}"
        told[picture] = min(told.get(picture, entry.timestamp_ms), entry.timestamp_ms)
    assert asked.keys() <= told.keys(), f"lost: {sorted(asked.keys() - told.keys())[:5]}"
    assert len(told) == len(asked) + PICTURES_BEFORE
    return {picture: (told[picture] - at) / 1000 for picture, at in asked.items()}


def dead_letters(history: History) -> Counter[str]:
    """Count them by reason; one that was delivered twice names one place and counts once."""
    found = {}
    for _, entry in history.of(dead_letter_topic_name(IMAGE_INGESTED)):
        headers = {name: (text or b"").decode() for name, text in entry.headers}
        place = (headers["dlq-source-partition"], headers["dlq-source-offset"])
        found[place] = headers["dlq-reason"]
    return Counter(found.values())


def test_a_rolling_restart_loses_nothing_and_is_hardly_noticed(
    system: System, capsys: pytest.CaptureFixture[str]
) -> None:
    """P99 stays under 15 s; each picture has one outcome, and poison its reason."""
    system.await_members()
    append(system.settings, PICTURES_BEFORE)
    await_applied(system, PICTURES_BEFORE)
    system.timeline.add(f"{PICTURES_BEFORE} pictures are in the index")
    limit = P99_LIMIT_SECONDS * max(stretch() for _ in range(3))
    publisher = Publisher(system.settings, system.events, system.pictures, EVENTS_PER_SECOND)
    publisher.start()
    system.pause(READY_SECONDS)
    for hasher in system.of("hasher"):
        replace_hasher(system, hasher)
    for matcher in system.of("matcher"):
        system.terminate(matcher, 0.0)
        system.await_true(f"{matcher.name} is ready", matcher.is_ready)
        system.pause(READY_SECONDS)
    system.pause(READY_SECONDS)
    publisher.finish()
    system.await_settled()
    history = read_history(system.settings)

    seconds = np.array(list(latencies(history, publisher.sent).values()))
    p50, p99 = np.percentile(seconds, [50, 99])
    figures = (
        f"{len(seconds)} pictures: p50 {p50:.2f} s, p99 {p99:.2f} s, "
        f"longest {seconds.max():.2f} s; limit here {limit:.1f} s"
    )
    system.timeline.add(figures)
    with capsys.disabled():
        print(f"\nrolling restart, {figures}")  # noqa: T201 - a figure that is promised
    poison = Counter(str(event.reason) for event in publisher.sent if event.reason is not None)
    assert dead_letters(history) == poison
    assert len(seconds) > EVENTS_PER_SECOND * READY_SECONDS
    assert p99 < limit, system.describe(f"p99 is {p99:.1f} s")
    assert not system.complaints, system.describe("\n".join(system.complaints))
