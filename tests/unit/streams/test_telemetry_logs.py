"""Log lines: what they say in each form, and what becomes of those that repeat themselves."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from schemas.reasons import Rejection
from streams.delivery import TopicPartition
from streams.entry import LogEntry
from streams.errors import MisconfiguredError
from streams.kafka.dead_letters import dead_letter
from streams.settings import LogFormat, Settings
from streams.telemetry.logs import RateLimitedHandler, formatter


class Logged:
    """A logger whose lines are kept, on a clock of its own."""

    def __init__(self, form: LogFormat) -> None:
        self.seconds = 0.0
        self.stream = io.StringIO()
        self.handler = RateLimitedHandler(self.stream, lambda: self.seconds)
        self.handler.setFormatter(formatter(form))
        self.logger = logging.getLogger(f"{__name__}.{id(self)}")
        self.logger.propagate = False
        self.logger.setLevel(logging.DEBUG)
        self.logger.addHandler(self.handler)

    @property
    def lines(self) -> list[str]:
        """What was written."""
        return self.stream.getvalue().splitlines()


@pytest.fixture
def logged() -> Logged:
    """JSON lines."""
    return Logged("json")


@pytest.fixture
def root() -> Iterator[io.StringIO]:
    """What the whole product writes, as JSON."""
    stream, logger = io.StringIO(), logging.getLogger()
    handler = RateLimitedHandler(stream)
    handler.setFormatter(formatter("json"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_a_json_line(logged: Logged) -> None:
    """One object per line, whatever is in it; what it is about are fields."""
    logged.logger.warning("two\nlines of %s", "it", extra={"event_id": "e1", "source_offset": 7})
    (line,) = map(json.loads, logged.lines)
    assert line.pop("time").endswith(("Z", "+00:00"))
    assert line.pop("logger") == logged.logger.name
    assert line == {
        "level": "WARNING",
        "message": "two\nlines of it",
        "event_id": "e1",
        "source_offset": 7,
    }


def test_an_exception_is_one_line(logged: Logged) -> None:
    """With its trace."""
    try:
        int("no good")
    except ValueError:
        logged.logger.exception("it failed")
    (line,) = map(json.loads, logged.lines)
    assert "ValueError: invalid literal" in line["exc_info"]


def test_a_text_line() -> None:
    """For a person's terminal."""
    logged = Logged("text")
    logged.logger.info("it is %d", 3)
    (line,) = logged.lines
    assert line.endswith(f"INFO {logged.logger.name}: it is 3")


def test_the_form_is_a_setting() -> None:
    """Either json or text, and nothing else."""
    assert Settings.from_environment({"CHECK_DEDUP_LOG_FORMAT": "TEXT"}).log_format == "text"
    with pytest.raises(MisconfiguredError, match="json or text"):
        Settings.from_environment({"CHECK_DEDUP_LOG_FORMAT": "xml"})


def test_repeated_lines_are_held_back_and_counted(logged: Logged) -> None:
    """The first twenty of an interval are written; the others are one line with their number."""
    for number in range(50):
        logged.logger.warning("broker %d is away", number)
    logged.logger.warning("something else")
    assert len(logged.lines) == 21
    logged.seconds = 11
    logged.logger.warning("broker %d is away", 50)
    summary, line = map(json.loads, logged.lines[21:])
    assert summary["suppressed"] == 30
    assert summary["message"] == "held back 30 further lines: broker %d is away"
    assert line["message"] == "broker 50 is away"


def test_what_is_held_back_at_the_end_is_told(logged: Logged) -> None:
    """When logging shuts down."""
    for _ in range(25):
        logged.logger.warning("again")
    logged.handler.close()
    assert json.loads(logged.lines[-1])["suppressed"] == 5


def test_lines_for_debugging_are_all_written(logged: Logged) -> None:
    """One per outcome, however many."""
    for _ in range(50):
        logged.logger.debug("outcome")
    assert len(logged.lines) == 50


def test_messages_remembered_are_bounded(logged: Logged) -> None:
    """Messages that are all different do not pile up."""
    for number in range(2000):
        logged.logger.info(f"number {number}")  # noqa: G004 - as a library might
    assert len(logged.lines) == 2000
    assert len(logged.handler._intervals) <= 500


def test_a_dead_letter_is_told_with_its_place(root: io.StringIO) -> None:
    """Event id, workspace, reason and the source's offset are fields of the line."""
    partition = TopicPartition("image-ingested", 3)
    rejection = Rejection("http_status", "404 https://host:443")
    letter = dead_letter(partition, LogEntry(17, 0, b"k", b"v"), rejection, "w")
    line = json.loads(root.getvalue())
    assert line["event_id"].encode() == dict(letter.headers)["dlq-id"]
    assert (line["workspace"], line["reason"]) == ("w", "http_status")
    place = (line["source_topic"], line["source_partition"], line["source_offset"])
    assert place == ("image-ingested", 3, 17)
