"""Processes that only seem to live end by themselves, and those that wait do not; with a broker."""

import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.broker import Broker
from deploy.local.client import Client
from deploy.local.stack import Stack, without_settings
from schemas.records import ImageIngested
from tests.integration.pictures import photograph_file

WAIT_SECONDS = 90.0
STALL_SECONDS = 12
SETTINGS = {
    "CHECK_DEDUP_STALL_TIMEOUT_SECONDS": str(STALL_SECONDS),
    "CHECK_DEDUP_FETCH_TIMEOUT_SECONDS": "2",
    "CHECK_DEDUP_DECODE_TIMEOUT_SECONDS": "2",
    "CHECK_DEDUP_DELIVERY_TIMEOUT_SECONDS": "7",
    "CHECK_DEDUP_SESSION_TIMEOUT_SECONDS": "6",
    "CHECK_DEDUP_PARTITIONS": "1",
    "CHECK_DEDUP_DECODE_PROCESSES": "1",
}
STALLED = 5

# Each breaks one thing in a process that is otherwise the real one.
AGENT_HANGS = """
import asyncio
from streams.hasher import Hasher
from streams.cli.main import main

async def ingest(self, stretch):
    await asyncio.sleep(1_000_000)

Hasher.ingest = ingest
main()
"""
LOOP_HANGS = """
import time
from streams.matcher import Matcher
from streams.cli.main import main

async def match(self, stretch):
    time.sleep(1_000_000)

Matcher.match = match
main()
"""
NEVER_JOINS = """
import asyncio
from streams.engine.transport import WatermarkConsumer
from streams.cli.main import main

async def on_partitions_assigned(self, assigned, generation_id=0):
    await asyncio.sleep(1_000_000)

WatermarkConsumer.on_partitions_assigned = on_partitions_assigned
main()
"""


@pytest.fixture
def ready(own_broker: Broker, tmp_path: Path) -> Iterator[Stack]:
    """A stack that is not started, with short bounds, on a broker with our topics."""
    found = Stack(
        tmp_path, broker=own_broker, settings=SETTINGS, environment=without_settings(os.environ)
    )
    found.command("topics", "create")
    try:
        yield found
    finally:
        found.stop()


def standing(stack: Stack) -> str:
    """Say where everything stands, for an error's message: lags, outcomes, what was logged."""
    seen_by = (f"--metrics={member.metrics_url}" for member in stack.members)
    status = stack.try_command("status", "--once", *seen_by)  # whose failure says something too
    logs = [member.log_tail() for member in stack.members]
    return "\n".join([status.stdout, status.stderr, *logs])


def test_what_only_seems_to_live_ends_with_its_reason(ready: Stack) -> None:
    """An agent that hangs, a loop that does not turn, a group that is never joined."""
    broken = {
        "hasher-1": (AGENT_HANGS, "nothing has moved"),
        "matcher-1": (LOOP_HANGS, "the event loop has not turned"),
        "matcher-2": (NEVER_JOINS, "the group has not been joined"),
    }
    ready._members = [
        ready.member(name, [sys.executable, "-c", code, name.split("-")[0]])
        for name, (code, _) in broken.items()
    ]
    # What never joins is alone in its group, or the group would wait for it.
    hasher, matcher, joiner = ready._members
    with Client(ready.settings) as client:
        for member in (hasher, matcher):
            member.start()
        client.ingest(ImageIngested("w", uuid.uuid4().hex, content=photograph_file(5_001)))
        assert [member.wait(WAIT_SECONDS) for member in (hasher, matcher)] == [STALLED, STALLED]
        joiner.start()
        assert joiner.wait(WAIT_SECONDS) == STALLED
    for member in ready._members:
        said = member.log.read_text()
        reason = broken[member.name][1]
        assert "watchdog: " in said
        assert reason in said
        assert "most recent call first" in said, "the threads' stacks are missing"


def test_what_waits_is_left_alone(ready: Stack, own_broker: Broker, workspace: str) -> None:
    """No news, a broker that does not answer, a frozen process: and after it all goes on."""
    ready.start()
    ready.await_ready()
    processes = [member.process() for member in ready.members]
    time.sleep(STALL_SECONDS + 3)  # no news
    own_broker.pause()
    ready.members[1].signal(signal.SIGSTOP)
    time.sleep(STALL_SECONDS + 3)
    own_broker.resume()
    ready.members[1].signal(signal.SIGCONT)
    with Client(ready.settings) as client:
        event = ImageIngested(workspace, uuid.uuid4().hex, content=photograph_file(5_002))
        client.ingest(event)
        has_ended = client.wait(
            lambda: client.ended(event.image_id), WAIT_SECONDS, meanwhile=ready.require_alive
        )
        assert has_ended, standing(ready)
    assert [member.process() for member in ready.members] == processes
