"""Requests as bytes: what is asked, or a documented refusal, whatever the bytes."""

import json
from contextlib import suppress
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.decide import default_match_settings
from schemas.records import CheckIds
from streams.api.problems import ProblemError
from streams.api.requests import MatchRequest, match_request, multipart

SETTINGS = default_match_settings(1)
MULTIPART = "multipart/form-data; boundary=b"


def read(
    body: bytes, content_type: str = "image/jpeg", query: dict[str, str] | None = None
) -> MatchRequest:
    """Read a request."""
    return match_request((query or {}).items(), content_type, body, SETTINGS)


def form(*parts: tuple[str, bytes]) -> bytes:
    """Give a multipart body."""
    written = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="%s"; filename="x"\r\n\r\n%s\r\n'
        % (name.encode(), content)
        for name, content in parts
    )
    return written + b"--b--\r\n"


def code_of(*arguments: object, **named: object) -> str:
    """Give the code of the refusal that reading ends in."""
    with pytest.raises(ProblemError) as caught:
        read(*arguments, **named)  # type: ignore[arg-type]
    return caught.value.body.error.code


@pytest.mark.parametrize("content_type", ["", "image/png", "IMAGE/x", "application/octet-stream"])
def test_a_raw_body_is_the_picture(content_type: str) -> None:
    """Whatever kind of image it is said to be; its bytes decide later."""
    assert read(b"picture", content_type) == MatchRequest(content=b"picture", threshold=6)


@pytest.mark.parametrize("name", ["image", "q"])
@pytest.mark.parametrize("content", [b"picture", b"\r\n--", b"\r\n\r\n--c\r\n", b"x--b", b"\r"])
def test_a_part_is_the_picture_to_the_byte(name: str, content: bytes) -> None:
    """Line ends and half boundaries inside a picture are the picture's."""
    wanted = read(form(("other", b"?"), (name, content), ("image_id", b"i")), MULTIPART)
    assert wanted == MatchRequest(content=content, image_id="i", threshold=6)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", json.dumps({"url": "http://h/p", "check": {"team_id": 3}}).encode()),
        ("application/json; charset=utf-8", b'{"url": "http://h/p", "team_id": 3, "new": []}'),
        ("application/x-www-form-urlencoded", urlencode({"url": "http://h/p", "team_id": 3})),
        (MULTIPART, form(("url", b"http://h/p"), ("team_id", b"3"))),
    ],
)
def test_a_url_may_come_in_any_form(content_type: str, body: bytes | str) -> None:
    """JSON, a form, or a part; unknown fields are a newer client's."""
    encoded = body.encode() if isinstance(body, str) else body
    assert read(encoded, content_type) == MatchRequest(
        url="http://h/p", check=CheckIds(team_id=3), threshold=6
    )


def test_parameters_in_the_query() -> None:
    """For bodies that have no room for them."""
    query = {"threshold": "0", "store": "false", "detail": "1", "project_media_id": "7", "x": "y"}
    assert read(b"p", query=query) == MatchRequest(
        content=b"p", threshold=0, store=False, detail=True, check=CheckIds(project_media_id=7)
    )


@pytest.mark.parametrize("text", ["-1", "11", "6.0", "x", "", " 6", "1e1", "٦", "9" * 5000])
def test_a_threshold_that_is_not_allowed(text: str) -> None:
    """Neither rounded nor cut: refused, with what is allowed."""
    with pytest.raises(ProblemError) as caught:
        read(b"p", query={"threshold": text})
    assert caught.value.status == 400
    assert caught.value.body.error.code == "threshold_invalid"
    assert "0 to 10" in caught.value.body.error.message


@pytest.mark.parametrize("value", [True, 6.0, [6], {"6": 6}])
def test_a_threshold_of_another_type(value: object) -> None:
    """JSON has other types than numbers."""
    body = json.dumps({"url": "http://h/p", "threshold": value}).encode()
    assert code_of(body, "application/json") == "threshold_invalid"


@pytest.mark.parametrize(
    ("body", "content_type", "code"),
    [
        (b"", "image/png", "image_missing"),
        (b"{}", "application/json", "image_missing"),
        (b"x=y", "application/x-www-form-urlencoded", "image_missing"),
        (form(("image", b"a"), ("q", b"b")), MULTIPART, "image_missing"),
        (form(("image", b"a"), ("url", b"http://h")), MULTIPART, "image_missing"),
        (form(("image", b"")), MULTIPART, "picture_empty"),
        (form(("url", b"a"), ("url", b"b")), MULTIPART, "parameter_invalid"),
        (b"[]", "application/json", "body_invalid"),
        (b"{", "application/json", "body_invalid"),
        (b"[" * 60_000, "application/json", "body_invalid"),
        (b"\xff", "application/json", "body_invalid"),
        (b"%ff=1", "application/x-www-form-urlencoded", "body_invalid"),
        (b"&a=1" * 101, "application/x-www-form-urlencoded", "body_invalid"),
        (b" " * 70_000, "application/json", "body_too_large"),
        (form(("url", b"x" * 70_000)), MULTIPART, "body_too_large"),
        (b'{"url": 3}', "application/json", "parameter_invalid"),
        (b'{"url": "u", "check": 3}', "application/json", "parameter_invalid"),
        (b'{"url": "u", "image_id": "a\\nb"}', "application/json", "parameter_invalid"),
        (b'{"url": "u", "team_id": -1}', "application/json", "parameter_invalid"),
        (b"x", "text/plain", "type_unsupported"),
        (b"x", "multipart/mixed; boundary=b", "type_unsupported"),
        (form(("image", b"a")), "multipart/form-data", "body_invalid"),
        (form(("image", b"a")), "multipart/form-data; boundary=" + "b" * 71, "body_invalid"),
        (form(("image", b"a")), "multipart/form-data; boundary=c", "body_invalid"),
        (form(("image", b"a"))[:-10], MULTIPART, "body_invalid"),
        (b"--b\r\nno header ends\r\n--b--", MULTIPART, "body_invalid"),
        (b"--bimage\r\n\r\nx\r\n--b--", MULTIPART, "body_invalid"),
        (form(*[("x", b"")] * 101), MULTIPART, "body_invalid"),
    ],
)
def test_refusals(body: bytes, content_type: str, code: str) -> None:
    """Each with its code."""
    assert code_of(body, content_type) == code


@pytest.mark.parametrize("name", ["threshold", "detail", "image_id", "url"])
def test_a_parameter_that_is_given_twice(name: str) -> None:
    """Which one counts would be a guess."""
    body = form(("image", b"a"), (name, b"1"))
    assert code_of(body, MULTIPART, {name: "1"}) == "parameter_invalid"


@given(
    st.binary(max_size=200),
    st.sampled_from([MULTIPART, "application/json", "application/x-www-form-urlencoded"]),
)
def test_any_body_is_read_or_refused(body: bytes, content_type: str) -> None:
    """Nothing else is raised."""
    with suppress(ProblemError):
        assert isinstance(read(body, content_type), MatchRequest)


@given(st.text(max_size=60), st.binary(max_size=100))
def test_any_content_type_is_read_or_refused(content_type: str, body: bytes) -> None:
    """Its parameters too."""
    with suppress(ProblemError):
        list(multipart("multipart/form-data;" + content_type, body))


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.binary(max_size=50)), max_size=5))
def test_parts_come_back_as_they_were(parts: list[tuple[str, bytes]]) -> None:
    """Every byte of every part, where none holds the boundary."""
    parts = [(name, content) for name, content in parts if b"--b" not in content]
    assert list(multipart(MULTIPART, form(*parts))) == parts
