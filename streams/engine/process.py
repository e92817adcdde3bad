"""How every long-running process begins and ends: topics checked, an end that is honest."""

import logging
import os
import sys
from typing import Never

from streams.errors import CheckDedupError, MisconfiguredError
from streams.kafka import topics
from streams.settings import Settings

logger = logging.getLogger(__name__)


def require_topics(settings: Settings) -> None:
    """Refuse to start on topics that are not as declared.

    Raises:
        MisconfiguredError: all problems, with their repairs.
    """
    problems = topics.check(settings)
    if problems:
        raise MisconfiguredError("\n".join(problems))


def die(error: BaseException) -> Never:
    """End the process before anything more can be acknowledged."""
    code = 1
    if isinstance(error, CheckDedupError):
        code = error.exit_code
        logger.critical("%s", error)
    else:
        logger.critical("unexpected: %r", error, exc_info=error)
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)
