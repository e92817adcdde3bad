"""`log show` and `index` beside a running matcher: what they print is what is there."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agents.decide import default_match_settings
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


def test_an_index_is_counted_and_verified_beside_its_matcher(
    stack: Stack, client: Client, workspace: str
) -> None:
    """What it holds and how far it is; all of it and a repeatable sample are as in the log."""
    names = [f"{workspace}-{number}" for number in range(3)]
    publish(client, workspace, *names)
    client.remove(workspace, names[0])
    partition = partition_of(workspace, stack.settings.partitions)
    data = holder(stack, partition)
    arguments = ("--partition", str(partition), "--data", str(data))
    counted = stack.command("index", "stats", *arguments)
    assert f"partition {partition}: " in counted
    assert "    views-" in counted
    assert f"radius={default_match_settings(1).radius}" in counted
    full = stack.command("index", "verify", "--full", *arguments)
    assert full.endswith("no difference\n")
    assert " 0 pictures" not in full
    sampled = stack.command("index", "verify", "--sample", "2", "--seed", "7", *arguments)
    assert "2 pictures each, seed 7" in sampled
    assert "2 pictures" in sampled.splitlines()[1]
    assert stack.command("index", "verify", "--sample", "2", "--seed", "7", *arguments) == sampled


def test_an_index_in_use_is_not_rebuilt(
    stack: Stack, client: Client, workspace: str, tmp_path: Path
) -> None:
    """The matcher is named. A copy of its index is rebuilt, damaged or not, and is as the log."""
    publish(client, workspace, f"{workspace}-0")
    partition = partition_of(workspace, stack.settings.partitions)
    data = holder(stack, partition)
    arguments = ("--partition", str(partition), "--data")
    refused = stack.try_command("index", "rebuild", *arguments, str(data))
    assert refused.returncode == 1
    assert "is in use by process " in refused.stderr
    assert "check-dedup matcher" in refused.stderr
    folder = tmp_path / f"partition-{partition}" / "rocksdb"
    folder.mkdir(parents=True)
    (folder / "CURRENT").write_text("damaged")
    damaged = stack.try_command("index", "verify", *arguments, str(tmp_path))
    assert damaged.returncode == 1
    assert f"partition {partition}: the index in {folder} does not open" in damaged.stdout
    assert "Traceback" not in damaged.stderr
    assert "records/s" in stack.command("index", "rebuild", *arguments, str(tmp_path))
    full = stack.command("index", "verify", "--full", *arguments, str(tmp_path))
    assert full.endswith("no difference\n")


def holder(stack: Stack, partition: int) -> Path:
    """Give the data directory of the matcher that has a partition."""
    (found,) = (stack.directory / "data").glob(f"*/partition-{partition}")
    return found.parent
