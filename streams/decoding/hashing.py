"""A picture's fingerprint from the pool, and how long each part of it took.

Used by the hasher and the API. The child measures decoding and hashing; what is left of the time
is waiting for a child.
"""

import math
import time
from collections.abc import Callable

from schemas.reasons import Rejection
from schemas.records import Fingerprint
from streams.decoding.pool import DecodePool, decode_limits
from streams.decoding.timed import timed_fingerprint
from streams.settings import Settings

Took = Callable[[str, float, float], None]
"""Hears of a step, `queue`, `decode` or `hash`: its seconds, and for how many it has been over."""


class PictureHashing:
    """Hashes pictures in the pool, within the settings' limits."""

    def __init__(self, settings: Settings, pool: DecodePool, took: Took) -> None:
        """Take the pool, whose children import `streams.decoding.timed`."""
        self._pool = pool
        self._limits = decode_limits(settings)
        self._timeout_seconds = settings.decode_timeout_seconds
        self._took = took

    async def __call__(self, content: bytes, /) -> Fingerprint | Rejection:
        """Give the fingerprint of a picture's bytes."""
        began = time.perf_counter()
        answer = await self._pool.run(
            timed_fingerprint, content, self._limits, timeout_seconds=self._timeout_seconds
        )
        seconds = time.perf_counter() - began
        if isinstance(answer, Rejection):
            return answer
        found, *parts = answer
        # A child that a picture has taken over may say anything.
        decode_seconds, hash_seconds = (
            part if math.isfinite(part) and 0 <= part <= seconds else 0.0 for part in parts
        )
        ago_seconds = decode_seconds + hash_seconds
        self._took("queue", max(0.0, seconds - ago_seconds), ago_seconds)
        self._took("decode", decode_seconds, hash_seconds)
        if isinstance(found, Fingerprint):
            self._took("hash", hash_seconds, 0.0)
        return found
