"""Names of published pictures, as ids carry them and tables show them."""

import os
from pathlib import Path

import pytest

from schemas.codec import decode_image_ingested, encode_json
from schemas.records import ImageIngested
from schemas.topics import INLINE_PICTURE_LIMIT_BYTES
from streams.errors import MisconfiguredError
from streams.publish import events_of, name_of, short_names


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://host/a/cat.jpg", "cat.jpg"),
        ("https://host/a/", "a"),
        ("https://host/a~b", "a~b"),
        ("https://host/bad\nname\udcff.jpg", "bad?name?.jpg"),
        ("https://host/" + "x" * 300, "x" * 100),
    ],
)
def test_an_image_id_carries_the_name(url: str, name: str) -> None:
    """Whatever a picture is called, its id is one that we take, and tells the name."""
    (event,) = events_of([url], "w", unique=lambda: "1").values()
    assert name_of(event.image_id) == name
    sent = ImageIngested("w", event.image_id, content=b"x")
    assert decode_image_ingested(event.image_id.encode(), encode_json(sent)) == sent


@pytest.mark.parametrize("in_a_folder", [False, True])
def test_what_cannot_be_sent_is_named(tmp_path: Path, *, in_a_folder: bool) -> None:
    """A link to nothing, a pipe, and a file too large for an event, alone or in a folder."""
    link, pipe, large = (tmp_path / name / "file" for name in ("link", "pipe", "large"))
    for file in (link, pipe, large):
        file.parent.mkdir()
    link.symlink_to(tmp_path / "nothing")
    os.mkfifo(pipe)
    large.write_bytes(bytes(INLINE_PICTURE_LIMIT_BYTES + 1))
    for file, said in ((link, "no such file|cannot be read"), (pipe, "neither"), (large, "inline")):
        path = file.parent if in_a_folder else file
        with pytest.raises(MisconfiguredError, match=rf"^{file}: .*({said})"):
            events_of([str(path)], "w", unique=lambda: "1")


def test_another_producers_id_is_its_own_name() -> None:
    """An id without our mark is shown as it is."""
    assert name_of("4711") == "4711"


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        ([], []),
        (["x/cat.jpg", "y/dog.jpg"], ["cat.jpg", "dog.jpg"]),
        (["x/cat.jpg", "y/cat.jpg", "dog.jpg"], ["x/cat.jpg", "y/cat.jpg", "dog.jpg"]),
        (["a/b/c", "d/b/c", "c"], ["a/b/c", "d/b/c", "c"]),
        (["cat.jpg", "./cat.jpg"], ["cat.jpg", "./cat.jpg"]),
        (["http://h/cat.jpg", "cat.jpg"], ["h/cat.jpg", "cat.jpg"]),
    ],
)
def test_names_are_short_and_differ(paths: list[str], names: list[str]) -> None:
    """The last part of a path, and as much before it as tells it from the others."""
    assert list(short_names(paths).values()) == names
