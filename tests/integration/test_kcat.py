"""Clients that are not ours: kcat, written in C, publishes by hand and reads the outcome."""

import base64
import json
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from deploy.local.client import Client
from deploy.local.stack import Stack
from schemas.publish import DIRECTORY
from schemas.topics import IMAGE_INGESTED, IMAGE_MATCHED
from streams.kafka.client import producer
from streams.kafka.partitioner import partition_of
from tests.integration.pictures import copy_file, photograph_file

ANSWER_SECONDS = 30.0
WAIT_SECONDS = 60.0
PARTITIONER = ("-X", "partitioner=murmur2_random")
PARTITIONS = 7
KEYS = [*(f"image-{number}" for number in range(60)), "a", "ключ", "鍵", "x" * 200]


def kcat(stack: Stack, *arguments: str, given: bytes = b"") -> bytes:
    """Run kcat against the stack's Kafka; give what it prints."""
    assert shutil.which("kcat"), "kcat is missing: apt-get install kcat"
    command = ["kcat", "-q", "-b", stack.bootstrap, *arguments]
    return subprocess.run(
        command, input=given, capture_output=True, check=True, timeout=ANSWER_SECONDS
    ).stdout


def read(stack: Stack, topic: str, key: str = "") -> list[dict[str, Any]]:
    """Read with kcat what a topic has of a key, or all of it.

    Others may have sent bytes of which kcat makes no valid JSON; their lines are left alone.
    """
    printed = kcat(stack, "-C", "-t", topic, "-o", "beginning", "-e", "-J")
    return [json.loads(line) for line in printed.splitlines() if key.encode() in line]


def publish(stack: Stack, workspace: str, image_id: str, content: bytes, file: Path) -> None:
    """Publish a picture as somebody would who has the documentation and kcat."""
    event = {
        "workspace": workspace,
        "image_id": image_id,
        "content": base64.b64encode(content).decode(),
    }
    file.write_text(json.dumps(event))
    headers = ("-H", "ce_id=1", "-H", "ce_source=by/hand", "-H", "traceparent=00-1-2-03")
    to = ("-P", "-t", IMAGE_INGESTED, "-k", image_id)
    kcat(stack, *to, *PARTITIONER, *headers, str(file))


def test_an_event_by_hand_and_its_outcome(
    stack: Stack, client: Client, workspace: str, tmp_path: Path
) -> None:
    """The outcome that kcat reads is valid JSON of the published schema, a CloudEvent, a match."""
    ids = [f"{workspace}-{number}" for number in range(2)]
    for image_id, content in zip(ids, (photograph_file(2_000), copy_file(2_000)), strict=True):
        publish(stack, workspace, image_id, content, tmp_path / "event.json")
        assert client.wait(lambda image_id=image_id: client.ended(image_id), WAIT_SECONDS)  # type: ignore[misc]
    outcomes = {record["key"]: record for record in read(stack, IMAGE_MATCHED, workspace)}
    schema = json.loads((DIRECTORY / "json" / "image-matched.v1.schema.json").read_text())
    for image_id in ids:
        jsonschema.validate(json.loads(outcomes[image_id]["payload"]), schema)
        flat = outcomes[image_id]["headers"]
        headers = dict(zip(flat[::2], flat[1::2], strict=True))
        assert headers["ce_specversion"] == "1.0"
        assert headers["ce_type"] == "check-dedup.image-matched.v1"
        assert headers["ce_subject"] == image_id
        assert {"ce_id", "ce_source", "ce_time"} < headers.keys()
        assert headers["content-type"] == "application/json"
    first, second = (json.loads(outcomes[image_id]["payload"]) for image_id in ids)
    assert not first["match"]
    assert second["closest_match"]["image_id"] == ids[0]


def test_a_dead_letter_keeps_foreign_headers(stack: Stack, client: Client) -> None:
    """What kcat sent is what kcat reads among the dead letters: bytes, key and headers."""
    key = uuid.uuid4().hex
    to = ("-P", "-t", IMAGE_INGESTED, "-k", key, *PARTITIONER, "-H", "traceparent=00-1-2-03")
    kcat(stack, *to, given=b"neither JSON nor a picture")
    assert client.wait(lambda: client.ended(key), WAIT_SECONDS)
    (letter,) = read(stack, f"{IMAGE_INGESTED}-dlq", key)
    assert letter["payload"] == "neither JSON nor a picture"
    assert letter["headers"][:2] == ["traceparent", "00-1-2-03"]
    assert letter["headers"][letter["headers"].index("dlq-reason") + 1] == "not_json"


@pytest.fixture
def topic(stack: Stack) -> str:
    """A topic of our own, with more partitions than keys agree on by luck."""
    name = f"partitions-{uuid.uuid4().hex}"
    admin = AdminClient({"bootstrap.servers": stack.bootstrap})
    admin.create_topics([NewTopic(name, PARTITIONS, 1)])[name].result(ANSWER_SECONDS)
    return name


async def test_all_clients_choose_the_same_partitions(stack: Stack, topic: str) -> None:
    """Ours, kcat with the partitioner that the README names, and aiokafka (Faust's) agree."""
    ours = producer(stack.settings)
    for key in KEYS:
        ours.produce(topic, b"librdkafka", key.encode())
    assert ours.flush(ANSWER_SECONDS) == 0
    lines = "".join(f"{key}\tkcat\n" for key in KEYS)
    kcat(stack, "-P", "-t", topic, "-K", "\t", *PARTITIONER, given=lines.encode())
    async with AIOKafkaProducer(bootstrap_servers=stack.bootstrap) as fausts:
        for key in KEYS:
            await fausts.send_and_wait(topic, b"aiokafka", key.encode())
    found: dict[str, set[tuple[str, int]]] = {key: set() for key in KEYS}
    for record in read(stack, topic):
        found[record["key"]].add((record["payload"], record["partition"]))
    for key, places in found.items():
        partition = partition_of(key, PARTITIONS)
        assert places == {(name, partition) for name in ("librdkafka", "kcat", "aiokafka")}


def test_kcats_own_partitioner_is_another(stack: Stack, topic: str) -> None:
    """Why the README names one: without it, kcat's keys land elsewhere."""
    lines = "".join(f"{key}\tkcat\n" for key in KEYS)
    kcat(stack, "-P", "-t", topic, "-K", "\t", given=lines.encode())
    assert any(r["partition"] != partition_of(r["key"], PARTITIONS) for r in read(stack, topic))
