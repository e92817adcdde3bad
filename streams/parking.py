"""What a workspace or a host has beyond its share of the hasher's window: parked, by offset only.

Used by the hasher alone. An event may not be skipped, since the watermark needs every one below it;
but it need not be held to be remembered. A parked event costs its offset, and is read from the log
again when there is room. So the slow pictures of one workspace, however many and of however many
hosts, leave room for everybody else's, and so do those of one host, whosever they are.
"""

from bisect import insort
from collections import Counter, OrderedDict, deque
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple


class Sharer(NamedTuple):
    """A workspace that pictures are of, or a host that they are fetched from."""

    kind: Literal["workspace", "host"]
    name: str

    def __str__(self) -> str:
        """Name it as in logs."""
        return f"{self.kind} {self.name!r}"


class WindowShares:
    """How much of the window each workspace and each host holds, over all partitions."""

    def __init__(self, share_bytes: int) -> None:
        """Let each hold `share_bytes`, or one event of any size."""
        self._share_bytes = share_bytes
        self._held: Counter[Sharer] = Counter()

    def room_bytes(self, sharer: Sharer) -> int:
        """Give how much more one may hold."""
        return self._share_bytes - self._held[sharer]

    def full(self, sharers: Collection[Sharer], size_bytes: int) -> Sharer | None:
        """Give the first of them that may not hold so much more; None where all may."""
        for sharer in sharers:
            if self._held[sharer] and size_bytes > self.room_bytes(sharer):
                return sharer
        return None

    def take(self, sharers: Collection[Sharer], size_bytes: int) -> None:
        """Count what each of them holds from now on."""
        for sharer in sharers:
            self._held[sharer] += size_bytes

    def give_back(self, sharers: Collection[Sharer], size_bytes: int, _: object = None) -> None:
        """Count what they hold no more."""
        for sharer in sharers:
            self._held[sharer] -= size_bytes
            if not self._held[sharer]:
                del self._held[sharer]


class Parked:
    """The parked events of one partition: offsets in order, by whose share they wait for."""

    def __init__(self) -> None:
        """Begin with none."""
        # Whoever was served last stands last, however many wait.
        self._offsets: OrderedDict[Sharer, deque[int]] = OrderedDict()

    def __contains__(self, sharer: Sharer) -> bool:
        """Whether any waits for this one's share: what comes later may not overtake it."""
        return sharer in self._offsets

    def add(self, sharer: Sharer, offset: int) -> None:
        """Park an event."""
        insort(self._offsets.setdefault(sharer, deque()), offset)

    def waiting(self) -> Sequence[Sharer]:
        """Give all that are waited for, the one that waits longest first."""
        return tuple(self._offsets)

    def first(self, sharer: Sharer, most: int) -> Sequence[int]:
        """Give the first offsets that wait for one, at most so many; it stands last then."""
        self._offsets.move_to_end(sharer)
        offsets = self._offsets[sharer]
        return [offsets[place] for place in range(min(most, len(offsets)))]

    def take(self, sharer: Sharer) -> int:
        """Take out the first that waits for one."""
        offset = self._offsets[sharer].popleft()
        if not self._offsets[sharer]:
            del self._offsets[sharer]
        return offset
