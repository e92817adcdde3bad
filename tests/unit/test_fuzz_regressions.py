"""Inputs that once did harm do none any more, and the seeds of the fuzz runs never did."""

import re
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

REGRESSIONS = Path(__file__).resolve().parents[1] / "fuzz" / "regressions"


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_and_regressions(target: str) -> None:
    """Each ends in a record or a rejection."""
    call, seeds = TARGETS[target]
    contents = [*seeds(), *(path.read_bytes() for path in (REGRESSIONS / target).glob("*"))]
    assert len(contents) > 50
    for content in contents:
        call(content)


def test_regressions_are_small_and_say_what_they_are() -> None:
    """A name in words, and nothing that weighs on the repository."""
    for path in REGRESSIONS.rglob("*"):
        if path.is_file():
            assert path.parent.name in TARGETS
            assert re.fullmatch(r"[a-z]+(-[a-z0-9]+)+", path.name)
            assert path.stat().st_size < 20_000
