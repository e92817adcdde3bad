"""From the bytes of a request to what is asked. Pure; every refusal is a `ProblemError`.

Called by `streams.api.server`. A parameter may come in the query, as a field of a form or of a
JSON object, but once. What the body is, its Content-Type says; what the picture is, its bytes.
"""

from collections.abc import Iterable, Iterator
from email.message import Message
from email.parser import HeaderParser
from typing import Annotated, Final
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta, Struct

from schemas.records import CheckIds, DatabaseId, ImageId, MatchSettings
from streams.api.problems import ProblemError

# What a form or JSON object without a picture may be long.
TEXT_LIMIT_BYTES: Final = 64 * 1024
# What surrounds the picture in a multipart body.
ENVELOPE_LIMIT_BYTES: Final = 64 * 1024
_PARTS_LIMIT: Final = 100
_PART_HEADER_LIMIT_BYTES: Final = 8 * 1024
_BOUNDARY_LIMIT: Final = 70
_THRESHOLD_DIGITS: Final = 2

_MULTIPART: Final = "multipart/form-data"
_PICTURE_FIELDS: Final = ("image", "q")
_PAIR_FIELDS: Final = ("first", "second")
_PICTURE_TYPES: Final = ("application/octet-stream", "")

Fields = dict[str, object]


class MatchRequest(Struct, frozen=True, kw_only=True):
    """One request for `/v1/match/`: `content` or `url`, exactly one of the two."""

    content: bytes | None = None
    url: str | None = None
    threshold: int
    store: bool = True
    detail: bool = False
    image_id: ImageId | None = None
    check: CheckIds | None = None


class _Parameters(Struct, frozen=True):
    """All fields by which a request says what it wants."""

    url: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    store: bool = True
    detail: bool = False
    image_id: ImageId | None = None
    team_id: DatabaseId | None = None
    project_media_id: DatabaseId | None = None


_NAMES: Final = frozenset({*_Parameters.__struct_fields__, "threshold"})


def match_request(
    query: Iterable[tuple[str, str]], content_type: str, body: bytes, settings: MatchSettings
) -> MatchRequest:
    """Read a request; its threshold is one that the settings allow, or their standard one.

    Raises:
        ProblemError: `parameter_invalid`, `threshold_invalid`, `body_invalid`, `image_missing`,
            `type_unsupported`, `body_too_large`, `picture_empty`.
    """
    fields: Fields = {}
    _add(fields, query)
    pictures = list(_read_body(fields, content_type, body))
    threshold = _threshold(fields.pop("threshold", None), settings)
    parameters = _converted(fields)
    if len(pictures) + (parameters.url is not None) != 1:
        raise ProblemError("image_missing")
    if pictures and not pictures[0]:
        raise ProblemError("picture_empty")
    ids = CheckIds(parameters.team_id, parameters.project_media_id)
    return MatchRequest(
        content=pictures[0] if pictures else None,
        url=parameters.url,
        threshold=threshold,
        store=parameters.store,
        detail=parameters.detail,
        image_id=parameters.image_id,
        check=None if ids == CheckIds() else ids,
    )


def picture_pair(content_type: str, body: bytes) -> tuple[bytes, bytes]:
    """Read a request that compares two pictures: the parts `first` and `second` of a form.

    Raises:
        ProblemError: `type_unsupported`, `body_invalid`, `pair_missing`, `picture_empty`.
    """
    if _kind(content_type) != _MULTIPART:
        raise ProblemError("type_unsupported")
    parts = [part for part in multipart(content_type, body) if part[0] in _PAIR_FIELDS]
    pictures = dict(parts)
    if len(parts) != len(_PAIR_FIELDS) or len(pictures) != len(_PAIR_FIELDS):
        raise ProblemError("pair_missing")
    if not all(pictures.values()):
        raise ProblemError("picture_empty")
    first, second = (pictures[field] for field in _PAIR_FIELDS)
    return first, second


def multipart(content_type: str, body: bytes) -> Iterator[tuple[str, bytes]]:
    """Give the parts of a `multipart/form-data` body (RFC 7578): name and content.

    Raises:
        ProblemError: `body_invalid`.
    """
    boundary = _parameter(content_type, "boundary")
    if not boundary or len(boundary) > _BOUNDARY_LIMIT or not boundary.isascii():
        raise ProblemError("body_invalid", "There is no boundary, or none that is allowed.")
    marker = b"\r\n--" + boundary.encode()
    begun = body.startswith(marker[2:])
    position = len(marker) - 2 if begun else body.find(marker) + len(marker)
    if not begun and position < len(marker):
        raise ProblemError("body_invalid", "The boundary is not in the body.")
    for _ in range(_PARTS_LIMIT):
        if body.startswith(b"--", position):
            return
        end = body.find(marker, position)
        head_end = body.find(b"\r\n\r\n", position, position + _PART_HEADER_LIMIT_BYTES)
        if end < 0 or not 0 <= head_end < end or not body.startswith(b"\r\n", position):
            raise ProblemError("body_invalid", "A part does not end, or its header is no header.")
        header = body[position + 2 : head_end].decode("utf-8", "replace")
        yield _name_of(header), body[head_end + 4 : end]
        position = end + len(marker)
    raise ProblemError("body_invalid", f"More than {_PARTS_LIMIT} parts.")


def _read_body(fields: Fields, content_type: str, body: bytes) -> Iterator[bytes]:
    """Add the body's fields; give its pictures."""
    kind = _kind(content_type)
    if kind == _MULTIPART:
        for name, content in multipart(content_type, body):
            if name in _PICTURE_FIELDS:
                yield content
            elif name in _NAMES:
                _add(fields, [(name, _text(content))])
    elif kind == "application/x-www-form-urlencoded":
        _add(fields, _form_fields(body))
    elif kind == "application/json":
        _add(fields, _json_fields(body))
    elif kind in _PICTURE_TYPES or kind.startswith("image/"):
        if body:
            yield body
    else:
        raise ProblemError("type_unsupported")


def _form_fields(body: bytes) -> list[tuple[str, str]]:
    if len(body) > TEXT_LIMIT_BYTES or not _is_text(body):
        # What curl says of any file that it sends with --data-binary.
        detail = "This is no form. For a picture, name its own type: Content-Type: image/jpeg."
        raise ProblemError("type_unsupported", detail)
    try:
        return parse_qsl(
            body.decode(), keep_blank_values=True, max_num_fields=_PARTS_LIMIT, errors="strict"
        )
    except ValueError as error:
        raise ProblemError("body_invalid", "No form, or too many fields.") from error


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _kind(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _json_fields(body: bytes) -> Iterable[tuple[str, object]]:
    try:
        value = msgspec.json.decode(_text(body))
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProblemError("body_invalid", "Not JSON.") from error
    if not isinstance(value, dict):
        raise ProblemError("body_invalid", "JSON, but no object.")
    ids = value.pop("check", None)
    if ids is not None and not isinstance(ids, dict):
        raise ProblemError("parameter_invalid", "check is no object.")
    return [*value.items(), *(ids or {}).items()]


def _add(fields: Fields, pairs: Iterable[tuple[str, object]]) -> None:
    for name, value in pairs:
        if name not in _NAMES or value is None:
            continue
        if name in fields:
            raise ProblemError("parameter_invalid", f"{name} is given twice.")
        fields[name] = value


def _converted(fields: Fields) -> _Parameters:
    try:
        return msgspec.convert(fields, _Parameters, strict=False)
    except msgspec.ValidationError as error:
        raise ProblemError("parameter_invalid", f"{error}.") from error


def _threshold(value: object, settings: MatchSettings) -> int:
    if value is None:
        return settings.standard_threshold
    text = str(value)
    digits = text.lstrip("0") or text[:1]
    if text.isascii() and text.isdigit() and len(digits) <= _THRESHOLD_DIGITS:
        threshold = int(digits)
        if threshold <= settings.radius:
            return threshold
    raise ProblemError("threshold_invalid", f"Allowed: 0 to {settings.radius}.")


def _text(content: bytes) -> str:
    if len(content) > TEXT_LIMIT_BYTES:
        raise ProblemError("body_too_large")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ProblemError("body_invalid", "Not UTF-8.") from error


def _name_of(header: str) -> str:
    found = HeaderParser().parsestr(header).get("content-disposition", "")
    return _parameter(str(found), "name")


def _parameter(header: str, name: str) -> str:
    """Give a parameter of a header such as `form-data; name="image"`; empty without one."""
    message = Message()
    try:
        message["content-type"] = header
        found = message.get_param(name)
    except (ValueError, IndexError):
        return ""
    return found if isinstance(found, str) else ""
