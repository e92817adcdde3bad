"""Ends a process that only seems to live: on a thread of its own, and only on evidence.

Started by the hasher, the matcher and the API just before they begin their work. It dies of three
things: the event loop does not turn; a partition's work stands still although the broker says that
there is more; the group has not been joined although the broker answers. What only looks like one
of these is none: a broker that does not answer gives no evidence (and starts the count again), nor
does a partition without news, a rebuild that moves, work that is held up on purpose, or a process
that was itself frozen. `/livez` and `/readyz` ask the same eyes, and never the broker.
"""

import asyncio
import faulthandler
import logging
import sys
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from streams.delivery import TopicPartition, Watermarks
from streams.engine.process import die
from streams.errors import CheckDedupError, StalledError
from streams.probes import Probes

logger = logging.getLogger(__name__)

BEAT_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 5.0
# The longest that our own code was measured to hold the loop is under 1 s; a machine that swaps may
# need many times that.
_LOOP_SECONDS: Final = 60.0
_ASK_SECONDS: Final = 2.0
# Looks that may be missed before `/livez` says so.
_MISSED_LOOKS: Final = 12


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the work on one partition stands."""

    token: Hashable
    """Equal for as long as nothing moves."""
    lags: bool
    """Whether the broker has more than is done."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look found."""

    beats: int
    joined: bool
    held: str | None = None
    """Why work stands still on purpose."""
    work: Mapping[TopicPartition, Standing] | None = field(default_factory=dict)
    """None where the broker did not answer."""


class LoopBeat:
    """Shows that an event loop turns, and how late it is; read in any thread.

    It is also the eyes of a process without a group: only its event loop can stand still.
    """

    def __init__(self) -> None:
        """Beat from `run` on."""
        self.beats = 0
        self._due_at: float | None = None
        self._late_seconds = 0.0

    async def run(self) -> None:
        """Beat for ever."""
        while True:
            self.beats += 1
            self._due_at = due_at = time.monotonic() + BEAT_SECONDS
            await asyncio.sleep(BEAT_SECONDS)
            self._late_seconds = time.monotonic() - due_at

    def late_seconds(self) -> float:
        """By how much the last beat was late, or the one that is due now is, if that is more."""
        overdue = 0.0 if self._due_at is None else time.monotonic() - self._due_at
        return max(0.0, self._late_seconds, overdue)

    def look(self) -> Seen:
        """See whether the loop turns."""
        return Seen(self.beats, joined=True)


class Judge:
    """Counts for how long what is seen has not changed. Pure: no clock, no broker."""

    def __init__(self, stall_seconds: float) -> None:
        """Take for how long work may stand still, or the group not be joined."""
        self._stall_seconds = stall_seconds
        self._loop_seconds = min(_LOOP_SECONDS, stall_seconds)
        self._beats = -1
        self._silent_seconds = 0.0
        self._unjoined_seconds = 0.0
        self._stalled: dict[TopicPartition, tuple[Hashable, float]] = {}

    @property
    def silent_seconds(self) -> float:
        """For how long the event loop has not turned."""
        return self._silent_seconds

    def look(self, seen: Seen, seconds: float) -> str | None:
        """Take what is seen `seconds` after the last look; give the reason to end the process."""
        is_turning = seen.beats != self._beats
        self._beats = seen.beats
        self._silent_seconds = 0.0 if is_turning else self._silent_seconds + seconds
        if self._silent_seconds > self._loop_seconds:
            return f"the event loop has not turned for {self._silent_seconds:.0f} s"
        counts = seen.work is not None and not seen.joined
        self._unjoined_seconds = self._unjoined_seconds + seconds if counts else 0.0
        if self._unjoined_seconds > self._stall_seconds:
            return (
                f"the broker answers, and the group has not been joined for "
                f"{self._unjoined_seconds:.0f} s"
            )
        if seen.work is None or seen.held is not None or not seen.joined:
            self._stalled.clear()
            return None
        before, self._stalled = self._stalled, {}
        for partition, standing in seen.work.items():
            token, stalled_seconds = before.get(partition, (None, 0.0))
            stands = standing.lags and partition in before and token == standing.token
            stalled_seconds = stalled_seconds + seconds if stands else 0.0
            self._stalled[partition] = (standing.token, stalled_seconds)
            if stalled_seconds > self._stall_seconds:
                return (
                    f"{partition}: the broker has more, and nothing has moved for "
                    f"{stalled_seconds:.0f} s"
                )
        return None


class Work(Protocol):
    """One topic's part of a process; `streams.engine.feed.Feed` is one."""

    def owned(self) -> set[TopicPartition]:
        """Give the partitions that are assigned now."""
        ...

    def taken(self, partition: TopicPartition) -> tuple[int, int, int] | None:
        """Give assignment, start and next offset of a partition; None before it is begun."""
        ...

    def ends_at(self, partition: int, timeout_seconds: float) -> int:
        """Ask the broker for the offset after a partition's last one.

        Raises:
            RetryableError: no answer in time.
        """
        ...


class Member(Protocol):
    """A member of a consumer group; `streams.engine.transport.App` is one."""

    beat: LoopBeat
    assignment: int | None
    watermarks: Watermarks

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop."""
        ...


@dataclass(slots=True)
class Eyes:
    """Looks at a member of a group and its work."""

    member: Member
    work: Sequence[Work]
    moves: Callable[[], Hashable] = lambda: None
    """What else moves while work is done, a rebuild for instance."""
    held: Callable[[], str | None] = lambda: None

    def look(self) -> Seen:
        """See where everything is; asks the broker."""
        assignment = self.member.assignment
        return Seen(
            self.member.beat.beats,
            assignment is not None,
            self.held(),
            self._work(assignment),
        )

    def _work(self, assignment: int | None) -> dict[TopicPartition, Standing] | None:
        found = {}
        moves = self.moves()
        try:
            if assignment is None:
                # Only whether the broker answers.
                self.work[0].ends_at(0, _ASK_SECONDS)
                return {}
            for work in self.work:
                for partition in work.owned():
                    end = work.ends_at(partition.partition, _ASK_SECONDS)
                    taken = work.taken(partition)
                    reached = self.member.watermarks.reached(partition)
                    done = 0
                    if taken is not None:
                        done = taken[1]
                        if reached is not None and reached[0] == taken[0]:
                            done = max(done, reached[1])
                    found[partition] = Standing((taken, reached, moves), end > done)
        except CheckDedupError as error:
            logger.debug("the watchdog has no answer: %s", error)
            return None
        return found


class Watchdog:
    """The thread that looks, and ends the process; and what the probes know by it."""

    def __init__(
        self,
        look: Callable[[], Seen],
        *,
        stall_seconds: float,
        is_stopping: Callable[[], bool] = lambda: False,
        end: Callable[[BaseException], object] = die,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Look through `look` every few seconds, once started."""
        self._look = look
        self._judge = Judge(stall_seconds)
        self._is_stopping = is_stopping
        self._end = end
        self._monotonic = monotonic
        self._look_seconds = min(_LOOK_SECONDS, stall_seconds / 4)
        self._looked_at = monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._done.set()
        self._thread.join()

    def live(self) -> str | None:
        """Give why the process does not live, for `/livez`; asks nobody."""
        missed_seconds = self._monotonic() - self._looked_at
        if missed_seconds > _MISSED_LOOKS * self._look_seconds:
            return f"the watchdog has not looked for {missed_seconds:.0f} s"
        if self._judge.silent_seconds > _LOOP_SECONDS / 2:
            return f"the event loop has not turned for {self._judge.silent_seconds:.0f} s"
        return None

    def add_to(self, probes: Probes) -> None:
        """Answer `/livez`."""
        probes.add("live", "loop", self.live)

    def _run(self) -> None:
        while not self._done.wait(self._look_seconds):
            if self._is_stopping():  # which has a bound of its own
                return
            now = self._monotonic()
            # A process that was frozen, or a machine that slept, saw nothing in that time.
            seconds = min(now - self._looked_at, 2 * self._look_seconds)
            self._looked_at = now
            try:
                reason = self._judge.look(self._look(), seconds)
            except Exception as error:
                logger.exception("the watchdog cannot look")
                self._end(error)
                return
            if reason is not None and not self._is_stopping():
                faulthandler.dump_traceback(sys.stderr)
                self._end(StalledError(f"watchdog: {reason}"))
                return
