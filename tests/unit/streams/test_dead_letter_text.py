"""A stranger's bytes are printed without harm: nothing that acts, nothing secret, nothing long."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.kafka.dead_letter_text import masked, printable, shown

SECRET = "hunter2"  # noqa: S105 - what is looked for


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{SECRET}@example.org/p.jpg",
        f"https://{SECRET}@example.org/p.jpg",
        f"https://user:{SECRET}/{SECRET}@example.org/p.jpg",
        f"https://user:a@{SECRET}@example.org/p.jpg",
        f"//user:{SECRET}@example.org",
        f"https://example.org/p?X-Amz-Signature={SECRET}&b={SECRET}#f",
        f"https://user:p w {SECRET}@example.org/",
        f"https://user:{'x' * 300}{SECRET}@example.org/",
    ],
)
def test_credentials_of_a_url_are_masked(url: str) -> None:
    """In JSON at any depth, however it is escaped; as a URL of its own."""
    assert SECRET not in masked(url)
    text = json.dumps({"url": url, "check": [{"u": url}], url: 1})
    for escaped in (text, text.replace("/", "\\/"), text.replace("@", "\\u0040")):
        assert SECRET not in shown(escaped.encode(), 100_000)


@pytest.mark.parametrize("slashes", ["//", "\\/\\/"])
def test_credentials_in_what_is_no_json_are_masked(slashes: str) -> None:
    """Each word for itself."""
    text = f'\xff"http:{slashes}u:{SECRET}@h/a" or ftp:{slashes}{SECRET}\\u0040h x'
    assert SECRET not in shown(text.encode("latin-1"), 1_000)


def test_what_is_no_secret_is_left() -> None:
    """The rest of a URL is what one looks for."""
    for text in ("https://example.org/a/b@2x.png", "a@b.org", "no url"):
        assert masked(text) == text


@given(st.binary(max_size=400))
def test_nothing_but_printable_characters(content: bytes) -> None:
    """Whatever the bytes are."""
    assert all(character.isprintable() for character in shown(content, 10_000))


def test_what_acts_on_a_terminal_is_escaped() -> None:
    """Control sequences, and characters that turn the direction of a text."""
    assert printable("a\x1b[31m\u202e\n\x9b\ud800") == "a\\x1b[31m\\u202e\\n\\x9b\\ud800"


def test_it_is_bounded_and_says_so() -> None:
    """Also a JSON text, whose longest values are cut first."""
    assert shown(b"x" * 1_000_000, 100) == "x" * 100 + "… (1000000 bytes in all)"
    assert shown(json.dumps({"content": "A" * 900_000, "z": 1}).encode(), 1_000).endswith('"z":1}')
    assert shown(None, 10) == "(null)"


@pytest.mark.parametrize(
    "piece", [b"//", b"//:", b"?a", b"?a=", b"[", b'{"a":', b"\\u0040//:@", b"@:"]
)
def test_it_takes_no_time(piece: bytes) -> None:
    """A megabyte that is made for regular expressions to get lost in."""
    began = time.monotonic()
    shown(piece * (1_000_000 // len(piece)), 100)
    assert time.monotonic() - began < 10.0
