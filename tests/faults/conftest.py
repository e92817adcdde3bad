"""One whole system for the tests of a file: each hurts it, and leaves it sound or has it replaced.

One for all files would be judged by the history of all of them, and brute force is quadratic.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.faults.harness import ROOT, System, seed_from_environment


class Systems:
    """The system in use; one that was not found to be sound is used for no other test."""

    def __init__(self, stack: ExitStack) -> None:
        """Start nothing yet."""
        self._stack = stack
        self._seed = seed_from_environment()
        self._present: System | None = None

    def sound(self) -> System:
        """Give the system, or a new one."""
        if self._present is None or not self._present.sound:
            self._stack.close()
            directory = ROOT / "build" / "faults" / f"{self._seed}-{time.time_ns()}"
            directory.mkdir(parents=True)
            self._present = self._stack.enter_context(System(directory, self._seed))
        return self._present


@pytest.fixture(scope="module")
def systems() -> Iterator[Systems]:
    """Give what starts systems; nothing is left running."""
    with ExitStack() as stack:
        yield Systems(stack)


@pytest.fixture
def system(systems: Systems, request: pytest.FixtureRequest) -> System:
    """Give a broker, two hashers, two matchers, nothing to do. FAULT_SEED=... replays."""
    running = systems.sound()
    running.begin(request.node.name)
    return running
