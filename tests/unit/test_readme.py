"""The README says what the declarations say, and its examples are of the contract."""

import json
import re
from pathlib import Path

import pytest

from schemas.codec import decode_image_ingested
from schemas.reasons import REASONS
from schemas.records import ImageIngested
from schemas.topics import (
    DAY_MS,
    FOREVER_MS,
    HOUR_MS,
    INLINE_PICTURE_LIMIT_BYTES,
    TOPICS,
    dead_letter_topic_name,
)
from streams.settings import declarations

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def table(first_column: str) -> list[list[str]]:
    """The rows of the table whose first column is called so."""
    _, found, rest = README.partition(f"\n| {first_column} |")
    assert found, f"no table of {first_column}"
    lines = rest.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def kept(retention_ms: int) -> str:
    """How long a topic keeps its records, in words."""
    if retention_ms == FOREVER_MS:
        return "for ever"
    days = retention_ms // DAY_MS
    return f"{days} days" if days else f"{retention_ms // HOUR_MS} h"


def test_settings() -> None:
    """Each setting, in declared order, with its default, unit and meaning; no other."""
    wanted = []
    for declared in declarations():
        default = f"`{declared.default}`" if str(declared.default) else "empty"
        words = f"{default} {declared.unit}".strip()
        wanted.append([f"`{declared.variable}`", words, declared.meaning])
    assert table("setting") == wanted


def test_topics() -> None:
    """Each topic that is not one of dead letters, as declared."""
    sources = {dead_letter_topic_name(name) for name in TOPICS}
    assert table("topic") == [
        [
            f"`{topic.name}`",
            ", ".join(topic.writers),
            topic.key,
            kept(topic.retention_ms),
            topic.meaning,
        ]
        for topic in TOPICS.values()
        if topic.name not in sources
    ]


def test_reasons() -> None:
    """Each reason code with its meaning."""
    assert table("reason") == [[f"`{code}`", meaning] for code, meaning in REASONS.items()]


def test_example_event() -> None:
    """The example of an event is one that we take."""
    (example,) = (
        block for block in re.findall(r"```json\n(.*?)```", README, re.DOTALL) if '"url"' in block
    )
    assert isinstance(decode_image_ingested(b"image-1", example.encode()), ImageIngested)


def test_example_outcome() -> None:
    """The example of an outcome has the fields of one, in their order."""
    (example,) = (
        block for block in re.findall(r"```json\n(.*?)```", README, re.DOTALL) if "model" in block
    )
    given = json.loads(example)
    path = ROOT / "schemas" / "json" / "image-matched.v1.schema.json"
    definitions = json.loads(path.read_text())["$defs"]
    assert set(definitions["ImageMatched"]["required"]) <= set(given)
    assert set(given) <= set(definitions["ImageMatched"]["properties"])
    assert set(given["closest_match"]) <= set(definitions["Match"]["properties"])


@pytest.mark.parametrize("limit", [f"{INLINE_PICTURE_LIMIT_BYTES // 1024} KiB", "1 MiB"])
def test_sizes(limit: str) -> None:
    """The limits of sizes are the declared ones."""
    assert limit in README
    assert {topic.max_message_bytes for topic in TOPICS.values() if "-dlq" not in topic.name} == {
        1024 * 1024
    }
