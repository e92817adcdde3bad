"""The demo's own expectations: met by a good run, and each broken by the fault it is for."""

from collections.abc import Callable

import msgspec
import pytest

from deploy.local.client import Record
from deploy.local.demo import REMOVED, STEREO, Seen, Sent, expectations
from schemas.codec import encode_json
from schemas.records import ImageIngested, ImageMatched, Match, Position


def sent(name: str, original: str, kind: str, expected: str) -> Sent:
    """An event of the demo; its id is its name."""
    return Sent(name, ImageIngested("demo", name, content=b"picture"), original, kind, expected)


def outcome(name: str, *found: str) -> ImageMatched:
    """An outcome with these matches."""
    matches = tuple(
        Match(
            sha256="0" * 64,
            image_id=image_id,
            score=0,
            fine_distance=0,
            relation="near_identical",
            tier="confirmed_sibling",
            weight=1.0,
            views=("whole", "whole"),
            origin="event",
        )
        for image_id in found
    )
    return ImageMatched(
        workspace="demo",
        image_id=name,
        sha256="0" * 64,
        position=Position(partition=0, offset=0),
        match=bool(matches),
        closest_match=matches[0] if matches else None,
        matches=matches,
        matches_total=len(matches),
        model="model",
        hash_version=1,
        origin="event",
    )


def record(key: str, value: bytes, reason: str = "") -> Record:
    """A record as it was delivered."""
    return Record("topic", 0, 0, key.encode(), value, (("dlq-reason", reason.encode()),))


LEFT, RIGHT = sorted(STEREO)
SENT = [
    sent("cat", "cat", "original", "no match"),
    sent("dog", "dog", "original", "no match"),
    sent("small cat", "cat", "half size", "match"),
    sent("text.jpg", "text.jpg", "poison", "not_an_image"),
    sent("late", REMOVED, "late", "no match"),
    sent(LEFT, LEFT, "original", "no match"),
    sent(RIGHT, RIGHT, "original", "no match"),
    sent("small left", LEFT, "half size", "match"),
    sent("small right", RIGHT, "half size", "match"),
]
POISON = SENT[3]


@pytest.fixture
def seen() -> Seen:
    """A good run; copies of the stereo pair may relate."""
    found = Seen()
    found.outcomes = {
        "cat": outcome("cat"),
        "dog": outcome("dog"),
        LEFT: outcome(LEFT),
        RIGHT: outcome(RIGHT),
        "small cat": outcome("small cat", "cat"),
        "small left": outcome("small left", LEFT),
        "small right": outcome("small right", RIGHT, "small left"),
        "late": outcome("late"),
    }
    letter = record("text.jpg", encode_json(POISON.event), "not_an_image")
    found.dead_letters = {"text.jpg": letter}
    found.redelivered = (record("cat", b"{}"), record("cat", b"{}"))
    return found


def wrong(seen: Seen) -> list[str]:
    """All that contradicts the expectations."""
    return [text for _, contradictions in expectations(SENT, seen) for text in contradictions]


def test_a_good_run(seen: Seen) -> None:
    """Nothing is wrong."""
    assert wrong(seen) == []


def test_the_stereo_pair_may_be_suggested(seen: Seen) -> None:
    """One scene, seen by two eyes, is no wrong match as long as nobody is told that it is sure."""
    found = outcome(RIGHT, LEFT)
    suggested = (msgspec.structs.replace(found.matches[0], tier="suggested_sibling"),)
    seen.outcomes[RIGHT] = msgspec.structs.replace(found, matches=suggested)
    assert wrong(seen) == []


FAULTS: dict[str, tuple[Callable[[Seen], object], str]] = {
    "an outcome is missing": (lambda s: s.outcomes.pop("dog"), "dog has none"),
    "an outcome and a dead letter": (
        lambda s: s.dead_letters.update(cat=s.dead_letters["text.jpg"]),
        "cat has two",
    ),
    "originals match": (
        lambda s: s.outcomes.update(dog=outcome("dog", "cat")),
        "dog matches cat",
    ),
    "the stereo pair is confirmed": (
        lambda s: s.outcomes.update({RIGHT: outcome(RIGHT, LEFT)}),
        f"{RIGHT} matches {LEFT}",
    ),
    "a copy is not found": (
        lambda s: s.outcomes.update({"small cat": outcome("small cat")}),
        "small cat does not match its original",
    ),
    "a copy matches another": (
        lambda s: s.outcomes.update({"small cat": outcome("small cat", "cat", "dog")}),
        "small cat matches dog",
    ),
    "a wrong reason": (
        lambda s: s.dead_letters.update(
            {"text.jpg": record("text.jpg", encode_json(POISON.event), "not_json")}
        ),
        "text.jpg: not_json instead of not_an_image",
    ),
    "other bytes in a dead letter": (
        lambda s: s.dead_letters.update({"text.jpg": record("text.jpg", b"", "not_an_image")}),
        "text.jpg: not the bytes that were published",
    ),
    "a redelivery with other bytes": (
        lambda s: setattr(s, "redelivered", (record("cat", b"{}"), record("cat", b"[]"))),
        "the two deliveries differ",
    ),
    "a removed picture is found": (
        lambda s: s.outcomes.update(late=outcome("late", "cat")),
        "late matches cat",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_noticed(seen: Seen, fault: str) -> None:
    """What goes wrong is named, and nothing else."""
    break_it, complaint = FAULTS[fault]
    break_it(seen)
    assert wrong(seen) == [complaint]
