"""The loop on a real broker: pictures in, outcomes out, as the contract promises them."""

import itertools
import uuid
from collections.abc import Callable

import pytest

from deploy.local.client import Client, Record
from deploy.local.demo import served
from deploy.local.stack import Stack
from schemas.codec import decode_log, event_id
from schemas.records import CheckIds, ImageIngested, ImageMatched, Removed
from schemas.topics import IMAGE_MATCHED, IMAGE_REMOVED, INDEX_LOG, dead_letter_topic_name
from streams.kafka.partitioner import partition_of
from tests.integration.pictures import copy_file, photograph_file, written
from tests.unit.agents.pictures import shipped

WAIT_SECONDS = 60.0

seeds = itertools.count(1)


@pytest.fixture
def seed() -> int:
    """A photograph that no other test uses."""
    return next(seeds)


@pytest.fixture
def settle(client: Client, stack: Stack) -> Callable[[Callable[[], bool]], None]:
    """Wait for a condition, which must come to hold while all processes live."""

    def wait(condition: Callable[[], bool]) -> None:
        assert client.wait(condition, WAIT_SECONDS, meanwhile=stack.require_alive)

    return wait


@pytest.fixture
def ask(
    client: Client, settle: Callable[[Callable[[], bool]], None]
) -> Callable[..., list[ImageMatched]]:
    """Publish pictures together; give their outcomes."""

    def publish(*events: ImageIngested) -> list[ImageMatched]:
        before = {event.image_id: len(client.outcomes(event.image_id)) for event in events}
        client.ingest(*events)
        settle(lambda: all(len(client.outcomes(name)) > count for name, count in before.items()))
        return [client.outcomes(event.image_id)[-1].outcome() for event in events]

    return publish


def picture(workspace: str, content: bytes, image_id: str = "") -> ImageIngested:
    """An event with the picture in it."""
    return ImageIngested(workspace, image_id or uuid.uuid4().hex, content=content)


def removals(client: Client, image_id: str) -> list[Removed]:
    """The removals of a picture that the log has."""
    records = [decode_log(record.value) for record in client.records(INDEX_LOG) if record.value]
    return [r for r in records if isinstance(r, Removed) and r.image_id == image_id]


Ask = Callable[..., list[ImageMatched]]
Settle = Callable[[Callable[[], bool]], None]


def test_a_copy_finds_its_original_at_once(ask: Ask, workspace: str, seed: int) -> None:
    """The next picture matches the one before it; the outcome has all that Check stores."""
    first, second = (picture(workspace, make(seed)) for make in (photograph_file, copy_file))
    (original,) = ask(first)
    (copy,) = ask(second)
    assert not original.match
    assert original.matches == ()
    assert copy.match
    assert copy.matches_total == 1
    assert copy.matches == (copy.closest_match,)
    match = copy.closest_match
    assert match is not None
    assert (match.image_id, match.sha256) == (first.image_id, original.sha256)
    assert (match.relation, match.tier) == ("near_identical", "confirmed_sibling")
    assert match.score <= 6
    assert 0.5 < match.weight <= 1
    assert copy.position.partition == original.position.partition
    assert copy.position.offset > original.position.offset


def test_the_flow_of_the_demo(ask: Ask, workspace: str) -> None:
    """Real photographs match their copies and nothing else, by URL and inline."""
    names = ("chelsea", "coffee", "rocket")
    files = {f"{name}.png": written(shipped(name), "PNG") for name in names}
    with served(files) as url:
        originals = ask(
            *(ImageIngested(workspace, f"{workspace}-{name}", url=url + name) for name in files)
        )
    small = [written(shipped(name).resize((200, 200)), quality=40) for name in names]
    copies = ask(*(picture(workspace, content) for content in small))
    assert [outcome.match for outcome in originals] == [False] * 3
    found = [outcome.closest_match and outcome.closest_match.image_id for outcome in copies]
    assert found == [outcome.image_id for outcome in originals]
    assert [outcome.matches_total for outcome in copies] == [1] * 3


def test_copies_that_arrive_together(ask: Ask, workspace: str) -> None:
    """Of two copies published at once, the newer one relates to the older one, never both."""
    pairs = [
        (picture(workspace, photograph_file(seed)), picture(workspace, copy_file(seed)))
        for seed in itertools.islice(seeds, 10)
    ]
    outcomes = ask(*itertools.chain.from_iterable(pairs))
    for pair in zip(outcomes[::2], outcomes[1::2], strict=True):
        older, newer = sorted(pair, key=lambda outcome: outcome.position.offset)
        assert older.matches == ()
        assert [match.image_id for match in newer.matches] == [older.image_id]


def test_a_redelivery_gets_the_first_outcome(
    ask: Ask, client: Client, workspace: str, seed: int
) -> None:
    """The same id again, also with other bytes: the first outcome byte for byte, indexed once."""
    event = picture(workspace, photograph_file(seed))
    ask(event)
    ask(picture(workspace, copy_file(seed)))
    ask(event)
    ask(picture(workspace, photograph_file(next(seeds)), event.image_id))
    first, *again = client.outcomes(event.image_id)
    assert len(again) == 2
    assert [record.same for record in again] == [first.same] * 2
    assert {record.partition for record in again} == {first.partition}
    (late,) = ask(picture(workspace, copy_file(seed)))
    assert late.matches_total == 2


def test_workspaces_are_apart(ask: Ask, client: Client, stack: Stack, seed: int) -> None:
    """Two workspaces on one partition see nothing of each other, not even with equal ids."""
    partitions = stack.settings.partitions
    names = (f"apart-{uuid.uuid4().hex}" for _ in itertools.count())
    one = next(names)
    two = next(n for n in names if partition_of(n, partitions) == partition_of(one, partitions))
    image_id = uuid.uuid4().hex
    for workspace in (one, two):
        (outcome,) = ask(picture(workspace, photograph_file(seed), image_id))
        assert outcome.workspace == workspace
        assert not outcome.match
    first, second = client.outcomes(image_id)
    assert first.header("ce_id") != second.header("ce_id")
    (copy,) = ask(picture(two, copy_file(seed)))
    assert copy.matches_total == 1


def test_a_removed_picture_is_found_by_nothing(
    ask: Ask, client: Client, settle: Settle, workspace: str, seed: int
) -> None:
    """After its removal, and after it is delivered again; its own outcome stays what it was."""
    event = picture(workspace, photograph_file(seed))
    ask(event)
    client.remove(workspace, event.image_id)
    settle(lambda: bool(removals(client, event.image_id)))
    (copy,) = ask(picture(workspace, copy_file(seed)))
    assert copy.matches == ()
    ask(event)
    first, again = client.outcomes(event.image_id)
    assert again.same == first.same
    (late,) = ask(picture(workspace, copy_file(seed)))
    assert [match.image_id for match in late.matches] == [copy.image_id]


def test_a_removal_before_its_picture(
    ask: Ask, client: Client, settle: Settle, workspace: str, seed: int
) -> None:
    """The picture gets an outcome that says so, and is never indexed."""
    event = picture(workspace, photograph_file(seed))
    client.remove(workspace, event.image_id)
    settle(lambda: bool(removals(client, event.image_id)))
    (outcome,) = ask(event)
    assert outcome.removed
    assert not outcome.match
    (copy,) = ask(picture(workspace, copy_file(seed)))
    assert copy.matches == ()


def test_a_removal_that_is_no_good(client: Client, settle: Settle, workspace: str) -> None:
    """It is dead-lettered with its reason, and later removals are applied."""
    image_id = uuid.uuid4().hex
    key = workspace.encode()
    ((partition, offset),) = client.send((IMAGE_REMOVED, key, b'{"image_id": 1}', ()))
    client.remove(workspace, image_id)
    settle(lambda: bool(removals(client, image_id)))
    letters = [
        letter
        for letter in client.records(dead_letter_topic_name(IMAGE_REMOVED), workspace)
        if letter.header("dlq-source-offset") == str(offset)
    ]
    assert [letter.header("dlq-reason") for letter in letters] == ["workspace_missing"]
    assert letters[0].value == b'{"image_id": 1}'
    assert letters[0].partition == partition


def test_checks_own_ids_come_back(ask: Ask, workspace: str, seed: int) -> None:
    """With the picture's own outcome, and with each match it takes part in."""
    ids = CheckIds(team_id=7, project_media_id=2**62)
    first = ImageIngested(workspace, uuid.uuid4().hex, content=photograph_file(seed), check=ids)
    (original,) = ask(first)
    (copy,) = ask(picture(workspace, copy_file(seed)))
    assert original.check == ids
    assert copy.closest_match is not None
    assert copy.closest_match.check == ids


def test_an_outcome_is_a_cloud_event(
    ask: Ask, client: Client, stack: Stack, workspace: str, seed: int
) -> None:
    """Binary mode, with an id that a redelivery shares; on the partition of its key."""
    event = picture(workspace, photograph_file(seed))
    ask(event)
    record: Record = client.outcomes(event.image_id)[0]
    assert {name: record.header(name) for name, _ in record.headers if name != "ce_time"} == {
        "ce_specversion": "1.0",
        "ce_id": event_id(IMAGE_MATCHED, workspace, event.image_id),
        "ce_source": "check-dedup/matcher",
        "ce_type": "check-dedup.image-matched.v1",
        "ce_subject": event.image_id,
        "content-type": "application/json",
    }
    assert record.partition == partition_of(event.image_id, stack.settings.partitions)
    position = record.outcome().position
    assert position.partition == partition_of(workspace, stack.settings.partitions)
