"""Who waits hears; who does not, or no longer, is not disturbed; silence is noticed."""

import asyncio
from collections.abc import Collection

import msgspec
import pytest

from agents.decide import default_match_settings
from schemas.codec import UnknownLogRecordError, decode_question, encode_json
from schemas.records import AskCanary, Fingerprint, Hashed, MatchAnswered, Position
from streams.api.answers import Answers
from streams.delivery import Outgoing
from streams.settings import Settings

SETTINGS = default_match_settings(2)
FLAT = Fingerprint(1, b"s" * 32, "PNG", 9, 9, 9, 9, (), low_information=True)


class World:
    """Answers with a clock and a broker of our own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sent: list[Outgoing] = []
        self.answers = Answers(
            Settings(partitions=2, answer_age_limit_seconds=10.0),
            deliver=self.deliver,
            clock=lambda: self.now,
        )

    async def deliver(self, records: Collection[Outgoing], /) -> None:
        """Take records."""
        self.sent.extend(records)

    def hear(self, request_id: str, *, settings: bool = False, more: bytes = b"") -> None:
        """Bring an answer."""
        found = SETTINGS if settings else None
        answered = MatchAnswered(request_id, "w", Position(0, 1), settings=found)
        self.answers.hear([(request_id.encode(), more or encode_json(answered))])


@pytest.fixture
def world() -> World:
    """Give a world in which nothing has been asked."""
    return World()


async def test_an_answer_goes_to_who_asked(world: World) -> None:
    """And to nobody else."""
    with world.answers.expect(0) as (one, first), world.answers.expect(0) as (_, second):
        world.hear(one)
        assert (await first).request_id == one
        assert not second.done()


async def test_answers_to_others_and_to_the_past_are_passed_over(world: World) -> None:
    """Other replicas' requests, one's own that gave up, and an answer that came twice."""
    with world.answers.expect(0) as (given_up, _):
        pass
    world.hear(given_up)
    world.hear("another replica's")
    with world.answers.expect(0) as (twice, answer):
        world.hear(twice)
        world.hear(twice)
        assert answer.done()


async def test_an_answer_of_a_later_release_is_no_answer(world: World) -> None:
    """It disturbs none that came with it."""
    with world.answers.expect(0) as (one, first), world.answers.expect(0) as (two, second):
        good = encode_json(MatchAnswered(two, "w", Position(0, 1)))
        world.answers.hear([(one.encode(), b'{"new":1}'), (two.encode(), good)])
        assert not first.done()
        assert second.done()


async def test_silence_is_noticed(world: World) -> None:
    """What counts is when the newest answered question was asked, not when its answer came."""
    assert world.answers.settings_of(0) is None
    assert world.answers.late_partitions() == (0, 1)
    with world.answers.expect(0) as (canary, _):
        world.now = 4.0
        world.hear(canary, settings=True)
    assert world.answers.settings_of(0) == SETTINGS
    assert world.answers.late_partitions() == (1,)
    world.now = 10.5
    assert world.answers.settings_of(0) is None


async def test_any_answer_tells_that_somebody_answers(world: World) -> None:
    """Not canaries alone."""
    with world.answers.expect(0) as (canary, _):
        world.hear(canary, settings=True)
    world.now = 9.0
    with world.answers.expect(0) as (request, _):
        world.now = 9.1
        world.hear(request)
    world.now = 15.0
    assert world.answers.settings_of(0) == SETTINGS


async def test_a_canary_for_each_partition(world: World) -> None:
    """Its partition is given: no workspace need be found that lives there."""
    watching = asyncio.create_task(world.answers.watch())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [record.partition for record in world.sent] == [0, 1]
    for record in world.sent:
        assert isinstance(decode_question(record.value), AskCanary)
    watching.cancel()


async def test_a_record_that_nobody_could_read_is_not_appended(world: World) -> None:
    """A picture may have taken over the child that hashed it; the log is kept for ever."""
    broken = msgspec.structs.replace(FLAT, sha256=b"short")
    with pytest.raises(UnknownLogRecordError):
        await world.answers.append(Hashed(1, "w", "i", "api", broken, 0))
    assert world.sent == []
