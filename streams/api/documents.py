"""`/openapi.json` and `/docs`: made from the records at start, so that they cannot lie about them.

`/docs` is one page without scripts and without any foreign host.
"""

import inspect
import json
from html import escape
from typing import Any, Final

import msgspec

from agents.decide import DEFAULT_RADIUS, DEFAULT_STANDARD_THRESHOLD
from schemas.http import (
    PROBLEMS,
    CompareResponse,
    ErrorResponse,
    Health,
    ImagesResponse,
    MatchResponse,
    UrlRequest,
)
from schemas.records import DatabaseId, ImageId, Sha256Hex

MATCH_PATH: Final = "/v1/match/"
COMPARE_PATH: Final = "/v1/compare/"
# For clients that were written for earlier services.
OTHER_MATCH_PATHS: Final = (
    "/v1/match",
    "/v1/api/match/",
    "/v1/api/match",
    "/api/v1/match/",
    "/api/v1/match",
)

_STATUSES: Final = {
    200: "Answered.",
    400: "The request is not as documented.",
    401: "No API key, or one that is not valid.",
    403: "The API key does not have the right that this takes.",
    404: "Nothing is known, or nothing is here.",
    405: "Another method is wanted.",
    413: "The body is too large.",
    415: "The body is of a type that is not read.",
    422: "The picture cannot be got or decoded, or its id was used for another picture.",
    429: "Too many requests with this API key; Retry-After says when to come again.",
    503: "Cannot answer now, and nothing was stored; Retry-After says when to come again.",
    504: "No answer in time; the picture may have been stored. Retry with the Idempotency-Key of "
    "this answer.",
}
_RATE_HEADERS: Final = {
    "RateLimit-Limit": "Requests that may come at once.",
    "RateLimit-Remaining": "Of these, how many still may.",
    "RateLimit-Reset": "Seconds until all of them may again.",
}
_MATCH_STATUSES: Final = (400, 401, 403, 413, 415, 422, 429, 503, 504)
_COMPARE_STATUSES: Final = (400, 401, 403, 413, 415, 422, 429, 503)
_IMAGES_STATUSES: Final = (400, 401, 403, 404, 429, 503)

Document = dict[str, Any]


def openapi() -> bytes:
    """Give the OpenAPI 3.1 document as JSON."""
    schemas, components = msgspec.json.schema_components(
        [
            *(MatchResponse, CompareResponse, ImagesResponse, Health, ErrorResponse, UrlRequest),
            Sha256Hex,
        ],
        ref_template="#/components/schemas/{name}",
    )
    matched, compared, images, health, refused, by_url, sha256 = schemas
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "check-dedup",
            "version": "1",
            "description": "Have we seen this picture before, which one, and how sure are we?",
        },
        "security": [{"bearer": []}, {"header": []}],
        "paths": {
            path: {"post": _match(path, matched, refused, by_url)}
            for path in (MATCH_PATH, *OTHER_MATCH_PATHS)
        }
        | {
            COMPARE_PATH: {"post": _compare(compared, refused)},
            "/v1/images/{sha256}": {"get": _images(images, refused, sha256)},
            "/healthz": {"get": _open("health", "Whether this replica runs.", health)},
            "/readyz": {"get": _ready(health)},
        },
        "components": {
            "schemas": dict(components),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            },
        },
    }
    _unindent(document)
    return json.dumps(document, indent=1).encode()


def docs_page(document: bytes) -> str:
    """Give the page for people."""
    described: Document = json.loads(document)
    operations = "".join(
        _operation(method, path, operation)
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
        if not operation.get("deprecated")
    )
    codes = "".join(
        f"<tr><td><code>{code}</code><td>{status}<td>{escape(meaning)}"
        for code, (status, meaning) in PROBLEMS.items()
    )
    schemas = "".join(
        f"<h3 id='{name}'>{name}</h3><pre>{escape(json.dumps(schema, indent=1))}</pre>"
        for name, schema in described["components"]["schemas"].items()
    )
    others = ", ".join(f"<code>{path}</code>" for path in OTHER_MATCH_PATHS)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>check-dedup API</title>
<meta name="viewport" content="width=device-width">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60em; margin: auto; padding: 1em }}
pre {{ background: #f3f3f3; padding: .7em; overflow-x: auto }}
table {{ border-collapse: collapse }} td {{ border-top: 1px solid #ccc; padding: .2em .6em }}
</style>
<h1>check-dedup API</h1>
<p>{escape(described["info"]["description"])} An API key is sent as
<code>Authorization: Bearer …</code> or <code>X-Api-Key: …</code>.
For programs: <a href="/openapi.json">openapi.json</a>.</p>
<pre>curl -H "Authorization: Bearer $KEY" -F image=@picture.jpg http://localhost:8080{MATCH_PATH}</pre>
<h2>Requests</h2>{operations}
<p>Also served at {others}.</p>
<h2>Error codes</h2><table>{codes}</table>
<h2>Bodies</h2>{schemas}
</html>
"""


def _match(path: str, matched: Document, refused: Document, by_url: Document) -> Document:
    (image_id, database_id), _ = msgspec.json.schema_components([ImageId, DatabaseId])
    parameters = [
        _parameter(
            "threshold",
            {
                "type": "integer",
                "minimum": 0,
                "maximum": DEFAULT_RADIUS,
                "default": DEFAULT_STANDARD_THRESHOLD,
            },
            "The largest score that is a match, inclusive.",
        ),
        _parameter("store", {"type": "boolean", "default": True}, "False: ask without adding."),
        _parameter("detail", {"type": "boolean", "default": False}, "Tell all that matched."),
        _parameter("image_id", image_id, "The producer's id; without one, a fresh id."),
        _parameter("team_id", database_id, "Check's own id."),
        _parameter("project_media_id", database_id, "Check's own id."),
        _parameter(
            "Idempotency-Key",
            {"type": "string", "pattern": "^[!-~]{1,200}$"},
            "The same key and picture get the same answer and are one picture.",
            place="header",
        ),
    ]
    form = {
        "type": "object",
        "properties": {"url": {"type": "string"}},
        "required": ["url"],
    }
    operation: Document = {
        "operationId": "match" + path.replace("/", "_"),
        "summary": "Whether a picture was seen before, and which one.",
        "description": (
            "The picture is matched against all pictures submitted earlier in the key's workspace "
            "and then counts as submitted itself. Takes the right `match`."
        ),
        "parameters": parameters,
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": _form_of_pictures("image")},
                "application/json": {"schema": by_url},
                "application/x-www-form-urlencoded": {"schema": form},
                "application/octet-stream": {"schema": {}},
                "image/*": {"schema": {}},
            },
        },
        "responses": _responses(matched, refused, _MATCH_STATUSES),
    }
    operation["responses"]["504"]["headers"] = {
        "Idempotency-Key": {"schema": {"type": "string"}, "description": "To retry with."}
    }
    return operation | ({"deprecated": True} if path != MATCH_PATH else {})


def _compare(compared: Document, refused: Document) -> Document:
    form = _form_of_pictures("first", "second")
    return {
        "operationId": "compare",
        "summary": "How two pictures relate.",
        "description": (
            "As if `second` had come after `first`, by the settings in force for the key's "
            "workspace; neither is stored, and no other picture is looked at. Takes the right "
            "`match`."
        ),
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}},
        "responses": _responses(compared, refused, _COMPARE_STATUSES),
    }


def _form_of_pictures(*names: str) -> Document:
    picture = {"type": "string", "contentMediaType": "application/octet-stream"}
    return {
        "type": "object",
        "properties": dict.fromkeys(names, picture),
        "required": list(names),
    }


def _images(images: Document, refused: Document, sha256: Document) -> Document:
    parameter = _parameter("sha256", sha256, "Of the picture's bytes.", place="path")
    return {
        "operationId": "images",
        "summary": "What is known of the pictures with these bytes.",
        "description": "Their ids, when they came, what they relate to. Takes the right `read`.",
        "parameters": [parameter | {"required": True}],
        "responses": _responses(images, refused, _IMAGES_STATUSES),
    }


def _ready(health: Document) -> Document:
    operation = _open("ready", "Whether this replica takes requests; degraded is yes.", health)
    operation["responses"]["503"] = _response("It is about to stop.", health)
    return operation


def _open(name: str, summary: str, body: Document) -> Document:
    return {
        "operationId": name,
        "summary": summary,
        "security": [],
        "responses": {"200": _response(_STATUSES[200], body)},
    }


def _responses(body: Document, refused: Document, statuses: tuple[int, ...]) -> Document:
    responses = {str(status): _response(_STATUSES[status], refused) for status in statuses}
    limited = _response(_STATUSES[200], body)
    headers = {
        name: {"schema": {"type": "integer"}, "description": text}
        for name, text in _RATE_HEADERS.items()
    }
    return {"200": limited | {"headers": headers}} | responses


def _response(description: str, body: Document) -> Document:
    return {"description": description, "content": {"application/json": {"schema": body}}}


def _parameter(name: str, schema: Document, description: str, *, place: str = "query") -> Document:
    return {"name": name, "in": place, "description": description, "schema": schema}


def _operation(method: str, path: str, operation: Document) -> str:
    parameters = "".join(
        f"<tr><td><code>{found['name']}</code><td>{found['in']}<td>{escape(found['description'])}"
        for found in operation.get("parameters", ())
    )
    responses = "".join(
        f"<tr><td>{status}<td>{escape(found['description'])}"
        for status, found in operation["responses"].items()
    )
    return (
        f"<h3><code>{method.upper()} {escape(path)}</code></h3>"
        f"<p>{escape(operation['summary'])} {escape(operation.get('description', ''))}</p>"
        f"<table>{parameters}</table><table>{responses}</table>"
    )


def _unindent(node: object) -> None:
    """Take the indentation of the source out of the descriptions."""
    if isinstance(node, list):
        for item in node:
            _unindent(item)
    if isinstance(node, dict):
        for item in node.values():
            _unindent(item)
        if isinstance(node.get("description"), str):
            node["description"] = inspect.cleandoc(node["description"])
