"""Pictures of a folder through the product's own fingerprint, index and decision.

Called by the measuring commands. The search is the matcher's (`streams.index.mih`), in memory.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from agents.decide import Decision, asked_codes, decide_all
from schemas.records import Fingerprint, MatchSettings
from streams.index.mih import EXACT, NEAR, MultiIndexHash
from streams.index.space import Codes


@dataclass(frozen=True, slots=True)
class Related:
    """A picture and an earlier one that it relates to, by their places in the collection."""

    picture: int
    earlier: int
    decision: Decision


class Collection:
    """An index that pictures are asked of and then added to, as the matcher does."""

    def __init__(self, settings: MatchSettings) -> None:
        self._settings = settings
        self._views = MultiIndexHash(layout=NEAR)
        self._bytes = MultiIndexHash(layout=EXACT)
        self.pictures: list[Fingerprint] = []

    def relate_all(self, pictures: Iterable[Fingerprint]) -> Iterator[Related]:
        """Add pictures one after the other; every relation to one before."""
        for picture in pictures:
            for earlier, decision in self.ask(picture):
                yield Related(len(self.pictures), earlier, decision)
            self.add(picture)

    def ask(self, picture: Fingerprint) -> list[tuple[int, Decision]]:
        """The pictures added before that this one relates to, best first."""
        near = self._views.search(_codes(asked_codes(picture)), self._settings.radius)
        same = self._bytes.search(_codes([picture.sha256[:8]]), 0)
        candidates = np.unique(np.concatenate((near.number, same.number))).tolist()
        decisions = decide_all(picture, [self.pictures[n] for n in candidates], self._settings)
        found = [(n, d) for n, d in zip(candidates, decisions, strict=True) if d is not None]
        return sorted(found, key=lambda pair: pair[1].rank)

    def add(self, picture: Fingerprint) -> None:
        """Make a picture findable."""
        codes = _codes([view.code for view in picture.views])
        number = len(self.pictures)
        self._views.add(codes, np.full(len(codes), number, dtype=np.uint32))
        self._bytes.add(_codes([picture.sha256[:8]]), np.array([number], dtype=np.uint32))
        self.pictures.append(picture)


def _codes(codes: list[bytes]) -> Codes:
    return np.frombuffer(b"".join(codes), ">u8").astype(np.uint64)
