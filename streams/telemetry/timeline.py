"""What was done for a picture, step by step, and the traces that are made of it, if any are.

`Steps` notes in the current timeline what it hears; whoever works on pictures has it do so inside
`Tracer.noting`, and tells the tracer of each picture that is done. Without traces nothing is noted;
with them the tracer is that of `streams.telemetry.tracing`.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

_NANOSECONDS: Final = 1_000_000_000


@dataclass(slots=True)
class Timeline:
    """What was done in a stretch of time: each step with its begin and end, in nanoseconds."""

    begun_ns: int = field(default_factory=time.time_ns)
    steps: list[tuple[str, int, int]] = field(default_factory=list)

    def took(self, step: str, seconds: float, ago_seconds: float) -> None:
        """Note a step that ended so long ago."""
        end_ns = time.time_ns() - int(ago_seconds * _NANOSECONDS)
        self.steps.append((step, end_ns - int(seconds * _NANOSECONDS), end_ns))


CURRENT: Final = ContextVar[Timeline | None]("timeline", default=None)


@dataclass(frozen=True, slots=True)
class Done:
    """A picture that a process is done with."""

    name: str
    """What was done, a verb."""
    workspace: str
    image_id: str
    since_ms: int | None = None
    """Where this is the first part of the picture's way: when that began."""
    headers: Sequence[tuple[str, bytes | None]] = ()
    """Of the event that brought it."""
    place: tuple[str, int, int] | None = None
    """Topic, partition and offset of the record that brought it."""
    failed: str | None = None
    """Why nothing came of it."""


class Tracer:
    """Without traces: notes nothing and tells nobody."""

    @contextmanager
    def noting(self) -> Iterator[Timeline | None]:
        """Have the steps noted that are heard of inside; gives what they are noted in."""
        yield None

    def tell(self, timeline: Timeline | None, done: Done) -> None:
        """Tell of a picture that is done with now, and of the steps that were noted."""
