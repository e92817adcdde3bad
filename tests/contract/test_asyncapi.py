"""The AsyncAPI document says what the topics are, and all that it refers to exists."""

import json
from collections.abc import Iterator
from typing import Any

from schemas.publish import DIRECTORY
from schemas.topics import TOPICS, dead_letter_topic_name

DOCUMENT: dict[str, Any] = json.loads((DIRECTORY / "asyncapi.json").read_text())


def references(node: object) -> Iterator[str]:
    """Give every `$ref` below a node that is no example."""
    if isinstance(node, list):
        for item in node:
            yield from references(item)
    elif isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for name, item in node.items():
            if name != "examples":
                yield from references(item)


def resolves(reference: str) -> bool:
    """Say whether a reference leads to something."""
    if reference.startswith("./"):
        return (DIRECTORY / reference).is_file()
    found: Any = DOCUMENT
    for step in reference.removeprefix("#/").split("/"):
        if step not in found:
            return False
        found = found[step]
    return True


def test_every_reference_leads_somewhere() -> None:
    """Within the document, and to the JSON Schemas beside it."""
    found = list(references(DOCUMENT))
    assert len(found) > 3 * len(TOPICS)
    assert [reference for reference in found if not resolves(reference)] == []
    assert not resolves("#/channels/no-such-topic")
    assert not resolves("./json/no-such-topic.v1.schema.json")


def test_every_topic_is_a_channel() -> None:
    """With its retention and its largest message, as `topics create` makes it."""
    assert DOCUMENT["channels"].keys() == TOPICS.keys()
    for topic in TOPICS.values():
        kafka = DOCUMENT["channels"][topic.name]["bindings"]["kafka"]
        made = kafka["topicConfiguration"]
        assert {name: str(value) for name, value in made.items() if name != "cleanup.policy"} == {
            name: topic.config()[name] for name in ("retention.ms", "max.message.bytes")
        }
        assert made["cleanup.policy"] == [topic.config()["cleanup.policy"]]


def test_operations_are_from_our_side() -> None:
    """We receive what Check sends, send what it receives, and do both with what is between us."""
    operations = DOCUMENT["operations"]
    assert "receive-image-ingested" in operations
    assert "send-image-ingested" not in operations
    assert "send-image-matched" in operations
    assert "receive-image-matched" not in operations
    assert {"send-index-log", "receive-index-log"} <= operations.keys()
    assert f"send-{dead_letter_topic_name('image-ingested')}" in operations
