"""What the API is told, asked of the real index: thresholds, near misses, removals, workspaces."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.answer_questions import answer, told
from agents.decide import default_match_settings
from agents.match_images import outcomes
from schemas.codec import encode_log
from schemas.records import (
    AskCanary,
    AskExplain,
    AskImage,
    AskMatch,
    Fingerprint,
    Hashed,
    LogRecord,
    MatchAnswered,
    Position,
    Removed,
    ReplyAddress,
    Source,
    View,
)
from streams.entry import LogEntry
from streams.index.partition import PartitionIndex

SETTINGS = default_match_settings(partitions=1)
NO_BITS, SCORE_7, FAR = 0, 0b1111111, (1 << 20) - 1


def fingerprint(code: int, fine: int = 0, *, sha: int | None = None) -> Fingerprint:
    """Give a fingerprint with one view; without `sha`, code and fine code make the sha256."""
    view = View("whole", (0, 0, 64, 64), code.to_bytes(8), fine.to_bytes(32))
    sha256 = (code << 64 | fine if sha is None else sha).to_bytes(32, "little")
    return Fingerprint(1, sha256, "PNG", 64, 64, 64, 64, (view,))


def hashed(image_id: str, found: Fingerprint, workspace: str = "w") -> Hashed:
    """Give a picture's log record."""
    return Hashed(1, workspace, image_id, "api", found, 1000)


class Log:
    """A log in memory, applied to an index record by record."""

    def __init__(self, index: PartitionIndex) -> None:
        self.index = index
        self.length = 0
        self.append(SETTINGS)

    def append(self, *records: LogRecord) -> None:
        """Append records, and apply them."""
        for record in records:
            self.index.stage([LogEntry(self.length, 0, b"k", encode_log(record))], self.length + 1)
            self.index.commit({})
            self.length += 1

    def send(self, record: Hashed, threshold: int) -> MatchAnswered:
        """Append a picture as the API does, and give what it is told."""
        entry = LogEntry(self.length, 0, b"k", encode_log(record))
        self.length += 1
        (arrival,) = self.index.stage([entry], self.length)
        found = outcomes(self.index, 0, [arrival.first])[arrival.first]
        answered = told(self.index, 0, found, ReplyAddress("request", threshold))
        self.index.commit({arrival.first: found.value} if found.fresh else {})
        return answered

    def ask(self, found: Fingerprint, threshold: int = 6, workspace: str = "w") -> MatchAnswered:
        """Ask what a picture matches, without storing it."""
        return answer(self.index, 0, AskMatch("request", workspace, found, threshold))

    def images(self, sha: int, workspace: str = "w") -> list[str]:
        """Name the pictures with these bytes."""
        question = AskImage("request", workspace, sha.to_bytes(32, "little"))
        return [image.image_id for image in answer(self.index, 0, question).images]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """Give a log with its settings record, and its index."""
    index = PartitionIndex(tmp_path, "topic-id", 0)
    yield Log(index)
    index.close()


def matched(answered: MatchAnswered) -> list[str]:
    """Name the matches of an answer."""
    return [match.image_id for match in answered.matches]


@pytest.mark.parametrize(("threshold", "found"), [(6, []), (7, ["a"]), (8, ["a"])])
def test_the_threshold_is_inclusive(log: Log, threshold: int, found: list[str]) -> None:
    """A score of 7 is a match at 7 and above; the threshold counts for the answer only."""
    log.append(hashed("a", fingerprint(NO_BITS)))
    answered = log.send(hashed("b", fingerprint(SCORE_7)), threshold)
    assert matched(answered) == found
    assert (answered.closest_match is not None) == bool(found)
    assert answered.outcome is not None
    assert [match.image_id for match in answered.outcome.matches] == ["a"]
    assert answered.position == answered.outcome.position == Position(0, 2)


def test_a_score_beyond_the_threshold_is_the_nearest_miss(log: Log) -> None:
    """It is told with its reason."""
    log.append(hashed("a", fingerprint(NO_BITS)))
    miss = log.ask(fingerprint(SCORE_7)).nearest_miss
    assert miss is not None
    assert (miss.image_id, miss.score, miss.reason) == ("a", 7, "threshold")


def test_a_refused_pair_is_a_near_miss(log: Log) -> None:
    """Close by the code and far by the fine code: not a match, and said so."""
    log.append(hashed("a", fingerprint(NO_BITS, (1 << 200) - 1)))
    answered = log.ask(fingerprint(1))
    assert answered.closest_match is None
    assert answered.nearest_miss is not None
    assert answered.nearest_miss.reason == "confidence"
    assert (answered.nearest_miss.score, answered.nearest_miss.fine_distance) == (1, 200)


def test_nothing_within_the_radius_is_no_miss_either(log: Log) -> None:
    """What the search does not see is not told."""
    log.append(hashed("a", fingerprint(NO_BITS)))
    assert log.ask(fingerprint(FAR)).nearest_miss is None


def test_a_match_has_no_near_miss(log: Log) -> None:
    """The nearest miss is told where nothing matches."""
    log.append(hashed("a", fingerprint(NO_BITS)), hashed("b", fingerprint(SCORE_7)))
    answered = log.ask(fingerprint(NO_BITS, sha=9))
    assert matched(answered) == ["a"]
    assert answered.nearest_miss is None


def test_asking_stores_nothing(log: Log) -> None:
    """A question sees all that is applied, and the next one sees the same."""
    log.append(hashed("a", fingerprint(NO_BITS)))
    first = log.ask(fingerprint(NO_BITS, sha=9))
    assert matched(first) == ["a"]
    assert first.position == Position(0, 2)
    assert log.ask(fingerprint(NO_BITS, sha=9)) == first


def test_a_repeated_picture_is_told_the_same(log: Log) -> None:
    """A retry is answered as of its first record, and never matches itself."""
    log.append(hashed("a", fingerprint(NO_BITS)))
    first = log.send(hashed("b", fingerprint(1)), 6)
    log.append(hashed("c", fingerprint(1, sha=9)))
    assert log.send(hashed("b", fingerprint(1)), 6) == first


def test_an_empty_index_answers(log: Log) -> None:
    """Before the first picture, nothing matches; and pictures come later all the same."""
    assert matched(log.ask(fingerprint(1))) == []
    assert log.images(1) == []
    log.append(hashed("a", fingerprint(1)))
    assert matched(log.ask(fingerprint(1))) == ["a"]


def test_another_workspace_sees_nothing(log: Log) -> None:
    """Known or unknown, another workspace gets the answer of an empty index."""
    log.append(hashed("a", fingerprint(1, sha=1)), hashed("x", fingerprint(FAR), "known"))
    for workspace in ("known", "unknown"):
        assert matched(log.ask(fingerprint(1), workspace=workspace)) == []
        assert log.images(1, workspace) == []


def test_what_is_known_of_a_picture(log: Log) -> None:
    """All pictures with the bytes, oldest first, each with what it relates to."""
    log.append(
        hashed("a", fingerprint(1, sha=1)),
        hashed("b", fingerprint(1, sha=2)),
        hashed("c", fingerprint(1, sha=1)),
    )
    answered = answer(log.index, 0, AskImage("request", "w", (1).to_bytes(32, "little")))
    assert [image.image_id for image in answered.images] == ["a", "c"]
    assert [[m.image_id for m in image.matches] for image in answered.images] == [[], ["a", "b"]]
    assert answered.images[1].position == Position(0, 3)


def test_a_removed_picture_is_not_known(log: Log) -> None:
    """Neither itself nor as a relation of another."""
    log.append(hashed("a", fingerprint(1, sha=1)), hashed("b", fingerprint(1, sha=2)))
    log.append(Removed(1, "w", "a", Source("image-removed", 0, 0)))
    assert log.images(1) == []
    answered = answer(log.index, 0, AskImage("request", "w", (2).to_bytes(32, "little")))
    assert [image.matches for image in answered.images] == [()]


def test_bytes_with_the_same_beginning_are_not_the_same(log: Log) -> None:
    """The first 64 bits of the sha256 find, all of it decides."""
    log.append(hashed("a", fingerprint(1, sha=1)))
    assert log.images(1 + (1 << 200)) == []


def test_a_canary_names_position_and_settings(log: Log) -> None:
    """It says how far the index is, and what is in force there."""
    answered = answer(log.index, 0, AskCanary("request", "w"))
    assert (answered.position, answered.settings) == (Position(0, 1), SETTINGS)


@pytest.mark.parametrize("pair", [("a", "b"), ("b", "a")])
def test_a_pair_is_explained(log: Log, pair: tuple[str, str]) -> None:
    """Newer to older, in whichever order it is asked."""
    log.append(hashed("a", fingerprint(1)), hashed("b", fingerprint(0)))
    assert matched(answer(log.index, 0, AskExplain("request", "w", *pair))) == ["a"]


@pytest.mark.parametrize("pair", [("a", "a"), ("a", "nowhere"), ("nowhere", "a")])
def test_no_pair_has_no_explanation(log: Log, pair: tuple[str, str]) -> None:
    """A picture with itself, or with one that is not there."""
    log.append(hashed("a", fingerprint(1)))
    answered = answer(log.index, 0, AskExplain("request", "w", *pair))
    assert (answered.matches, answered.nearest_miss) == ((), None)
