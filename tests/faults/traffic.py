"""What Check would send, without end: a function of a seed and of nothing else.

Families of near-duplicates, inline or to be fetched from a slow host, with, in between, deliveries
of the same event again, ids used twice, removals (some of them ahead of their picture) and events
that are no good.

Most pictures have the statistics of photographs, so that a matcher has as much to do with them: it
took 0.3 to 0.6 ms for each candidate of 120 photographs that were copied as these are, and takes as
much for these. One family in ten is a blur under grain: its copies agree in little else than their
codes, and take 2 to 2.7 ms.
"""

import io
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import count, islice
from typing import Final

import numpy as np
from PIL import Image
from PIL.Image import Quantize, Resampling

from schemas.codec import encode_json
from schemas.reasons import Reason
from schemas.records import CheckIds, ImageIngested, ImageRemoved
from schemas.topics import IMAGE_INGESTED, IMAGE_REMOVED
from tests.oracle import Picture

WORKSPACES: Final = tuple(f"newsroom {letter}" for letter in "abcde")
FAMILIES: Final = 40
SIDE_PIXELS: Final = 128
# Of so many families one.
GRAINY: Final = 10
# Removals run ahead of their picture by at most this many pictures.
AHEAD: Final = 5
REMEMBERED: Final = 200
# Share of the pictures that are not inline; those complete out of order.
FETCHED: Final = 0.3
SLOWEST_SECONDS: Final = 2.0
# Where latency is measured, a picture's host must not be what makes it late.
SLOWEST_MEASURED_SECONDS: Final = 0.3
# Of traffic that goes on for long.
EVENTS_PER_EDITION: Final = 1000
EDITIONS: Final = 1_000_000

Headers = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class Event:
    """A record to publish. `picture` has to get an outcome, `reason` a dead letter.

    `content` are the picture's bytes, also where the event has only a URL of them.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = (("trace", b"1"), ("null", None))
    picture: Picture | None = None
    content: bytes = b""
    reason: Reason | None = None


def traffic(
    seed: int,
    origin: str,
    workspaces: Sequence[str] = WORKSPACES,
    slowest_seconds: float = SLOWEST_SECONDS,
) -> Iterator[Event]:
    """Give events for ever; the same seed gives the same events.

    Pictures that are to be fetched are at `origin`, at the path of `path_of`.
    """
    chance = random.Random(seed)
    families = [
        (_photograph if family % GRAINY else _grainy)(seed * FAMILIES + family)
        for family in range(FAMILIES)
    ]
    picture = partial(_picture, chance, families, origin=origin, slowest_seconds=slowest_seconds)
    sent: list[Event] = []
    pictures: list[Picture] = []
    number = 0
    while True:
        draw = chance.random()
        if draw < 0.03:
            yield _removal(chance.choice(workspaces), number - chance.randint(-AHEAD, AHEAD))
        elif draw < 0.07:
            yield _poison(chance, families)
        elif draw < 0.11 and sent:
            yield chance.choice(sent)
        elif draw < 0.12 and sent:
            # An id used twice: other bytes, which change nothing.
            yield picture(chance.choice(pictures), number)
        else:
            made = Picture(chance.choice(workspaces), f"media-{number}")
            event = picture(made, number)
            yield event
            sent = [*sent[-REMEMBERED:], event]
            pictures = [*pictures[-REMEMBERED:], made]
            number += 1


def long_traffic(seed: int, origin: str) -> Iterator[Event]:
    """Give events for hours: after each thousand, others from other newsrooms.

    What can match is bounded that way: brute force over it is quadratic.
    """
    for edition in count():
        workspaces = [f"{workspace} {edition}" for workspace in WORKSPACES]
        of_its_own = seed * EDITIONS + edition
        events = traffic(of_its_own, origin, workspaces, SLOWEST_MEASURED_SECONDS)
        yield from islice(events, EVENTS_PER_EDITION)


def path_of(content: bytes, delay_seconds: float) -> str:
    """Give the path of a picture on its host, which takes its time to answer."""
    return f"/{delay_seconds:.2f}/{sha256(content).hexdigest()}"


def _picture(
    chance: random.Random,
    families: list[Image.Image],
    picture: Picture,
    number: int,
    *,
    origin: str,
    slowest_seconds: float,
) -> Event:
    content = _copy(chance, chance.choice(families))
    fetched = chance.random() < FETCHED
    url = origin + path_of(content, chance.random() * slowest_seconds)
    event = ImageIngested(
        *picture,
        url=url if fetched else None,
        content=None if fetched else content,
        check=CheckIds(project_media_id=number),
    )
    key = picture.image_id.encode()
    return Event(IMAGE_INGESTED, key, encode_json(event), picture=picture, content=content)


def _removal(workspace: str, number: int) -> Event:
    event = ImageRemoved(workspace, f"media-{max(0, number)}")
    return Event(IMAGE_REMOVED, workspace.encode(), encode_json(event))


def _poison(chance: random.Random, families: list[Image.Image]) -> Event:
    good = _copy(chance, chance.choice(families))
    poison_id = f"poison-{chance.getrandbits(64):x}"

    def inline(content: bytes) -> bytes:
        return encode_json(ImageIngested(WORKSPACES[0], poison_id, content=content))

    made: list[tuple[bytes | None, bytes | None, Reason]] = [
        (poison_id.encode(), inline(b""), "picture_empty"),
        (poison_id.encode(), inline(b"this is not a picture"), "not_an_image"),
        (poison_id.encode(), inline(good[: len(good) // 2]), "picture_truncated"),
        (poison_id.encode(), inline(good)[:-1], "not_json"),
        (poison_id.encode(), None, "value_missing"),
        (poison_id.encode(), b'{"image_id": "x"}', "workspace_missing"),
        (b"another key", inline(good), "key_mismatch"),
        (None, inline(good), "key_missing"),
        (b"\xff\n", inline(good), "key_invalid"),
    ]
    key, value, reason = chance.choice(made)
    return Event(IMAGE_INGESTED, key, value, reason=reason)


def _photograph(seed: int) -> Image.Image:
    """Make a picture with the spectrum of photographs, unlike every other.

    Amplitudes fall with frequency to the power of -1.2: Tolhurst, Tadmor and Chao, *Amplitude
    spectra of natural images*, 1992.
    """
    noise = np.random.default_rng(seed).normal(size=(3, SIDE_PIXELS, SIDE_PIXELS))
    frequencies = np.hypot(np.fft.fftfreq(SIDE_PIXELS)[:, np.newaxis], np.fft.rfftfreq(SIDE_PIXELS))
    frequencies[0, 0] = np.inf  # no mean
    spectrum = np.fft.rfft2(noise) / frequencies**1.2
    levels = np.fft.irfft2(spectrum, noise.shape[1:]).transpose(1, 2, 0)
    levels *= 50 / levels.std()
    return Image.fromarray(np.clip(128 + levels, 0, 255).astype(np.uint8))


def _grainy(seed: int) -> Image.Image:
    """Make a blur under grain, unlike every other."""
    noise = np.random.default_rng(seed)
    coarse = Image.fromarray(noise.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    smooth = coarse.resize((SIDE_PIXELS, SIDE_PIXELS), Resampling.BICUBIC)
    fine = noise.normal(0, 6, (SIDE_PIXELS, SIDE_PIXELS, 1))
    return Image.fromarray(np.clip(np.asarray(smooth) + fine, 0, 255).astype(np.uint8))


def _copy(chance: random.Random, original: Image.Image) -> bytes:
    """Make a near-duplicate: resized, recompressed, sometimes as PNG."""
    side = chance.randint(SIDE_PIXELS // 2, SIDE_PIXELS)
    copy = original.resize((side, side + chance.randint(0, 8)), Resampling.LANCZOS)
    file = io.BytesIO()
    if chance.random() < 0.2:
        # The usual way to choose the colours takes 20 ms, more than all else that is done here.
        copy.quantize(64, Quantize.FASTOCTREE).save(file, "PNG")
    else:
        copy.save(file, "JPEG", quality=chance.randint(60, 95))
    return file.getvalue()
