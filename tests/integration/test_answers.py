"""The API's ear on a real broker, while the product answers the canaries of its own API."""

import asyncio

import pytest

from deploy.local.stack import Stack
from streams.api import answers
from streams.api.answers import AnswerReader

WAIT_SECONDS = 60.0
SILENT_SECONDS = 3.0


async def test_a_client_that_hears_nothing_is_replaced(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that lived through a broker's restart may be deaf from then on, and says nothing."""
    heard: list[tuple[bytes, bytes]] = []
    ended: list[BaseException] = []
    reader = AnswerReader(stack.settings, heard.extend, ended.append)

    async def hear() -> None:
        heard.clear()
        async with asyncio.timeout(WAIT_SECONDS):
            while not heard:  # noqa: ASYNC110 - filled by a thread
                await asyncio.sleep(0.1)

    await reader.start()
    try:
        await hear()
        reader._consumer.unassign()
        await asyncio.sleep(1.0)  # what it had fetched
        monkeypatch.setattr(answers, "_SILENT_SECONDS", SILENT_SECONDS)
        await hear()
    finally:
        await reader.close()
    assert not ended
