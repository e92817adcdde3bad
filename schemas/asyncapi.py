"""The AsyncAPI 3 document of all topics, made from their declarations and JSON Schemas.

Called by `schemas.publish`, which writes it to `schemas/asyncapi.json`. For producers and
subscribers: what flows where, under which key, how large, how long kept, with the examples.
Keys and topic configuration follow the Kafka bindings of AsyncAPI (version 0.5.0).
"""

import json
from pathlib import Path
from typing import Any, Final

from schemas.topics import TOPICS, Topic

EXAMPLES: Final = Path(__file__).parent / "examples"

_KAFKA_BINDING: Final = "0.5.0"
_PRODUCT: Final = frozenset({"hasher", "matcher", "api", "topics create", "dlq"})
_CONTENT_TYPES: Final = {
    "json": "application/json",
    "messagepack": "application/vnd.msgpack",
    "original": "application/octet-stream",
}
_DEAD_LETTER_HEADERS: Final = (
    "dlq-id",
    "dlq-reason",
    "dlq-source-topic",
    "dlq-source-partition",
    "dlq-source-offset",
)
_CLOUDEVENTS_HEADERS: Final = (
    "ce_specversion",
    "ce_id",
    "ce_source",
    "ce_type",
    "ce_subject",
    "ce_time",
    "content-type",
)


def asyncapi(version: str) -> dict[str, Any]:
    """Give the document; `version` is the product's."""
    operations: dict[str, Any] = {}
    for topic in TOPICS.values():
        if _PRODUCT.intersection(topic.writers):
            operations[f"send-{topic.name}"] = _operation(topic, "send")
        if _PRODUCT.intersection(topic.readers):
            operations[f"receive-{topic.name}"] = _operation(topic, "receive")
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "check-dedup",
            "version": version,
            "description": "Have we seen this picture before, which one, and how sure are we? "
            "Operations are named from check-dedup's side: it receives what Check sends.",
        },
        "defaultContentType": _CONTENT_TYPES["json"],
        "channels": {topic.name: _channel(topic) for topic in TOPICS.values()},
        "operations": operations,
        "components": {
            "messages": {topic.name: _message(topic) for topic in TOPICS.values()},
        },
    }


def _channel(topic: Topic) -> dict[str, Any]:
    return {
        "address": topic.name,
        "description": topic.meaning,
        "messages": {topic.name: {"$ref": f"#/components/messages/{topic.name}"}},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "topicConfiguration": {
                    "cleanup.policy": [topic.cleanup_policy],
                    "retention.ms": topic.retention_ms,
                    "max.message.bytes": topic.max_message_bytes,
                },
                "bindingVersion": _KAFKA_BINDING,
            }
        },
    }


def _operation(topic: Topic, action: str) -> dict[str, Any]:
    channel = f"#/channels/{topic.name}"
    return {
        "action": action,
        "channel": {"$ref": channel},
        "summary": topic.meaning,
        "messages": [{"$ref": f"{channel}/messages/{topic.name}"}],
    }


def _message(topic: Topic) -> dict[str, Any]:
    key = {"type": "string", "description": f"{topic.key}; partitioned by {topic.partitioned_by}"}
    message: dict[str, Any] = {
        "name": topic.name,
        "summary": topic.meaning,
        "contentType": _CONTENT_TYPES[topic.encoding],
        "bindings": {"kafka": {"key": key, "bindingVersion": _KAFKA_BINDING}},
    }
    headers = _headers(topic)
    if headers:
        message["headers"] = {
            "type": "object",
            "properties": {name: {"type": "string"} for name in headers},
            "required": list(headers),
        }
    if topic.record is not None:
        message["payload"] = {"$ref": f"./json/{topic.name}.v1.schema.json"}
        message["examples"] = [
            {"name": path.stem, "payload": json.loads(path.read_text())}
            for path in sorted((EXAMPLES / topic.name / "valid").glob("*.json"))
        ]
    return message


def _headers(topic: Topic) -> tuple[str, ...]:
    if topic.encoding == "original":
        return _DEAD_LETTER_HEADERS
    return _CLOUDEVENTS_HEADERS if _PRODUCT.intersection(topic.writers) else ()
