"""Hostile pictures in the real decode processes: each ends in time and memory, and harms nobody."""

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from agents.fingerprint import fingerprint
from schemas.reasons import Rejection
from schemas.records import Fingerprint
from schemas.topics import MEBIBYTE
from streams.decoding.pool import DecodePool, decode_limits
from streams.settings import Settings
from tests.hostile_pictures import OK, Hostile, hostile, photograph, plain, written

# Of the product's defaults: what is tested is what is delivered.
SETTINGS = Settings(decode_processes=2)
# Two attempts of at most five seconds, and new processes on a machine that is busy.
BOUND_SECONDS = 60.0
CORPUS = list(hostile())
GOOD = written(photograph(), "PNG")


def test_the_limits_are_those_that_are_promised() -> None:
    """Five seconds, and 512 MB in the child."""
    assert SETTINGS.decode_timeout_seconds == 5.0
    assert SETTINGS.decode_memory_bytes == 512 * MEBIBYTE


@pytest.fixture(scope="module")
def ended() -> tuple[Mapping[str, str], int]:
    """What became of each, two at a time; and the most memory that a child ever had."""
    return asyncio.run(_run())


async def _run() -> tuple[Mapping[str, str], int]:
    outcomes: dict[str, str] = {}
    peak_bytes = 0
    limits = decode_limits(SETTINGS)
    waiting = iter(CORPUS)

    async with DecodePool(SETTINGS) as pool:

        async def hashed(content: bytes) -> str:
            async with asyncio.timeout(BOUND_SECONDS):
                found = await pool.run(
                    fingerprint, content, limits, timeout_seconds=SETTINGS.decode_timeout_seconds
                )
            return found.reason if isinstance(found, Rejection) else OK

        async def work() -> None:
            nonlocal peak_bytes
            for each in waiting:
                outcomes[each.name] = await hashed(each.content)
                peak_bytes = max(peak_bytes, *await asyncio.to_thread(_peaks))
                # The process lives, or there is a new one: a good picture is hashed as ever.
                assert await hashed(GOOD) == OK, each.name

        for child in pool._children:
            process = psutil.Process((await child._started).pid)
            limit = (SETTINGS.decode_memory_bytes, SETTINGS.decode_memory_bytes)
            assert process.rlimit(psutil.RLIMIT_DATA) == limit
        await asyncio.gather(work(), work())
    return outcomes, peak_bytes


def _peaks() -> list[int]:
    """The largest resident size that each child has had."""
    peaks = [0]
    for child in psutil.Process().children():
        try:
            status = Path(f"/proc/{child.pid}/status").read_text()
        except OSError:  # it is being replaced
            continue
        peaks += [int(size) * 1024 for size in re.findall(r"VmHWM:\s+(\d+)", status)]
    return peaks


def test_names_are_unique() -> None:
    """Each hostile picture is told apart, and there are many."""
    assert len({each.name for each in CORPUS}) == len(CORPUS) > 250


@pytest.mark.parametrize("each", CORPUS, ids=lambda each: each.name)
def test_it_ends_in_a_fingerprint_or_a_rejection(
    ended: tuple[Mapping[str, str], int], each: Hostile
) -> None:
    """With a reason that tells what is wrong."""
    assert ended[0][each.name] in each.expected


def test_no_child_had_more_memory_than_it_may(ended: tuple[Mapping[str, str], int]) -> None:
    """Its limit, and the libraries that it shares with others."""
    assert 0 < ended[1] < SETTINGS.decode_memory_bytes + 96 * MEBIBYTE


def test_good_ones_of_each_format_are_fingerprints() -> None:
    """What the hostile ones are made of is no good reason for anything."""
    limits = decode_limits(SETTINGS)
    for form, content in plain().items():
        found = fingerprint(content, limits)
        assert isinstance(found, Fingerprint), form
        assert found.format == form
