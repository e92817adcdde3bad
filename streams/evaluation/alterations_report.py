"""Recall of each alteration, ours and the peers', and the false pairs among different pictures.

Called by `make evaluate`. The pictures of a folder are split by a fixed seed into one half that
the product was tuned on and one that it was not; only the second half counts here.

Each alteration is a collection of its own: all originals and copies go through the product's own
index, and each pair is found among all others. `found`, and a peer's found: the copy relates to its
original (for a peer, its distance is within the radius that the peer's own authors recommend).
Bounds are Clopper-Pearson, one-sided, 95 %.
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

from agents.decide import asked_codes
from agents.decode import DecodeLimits
from agents.fingerprint import fingerprint
from schemas.records import Fingerprint, Match, MatchSettings
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
    false: int
    """Relations between pictures of different originals."""
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
        if count >= self.pairs:
            return 1.0
        return float(stats.beta.ppf(_CONFIDENCE, count + 1, self.pairs - count))


class Sizes(msgspec.Struct, frozen=True):
    """What the fingerprints of the originals and copies hold, and the bytes that they take."""

    views_mean: float
    views_most: int
    asked_mean: float
    asked_most: int
    log_bytes: float
    index_bytes: float


class AlterationsReport(msgspec.Struct, frozen=True):
    """All of it; sizes of the unaltered pictures alone, and of all pictures with every copy."""

    pictures: int
    lines: list[Line]
    false_pairs: FalsePairs
    look_alikes: FalsePairs
    sizes_of_originals: Sizes
    sizes_of_all: Sizes
    seconds: float

    def other_text(self) -> tuple[int, int, int]:
        """Pairs under different texts: all, those named so, those confirmed by mistake."""
        lines = [line for line in self.lines if line.label == "other_text"]
        return (
            sum(line.pairs for line in lines),
            sum(line.named.get("other_text", 0) for line in lines),
            sum(line.confirmed for line in lines),
        )


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
    look_alikes: Sequence[Path] = (),
    peers: Sequence[Peer] = PEERS,
    advance: Callable[[], None] = lambda: None,
) -> AlterationsReport:
    """Alter each picture in every way; `others` are further pictures to be told apart from.

    `look_alikes` are related among themselves, whatever they were used for.
    """
    begun = time.monotonic()
    originals = {path: _Picture(path.read_bytes()) for path in pictures}
    lines, copies = [], []
    with Collection(settings) as collection:
        for alteration in alterations():
            made = _Altered(alteration, originals)
            lines.append(_line(made, collection, peers))
            copies += made.pictures
            advance()
        bytes_of_all = collection.bytes_per_picture()
    plain = {path: original.fingerprint for path, original in originals.items()}
    apart = plain | {path: _fingerprint(path.read_bytes()) for path in others}
    alike = {path: _fingerprint(path.read_bytes()) for path in look_alikes}
    false_pairs, bytes_of_apart = _false_pairs(apart, settings)
    return AlterationsReport(
        pictures=len(pictures),
        lines=lines,
        false_pairs=false_pairs,
        look_alikes=_false_pairs(alike, settings)[0],
        sizes_of_originals=_sizes(list(plain.values()), bytes_of_apart),
        sizes_of_all=_sizes(copies, bytes_of_all),
        seconds=time.monotonic() - begun,
    )


class _Altered:
    """The pairs of one alteration, each with the one that comes later."""

    def __init__(self, alteration: Alteration, originals: dict[Path, _Picture]) -> None:
        self.alteration = alteration
        self.pairs = [
            _pair(alteration, path.name, original) for path, original in originals.items()
        ]
        self.pictures: list[Fingerprint] = []
        for number, (copy, base) in enumerate(self.pairs):
            # Either may come first: copies arrive before their originals, too.
            older, newer = (base, copy) if number % 2 else (copy, base)
            self.pictures += [older.fingerprint, newer.fingerprint]


def _line(altered: _Altered, collection: Collection, peers: Sequence[Peer]) -> Line:
    alteration = altered.alteration
    matches: dict[int, Match] = {}
    false = 0
    for related in collection.relate_all(altered.pictures, alteration.name):
        if related.picture // 2 == related.earlier // 2:
            matches[related.picture // 2] = related.match
        else:
            false += 1
    relations = [match.relation for match in matches.values()]
    return Line(
        name=alteration.name,
        group=alteration.group,
        label=alteration.label,
        pairs=len(altered.pairs),
        found=len(matches),
        named={relation: relations.count(relation) for relation in sorted(set(relations))},
        confirmed=sum(match.tier == "confirmed_sibling" for match in matches.values()),
        false=false,
        peers={peer.name: _recall(peer, altered.pairs) for peer in peers},
    )


def _recall(peer: Peer, pairs: Sequence[tuple[_Picture, _Picture]]) -> float:
    said = [peer.close(copy.hashed(peer), base.hashed(peer)) for copy, base in pairs[:: peer.every]]
    return sum(said) / len(said)


def _sizes(pictures: Sequence[Fingerprint], bytes_each: tuple[float, float]) -> Sizes:
    views = [len(picture.views) for picture in pictures]
    asked = [len(asked_codes(picture)) for picture in pictures]
    return Sizes(
        views_mean=sum(views) / len(views),
        views_most=max(views),
        asked_mean=sum(asked) / len(asked),
        asked_most=max(asked),
        log_bytes=bytes_each[0],
        index_bytes=bytes_each[1],
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


def _false_pairs(
    pictures: dict[Path, Fingerprint], settings: MatchSettings
) -> tuple[FalsePairs, tuple[float, float]]:
    """And the bytes that each picture takes in log and index."""
    names = [path.name for path in pictures]
    if not names:
        return FalsePairs(0, [], []), (0.0, 0.0)
    with Collection(settings) as collection:
        related = list(collection.relate_all(list(pictures.values())))
        taken = collection.bytes_per_picture()
    pairs = [(names[one.picture], names[one.earlier], one.match.tier) for one in related]
    return FalsePairs(
        pairs=len(names) * (len(names) - 1) // 2,
        suggested=[(one, other) for one, other, tier in pairs if tier == "suggested_sibling"],
        confirmed=[(one, other) for one, other, tier in pairs if tier == "confirmed_sibling"],
    ), taken


def _fingerprint(content: bytes) -> Fingerprint:
    made = fingerprint(content, _LIMITS)
    if not isinstance(made, Fingerprint):
        raise TypeError(f"made or given pictures are readable: {made}")
    return made
