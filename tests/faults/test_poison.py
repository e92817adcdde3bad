"""Events that are no good: one, many, nothing else, and a dead-letter topic that takes none."""

from collections import Counter

from schemas.codec import encode_json
from schemas.records import ImageIngested
from schemas.topics import IMAGE_INGESTED, TOPICS, dead_letter_topic_name
from streams.errors import PoisonedError
from streams.kafka.client import committed_offset
from streams.kafka.partitioner import partition_of
from streams.kafka.topics import HASHER_GROUP
from streams.settings import Settings
from tests.faults.harness import PARTITIONS, System
from tests.faults.traffic import WORKSPACES, Event
from tests.oracle import read_history

DEAD_LETTERS = dead_letter_topic_name(IMAGE_INGESTED)


def key_on(partition: int, name: str) -> str:
    """Make up an image id that lies on a partition."""
    number = 0
    while partition_of(f"{name}-{number}", PARTITIONS) != partition:
        number += 1
    return f"{name}-{number}"


def unreadable(image_id: str) -> Event:
    """Give an event that is no JSON."""
    return Event(IMAGE_INGESTED, image_id.encode(), b'{"workspace": ', reason="not_json")


def no_picture(image_id: str) -> Event:
    """Give a good event whose picture is none."""
    value = encode_json(ImageIngested(WORKSPACES[0], image_id, content=b"this is no picture"))
    return Event(IMAGE_INGESTED, image_id.encode(), value, reason="not_an_image")


def truncated(system: System, image_id: str) -> Event:
    """Give a good event whose picture ends early."""
    content = next(event.content for event in system.events if event.picture is not None)
    value = encode_json(
        ImageIngested(WORKSPACES[0], image_id, content=content[: len(content) // 2])
    )
    return Event(IMAGE_INGESTED, image_id.encode(), value, reason="picture_truncated")


def letters(system: System) -> Counter[bytes | None]:
    """Count the dead letters by key."""
    return Counter(entry.key for _, entry in read_history(system.settings).of(DEAD_LETTERS))


def committed(system: System, partition: int) -> int:
    """Ask what the hashers have committed."""
    found = committed_offset(system.settings, HASHER_GROUP, IMAGE_INGESTED, partition)
    assert found is not None
    return found


def test_poison_at_the_committed_head(system: System) -> None:
    """Bad events, at the committed offset and among good ones: set aside once, neighbours done."""
    system.await_settled()
    at_the_head = []
    for partition in range(PARTITIONS):
        image_id = key_on(partition, f"head-{system.seed}")
        event = (unreadable(image_id), no_picture(image_id), truncated(system, image_id))[
            partition % 3
        ]
        head = committed(system, partition)
        (place,) = system.publish(event)
        assert place == (place.topic, partition, head)
        at_the_head.append(event.key)
    # Nothing comes after them: they may not wait for company.
    system.await_settled()
    for worker in system.of("hasher"):
        system.kill(worker, 0)
    with system.publishing():
        for number in range(10):
            image_id = f"among-{system.seed}-{number}"
            system.publish((unreadable, no_picture)[number % 2](image_id))
            system.pause(0.2)
    report = system.judge()
    found = letters(system)
    assert [found[key] for key in at_the_head] == [1] * PARTITIONS
    assert report.outcomes


def test_all_poison(system: System) -> None:
    """When nothing can be read the hasher stops at the limit, however often it starts again."""
    limit = Settings().unreadable_limit
    hashers = system.of("hasher")
    system.await_settled()
    poison = [unreadable(key_on(1, f"all-{system.seed}-{number}")) for number in range(2 * limit)]
    # What came last may have been unreadable too, and would count.
    readable = no_picture(key_on(1, f"readable-{system.seed}"))
    with system.expecting_ends(*hashers):
        first = system.publish(readable, *poison)[1].offset
        # The other one, where the first is away for long enough, is no cleverer.
        system.await_true(
            "a hasher stops twice",
            lambda: sum(len(worker.unasked_exits) for worker in hashers) >= 2,
        )
        codes = {code for worker in hashers for code in worker.unasked_exits}
        assert codes == {PoisonedError.exit_code}, system.describe("other ends")
        said = "".join(worker.said() for worker in hashers)
        assert f"{limit} events in turn" in said
        assert f"offset {first + limit}." in said
        assert committed(system, 1) == first + limit
        found = letters(system)
        assert sum(found[event.key] > 0 for event in poison) == limit
        for worker in hashers:
            system.look_after()
            worker.kill()
            system.restart(worker, CHECK_DEDUP_UNREADABLE_LIMIT="0")
        system.judge()
        found = letters(system)
        assert all(found[event.key] >= 1 for event in poison)
    for worker in hashers:
        system.restart(worker, CHECK_DEDUP_UNREADABLE_LIMIT=None)


def test_dead_letters_that_cannot_be_written(system: System) -> None:
    """The hasher stops with the reason, in front of the event; repaired, it goes on from there."""
    system.await_settled()
    hashers = system.of("hasher")
    poison = unreadable(key_on(2, f"refused-{system.seed}"))
    declared = TOPICS[DEAD_LETTERS].config()["max.message.bytes"]
    head = committed(system, 2)
    system.configure_topic(DEAD_LETTERS, "max.message.bytes", "16")
    try:
        with system.expecting_ends(*hashers):
            system.publish(poison)
            # Good ones behind it may be hashed; they may not take the watermark past it.
            with system.publishing():
                system.await_true(
                    "a hasher stops", lambda: any(worker.unasked_exits for worker in hashers)
                )
            said = "".join(worker.said() for worker in hashers)
            assert "dead letters are not delivered, and tried again" in said
            assert f"a record of {DEAD_LETTERS} was not delivered" in said
            assert committed(system, 2) == head
            assert letters(system)[poison.key] == 0
            # Started again, it says what is wrong with the topic before it touches anything.
            system.await_true(
                "the topic is named",
                lambda: any(
                    f"{DEAD_LETTERS}: max.message.bytes" in worker.said() for worker in hashers
                ),
            )
            assert committed(system, 2) == head
            system.configure_topic(DEAD_LETTERS, "max.message.bytes", declared)
            report = system.judge()
    finally:
        system.configure_topic(DEAD_LETTERS, "max.message.bytes", declared)
    assert letters(system)[poison.key] == 1
    assert report.outcomes
