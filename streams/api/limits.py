"""What one client, and all of them together, may take of a replica. In memory, for this process."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from streams.api.problems import ProblemError


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of a key's rate."""

    limit: int
    remaining: int
    reset_seconds: int
    """Until all of it is there again."""
    retry_after_seconds: int
    """Until the next request may come; 0 where this one may."""

    def headers(self) -> dict[str, str]:
        """Give the RateLimit headers (draft-ietf-httpapi-ratelimit-headers, up to version 06)."""
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset_seconds),
        }


class Rates:
    """A token bucket per API key: so many at once, and so many a second for ever."""

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float]) -> None:
        """Begin with full buckets; `clock` counts seconds."""
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        # Tokens, and when that was.
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, key_id: str) -> Allowance:
        """Take one request's token, where there is one."""
        now = self._clock()
        tokens, since = self._buckets.get(key_id, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - since) * self._per_second)
        taken = tokens >= 1
        tokens -= taken
        self._buckets[key_id] = (tokens, now)
        return Allowance(
            limit=self._burst,
            remaining=int(tokens),
            reset_seconds=math.ceil((self._burst - tokens) / self._per_second),
            retry_after_seconds=0 if taken else math.ceil((1 - tokens) / self._per_second),
        )


class Room:
    """How many requests, and how many bytes of their bodies, are here at once."""

    def __init__(self, requests: int, size_bytes: int) -> None:
        """Begin empty."""
        self._requests = requests
        self._bytes = size_bytes

    @contextmanager
    def enter(self) -> Iterator["Guest"]:
        """Hold a place for one request.

        Raises:
            ProblemError: `busy`, there is none.
        """
        if self._requests == 0:
            raise ProblemError("busy")
        guest = Guest(self)
        self._requests -= 1
        try:
            yield guest
        finally:
            self._requests += 1
            self._bytes += guest.held_bytes

    def take(self, size_bytes: int) -> None:
        """Take room for bytes.

        Raises:
            ProblemError: `busy`, there is none.
        """
        if size_bytes > self._bytes:
            raise ProblemError("busy")
        self._bytes -= size_bytes


class Guest:
    """One request's share of the room."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.held_bytes = 0

    def hold(self, size_bytes: int) -> None:
        """Hold bytes until the request ends."""
        self._room.take(size_bytes)
        self.held_bytes += size_bytes
