"""Recall of each alteration, ours and the peers', and the false pairs among different pictures.

Called by `make evaluate`. The pictures of a folder are split by a fixed seed into one half that
the product was tuned on and one that it was not; only the second half counts here.

`found`, and a peer's found: the copy relates to its original (for a peer, its distance is within
the radius that the peer's own authors recommend). Bounds are Clopper-Pearson, one-sided, 95 %.
"""

import io
import random
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import imagehash
import msgspec
import numpy as np
import pdqhash
from PIL import Image
from scipy import stats

from agents.decide import Decision, decide
from agents.decode import DecodeLimits
from agents.fingerprint import fingerprint
from schemas.records import Fingerprint, MatchSettings
from streams.evaluation.alterations import Alteration, alterations
from streams.evaluation.collection import Collection

SPLIT_SEED: Final = 0
_LIMITS: Final = DecodeLimits(pixels=100_000_000)
_CONFIDENCE: Final = 0.95

Hash = Any


@dataclass(frozen=True, slots=True)
class Peer:
    """Another hash: how to take it, when two are of the same picture.

    A slow one is asked of every n-th picture only.
    """

    name: str
    hashed: Callable[[Image.Image], Hash]
    close: Callable[[Hash, Hash], bool]
    every: int = 1


def _pdq(image: Image.Image) -> Hash:
    return np.packbits(pdqhash.compute(np.asarray(image.convert("RGB")))[0])


def _pdq_close(one: Hash, other: Hash) -> bool:
    return int(np.bitwise_count(one ^ other).sum()) <= 31  # noqa: PLR2004 - its authors' threshold


def _within(radius: int) -> Callable[[Hash, Hash], bool]:
    return lambda one, other: bool(one - other <= radius)


PEERS: Final[tuple[Peer, ...]] = (
    Peer("pHash <= 8", imagehash.phash, _within(8)),
    Peer("dHash <= 8", imagehash.dhash, _within(8)),
    Peer("wHash <= 8", imagehash.whash, _within(8), every=5),
    Peer("PDQ <= 31", _pdq, _pdq_close),
    Peer(
        "crop-resistant",
        imagehash.crop_resistant_hash,
        lambda one, other: bool(one.matches(other)),
        every=15,
    ),
)


class Line(msgspec.Struct, frozen=True):
    """One alteration: pairs in all, found by us and by peers, and what ours were called."""

    name: str
    group: str
    label: str
    pairs: int
    found: int
    named: dict[str, int]
    confirmed: int
    peers: dict[str, float]
    """Recall of each."""

    @property
    def recall(self) -> float:
        """Share of the pairs that were found."""
        return self.found / self.pairs


class FalsePairs(msgspec.Struct, frozen=True):
    """Relations among pictures that all show something else."""

    pairs: int
    suggested: list[tuple[str, str]]
    confirmed: list[tuple[str, str]]

    def upper_bound(self, count: int) -> float:
        """The false rate is below this with 95 % confidence."""
        return float(stats.beta.ppf(_CONFIDENCE, count + 1, self.pairs - count))


class AlterationsReport(msgspec.Struct, frozen=True):
    """All of it."""

    pictures: int
    lines: list[Line]
    false_pairs: FalsePairs
    views_mean: float
    views_most: int
    seconds: float


class _Picture:
    """A file with what each of us makes of it, once."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.fingerprint = _fingerprint(content)
        self._hashes: dict[str, Hash] = {}

    def hashed(self, peer: Peer) -> Hash:
        if peer.name not in self._hashes:
            with Image.open(io.BytesIO(self.content)) as image:
                self._hashes[peer.name] = peer.hashed(image)
        return self._hashes[peer.name]


def halves(pictures: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The pictures for tuning and those for reporting: always the same split."""
    shuffled = sorted(pictures, key=lambda path: path.name)
    random.Random(SPLIT_SEED).shuffle(shuffled)  # noqa: S311 - a split, not a secret
    return shuffled[: len(shuffled) // 2], shuffled[len(shuffled) // 2 :]


def report(
    pictures: Sequence[Path],
    others: Sequence[Path],
    settings: MatchSettings,
    *,
    peers: Sequence[Peer] = PEERS,
    advance: Callable[[], None] = lambda: None,
) -> AlterationsReport:
    """Alter each picture in every way; `others` are further pictures to be told apart from."""
    begun = time.monotonic()
    originals = {path: _Picture(path.read_bytes()) for path in pictures}
    lines = []
    for alteration in alterations():
        lines.append(_line(alteration, originals, settings, peers))
        advance()
    plain = {path: original.fingerprint for path, original in originals.items()}
    views = [len(picture.views) for picture in plain.values()]
    return AlterationsReport(
        pictures=len(pictures),
        lines=lines,
        false_pairs=_false_pairs(
            plain | {path: _fingerprint(path.read_bytes()) for path in others}, settings
        ),
        views_mean=sum(views) / len(views),
        views_most=max(views),
        seconds=time.monotonic() - begun,
    )


def _line(
    alteration: Alteration,
    originals: dict[Path, _Picture],
    settings: MatchSettings,
    peers: Sequence[Peer],
) -> Line:
    decisions: list[Decision] = []
    said_by_peers: dict[str, list[bool]] = {peer.name: [] for peer in peers}
    for number, (path, original) in enumerate(originals.items()):
        copy, base = _pair(alteration, path.name, original)
        # Either may come first: copies arrive before their originals, too.
        newer, older = (copy, base) if number % 2 else (base, copy)
        decision = decide(newer.fingerprint, older.fingerprint, settings)
        if decision is not None:
            decisions.append(decision)
        for peer in peers:
            if number % peer.every == 0:
                close = peer.close(copy.hashed(peer), base.hashed(peer))
                said_by_peers[peer.name].append(close)
    relations = [decision.relation for decision in decisions]
    return Line(
        name=alteration.name,
        group=alteration.group,
        label=alteration.label,
        pairs=len(originals),
        found=len(decisions),
        named={relation: relations.count(relation) for relation in sorted(set(relations))},
        confirmed=sum(decision.tier == "confirmed_sibling" for decision in decisions),
        peers={name: sum(said) / len(said) for name, said in said_by_peers.items()},
    )


def _pair(alteration: Alteration, name: str, original: _Picture) -> tuple[_Picture, _Picture]:
    seed = zlib.crc32(f"{name} {alteration.name}".encode())
    chosen = random.Random(seed)  # noqa: S311 - made pictures, not secrets
    with Image.open(io.BytesIO(original.content)) as image:
        colour = image.convert("RGB")
    copy = _Picture(alteration.alter(colour, chosen))
    if alteration.base is None:
        return copy, original
    return copy, _Picture(alteration.base(colour, chosen))


def _false_pairs(pictures: dict[Path, Fingerprint], settings: MatchSettings) -> FalsePairs:
    names = [path.name for path in pictures]
    related = list(Collection(settings).relate_all(pictures.values()))
    pairs = [(names[one.picture], names[one.earlier], one.decision.tier) for one in related]
    return FalsePairs(
        pairs=len(names) * (len(names) - 1) // 2,
        suggested=[(one, other) for one, other, tier in pairs if tier == "suggested_sibling"],
        confirmed=[(one, other) for one, other, tier in pairs if tier == "confirmed_sibling"],
    )


def _fingerprint(content: bytes) -> Fingerprint:
    made = fingerprint(content, _LIMITS)
    if not isinstance(made, Fingerprint):
        raise TypeError(f"made or given pictures are readable: {made}")
    return made
