"""Whether a topic's log is still the one that was read: the same topic, with the same records.

Neither offsets nor events need show it. A topic that was deleted and made anew has another id; a
log that lost its end and has grown again has other records at offsets that were read. Records are
compared where a partition has got a leader since: only then can its log lose its end.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from schemas.topics import INDEX_LOG
from streams.delivery import TopicPartition
from streams.engine.asking import Log, ask, read_piece
from streams.engine.transport import App
from streams.entry import Mark
from streams.errors import CorruptStateError, MisconfiguredError
from streams.kafka.client import TopicIdentity

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 5.0


@dataclass(slots=True)
class _Begun:
    """A partition as it was taken up."""

    start: int
    epoch: int | None
    """How often it had got a leader when all that was read was last found in its log."""


class SameLog:
    """What one topic was when its partitions were assigned to us, and whether it still is that.

    What was read of it is in the app's `marks`.
    """

    def __init__(self, app: App, topic: str, log: Log, partitions: int) -> None:
        """Know nothing yet, but how many partitions the topic had when the process started."""
        self._app = app
        self._partitions = partitions
        self._topic = topic
        self._log = log
        # What the topic was in our assignments, the last one last.
        self._identities: list[TopicIdentity] = []
        self._begun: dict[TopicPartition, _Begun] = {}

    async def identify(self) -> str:
        """Ask for the topic's id, and take it for what is read from now on.

        An assignment may be the first to meet another topic: a group forms anew also where one is
        deleted.

        Raises:
            MisconfiguredError: the topic has another number of partitions than it had.
            CorruptStateError: `index-log` was made anew.
        """
        identity = await ask(self._log.identity)
        if not self._identities:
            self._require_partitions(identity)
            self._identities.append(identity)
        elif identity != self._identities[-1]:
            self._require_readable(self._identities[-1], identity)
            self._identities.append(identity)
        return identity.topic_id

    @property
    def earlier_id(self) -> str | None:
        """The topic's id before the present one, in this process."""
        return self._identities[-2].topic_id if len(self._identities) > 1 else None

    async def is_same_topic(self) -> bool:
        """Say whether the topic is the one that was identified last."""
        return await ask(self._log.identity) == self._identities[-1]

    async def epochs(self, partitions: Iterable[TopicPartition]) -> dict[int, int]:
        """Ask how often each partition has got a leader; without those that get no answer."""
        numbers = [partition.partition for partition in partitions]
        return await asyncio.to_thread(self._log.leader_epochs, numbers)

    def begin(
        self, partition: TopicPartition, start: int, last: Mark | None, epoch: int | None
    ) -> None:
        """Take up a partition at `start`, behind `last`; `epoch` is as of before it was looked at.

        What is read from now on is expected in `marks`.
        """
        self._app.marks.begin(partition, last)
        self._begun[partition] = _Begun(start, epoch)

    def end(self, partition: TopicPartition) -> None:
        """Care no more for a partition."""
        self._begun.pop(partition, None)

    async def watch(self) -> None:
        """Look now and then, until it is another one.

        Where the topic was made anew the group forms anew, so that all that is known of the old
        one is dropped.

        Raises:
            MisconfiguredError: the topic has another number of partitions.
            CorruptStateError: `index-log` was made anew, or the log holds other records than were
                read.
        """
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if not self._identities:
                continue
            known = self._identities[-1]
            try:
                identity = await ask(self._log.identity)
            except MisconfiguredError as error:
                logger.critical("%s cannot be read: %s", self._topic, error)
                continue
            if identity not in (known, self._identities[-1]):
                what = self._require_readable(known, identity)
                logger.critical("%s; reading it from its beginning", what)
                await self._app.rejoin()
            else:
                await self.check_records()

    def _require_readable(self, known: TopicIdentity, identity: TopicIdentity) -> str:
        """Stop where the other topic is none to go on with; else say what became of the first."""
        self._require_partitions(identity)
        what = (
            f"{self._topic} was deleted and made anew, from id {known.topic_id} to "
            f"{identity.topic_id}"
        )
        if self._topic == INDEX_LOG:
            raise CorruptStateError(
                f"{what}: this index is of the old one, and may be all that is left of it. "
                "Keep a copy of the data directory; the next start makes another index"
            )
        return what

    def _require_partitions(self, identity: TopicIdentity) -> None:
        if identity.partitions != self._partitions:
            raise MisconfiguredError(
                f"{self._topic}: has {identity.partitions} partitions, had {self._partitions}: "
                "workspaces and image ids would be on other partitions than before; see "
                "check-dedup topics check"
            )

    async def check_records(self) -> None:
        """Stop where a partition has got a leader whose log is not what was read.

        Most often it has lost nothing; then what is committed need not be remembered any more.

        Raises:
            CorruptStateError: the log holds other records.
        """
        marks = self._app.marks
        # As of before the epochs are asked for: what is read later may be the new leader's.
        standing = {at: (begun, marks.end(at, begun.start)) for at, begun in self._begun.items()}
        if not standing:
            return
        epochs = await self.epochs(standing)
        for partition, (begun, upto) in standing.items():
            epoch = epochs.get(partition.partition)
            if epoch is None:
                continue
            if epoch != begun.epoch:
                low, high = await ask(self._log.watermarks, partition.partition)
                if high < upto:  # the feed sees to that
                    continue
                await self.require_as_read(partition, marks.below(partition, upto), low)
                begun.epoch = epoch
            if self._begun.get(partition) is begun:
                _, reached = self._app.watermarks.reached(partition) or (0, begun.start)
                marks.forget(partition, min(reached, upto))

    async def require_as_read(
        self, partition: TopicPartition, marks: Sequence[Mark], low: int
    ) -> None:
        """Compare records that were read with those in the log, which begins at `low`.

        Raises:
            CorruptStateError: there are others.
        """
        known = dict(mark for mark in marks if mark.offset >= low)
        place, stop = min(known, default=0), max(known, default=-1) + 1
        while place < stop:
            entries, place = await read_piece(self._log, partition.partition, place, stop)
            for entry in entries:
                if known.get(entry.offset, entry.mark.checksum) == entry.mark.checksum:
                    continue
                if not await self.is_same_topic():
                    return
                index = " and delete its index" if self._topic == INDEX_LOG else ""
                raise CorruptStateError(
                    f"{partition}: offset {entry.offset} is another record than was read there: "
                    "it was truncated and has grown again; reset the group's offset to where that "
                    f"began, at most {entry.offset}{index}"
                )
