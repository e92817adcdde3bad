"""The index is a function of its log: redeliveries, removals, restarts, damage, other logs."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
import pytest

from agents.decide import default_match_settings
from agents.match_images import Outcome, outcomes
from schemas.codec import UnknownLogRecordError, encode_log
from schemas.records import Fingerprint, Hashed, LogRecord, Removed, Reviewed, Source, View
from streams.entry import LogEntry
from streams.errors import CorruptStateError
from streams.index import arrays as arrays_module
from streams.index import files
from streams.index.partition import PartitionIndex
from streams.index.store import Row, block_cache_bytes

SETTINGS = default_match_settings(partitions=1)
TOPIC = "topic-id"


def fingerprint(code: int, *, sha: int | None = None, flat: bool = False) -> Fingerprint:
    """Give a fingerprint with one view; `code` decides both of its hashes."""
    views = (View("whole", (0, 0, 9, 9), code.to_bytes(8), code.to_bytes(8) * 4),)
    return Fingerprint(
        version=1,
        sha256=(code if sha is None else sha).to_bytes(32),
        format="PNG",
        width_pixels=9,
        height_pixels=9,
        decoded_width_pixels=9,
        decoded_height_pixels=9,
        views=() if flat else views,
        low_information=flat,
    )


def hashed(image_id: str, found: Fingerprint, workspace: str = "w") -> Hashed:
    """Give a picture's log record."""
    return Hashed(1, workspace, image_id, "event", found, 0)


def removed(image_id: str, offset: int, workspace: str = "w") -> Removed:
    """Give a removal's log record, from `offset` of its source."""
    return Removed(1, workspace, image_id, Source("image-removed", 0, offset))


class Log:
    """A log in memory, fed to an index group by group."""

    def __init__(self, index: PartitionIndex) -> None:
        self.index = index
        self.entries: list[LogEntry] = []
        self.append(SETTINGS)

    def append(self, *records: LogRecord) -> dict[str, Outcome[Row]]:
        """Append records as one group, apply it, give the outcomes by image id."""
        start = len(self.entries)
        self.entries.extend(
            LogEntry(start + place, 1000 + start + place, b"k%d" % (start + place), encode_log(r))
            for place, r in enumerate(records)
        )
        return self.replay(start)

    def replay(self, start: int) -> dict[str, Outcome[Row]]:
        """Apply the log from `start` on again, and answer."""
        return self._apply(self.index, self.entries[start:])

    def rebuild(self, index: PartitionIndex, group: int) -> None:
        """Apply the whole log to another index, without outcomes."""
        for low in range(0, len(self.entries), group):
            entries = self.entries[low : low + group]
            index.stage(entries, entries[-1].offset + 1)
            index.commit({})

    @staticmethod
    def _apply(index: PartitionIndex, entries: Sequence[LogEntry]) -> dict[str, Outcome[Row]]:
        arrivals = index.stage(entries, entries[-1].offset + 1)
        found = outcomes(index, 0, [arrival.first for arrival in arrivals])
        index.commit({ordinal: each.value for ordinal, each in found.items() if each.fresh})
        return {each.row.record.image_id: each for each in found.values()}


@pytest.fixture
def index(tmp_path: Path) -> Iterator[PartitionIndex]:
    """Give an empty index."""
    opened = PartitionIndex(tmp_path / "index", TOPIC, 0)
    yield opened
    opened.close()


@pytest.fixture
def log(index: PartitionIndex) -> Log:
    """Give a log with its settings record."""
    return Log(index)


def await_band_files(log: Log, tmp_path: Path) -> Path:
    """Commit empty groups until a merge is adopted; give the folder of its files."""
    deadline = time.monotonic() + 30
    manifest = None
    while manifest is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
        log.index.stage((), log.index.next_offset)
        log.index.commit({})
        manifest = log.index._store.bands()
    generation = msgspec.msgpack.decode(manifest, type=arrays_module.BandsManifest).generation
    return tmp_path / "index" / "bands" / str(generation)


def test_an_index_that_is_opened_again_has_its_filters_and_cache(log: Log, tmp_path: Path) -> None:
    """What rocksdict finds on disk it opens with other options than ours, unless told.

    Rows that are asked for are cached in the one cache that is bounded; what opens an index is not.
    """
    names = [f"picture {number}" for number in range(100)]
    log.append(*(hashed(name, fingerprint(number)) for number, name in enumerate(names)))
    log.index.close()
    log.index._open()  # writes what was in memory to a table
    before = block_cache_bytes()
    assert sum(1 for _ in log.index.store.rows_from(0)) == len(names)
    assert block_cache_bytes() == before
    assert len(log.index.rows(range(1, 101))) == len(names)
    assert block_cache_bytes() - before > 100 * len(names)
    directory = tmp_path / "index" / "rocksdb"
    written = max(directory.glob("OPTIONS-*"), key=lambda path: int(path.name.split("-")[1]))
    assert "filter_policy=bloomfilter" in written.read_text()


def test_many_indexes_of_a_process_keep_their_newest_rows_in_memory(tmp_path: Path) -> None:
    """What they share grows with them: else each record is written to a file of its own."""
    with ExitStack() as stack:
        logs = [
            Log(stack.enter_context(closing(PartitionIndex(tmp_path / f"{number}", TOPIC, number))))
            for number in range(60)
        ]
        for turn in range(4):
            for log in logs:
                log.append(hashed(f"picture {turn}", fingerprint(turn)))
        assert [log.index.storage().sizes_bytes["sst_total"] for log in logs] == [0] * len(logs)


def matched(outcome: Outcome[Row]) -> list[str]:
    """Name the pictures that an outcome lists."""
    return [match["image_id"] for match in msgspec.json.decode(outcome.value)["matches"]]


def reopened(index: PartitionIndex, tmp_path: Path) -> PartitionIndex:
    """Close an index and open it again."""
    index.close()
    index.__init__(tmp_path / "index", TOPIC, 0)  # type: ignore[misc]
    return index


def test_the_next_picture_matches_the_one_before_it(log: Log) -> None:
    """Findable at once, also within one group, and newer to older only."""
    found = log.append(hashed("a", fingerprint(7)), hashed("b", fingerprint(6)))
    assert matched(found["a"]) == []
    assert matched(found["b"]) == ["a"]


def test_workspaces_never_mix(log: Log) -> None:
    """A picture of another workspace is not found, whatever its hashes."""
    log.append(hashed("a", fingerprint(7)))
    found = log.append(hashed("a", fingerprint(7), workspace="other"))
    assert matched(found["a"]) == []


def test_a_redelivery_gets_its_first_outcome_again(log: Log) -> None:
    """The same id with other bytes, after other pictures came: the stored outcome, not indexed."""
    first = log.append(hashed("a", fingerprint(7)))["a"]
    log.append(hashed("b", fingerprint(1 << 60)))
    again = log.append(hashed("a", fingerprint(1 << 60)))["a"]
    assert (again.value, again.key, again.headers) == (first.value, first.key, first.headers)
    assert len(log.index) == 2


def test_a_redelivery_in_the_same_group_is_one_picture(log: Log) -> None:
    """Two deliveries in one group: one picture, one outcome."""
    log.append(hashed("a", fingerprint(7)), hashed("a", fingerprint(7)))
    assert len(log.index) == 1


def test_a_removed_picture_is_not_found_from_its_removal_on(log: Log) -> None:
    """The picture before the removal in the same group still sees it, the one after does not."""
    log.append(hashed("a", fingerprint(7)))
    found = log.append(
        hashed("before", fingerprint(7)), removed("a", 0), hashed("after", fingerprint(7))
    )
    assert matched(found["before"]) == ["a"]
    assert matched(found["after"]) == ["before"]


def test_a_picture_removed_before_it_arrives_is_never_indexed(log: Log) -> None:
    """It gets an outcome that says so, the same at each delivery; nothing finds it."""
    log.append(removed("a", 0))
    first = log.append(hashed("a", fingerprint(7)))["a"]
    assert msgspec.json.decode(first.value)["removed"] is True
    again = log.append(hashed("a", fingerprint(7)))["a"]
    assert again.value == first.value
    assert matched(log.append(hashed("b", fingerprint(7)))["b"]) == []


def test_a_removed_picture_stays_removed_when_it_is_delivered_again(log: Log) -> None:
    """A redelivery after the removal gets the first outcome and is not found."""
    first = log.append(hashed("a", fingerprint(7)))["a"]
    log.append(removed("a", 0))
    assert log.append(hashed("a", fingerprint(7)))["a"].value == first.value
    assert matched(log.append(hashed("b", fingerprint(7)))["b"]) == []


def test_a_removal_delivered_again_changes_nothing(log: Log) -> None:
    """A frozen hasher may append one late: the mark stands already, from its own place on."""
    log.append(hashed("a", fingerprint(7)), removed("a", 5))
    found = log.append(hashed("b", fingerprint(7)), removed("a", 5), hashed("c", fingerprint(7)))
    assert matched(found["c"]) == ["b"]


def test_settings_for_another_partition_count_stop_the_index(log: Log) -> None:
    """Workspaces would live elsewhere from there on."""
    with pytest.raises(CorruptStateError, match="settings for 77 partitions in a log of 1"):
        log.append(msgspec.structs.replace(SETTINGS, partitions=77))


def test_a_picture_that_everybody_forwards_is_searched_in_small_steps(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps change no outcome."""
    copies = [hashed(f"p{number}", fingerprint(7 + number % 2)) for number in range(300)]
    first = log.append(*copies)
    again = PartitionIndex(tmp_path / "again", TOPIC, 0)
    log.rebuild(again, group=1000)
    monkeypatch.setattr(arrays_module, "_HITS_AT_ONCE", 200)
    monkeypatch.setattr(arrays_module, "_FIRST_ROWS_SEARCHED", 2)
    ordinals = [each.row.ordinal for each in first.values()]
    assert {ordinal: each.value for ordinal, each in outcomes(again, 0, ordinals).items()} == {
        each.row.ordinal: each.value for each in first.values()
    }
    again.close()


def test_low_information_pictures_match_identical_bytes_only(log: Log) -> None:
    """Flat pictures have no views: equal bytes relate, others do not."""
    found = log.append(
        hashed("a", fingerprint(0, sha=1, flat=True)),
        hashed("b", fingerprint(0, sha=2, flat=True)),
        hashed("c", fingerprint(0, sha=1, flat=True)),
    )
    assert [matched(found[name]) for name in "abc"] == [[], [], ["a"]]


@pytest.mark.parametrize("merge", [False, True], ids=["rows only", "band files"])
def test_a_restarted_index_answers_the_same(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, merge: bool
) -> None:
    """After close and open, from rows alone or from merged band files, all answers are equal."""
    if merge:
        monkeypatch.setattr(arrays_module, "_MERGE_LEAST_CODES", 20)
    for number in range(60):
        log.append(hashed(f"p{number}", fingerprint(number % 7)), removed(f"p{number - 9}", number))
    if merge:
        await_band_files(log, tmp_path)
    before = log.replay(0)
    reopened(log.index, tmp_path)
    assert {name: each.value for name, each in log.replay(0).items()} == {
        name: each.value for name, each in before.items()
    }
    assert matched(log.append(hashed("last", fingerprint(3)))["last"])


def test_a_merge_that_fails_is_an_error(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says why, adopts nothing, and the next start has all of it."""
    full = OSError("no room")

    def merge(*_: object) -> None:
        raise full

    monkeypatch.setattr(arrays_module, "_MERGE_LEAST_CODES", 20)
    monkeypatch.setattr(files, "merge", merge)
    log.append(*(hashed(f"p{number}", fingerprint(number)) for number in range(60)))
    with pytest.raises(CorruptStateError, match="merging the band files failed: no room") as told:
        await_band_files(log, tmp_path)
    assert told.value.__cause__ is full
    log.index.close()
    log.index._open()
    assert (len(log.index), log.index.arrays.generation) == (60, 0)


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete"])
def test_damaged_band_files_are_rebuilt_from_the_rows(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """Never a guess, never a missing match: what is damaged is made again."""
    monkeypatch.setattr(arrays_module, "_MERGE_LEAST_CODES", 20)
    for number in range(60):
        log.append(hashed(f"p{number}", fingerprint(number)))
    bands = await_band_files(log, tmp_path)
    log.index.close()
    path = max((bands / "views-1").iterdir())
    content = path.read_bytes()
    if damage == "delete":
        path.unlink()
    elif damage == "truncate":
        path.write_bytes(content[:-8])
    else:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    log.index.__init__(tmp_path / "index", TOPIC, 0)  # type: ignore[misc]
    assert len(matched(log.append(hashed("last", fingerprint(5)))["last"])) == 60


def test_a_rebuilt_index_equals_the_first_and_answers_the_same(log: Log, tmp_path: Path) -> None:
    """Rows equal; an outcome that was never stored is decided as of its place, to the byte."""
    outcomes_by_id: dict[str, Outcome[Row]] = {}
    for number in range(40):
        outcomes_by_id |= log.append(
            hashed(f"p{number}", fingerprint(number % 5)), removed(f"p{number - 3}", number)
        )
    again = PartitionIndex(tmp_path / "again", TOPIC, 0)
    log.rebuild(again, group=7)
    assert list(again.all_rows()) == list(log.index.all_rows())
    for name, first in outcomes_by_id.items():
        (computed,) = outcomes(again, 0, [first.row.ordinal]).values()
        assert computed.fresh, name
        assert computed.value == first.value, name
    again.close()


def test_another_logs_index_is_not_used(log: Log, tmp_path: Path) -> None:
    """A database of a topic that was deleted and made again is begun anew."""
    log.append(hashed("a", fingerprint(7)))
    log.index.close()
    other = PartitionIndex(tmp_path / "index", "another-topic-id", 0)
    assert (len(other), other.next_offset) == (0, 0)
    other.close()
    log.index.__init__(tmp_path / "index", TOPIC, 0)  # type: ignore[misc]


def test_what_was_staged_and_not_committed_is_not_there(log: Log, tmp_path: Path) -> None:
    """A process that dies between the two leaves a prefix of the log."""
    log.append(hashed("a", fingerprint(7)))
    entry = LogEntry(2, 0, b"k2", encode_log(hashed("b", fingerprint(7))))
    log.index.stage([entry], 3)
    reopened(log.index, tmp_path)
    assert (len(log.index), log.index.next_offset) == (1, 2)


@pytest.mark.parametrize(
    "value",
    [
        b"\xc1",
        msgspec.msgpack.encode({"type": "from-the-future", "record_version": 1}),
        msgspec.msgpack.encode(
            {"type": "removed", "record_version": 2, "workspace": "w", "image_id": "a"}
        ),
        encode_log(Reviewed(1, "w", "a", "b", "confirmed", Source("match-reviewed", 0, 0))),
    ],
    ids=["no record", "unknown type", "unknown version", "type of a later release"],
)
def test_an_unknown_record_stops_the_index_and_is_named(
    index: PartitionIndex, value: bytes
) -> None:
    """The log has no dead letters: nothing in it may be skipped."""
    log = Log(index)
    with pytest.raises(CorruptStateError, match="partition 0 offset 1"):
        log.index.stage([LogEntry(1, 0, b"k", value)], 2)


def test_a_decision_of_another_version_stops_the_matcher(log: Log) -> None:
    """Settings of a later release must not be decided by an older program."""
    later = msgspec.structs.replace(SETTINGS, decision_version=SETTINGS.decision_version + 1)
    with pytest.raises(UnknownLogRecordError, match="partition 0 offset 2"):
        log.append(later, hashed("a", fingerprint(7)))


def test_each_picture_is_decided_by_the_settings_before_it(log: Log, tmp_path: Path) -> None:
    """Also where its outcome is made again after a renewal; the outcome names the version."""
    earlier = msgspec.structs.replace(SETTINGS, decision_version=3, least_view_confidence=0.0)
    log.append(earlier)
    found = log.append(hashed("a", fingerprint(7)))
    log.append(SETTINGS)
    found |= log.append(hashed("b", fingerprint(6)))
    versions = [msgspec.json.decode(each.value)["model"][-2:] for each in found.values()]
    assert versions == ["/3", "/4"]
    assert matched(found["b"]) == ["a"]
    with closing(PartitionIndex(tmp_path / "rebuilt", TOPIC, 0)) as other:
        log.rebuild(other, group=2)
        again = outcomes(other, 0, [each.row.ordinal for each in found.values()])
        assert [each.value for each in again.values()] == [each.value for each in found.values()]


def test_a_picture_before_any_settings_is_an_error(index: PartitionIndex) -> None:
    """Without settings nothing can be decided, and the repair is named."""
    index.stage([LogEntry(0, 0, b"k", encode_log(hashed("a", fingerprint(7))))], 1)
    with pytest.raises(CorruptStateError, match="topics create"):
        outcomes(index, 0, [0])
