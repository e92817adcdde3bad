"""The few kinds of error, named by what to do about them. Anything else stops the process.

A picture or an event that is no good is not among them: that is a `schemas.reasons.Rejection`.
"""

from typing import ClassVar


class CheckDedupError(Exception):
    """Base of the errors that name what to do; `str()` is for a person."""

    exit_code: ClassVar[int] = 1
    """What a long-running process ends with."""


class RetryableError(CheckDedupError):
    """Try again later: something that we need did not answer."""


class MisconfiguredError(CheckDedupError):
    """Repair the settings or the topics; trying again changes nothing."""


class CorruptStateError(CheckDedupError):
    """What is on disk or in the log is not what it should be; the message names the place."""


class PoisonedError(CheckDedupError):
    """Everything that comes is no good: a person has to look before any more is dead-lettered."""

    exit_code: ClassVar[int] = 4


class StalledError(CheckDedupError):
    """The process lives and does nothing: it ends, and whoever started it starts it again."""

    exit_code: ClassVar[int] = 5
