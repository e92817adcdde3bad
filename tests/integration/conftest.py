"""The broker and the running product that the integration tests share: real ones, or a failure."""

import os
import uuid
from collections.abc import Iterator

import pytest

from deploy.local.broker import Broker, ExternalBroker, broker_from_environment
from deploy.local.client import Client
from deploy.local.stack import Stack, without_settings
from schemas.topics import (
    IMAGE_INGESTED,
    IMAGE_MATCHED,
    IMAGE_REMOVED,
    INDEX_LOG,
    MEBIBYTE,
    dead_letter_topic_name,
)

DEAD_LETTERS = (dead_letter_topic_name(IMAGE_INGESTED), dead_letter_topic_name(IMAGE_REMOVED))
# Small, so that a picture beyond it is sent in no time.
PICTURE_LIMIT_BYTES = 4 * MEBIBYTE


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker | ExternalBroker]:
    """A running broker; KAFKA_BOOTSTRAP_SERVERS decides whose.

    Shared: a test makes topics and groups with names of its own. One that stops or kills a broker
    starts its own `Broker(tmp_path)`.
    """
    with broker_from_environment(tmp_path_factory.mktemp("kafka")) as running:
        yield running


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that no other module uses: topics and groups may have the product's names."""
    with Broker(tmp_path_factory.mktemp("kafka")) as running:
        yield running


@pytest.fixture(scope="session")
def stack(
    broker: Broker | ExternalBroker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Run the whole product; shared, so a test uses a workspace and image ids of its own."""
    settings = {
        # What a host that does not answer may cost.
        "CHECK_DEDUP_FETCH_TIMEOUT_SECONDS": "4",
        "CHECK_DEDUP_READ_TIMEOUT_SECONDS": "1.5",
        "CHECK_DEDUP_CONNECT_TIMEOUT_SECONDS": "1.5",
        "CHECK_DEDUP_PICTURE_LIMIT_BYTES": str(PICTURE_LIMIT_BYTES),
        "CHECK_DEDUP_DECODE_PROCESSES": "1",
    }
    with Stack(
        tmp_path_factory.mktemp("stack"),
        hashers=2,
        apis=1,
        broker=broker,
        settings=settings,
        environment=without_settings(os.environ),
    ) as running:
        running.await_ready()
        yield running


@pytest.fixture(scope="session")
def client(stack: Stack) -> Iterator[Client]:
    """What the stack says, since before the first test said anything."""
    with Client(stack.settings, (IMAGE_MATCHED, INDEX_LOG, *DEAD_LETTERS)) as listening:
        yield listening


@pytest.fixture
def workspace() -> str:
    """Nobody else's."""
    return f"workspace-{uuid.uuid4().hex}"
