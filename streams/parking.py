"""What a workspace has beyond its share of the hasher's window: parked, by offset only.

Used by the hasher alone. An event may not be skipped, since the watermark needs every one below it;
but it need not be held to be remembered. A parked event costs its offset, and is read from the log
again when there is room. So the slow pictures of one workspace, however many and of however many
hosts, leave room for everybody else's.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Sequence


class WindowShares:
    """How much of the window each workspace holds, over all partitions."""

    def __init__(self, share_bytes: int) -> None:
        """Let each hold `share_bytes`, or one event of any size."""
        self._share_bytes = share_bytes
        self._held: Counter[str] = Counter()

    def room_bytes(self, workspace: str) -> int:
        """Give how much more a workspace may hold."""
        return self._share_bytes - self._held[workspace]

    def fits(self, workspace: str, size_bytes: int) -> bool:
        """Whether a workspace may hold so much more."""
        return not self._held[workspace] or size_bytes <= self.room_bytes(workspace)

    def take(self, workspace: str, size_bytes: int) -> None:
        """Count what a workspace holds from now on."""
        self._held[workspace] += size_bytes

    def give_back(self, workspace: str, size_bytes: int, _: object = None) -> None:
        """Count what it holds no more."""
        self._held[workspace] -= size_bytes
        if not self._held[workspace]:
            del self._held[workspace]


class Parked:
    """The parked events of one partition: offsets by workspace, in order."""

    def __init__(self) -> None:
        """Begin with none."""
        # Whoever was served last stands last, however many wait.
        self._offsets: OrderedDict[str, deque[int]] = OrderedDict()

    def __contains__(self, workspace: str) -> bool:
        """Whether any of a workspace's is parked: what comes later may not overtake it."""
        return workspace in self._offsets

    def add(self, workspace: str, offset: int) -> None:
        """Park an event."""
        self._offsets.setdefault(workspace, deque()).append(offset)

    def waiting(self) -> Sequence[str]:
        """Give all workspaces with parked events, the one that waits longest first."""
        return tuple(self._offsets)

    def first(self, workspace: str, most: int) -> Sequence[int]:
        """Give the first parked offsets of a workspace, at most so many; it stands last then."""
        self._offsets.move_to_end(workspace)
        offsets = self._offsets[workspace]
        return [offsets[place] for place in range(min(most, len(offsets)))]

    def take(self, workspace: str) -> None:
        """Take out the first of a workspace."""
        self._offsets[workspace].popleft()
        if not self._offsets[workspace]:
            del self._offsets[workspace]
