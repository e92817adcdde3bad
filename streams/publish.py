"""Publishing pictures as Check does, and waiting for what becomes of them.

Used by `check-dedup publish` and the demo. Outcomes and dead letters are read from their topics
as any subscriber would: from the ends seen before publishing, told apart by image id.
"""

import stat
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import msgspec
from confluent_kafka import KafkaError, Message
from rich import get_console
from rich.progress import Progress, track

from schemas.codec import cloudevents_headers, encode_json, event_id
from schemas.records import ImageIngested, ImageMatched
from schemas.topics import (
    IMAGE_INGESTED,
    IMAGE_MATCHED,
    INLINE_PICTURE_LIMIT_BYTES,
    dead_letter_topic_name,
)
from streams.errors import MisconfiguredError, RetryableError
from streams.kafka.client import direct_consumer, producer, require_access
from streams.kafka.ends import stand_at_ends
from streams.settings import Settings

Ended = ImageMatched | str
"""What became of a picture: its outcome, or the reason of its dead letter."""

_DEAD_LETTERS = dead_letter_topic_name(IMAGE_INGESTED)
_POLL_SECONDS = 0.2
# A bar that cannot move is only an empty line.
_IS_FILE = not get_console().is_terminal
_ID_SEPARATOR = "~"
_NAME_LIMIT_CHARACTERS = 100


def events_of(
    paths: Sequence[str], workspace: str, *, unique: Callable[[], str]
) -> dict[str, ImageIngested]:
    """Make an event of each file, each file of a folder, and each URL; by its path.

    An image id is the picture's name and something unique: whoever meets it later, in a log or as
    the closest match of another picture, knows what it is.

    Raises:
        MisconfiguredError: there is no such file, it cannot be read, or it is too large to be
            sent inline.
    """
    events: dict[str, ImageIngested] = {}
    for path in paths:
        if path.startswith(("http://", "https://")):
            events[path] = ImageIngested(workspace, _image_id(path, unique()), url=path)
            continue
        place = Path(path)
        if not place.exists():
            raise MisconfiguredError(f"{path}: no such file or folder")
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_dir():
                continue
            image_id = _image_id(str(file), unique())
            events[str(file)] = ImageIngested(workspace, image_id, content=_content(file))
    if not events:
        raise MisconfiguredError("nothing to publish: the folders hold no files")
    return events


def name_of(image_id: str) -> str:
    """Give the name in an image id that `events_of` made; another producer's id as it is."""
    name, separator, unique = image_id.rpartition(_ID_SEPARATOR)
    return name if separator and unique else image_id


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Give each path's last part, with as many before it as tell it from the others."""
    paths = list(dict.fromkeys(paths))
    parts = {path: path.rstrip("/").split("/") for path in paths}
    names: dict[str, str] = {}
    depth = 1
    while len(names) < len(paths):
        tails = {path: "/".join(parts[path][-depth:]) for path in paths if path not in names}
        often = Counter(tails.values())
        names |= {
            path: tail
            for path, tail in tails.items()
            if often[tail] == 1 or depth >= len(parts[path])
        }
        depth += 1
    return {path: names[path] for path in paths}


class Publication:
    """Sends events, and hears what becomes of them."""

    def __init__(self, settings: Settings) -> None:
        """Connect; nothing is sent yet."""
        self._settings = settings
        self._producer = producer(settings)
        self._consumer = direct_consumer(settings)
        self._waiting: set[str] = set()
        self._failures: list[KafkaError] = []

    def __enter__(self) -> Self:
        """Stand at the ends of the topics of outcomes and dead letters."""
        require_access(self._settings)
        found = self._consumer.list_topics(timeout=10).topics
        places = [
            (name, partition)
            for name in (IMAGE_MATCHED, _DEAD_LETTERS)
            for partition in (found[name].partitions if name in found else ())
        ]
        if not places:
            raise MisconfiguredError("there are no topics; run check-dedup topics create")
        stand_at_ends(self._settings, self._consumer, places)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self._consumer.close()

    def send(self, events: Sequence[ImageIngested]) -> None:
        """Publish, and return when the broker has all of them.

        Raises:
            RetryableError: at least one was not acknowledged.
        """
        self.send_raw([(event.image_id, encode_json(event)) for event in events])

    def send_raw(self, events: Sequence[tuple[str, bytes]]) -> None:
        """Publish values as they are, good or not, under their image ids."""
        for image_id, value in track(events, "publishing", transient=True, disable=_IS_FILE):
            self._waiting.add(image_id)
            headers = cloudevents_headers(
                topic=IMAGE_INGESTED,
                identifier=event_id(IMAGE_INGESTED, image_id),
                source="publish",
                subject=image_id,
                time_ms=time.time_ns() // 1_000_000,
                content_type="application/json",
            )
            self._producer.produce(
                IMAGE_INGESTED,
                key=image_id,
                value=value,
                headers=list(headers),
                on_delivery=self._on_delivery,
            )
            self._producer.poll(0)
        self._producer.flush()
        if self._failures:
            raise RetryableError(f"not published: {self._failures[0]}")

    def wait(self, timeout_seconds: float) -> dict[str, Ended]:
        """Read until each published picture has ended, or the time is over."""
        ended: dict[str, Ended] = {}
        deadline = time.monotonic() + timeout_seconds
        with Progress(transient=True, disable=_IS_FILE) as progress:
            task = progress.add_task("waiting for outcomes", total=len(self._waiting))
            while self._waiting - ended.keys() and time.monotonic() < deadline:
                for message in self._consumer.consume(500, _POLL_SECONDS):
                    found = _ended(message)
                    if found is not None and found[0] in self._waiting:
                        ended[found[0]] = found[1]
                progress.update(task, completed=len(ended))
        return ended

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failures.append(error)


def _content(file: Path) -> bytes:
    """Read a picture that can be sent inline."""
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise MisconfiguredError(f"{file}: neither a file nor a folder")
        if status.st_size > INLINE_PICTURE_LIMIT_BYTES:
            raise MisconfiguredError(
                f"{file}: {status.st_size} bytes; at most {INLINE_PICTURE_LIMIT_BYTES} can be "
                "sent inline, serve it by http and give its URL"
            )
        return file.read_bytes()
    except OSError as error:
        raise MisconfiguredError(f"{file}: cannot be read: {error.strerror}") from error


def _image_id(path: str, unique: str) -> str:
    """Make an id of printable characters, whatever a file is called."""
    name = path.rstrip("/").rpartition("/")[2].encode(errors="replace").decode()
    printable = "".join(character if character.isprintable() else "?" for character in name)
    return f"{printable[-_NAME_LIMIT_CHARACTERS:]}{_ID_SEPARATOR}{unique}"


def _ended(message: Message) -> tuple[str, Ended] | None:
    """Read an outcome or a dead letter; None for what only marks a partition's end."""
    error = message.error()
    if error is not None:
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its name
            return None
        raise RetryableError(f"outcomes cannot be read: {error}")
    image_id = (message.key() or b"").decode(errors="replace")
    if message.topic() == IMAGE_MATCHED:
        return image_id, msgspec.json.decode(message.value() or b"", type=ImageMatched)
    headers = cast("list[tuple[str, bytes]]", message.headers() or [])
    return image_id, dict(headers)["dlq-reason"].decode()
