"""The watchdog ends what only seems to live, and nothing that waits for a good reason."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from streams.delivery import TopicPartition, Watermarks
from streams.engine.watchdog import Eyes, Judge, LoopBeat, Seen, Standing, Watchdog
from streams.errors import RetryableError, StalledError
from streams.probes import Probes

PARTITION = TopicPartition("image-ingested", 0)
OTHER = TopicPartition("image-ingested", 1)
STALL_SECONDS = 300.0
LOOK_SECONDS = 5.0


@dataclass
class Work:
    """A feed whose broker may not answer."""

    partitions: set[TopicPartition] = field(default_factory=lambda: {PARTITION})
    end: int = 0
    taken_of: dict[TopicPartition, tuple[int, int, int]] = field(default_factory=dict)
    answers: bool = True

    def owned(self) -> set[TopicPartition]:
        """Give the partitions."""
        return self.partitions

    def taken(self, partition: TopicPartition) -> tuple[int, int, int] | None:
        """Give the position."""
        return self.taken_of.get(partition)

    def ends_at(self, _: int, __: float) -> int:
        """Give the end, or nothing."""
        if not self.answers:
            raise RetryableError("no answer")
        return self.end


@dataclass
class Member:
    """A member of the group, whose loop turns unless told otherwise."""

    beat: LoopBeat = field(default_factory=LoopBeat)
    assignment: int | None = 1
    watermarks: Watermarks = field(default_factory=Watermarks)
    is_stopping: bool = False


class World:
    """A member with work, and a judge who looks at it every five seconds."""

    def __init__(self) -> None:
        self.member, self.work = Member(), Work()
        self.work.taken_of[PARTITION] = (1, 10, 10)
        self.work.end = 10
        self.moves = 0
        self.held: str | None = None
        self.eyes = Eyes(self.member, (self.work,), lambda: self.moves, lambda: self.held)
        self.judge = Judge(STALL_SECONDS)

    def watch(
        self, seconds: float, meanwhile: Callable[[], object] = lambda: None, *, turns: bool = True
    ) -> str | None:
        """Look for so long; the first reason to end the process, if any."""
        for _ in range(int(seconds / LOOK_SECONDS)):
            self.member.beat.beats += turns
            meanwhile()
            reason = self.judge.look(self.eyes.look(), LOOK_SECONDS)
            if reason is not None:
                return reason
        return None


@pytest.fixture
def world() -> World:
    """A process with nothing to do."""
    return World()


def test_a_loop_that_does_not_turn_is_ended(world: World) -> None:
    """Within about a minute, whether the broker answers or not."""
    world.work.answers = False
    world.watch(LOOK_SECONDS)
    assert world.watch(60.0, turns=False) is None
    assert "event loop has not turned for 65 s" in str(world.watch(10.0, turns=False))


def test_work_that_stands_still_is_ended(world: World) -> None:
    """With its partition named, when the broker has more."""
    world.work.end = 11
    assert world.watch(STALL_SECONDS) is None
    assert "image-ingested[0]: the broker has more" in str(world.watch(10.0))


def test_a_partition_that_is_never_begun_is_ended(world: World) -> None:
    """Nothing was taken of it, and there is something."""
    world.work.taken_of.clear()
    assert "image-ingested[0]" in str(world.watch(STALL_SECONDS + 10))


def test_one_partition_of_several_that_stands_still_is_ended(world: World) -> None:
    """The other goes on, which is no excuse."""
    world.work.partitions = {PARTITION, OTHER}
    world.work.taken_of[OTHER] = (1, 0, 0)
    world.work.end = 10**6

    def go_on() -> None:
        _, start, expected = world.work.taken_of[OTHER]
        world.work.taken_of[OTHER] = (1, start, expected + 1)

    assert "image-ingested[0]" in str(world.watch(STALL_SECONDS + 10, go_on))


def test_a_group_that_is_not_joined_is_ended(world: World) -> None:
    """When the broker answers."""
    world.member.assignment = None
    assert world.watch(STALL_SECONDS) is None
    assert "not been joined" in str(world.watch(10.0))


HOUR_SECONDS = 3600.0


def test_an_idle_topic_is_no_stall(world: World) -> None:
    """Nothing comes, nothing moves, all is well: also when what came is done."""
    assert world.watch(HOUR_SECONDS) is None
    world.work.end = 20
    world.work.taken_of[PARTITION] = (1, 10, 20)
    world.member.watermarks.advance(PARTITION, 1, 20)
    assert world.watch(HOUR_SECONDS) is None


def test_slow_work_is_no_stall(world: World) -> None:
    """One event in four minutes is progress."""
    world.work.end = 10**6
    ticks = iter(range(10**6))

    def go_on() -> None:
        world.member.watermarks.advance(PARTITION, 1, 10 + next(ticks) // 48)

    assert world.watch(HOUR_SECONDS, go_on) is None


def test_a_long_rebuild_is_no_stall(world: World) -> None:
    """Nothing is committed for an hour, but the index grows; of a partition not begun, too."""
    world.work.partitions = {PARTITION, OTHER}
    world.work.end = 10**9

    def grow() -> None:
        world.moves += 1

    assert world.watch(HOUR_SECONDS, grow) is None


def test_work_held_up_on_purpose_is_no_stall(world: World) -> None:
    """A hasher that waits for the network, a matcher that opens an index; counted from its end."""
    world.work.end = 11
    world.held = "no host answers"
    assert world.watch(HOUR_SECONDS) is None
    world.held = None
    assert world.watch(STALL_SECONDS) is None
    assert world.watch(10.0) is not None


@pytest.mark.parametrize("assignment", [1, None])
def test_a_broker_that_is_down_is_no_stall(world: World, assignment: int | None) -> None:
    """Neither while it is down nor for what was counted before; joined or not."""
    world.work.end = 11
    world.member.assignment = assignment
    assert world.watch(STALL_SECONDS - 2 * LOOK_SECONDS) is None
    world.work.answers = False
    assert world.watch(HOUR_SECONDS) is None
    world.work.answers = True
    assert world.watch(STALL_SECONDS - 2 * LOOK_SECONDS) is None


def test_a_new_assignment_counts_anew(world: World) -> None:
    """Its partitions begin where the group stands, which is progress."""
    world.work.end = 11
    assert world.watch(STALL_SECONDS - 2 * LOOK_SECONDS) is None
    world.member.assignment = 2
    world.work.taken_of[PARTITION] = (2, 10, 10)
    assert world.watch(STALL_SECONDS - 2 * LOOK_SECONDS) is None


def test_a_group_without_partitions_for_us_is_joined(world: World) -> None:
    """A replica too many waits for as long as it takes."""
    world.work.partitions = set()
    assert world.watch(HOUR_SECONDS) is None


def ended_by(
    looks: Sequence[Seen], times: Sequence[float], *, stopping: bool = False
) -> list[BaseException]:
    """Run a watchdog over what it sees at these times; give what it ended the process with."""
    ends: list[BaseException] = []
    seen, clock = iter(looks), iter(times)
    over = threading.Event()

    def look() -> Seen:
        try:
            return next(seen)
        except StopIteration:
            over.set()
            return Seen(beats=-2, joined=True, work=None)

    def now() -> float:
        return next(clock, times[-1])

    def end(error: BaseException) -> None:
        ends.append(error)
        over.set()

    watchdog = Watchdog(
        look, stall_seconds=0.04, is_stopping=lambda: stopping, end=end, monotonic=now
    )
    watchdog.start()
    if not stopping:
        assert over.wait(30.0)
    watchdog.close()
    return ends


STUCK = Seen(beats=1, joined=True, work={PARTITION: Standing("same", lags=True)})


def test_the_thread_ends_the_process_with_its_own_error() -> None:
    """Which has an exit code of its own, and says why."""
    (error,) = ended_by([STUCK] * 20, [0.01 * step for step in range(40)])
    assert isinstance(error, StalledError)
    assert error.exit_code == 5
    assert str(error).startswith("watchdog: ")


def test_a_process_that_was_frozen_is_not_ended_for_it() -> None:
    """An hour between two looks counts as two looks at most."""
    assert ended_by([STUCK] * 2, [0.0, 0.01, 3600.0, 7200.0]) == []


def test_a_process_that_stops_is_left_alone() -> None:
    """Its stop has a bound of its own."""
    assert ended_by([STUCK] * 20, [0.01 * step for step in range(40)], stopping=True) == []


def test_a_watchdog_that_cannot_look_ends_the_process() -> None:
    """Nobody would notice otherwise that nobody looks."""
    ends: list[BaseException] = []
    over = threading.Event()

    def look() -> Seen:
        raise ZeroDivisionError

    def end(error: BaseException) -> None:
        ends.append(error)
        over.set()

    watchdog = Watchdog(look, stall_seconds=0.04, end=end)
    watchdog.start()
    assert over.wait(30.0)
    watchdog.close()
    assert isinstance(ends[0], ZeroDivisionError)


def test_livez_asks_nobody_and_says_what_stands_still() -> None:
    """Neither the broker nor the loop: it knows when the watchdog looked last."""
    now = [0.0]
    watchdog = Watchdog(lambda: STUCK, stall_seconds=300.0, monotonic=lambda: now[0])
    probes = Probes()
    watchdog.add_to(probes)
    assert probes.failing("live") == {}
    now[0] = 61.0
    assert probes.failing("live") == {"loop": "the watchdog has not looked for 61 s"}


async def test_a_blocked_loop_is_late_while_it_is_blocked_and_after() -> None:
    """A thread that scrapes is told at once; the beat that came late is told until the next."""
    beat = LoopBeat()
    assert beat.late_seconds() == 0.0
    beating = asyncio.create_task(beat.run())
    await asyncio.sleep(0)

    def scraped() -> float:
        time.sleep(1.2)
        return beat.late_seconds()

    with ThreadPoolExecutor(1) as scraper:
        later = scraper.submit(scraped)
        time.sleep(1.4)  # noqa: ASYNC251 - the loop is blocked on purpose
        assert later.result() > 0.1
    await asyncio.sleep(0)
    assert beat.late_seconds() > 0.1
    beating.cancel()
