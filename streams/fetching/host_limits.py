"""How much of our fetching one host and one workspace get, and when a host gets none.

Called by `streams.fetching.fetch` only. In memory, for this process; no network.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

# A host is given up after so many failures with no success between, which span so much time: a
# media server that restarts has ten connections refused within a millisecond.
_HOST_FAILURES: Final = 10
_HOST_FAILING_SECONDS: Final = 20.0
_HOST_REST_SECONDS: Final = 30.0
_HOSTS_REMEMBERED: Final = 10_000


class Shares:
    """Who may fetch now. Whoever has to wait holds up nobody of another host and workspace."""

    def __init__(self, at_once: int, share_percent: int) -> None:
        self._at_once = at_once
        self._share = max(1, at_once * share_percent // 100)
        self._held = 0
        self._hosts: Counter[str] = Counter()
        self._workspaces: Counter[str] = Counter()
        # Whoever was served last stands last, however long its queue.
        self._waiting: OrderedDict[tuple[str, str], deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def held(self) -> int:
        """Places held now."""
        return self._held

    @asynccontextmanager
    async def hold(self, host: str, workspace: str, limit: asyncio.Timeout) -> AsyncIterator[None]:
        """Hold one of the places; the time limit stands still while waiting for it."""
        if self._is_free(host, workspace):
            self._count(host, workspace, 1)
        else:
            with standing_still(limit):
                await self._wait(host, workspace)
        try:
            yield
        finally:
            self._count(host, workspace, -1)
            self._serve()

    async def _wait(self, host: str, workspace: str) -> None:
        place = asyncio.get_running_loop().create_future()
        queue = self._waiting.setdefault((host, workspace), deque())
        queue.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # served, and cancelled before it knew
                self._count(host, workspace, -1)
            self._serve()
            raise

    def _serve(self) -> None:
        """Give free places to those whose host and workspace hold the fewest, in turn."""
        while self._held < self._at_once:
            free = [key for key in self._waiting if self._is_free(*key)]
            if not free:
                return
            key = min(free, key=lambda key: max(self._hosts[key[0]], self._workspaces[key[1]]))
            self._waiting.move_to_end(key)
            place = self._waiting[key].popleft()
            if not self._waiting[key]:
                del self._waiting[key]
            if not place.cancelled():
                self._count(*key, 1)
                place.set_result(None)

    def _is_free(self, host: str, workspace: str) -> bool:
        return (
            self._held < self._at_once
            and self._hosts[host] < self._share
            and self._workspaces[workspace] < self._share
        )

    def _count(self, host: str, workspace: str, change: int) -> None:
        self._held += change
        for counter, name in ((self._hosts, host), (self._workspaces, workspace)):
            counter[name] += change
            if counter[name] == 0:
                del counter[name]


class FailingHosts:
    """Circuit breakers, one per origin (Nygard, *Release It!*), for those that failed last."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # Failures in a row, when the first was, until when it rests.
        self._streaks: OrderedDict[str, tuple[int, float, float]] = OrderedDict()

    def is_resting(self, origin: str) -> bool:
        """Whether the host is not asked at all now."""
        return origin in self._streaks and self._clock() < self._streaks[origin][2]

    @property
    def resting(self) -> int:
        """How many hosts are not asked at all now; in any thread, hence the copy."""
        now = self._clock()
        return sum(now < until for _, _, until in list(self._streaks.values()))

    def admit(self, origin: str) -> bool:
        """Whether to ask the host; the first to ask after its rest is the probe for all."""
        if self.is_resting(origin):
            return False
        failures, since, until = self._streaks.get(origin, (0, 0.0, 0.0))
        if until:
            self._streaks[origin] = (failures, since, self._clock() + _HOST_REST_SECONDS)
        return True

    def failed(self, origin: str) -> None:
        """Count a failure that is the host's."""
        now = self._clock()
        failures, since, until = self._streaks.pop(origin, (0, now, 0.0))
        failures += 1
        if failures >= _HOST_FAILURES and now - since >= _HOST_FAILING_SECONDS:
            until = now + _HOST_REST_SECONDS
        self._streaks[origin] = (failures, since, until)
        if len(self._streaks) > _HOSTS_REMEMBERED:
            self._streaks.popitem(last=False)

    def answered(self, origin: str) -> None:
        """Forget the failures: the host works, whether or not we like its answer."""
        self._streaks.pop(origin, None)

    def forgive(self) -> None:
        """Forget all failures: they may have been ours."""
        self._streaks.clear()


@contextmanager
def standing_still(limit: asyncio.Timeout) -> Iterator[None]:
    """Stop a time limit's clock: what is waited for is ours to give, not the host's."""
    loop = asyncio.get_running_loop()
    left = (limit.when() or 0) - loop.time()
    limit.reschedule(None)
    yield
    limit.reschedule(loop.time() + left)
