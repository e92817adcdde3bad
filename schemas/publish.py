"""Generate the JSON Schemas from the records: `python -m schemas.publish [--check]`.

Written to `schemas/json/`, one file per topic; a test fails when they are stale.
"""

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from schemas.topics import IMAGE_INGESTED, INLINE_PICTURE_LIMIT_BYTES, TOPICS

DIRECTORY = Path(__file__).parent / "json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
# `contentEncoding` is only a remark to most validators; our decoder refuses anything else.
BASE64 = r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?(?![\s\S])"


def schemas() -> dict[str, dict[str, Any]]:
    """Give each topic's JSON Schema, by file name."""
    documents: dict[str, dict[str, Any]] = {}
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
        documents[f"{topic.name}.v1.schema.json"] = document
    return documents


def stale(directory: Path = DIRECTORY) -> list[str]:
    """Name the files in `directory` that are missing, outdated or no topic's."""
    wanted = {name: _text(document) for name, document in schemas().items()}
    found = {path.name: path.read_text() for path in directory.glob("*.json")}
    return sorted(
        name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)
    )


def main() -> int:
    """Write the files, or with `--check` only say which are stale."""
    if "--check" in sys.argv[1:]:
        names = stale()
        for name in names:
            sys.stderr.write(f"stale: schemas/json/{name}; run python -m schemas.publish\n")
        return 1 if names else 0
    DIRECTORY.mkdir(exist_ok=True)
    for outdated in DIRECTORY.glob("*.json"):
        outdated.unlink()
    for name, document in schemas().items():
        (DIRECTORY / name).write_text(_text(document))
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
