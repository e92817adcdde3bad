"""When everything is poisonous, stop: the count that tells a bad event from a bad deployment.

Used by the hasher, one for each partition of a source topic. One event that cannot be read is its
producer's mistake, and becomes a dead letter; a hundred of them in turn, with not one good event
in between, mean that the producer or this program is wrong, and dead-lettering the rest would hide
it. What is counted is a function of the topic alone: after a restart the events before the
committed offset are looked at again, so that a process that is started again and again gets no
further than the first one did.
"""

from collections.abc import Iterable


class Circuit:
    """The events in turn, up to now, that could not be read."""

    def __init__(self, limit: int, before: Iterable[bool] = ()) -> None:
        """Allow `limit` of them (0: any number); `before`: were those up to now readable."""
        self._limit = limit
        self.unreadable = 0
        for readable in before:
            self._count(readable=readable)

    def admits(self, *, readable: bool) -> bool:
        """Take the next event; False, and not counted: it is one too many, and must be left."""
        if not readable and 0 < self._limit <= self.unreadable:
            return False
        self._count(readable=readable)
        return True

    def _count(self, *, readable: bool) -> None:
        self.unreadable = 0 if readable else self.unreadable + 1
