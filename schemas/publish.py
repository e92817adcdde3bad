"""Generate the contract's documents from the records: `python -m schemas.publish [--check]`.

JSON Schemas in `schemas/json/`, one file per topic, and `schemas/asyncapi.json`; a test fails when
they are stale.
"""

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from schemas.asyncapi import asyncapi
from schemas.topics import IMAGE_INGESTED, INLINE_PICTURE_LIMIT_BYTES, TOPICS

DIRECTORY = Path(__file__).parent
# Of the contract: raised when a topic, record or header changes.
CONTRACT_VERSION = "1.0.0"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
# `contentEncoding` is only a remark to most validators; our decoder refuses anything else.
BASE64 = r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?(?![\s\S])"


def schemas() -> dict[str, dict[str, Any]]:
    """Give each topic's JSON Schema, by file name."""
    found: dict[str, dict[str, Any]] = {}
    for topic in TOPICS.values():
        if topic.record is None:
            continue
        (schema,), components = msgspec.json.schema_components(
            [topic.record], ref_template="#/$defs/{name}"
        )
        document = {
            "$schema": DIALECT,
            "title": topic.name,
            "description": topic.meaning,
            **schema,
            "$defs": dict(components),
        }
        if topic.name == IMAGE_INGESTED:
            document["oneOf"] = [
                {"required": [wanted], "properties": {wanted: {"type": "string"}}}
                for wanted in ("url", "content")
            ]
            document["properties"] = {
                "content": {"maxLength": -(-INLINE_PICTURE_LIMIT_BYTES // 3) * 4}
            }
        _complete(document)
        found[f"{topic.name}.v1.schema.json"] = document
    return found


def documents() -> dict[str, str]:
    """Give the text of every generated file, by its path below `schemas/`."""
    found = {f"json/{name}": _text(document) for name, document in schemas().items()}
    return found | {"asyncapi.json": _text(asyncapi(CONTRACT_VERSION))}


def stale(directory: Path = DIRECTORY) -> list[str]:
    """Name the files below `directory` that are missing, outdated or no topic's."""
    wanted = documents()
    paths = (*directory.glob("json/*.json"), *directory.glob("*.json"))
    found = {path.relative_to(directory).as_posix(): path.read_text() for path in paths}
    return sorted(
        name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)
    )


def main() -> int:
    """Write the files, or with `--check` only say which are stale."""
    if "--check" in sys.argv[1:]:
        names = stale()
        for name in names:
            sys.stderr.write(f"stale: schemas/{name}; run python -m schemas.publish\n")
        return 1 if names else 0
    (DIRECTORY / "json").mkdir(exist_ok=True)
    for outdated in DIRECTORY.glob("json/*.json"):
        outdated.unlink()
    for name, text in documents().items():
        (DIRECTORY / name).write_text(text)
    return 0


def _complete(node: object) -> None:
    """Say, in place, what msgspec leaves out: what base64 looks like; and unindent docstrings."""
    if isinstance(node, list):
        for item in node:
            _complete(item)
    if isinstance(node, dict):
        for item in node.values():
            _complete(item)
        if node.get("contentEncoding") == "base64":
            node["pattern"] = BASE64
        if isinstance(node.get("description"), str):
            node["description"] = inspect.cleandoc(node["description"])


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
