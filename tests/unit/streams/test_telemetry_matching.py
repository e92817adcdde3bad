"""What is told of rebuilds, plain pictures, resting hosts and restarts; an outcome's log line."""

import logging
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from agents.decide import default_match_settings
from streams.decoding.pool import DecodePool
from streams.engine.feed import Stretch
from streams.fetching import host_limits
from streams.matcher import Matcher
from streams.settings import Settings
from streams.telemetry.registry import Registry
from streams.telemetry.scrape import Scrape
from tests.unit.streams.test_matcher import LOG, World, picture


class Told(World):
    """A matcher whose metrics are read."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.registry = Registry("matcher")
        self.matcher = Matcher(
            Settings(data_directory=directory),
            log=self.log,
            deliver=self.deliver,
            watermarks=self.watermarks,
            topic_id="topic-id",
            registry=self.registry,
        )

    def values(self, name: str, **labels: str) -> list[float]:
        """The numbers of a scrape."""
        text = generate_latest(self.registry.prometheus).decode()
        return Scrape([text]).values(f"check_dedup_{name}", **labels)

    def total(self, name: str, **labels: str) -> float:
        """The sum of them."""
        return sum(self.values(name, **labels))


async def test_a_rebuild_is_told_and_its_outcomes_are_not(tmp_path: Path) -> None:
    """Records below the committed offset are applied, counted, and are nobody's outcomes."""
    world = Told(tmp_path)
    world.log.append(default_match_settings(1), picture("a"), picture("b"))
    await world.matcher.match(Stretch(LOG, 1, 3, (), 3))
    assert world.total("index_rebuilt_records_total") == 3
    assert world.total("index_rebuild_remaining_records") == 0
    assert world.matcher.unready() is None
    assert world.total("outcomes_total") == 0
    assert world.total("index_pictures", partition="0") == 2
    await world.append(picture("c"))
    assert world.total("outcomes_total", origin="api", relation="identical") == 1
    assert world.total("plain_pictures_total") == 1
    await world.matcher.close()
    # Closed, an index tells nothing, and a scrape does not fail of it.
    assert world.total("index_pictures") == 0


async def test_when_an_assignment_can_answer_is_told(tmp_path: Path) -> None:
    """Once its last partition is rebuilt; of the first one also how old the process was then."""
    world = Told(tmp_path)
    world.log.append(default_match_settings(1), picture("a"), picture("b"))
    await world.matcher.assigned({0, 1})
    await world.matcher.match(Stretch(LOG, 1, 3, (), 3))
    assert world.values("index_ready_seconds") == []
    await world.matcher.assigned({0})
    await world.matcher.match(Stretch(LOG, 2, 3, (), 3))
    (start,) = world.values("index_ready_seconds", since="start")
    (assignment,) = world.values("index_ready_seconds", since="assignment")
    assert start > assignment > 0
    assert world.total("index_ready_rebuilt_records") == 0
    await world.matcher.close()


async def test_each_outcome_has_a_line_for_debugging(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the id that the outcome's record and its exemplar have, and where it came from."""
    world = Told(tmp_path)
    await world.append(default_match_settings(1))
    with caplog.at_level(logging.DEBUG, "streams.matcher"):
        await world.append(picture("a"))
    (record,) = (record for record in caplog.records if record.msg.startswith("outcome"))
    (outcome,) = world.delivered
    fields = vars(record)
    assert fields["event_id"].encode() == dict(outcome.headers)["ce_id"]
    assert (fields["workspace"], fields["image_id"]) == ("w", "a")
    assert (fields["source_topic"], fields["source_offset"]) == ("index-log", 1)
    await world.matcher.close()


def test_hosts_that_rest_are_counted() -> None:
    """Once they have failed often enough for long enough, until their rest is over."""
    now = [0.0]
    failing = host_limits.FailingHosts(lambda: now[0])
    for _ in range(11):
        failing.failed("http://a:80")
        now[0] += 3
    failing.failed("http://b:80")
    assert failing.resting == 1
    now[0] += 60
    assert failing.resting == 0


async def test_restarts_of_decode_processes_are_counted() -> None:
    """A child that a job kills is started anew."""
    async with DecodePool(Settings(decode_processes=1), modules=()) as pool:
        assert pool.restarts == 0
        await pool.run(_end, timeout_seconds=30)
        # Tried twice; the start after the second try may still be to come.
        assert pool.restarts >= 1


def _end() -> None:
    raise SystemExit
