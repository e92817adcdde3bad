"""Named places at which a test may have the process killed: around delivery, write and commit.

Reached by the code that owns those steps. Inert unless `FAULT_POINT` is in the environment, which
only the fault tests put there: it is no setting, and no manifest names it. `FAULT_POINT=NAME@3`
kills the process, as kill -9 does, when it reaches NAME for the third time.
"""

import os
import signal
from collections.abc import Mapping
from typing import Final, Literal, get_args

from streams.errors import MisconfiguredError

VARIABLE: Final = "FAULT_POINT"

Name = Literal[
    "delivery.before",
    "delivery.after",
    "write.before",
    "write.after",
    "commit.before",
    "commit.after",
]
NAMES: Final[tuple[Name, ...]] = get_args(Name)


class FailPoints:
    """Where to die, if anywhere."""

    def __init__(self) -> None:
        """Die nowhere."""
        self._name: str | None = None
        self._left = 0

    def arm(self, environment: Mapping[str, str]) -> None:
        """Read what a test wants; without the variable nothing changes.

        Raises:
            MisconfiguredError: there is no such place.
        """
        wanted = environment.get(VARIABLE)
        if wanted is None:
            return
        name, _, times = wanted.partition("@")
        if name not in NAMES or not times.isdecimal():
            raise MisconfiguredError(f"{VARIABLE}={wanted!r}: NAME@TIMES is wanted, one of {NAMES}")
        self._name, self._left = name, int(times)

    def reach(self, name: Name) -> None:
        """Pass the place, or die there."""
        if self._name is None or name != self._name:
            return
        self._left -= 1
        if self._left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


_OF_THE_PROCESS: Final = FailPoints()
arm = _OF_THE_PROCESS.arm
reach = _OF_THE_PROCESS.reach
