"""`log show` beside a running matcher: what it prints is what is there."""

import json
from collections.abc import Iterator
from contextlib import closing

import pytest

from deploy.local.client import Client
from deploy.local.stack import Stack
from schemas.records import ImageIngested
from schemas.topics import INDEX_LOG
from streams.kafka.log import LogReader
from streams.kafka.partitioner import partition_of
from tests.integration.pictures import photograph_file

OUTCOME_SECONDS = 60.0


@pytest.fixture
def log(stack: Stack) -> Iterator[LogReader]:
    """Give a reader of the log."""
    with closing(LogReader(stack.settings, INDEX_LOG)) as reader:
        yield reader


def publish(client: Client, workspace: str, *names: str) -> None:
    """Publish one picture under several ids, and wait for the outcomes."""
    content = photograph_file(7_100)
    events = [ImageIngested(workspace, name, content=content) for name in names]
    client.ingest(*events)
    assert client.wait(lambda: all(client.outcomes(name) for name in names), OUTCOME_SECONDS)


def test_the_log_is_printed(stack: Stack, client: Client, log: LogReader, workspace: str) -> None:
    """Settings first, then each picture in one line; with --json all of it."""
    names = [f"{workspace}-{number}" for number in range(2)]
    publish(client, workspace, *names)
    partition = str(partition_of(workspace, stack.settings.partitions))
    low, high = log.watermarks(int(partition))
    arguments = ("log", "show", "--partition", partition, "--most", str(high - low))
    lines = stack.command(*arguments).splitlines()
    assert lines[0].startswith(f"{partition}@{low} ")
    assert " settings " in lines[0]
    assert sum(f"hashed workspace={workspace} image={names[0]} " in line for line in lines) == 1
    told = [json.loads(line) for line in stack.command(*arguments, "--json").splitlines()]
    assert [one["offset"] for one in told] == [int(line.split()[0].split("@")[1]) for line in lines]
    assert {one["record"]["image_id"] for one in told[1:]} >= set(names)
    assert stack.command(*arguments, "--from", str(high)) == ""
