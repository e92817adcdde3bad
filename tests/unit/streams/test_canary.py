"""The canary's rounds: what is well, wrong and lost, and that nothing of it stays."""

import numpy as np
import pytest
from prometheus_client import generate_latest

from agents.decide import decide, default_match_settings
from agents.decode import DecodeLimits
from agents.fingerprint import fingerprint
from schemas.records import Fingerprint, ImageMatched, Match, Position
from streams.canary import Canary, picture_and_copy
from streams.errors import RetryableError
from streams.telemetry.registry import Registry

SHA256 = "0" * 64


def outcome(image_id: str, *others: str) -> ImageMatched:
    """An outcome with these matches."""
    matches = tuple(
        Match(
            "0" * 64, other, 0, 0, "near_identical", "confirmed_sibling", 1.0, ("a", "b"), "event"
        )
        for other in others
    )
    best = matches[0] if matches else None
    place = Position(0, 0)
    return ImageMatched(
        "w", image_id, SHA256, place, bool(matches), best, matches, len(matches), "m", 1, "event"
    )


class Way:
    """A path whose outcomes are as the test says: by the number of the picture."""

    def __init__(self, *matches: tuple[int, ...] | None) -> None:
        self.matches = matches
        self.published: list[str] = []
        self.removed: list[str] = []
        self.broken = False

    def publish(self, image_id: str, _: bytes, /) -> None:
        """Take a picture."""
        if self.broken:
            raise RetryableError("no broker")
        self.published.append(image_id)

    def outcome(self, image_id: str, _: float, /) -> ImageMatched | None:
        """Tell what it matches."""
        found = self.matches[len(self.published) - 1]
        if found is None:
            return None
        return outcome(image_id, *(self.published[number] for number in found))

    def remove(self, image_id: str, /) -> None:
        """Take a removal."""
        self.removed.append(image_id)


def canary(way: Way) -> tuple[Canary, Registry]:
    """A canary on this way, at 1000 s of the world's clock."""
    registry = Registry("canary")
    random = np.random.default_rng(1)
    made = Canary(registry, way, timeout_seconds=1, random=random, wall_clock=lambda: 1000.0)
    return made, registry


def numbers(registry: Registry) -> dict[str, float]:
    """What it tells, by the end of the name."""
    text = generate_latest(registry.prometheus).decode()
    lines = (line.split() for line in text.splitlines() if line.startswith("check_dedup_canary_"))
    return {name.removeprefix("check_dedup_canary_"): float(value) for name, value in lines}


def test_all_is_well() -> None:
    """The first is new, the second is its copy; both are removed."""
    way = Way((), (0,))
    made, registry = canary(way)
    assert made.round()
    assert way.removed == way.published
    told = numbers(registry)
    assert (told["rounds_total"], told["lost_total"], told["wrong_total"]) == (1, 0, 0)
    assert told["latency_seconds_count"] == 2
    assert told["last_success_timestamp_seconds"] == 1000
    assert registry.missing() == []


@pytest.mark.parametrize(
    "matches", [((), ()), ((0,), (0,)), ((), (1,)), ((), (0, 1))], ids=["none", "new", "self", "2"]
)
def test_wrong_outcomes(matches: tuple[tuple[int, ...], ...]) -> None:
    """A copy without its original, a new picture with a match, or one match too many."""
    way = Way(*matches)
    made, registry = canary(way)
    assert not made.round()
    told = numbers(registry)
    assert (told["wrong_total"], told["lost_total"]) == (1, 0)
    assert told["last_success_timestamp_seconds"] == 0
    assert way.removed == way.published


@pytest.mark.parametrize("matches", [(None,), ((), None)])
def test_a_lost_picture(matches: tuple[tuple[int, ...] | None, ...]) -> None:
    """It is counted once, ends the round, and what was sent is removed."""
    way = Way(*matches)
    made, registry = canary(way)
    assert not made.round()
    told = numbers(registry)
    assert (told["wrong_total"], told["lost_total"]) == (0, 1)
    assert told["latency_seconds_count"] == len(matches) - 1
    assert way.removed == way.published


def test_a_broker_that_is_away() -> None:
    """Costs the round; what may have arrived all the same is removed."""
    way = Way()
    way.broken = True
    made, registry = canary(way)
    assert not made.round()
    assert numbers(registry)["lost_total"] == 1
    assert len(way.removed) == 1


def test_the_pictures() -> None:
    """A copy is a confirmed match of its original, and of no other round's."""
    random, limits = np.random.default_rng(2), DecodeLimits(pixels=10**6)
    first, copy, other, _ = (
        fingerprint(content, limits)
        for content in (*picture_and_copy(random), *picture_and_copy(random))
    )
    assert isinstance(first, Fingerprint)
    assert isinstance(copy, Fingerprint)
    assert isinstance(other, Fingerprint)
    settings = default_match_settings(4)
    decision = decide(copy, first, settings)
    assert decision is not None
    assert decision.tier == "confirmed_sibling"
    assert decide(other, first, settings) is None
