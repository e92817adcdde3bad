"""What says whether a process lives and is ready: checks by name.

Parts add theirs; `streams.telemetry.server` answers `/livez` and `/readyz` with them, the API its
own. Pure.
"""

import logging
from collections.abc import Callable
from typing import Final, Literal

logger = logging.getLogger(__name__)

Probe = Literal["live", "ready"]
Check = Callable[[], str | None]
"""Gives the reason why not, or None where all is well. Called in any thread, and at once: it
looks at what others have written down and asks nobody."""

_START: Final = "start"


class Probes:
    """The named checks behind `/livez` and `/readyz`; without any, the answer is yes.

    But nobody is ready before all parts have added theirs, which is what `started` says: a rolling
    update would go on to the next process meanwhile.
    """

    def __init__(self) -> None:
        """Begin to start."""
        self._checks: dict[Probe, dict[str, Check]] = {
            "live": {},
            "ready": {_START: lambda: "it has not started yet"},
        }

    def started(self) -> None:
        """Let the checks that were added decide."""
        self._checks["ready"] = {
            name: check for name, check in self._checks["ready"].items() if name != _START
        }

    def add(self, probe: Probe, name: str, check: Check) -> None:
        """Add a check, or replace the one of this name."""
        self._checks[probe] = {**self._checks[probe], name: check}

    def failing(self, probe: Probe) -> dict[str, str]:
        """Give the reasons of the checks that do not pass, by name."""
        found = ((name, _reason(check)) for name, check in self._checks[probe].items())
        return {name: reason for name, reason in found if reason is not None}


def _reason(check: Check) -> str | None:
    try:
        return check()
    except Exception as error:
        logger.exception("a check failed itself")
        return f"the check itself failed: {error!r}"
