"""Whether it is our own network that fails, told from how many different hosts do not answer.

Called by `streams.fetching.fetch` with the end of every request. Pure: the clock is passed in.
One dead host is that host's affair however often it is asked, so hosts are counted, each once and
by its latest request; an answer of any kind, an error status too, shows that the network works.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

# An outage is when so many hosts, and so large a part of all that were heard of lately, do not
# answer. Five hosts that die within a minute, and four fifths of all, are not five coincidences.
HOSTS_AT_LEAST: Final = 5
SHARE_PERCENT: Final = 80
HEARD_OF_SECONDS: Final = 60.0
# Somebody asks again this often while it lasts.
PROBE_SECONDS: Final = 1.0
_HOSTS_REMEMBERED: Final = 1_000


class Outage:
    """Counts hosts that answer and hosts that do not; on, until one answers again."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Begin with a network that works."""
        self._clock = clock
        # By host, the one heard of last at the end: when, and whether it answered.
        self._heard: OrderedDict[str, tuple[float, bool]] = OrderedDict()
        # Hosts that were silent when another ended an outage: theirs is no sign of the next one.
        # Else whoever names enough dead hosts stops us again and again.
        self._given_up: OrderedDict[str, float] = OrderedDict()
        self._since: float | None = None
        self._next_probe = 0.0
        self.ended = 0
        """How many outages there were that are over."""

    @property
    def is_on(self) -> bool:
        """Whether our network is taken to be down."""
        return self._since is not None

    @property
    def seconds(self) -> float:
        """For how long it has been on."""
        return 0.0 if self._since is None else self._clock() - self._since

    def counts(self) -> tuple[int, int]:
        """Hosts that did not answer, and all hosts that were heard of lately."""
        silent = sum(not answered for _, answered in self._heard.values())
        return silent, len(self._heard)

    def failed(self, host: str) -> bool:
        """Count a host that gave no answer at all; whether this begins an outage."""
        self._forget()
        if host in self._given_up:
            return False
        self._hear(host, answered=False)
        silent, heard = self.counts()
        if self.is_on or silent < HOSTS_AT_LEAST or silent * 100 < heard * SHARE_PERCENT:
            return False
        self._since = self._clock()
        self._next_probe = self._since + PROBE_SECONDS
        return True

    def answered(self, host: str) -> bool:
        """Count a host that answered, whatever it said; whether this ends an outage."""
        self._forget()
        self._given_up.pop(host, None)
        self._hear(host, answered=True)
        if not self.is_on:
            return False
        self._since = None
        self.ended += 1
        now = self._clock()
        for silent in [name for name, (_, answered) in self._heard.items() if not answered]:
            del self._heard[silent]
            self._given_up[silent] = now
        return True

    def may_probe(self) -> bool:
        """Whether the caller is to ask its host now, for all who wait."""
        now = self._clock()
        if not self.is_on or now < self._next_probe:
            return False
        self._next_probe = now + PROBE_SECONDS
        return True

    def _hear(self, host: str, *, answered: bool) -> None:
        self._heard.pop(host, None)
        self._heard[host] = (self._clock(), answered)
        if len(self._heard) > _HOSTS_REMEMBERED:
            self._heard.popitem(last=False)

    def _forget(self) -> None:
        """Forget what was long ago; but nobody while nobody is asked."""
        oldest = self._clock() - HEARD_OF_SECONDS
        while self._given_up and (
            next(iter(self._given_up.values())) < oldest or len(self._given_up) > _HOSTS_REMEMBERED
        ):
            self._given_up.popitem(last=False)
        while not self.is_on and self._heard and next(iter(self._heard.values()))[0] < oldest:
            self._heard.popitem(last=False)
