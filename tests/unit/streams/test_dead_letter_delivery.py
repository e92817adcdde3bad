"""Dead letters that are not taken are tried again for a while, and end the process after that."""

import asyncio
from collections.abc import Collection

import pytest

from streams.delivery import Outgoing
from streams.errors import MisconfiguredError
from streams.kafka import dead_letters
from streams.kafka.dead_letters import DeadLetterDelivery

OUTCOME = Outgoing("image-matched", b"a", b"1")
LETTER = Outgoing("image-ingested-dlq", b"b", b"2")


class Broker:
    """Refuses so many records of a topic before it takes them."""

    def __init__(self, topic: str, refusals: int) -> None:
        self.topic = topic
        self.refusals = refusals
        self.repaired = asyncio.Event()
        self.taken: list[Outgoing] = []

    async def deliver(self, records: Collection[Outgoing], /) -> None:
        """Take them, or refuse."""
        await asyncio.sleep(0)
        if self.refusals and any(record.topic == self.topic for record in records):
            self.refusals -= 1
            if not self.refusals:
                self.repaired.set()
            raise MisconfiguredError("refused")
        self.taken.extend(records)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try every moment."""
    monkeypatch.setattr(dead_letters, "_AGAIN_SECONDS", 0.02)


async def test_what_is_repaired_meanwhile_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """Told while it lasts; what else was in the group is delivered once."""
    broker = Broker(LETTER.topic, refusals=2)
    delivery = DeadLetterDelivery(broker.deliver)
    delivering = asyncio.create_task(delivery([OUTCOME, LETTER]))
    await broker.repaired.wait()
    assert delivery.undelivered == 1
    await delivering
    assert broker.taken == [OUTCOME, LETTER]
    assert delivery.undelivered == 0
    assert "dead letters are not delivered, and tried again: refused" in caplog.text


async def test_what_stays_refused_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one; the caller stops in front of the event."""
    monkeypatch.setattr(dead_letters, "_TRIED_SECONDS", 0.5)
    broker = Broker(LETTER.topic, refusals=100)
    delivery = DeadLetterDelivery(broker.deliver)
    with pytest.raises(MisconfiguredError, match="refused"):
        await delivery([LETTER])
    assert broker.refusals < 99
    assert delivery.undelivered == 0


async def test_a_refused_outcome_is_an_error_at_once() -> None:
    """And its group's dead letters are not sent before it is there."""
    broker = Broker(OUTCOME.topic, refusals=100)
    with pytest.raises(MisconfiguredError):
        await DeadLetterDelivery(broker.deliver)([LETTER, OUTCOME])
    assert broker.refusals == 99
    assert broker.taken == []
