"""What the processes write to standard error: one line per event, JSON or text.

Called once by `streams.cli.session`. Lines that repeat themselves are held back and counted: a
broker that is away, or a producer that sends nothing but rubbish, must not fill the disk. What is
written at DEBUG (one line per outcome) is never held back.
"""

import logging
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, TextIO

from pythonjsonlogger.msgspec import MsgspecFormatter

from streams.settings import LogFormat

# Of one message, whatever it is filled with: so many lines in an interval, and the number of the
# others with the first line after it.
_LINES: Final = 20
_INTERVAL_SECONDS: Final = 10.0
_MESSAGES_REMEMBERED: Final = 500


def log_to(stream: TextIO, level: str, form: LogFormat) -> None:
    """Send all log records to a stream, and to nothing else."""
    handler = RateLimitedHandler(stream)
    handler.setFormatter(formatter(form))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def formatter(form: LogFormat) -> logging.Formatter:
    """Give the formatter of one form; of JSON, what a line is about are fields of their own."""
    if form == "text":
        return logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    return MsgspecFormatter(
        ("levelname", "name", "message"),
        rename_fields={"levelname": "level", "name": "logger"},
        timestamp="time",
    )


class RateLimitedHandler(logging.StreamHandler[TextIO]):
    """Writes a message's first lines in an interval, and says how many it held back."""

    def __init__(
        self, stream: TextIO = sys.stderr, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take a stream; `clock` counts seconds."""
        super().__init__(stream)
        self._clock = clock
        # By logger and message: when the interval began, lines in it, and those held back.
        self._intervals: OrderedDict[tuple[str, str], tuple[float, int, int]] = OrderedDict()
        self._held_back = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it."""
        if record.levelno < logging.INFO:
            super().emit(record)
            return
        with self._held_back:
            key, now = (record.name, str(record.msg)), self._clock()
            over = [
                (name, text, held)
                for (name, text), (since, _, held) in self._intervals.items()
                if now - since >= _INTERVAL_SECONDS and held
            ]
            for name, text, _ in over:
                del self._intervals[name, text]
            since, lines, held = self._intervals.pop(key, (now, 0, 0))
            if now - since >= _INTERVAL_SECONDS:
                since, lines, held = now, 0, 0
            is_held = lines >= _LINES
            self._intervals[key] = (since, lines + (not is_held), held + is_held)
            if len(self._intervals) > _MESSAGES_REMEMBERED:
                self._intervals.popitem(last=False)
        for name, text, number in over:
            super().emit(_summary(name, text, number))
        if not is_held:
            super().emit(record)

    def close(self) -> None:
        """Say what is still held back."""
        with self._held_back:
            left = [(*key, held) for key, (_, _, held) in self._intervals.items() if held]
            self._intervals.clear()
        for name, text, number in left:
            super().emit(_summary(name, text, number))
        super().close()


def _summary(name: str, text: str, number: int) -> logging.LogRecord:
    return logging.makeLogRecord(
        {
            "name": name,
            "levelno": logging.WARNING,
            "levelname": "WARNING",
            "msg": "held back %d further lines: %s",
            "args": (number, text),
            "suppressed": number,
        }
    )
