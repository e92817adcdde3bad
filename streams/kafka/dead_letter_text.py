r"""A dead letter's bytes as text that is safe to print: they are a stranger's.

Called by `check-dedup dlq`. Promises: no control or formatting character reaches the terminal,
what is printed is bounded, and credentials of URLs are masked, in their query too: a signed URL
is one. JSON is decoded first, so that no escape hides anything.
"""

import re
from typing import Final

import msgspec

# More than a picture's base64 is no help to a reader.
_TEXT_LIMIT_CHARACTERS: Final = 200
_QUERY: Final = re.compile(r"([?&;][^=&;\s\"]{1,100}=)[^&;\s\"#]+")


def printable(text: str) -> str:
    r"""Give the text with what does not print as `\x..` or `\u....`."""
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape", "backslashreplace").decode("ascii")
        for character in text
    )


def masked(text: str) -> str:
    """Give a text that is one URL, or none, with its credentials as ***."""
    before, slashes, rest = text.partition("//")
    credentials, at, after = rest.rpartition("@")
    # With a colon to the last @: a password may hold what a URL may not.
    if at and (":" in credentials or "/" not in credentials):
        text = f"{before}{slashes}***@{after}"
    return _QUERY.sub(r"\1***", text)


def shown(content: bytes | None, limit_characters: int) -> str:
    """Give a header, a key or a value as text of so many characters, and how much is left out."""
    if content is None:
        return "(null)"
    text = printable(_text(content))
    if len(text) <= limit_characters:
        return text
    return f"{text[:limit_characters]}… ({len(content)} bytes in all)"


def _text(content: bytes) -> str:
    try:
        parsed = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        parsed = None
    if isinstance(parsed, dict | list):
        return msgspec.json.encode(_tidy(parsed)).decode()
    text = content.decode("utf-8", "backslashreplace").replace("\\/", "/").replace("\\u0040", "@")
    # Word by word: what is no JSON may hold any number of URLs.
    words = re.split(r"([\s\"']+)", text)
    return "".join(masked(word) if "//" in word or "=" in word else word for word in words)


def _tidy(value: object) -> object:
    """Mask and shorten what JSON holds, at any depth that it was decoded to."""
    if isinstance(value, dict):
        return {masked(name): _tidy(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_tidy(inner) for inner in value]
    if not isinstance(value, str):
        return value
    text = masked(value)
    if len(text) <= _TEXT_LIMIT_CHARACTERS:
        return text
    return f"{text[:_TEXT_LIMIT_CHARACTERS]}… ({len(text)} characters)"
