"""The commands on a broker of their own, where things may be missing or wrong."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined] # its stubs export less
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
)

from deploy.local.broker import Broker
from deploy.local.stack import Stack, without_settings
from schemas.topics import IMAGE_MATCHED, INDEX_LOG, TOPICS
from streams.kafka.client import admin_client
from streams.kafka.topics import GROUP_TOPICS
from tests.integration.pictures import photograph_file
from tests.waiting import wait_until

ANSWER_SECONDS = 30.0


@pytest.fixture
def bare(own_broker: Broker, tmp_path: Path) -> Iterator[Stack]:
    """A stack that is not started, on a broker without our topics and groups."""
    found = Stack(tmp_path, broker=own_broker, environment=without_settings(os.environ))
    admin = admin_client(found.settings)
    for future in (
        *admin.delete_topics(list(TOPICS)).values(),
        *admin.delete_consumer_groups(list(GROUP_TOPICS)).values(),
    ):
        with suppress(KafkaException):
            future.result(ANSWER_SECONDS)
    # The broker answers a moment before the names are gone.
    wait_until(
        lambda: TOPICS.keys().isdisjoint(admin.list_topics(timeout=ANSWER_SECONDS).topics),
        ANSWER_SECONDS,
    )
    try:
        yield found
    finally:
        found.stop()


@pytest.fixture
def ready(bare: Stack) -> Stack:
    """The same, with topics."""
    bare.command("topics", "create")
    return bare


@pytest.mark.parametrize("role", ["hasher", "matcher"])
def test_no_process_starts_without_topics(bare: Stack, role: str) -> None:
    """It ends at once with exit code 1, and names the command that repairs it."""
    done = bare.try_command(role)
    assert done.returncode == 1
    assert f"{INDEX_LOG}: no such topic; run check-dedup topics create" in done.stderr
    assert "Traceback" not in done.stderr


def test_publish_without_topics(bare: Stack, tmp_path: Path) -> None:
    """It names the command that repairs it."""
    file = tmp_path / "picture.jpg"
    file.write_bytes(photograph_file(3_000))
    done = bare.try_command("publish", str(file), "--workspace", "w")
    assert done.returncode == 1
    assert "run check-dedup topics create" in done.stderr


def test_topics_are_created_once(bare: Stack) -> None:
    """The first run says what it made, the second that there was nothing to make; check agrees."""
    assert bare.try_command("topics", "check").returncode == 1
    first, second = (bare.command("topics", "create") for _ in range(2))
    assert all(f"created {name}" in first for name in TOPICS)
    assert "created" not in second
    assert second.startswith("0 topics made")
    assert bare.command("topics", "check") == "all topics are as declared\n"


def test_a_changed_retention_is_found(ready: Stack) -> None:
    """`topics check` names topic, key, both values and repair, with exit code 1; nothing starts."""
    entry = ConfigEntry("retention.ms", "1000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, IMAGE_MATCHED, incremental_configs=[entry])
    admin = admin_client(ready.settings)
    admin.incremental_alter_configs([resource])[resource].result(ANSWER_SECONDS)
    done = ready.try_command("topics", "check")
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{IMAGE_MATCHED}: retention.ms is 1000 instead of 2592000000;")
    assert f"--entity-name {IMAGE_MATCHED} --add-config retention.ms=2592000000" in line
    assert ready.try_command("matcher").returncode == 1


def test_a_changed_partition_count_is_found(ready: Stack) -> None:
    """The same for partitions that somebody added; the processes refuse to start."""
    admin = admin_client(ready.settings)
    admin.create_partitions([NewPartitions(INDEX_LOG, 5)])[INDEX_LOG].result(ANSWER_SECONDS)
    done = ready.try_command("topics", "check")
    assert done.returncode == 1
    assert f"{INDEX_LOG}: has 5 partitions, CHECK_DEDUP_PARTITIONS says 4" in done.stdout
    for role in ("hasher", "matcher"):
        refused = ready.try_command(role)
        assert refused.returncode == 1
        assert f"{INDEX_LOG}: has 5 partitions" in refused.stderr


def test_publish_gives_up_waiting(ready: Stack, tmp_path: Path) -> None:
    """Without anybody at work it says so in its time, with exit code 1."""
    file = tmp_path / "picture.jpg"
    file.write_bytes(photograph_file(3_002))
    arguments = ("--workspace", "w", "--wait", "--timeout-seconds", "1")
    done = ready.try_command("publish", str(file), *arguments)
    assert done.returncode == 1
    assert "1 of 1 have no outcome after 1 s" in done.stdout
