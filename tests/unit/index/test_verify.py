"""A sound index is found sound, full or sampled, also beside its writer; each damage is named."""

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from agents.decide import default_match_settings
from agents.match_images import outcomes
from schemas.codec import encode_log
from schemas.records import Fingerprint, Hashed, LogRecord, Removed, Source, View
from streams.entry import LogEntry
from streams.errors import CorruptStateError
from streams.index import arrays as arrays_module
from streams.index import store as store_module
from streams.index.partition import PartitionIndex
from streams.index.store import Batch, picture_key
from streams.index.verify import NAMED_DIFFERENCES, Verification

TOPIC = "topic-id"


def log() -> list[LogEntry]:
    """Give settings, groups of near copies, redeliveries, removals before and after."""
    chance = random.Random(5)
    records: list[LogRecord] = [default_match_settings(partitions=1)]
    records += [Removed(1, "w0", "i77", Source("image-removed", 0, 0))]
    for number in range(150):
        code = chance.getrandbits(64) if number % 3 else 2**63 | 1 << (number % 40)
        views = (View("whole", (0, 0, 9, 9), code.to_bytes(8), code.to_bytes(8) * 4),)
        found = Fingerprint(1, number.to_bytes(32), "PNG", 9, 9, 9, 9, views)
        records.append(Hashed(1, f"w{number % 2}", f"i{number // 4 * 4}", "event", found, 0))
        if number % 10 == 9:
            place = Source("image-removed", 0, number)
            records.append(Removed(1, "w0", f"i{chance.randrange(number)}", place))
    return [LogEntry(n, 1000 + n, b"k%d" % n, encode_log(r)) for n, r in enumerate(records)]


ENTRIES = log()


def read(low: int, high: int, entries: Sequence[LogEntry] = ENTRIES) -> Iterator[list[LogEntry]]:
    """Read a stretch of the log, as a broker gives it."""
    for start in range(low, high, 40):
        yield list(entries[start : min(start + 40, high)])


def verified(
    index: PartitionIndex, *, full: bool = True, entries: Sequence[LogEntry] = ENTRIES
) -> Verification:
    """Compare an index with the log."""
    verification = Verification(
        index,
        0,
        lambda low, high: read(low, high, entries),
        0,
        len(entries),
        chance=random.Random(3),
        advance=lambda *_: None,
    )
    if full:
        verification.full()
    else:
        verification.sampled(60)
    return verification


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give an index of the whole log, with band files."""
    directory = tmp_path_factory.mktemp("sound") / "index"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays_module, "_MERGE_LEAST_CODES", 40)
        with closing(PartitionIndex(directory, TOPIC, 0)) as index:
            for entries in read(0, len(ENTRIES)):
                arrivals = index.stage(entries, entries[-1].offset + 1)
                found = outcomes(index, 0, [arrival.first for arrival in arrivals])
                index.commit({ordinal: each.value for ordinal, each in found.items()})
                if index.arrays._merge is not None:
                    index.arrays._merge.thread.join()
    return directory


@pytest.fixture
def index(sound: Path, tmp_path: Path) -> Iterator[PartitionIndex]:
    """Open a copy of it."""
    shutil.copytree(sound, tmp_path / "index")
    with closing(PartitionIndex(tmp_path / "index", TOPIC, 0)) as opened:
        yield opened


@pytest.mark.parametrize("full", [True, False])
def test_a_sound_index_has_no_difference(index: PartitionIndex, *, full: bool) -> None:
    """With band files, removals before and after their pictures, and redeliveries."""
    assert index.arrays.generation > 0
    found = verified(index, full=full)
    assert found.differences == []
    assert found.compared["pictures"] == (len(index) if full else 60)
    assert found.compared["searches"] > 10
    assert found.compared["band codes"] > 0
    if full:
        assert found.compared["records"] == len(ENTRIES)
        assert found.compared["marks"] == index.store.all_marks() > 3
        assert found.compared["removals"] == index.removals > 3
        assert found.compared["outcomes"] == len(index)


def test_an_index_is_verified_beside_its_writer(index: PartitionIndex, tmp_path: Path) -> None:
    """It is opened without its lock, sees what was written, and changes nothing."""
    (tmp_path / "notes").mkdir()
    before = sorted(path.name for path in (tmp_path / "index").rglob("*"))
    beside = PartitionIndex(tmp_path / "index", TOPIC, 0, beside=tmp_path / "notes")
    with closing(beside) as looked_at:
        assert looked_at.next_offset == index.next_offset
        assert verified(looked_at).differences == []
    assert sorted(path.name for path in (tmp_path / "index").rglob("*")) == before


def test_looking_begins_nothing(sound: Path, tmp_path: Path) -> None:
    """An index of another topic is refused, and is still there."""
    shutil.copytree(sound, tmp_path / "index")
    with pytest.raises(CorruptStateError, match="another log or format"):
        PartitionIndex(tmp_path / "index", "other", 0, beside=tmp_path)
    with closing(PartitionIndex(tmp_path / "index", TOPIC, 0)) as opened:
        assert opened.next_offset == len(ENTRIES)


def planted(index: PartitionIndex, what: str) -> None:
    """Plant one damage that every checksum agrees with."""
    row = next(row for row in index.store.rows_from(0) if not row.record.fingerprint.is_blank)
    workspace = index.workspaces[row.record.workspace]
    batch = Batch()
    match what:
        case "row":
            changed = msgspec.structs.replace(row.record, ingested_at_ms=1)
            batch.put_row(row, encode_log(changed))
        case "id":
            batch.put_first(picture_key(workspace, row.record.image_id), row.ordinal + 1)
        case "stray id":
            batch.put_first(picture_key(workspace, "never"), row.ordinal)
        case "mark":
            batch.put_mark(picture_key(workspace, "never"), 9)
        case "outcome":
            batch.put_outcome(row.ordinal, b"{}")
        case "removal":
            index.arrays.columns.remove(int(index.arrays.columns.ordinals[4]), 2)
        case "key":
            index.store.progress = msgspec.structs.replace(index.progress, last_key=b"other")
    index.store.write(batch)


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("row", "not as in the log: ingested_at_ms"),
        ("id", "its id leads to"),
        ("stray id", "ids: "),
        ("mark", "marks: "),
        ("outcome", "outcome of offset"),
        ("removal", "visible to 2"),
        ("key", "last applied record"),
    ],
)
def test_a_difference_is_named(index: PartitionIndex, what: str, named: str) -> None:
    """Each in a line that says what differs, and where."""
    planted(index, what)
    found = verified(index)
    assert any(named in line for line in found.differences), found.differences
    assert all(line.startswith("partition 0: ") for line in found.differences)


CHANGES: dict[str, tuple[str, Callable[[NDArray[Any]], NDArray[Any]], str]] = {
    "code": ("codes", lambda codes: codes ^ np.uint64(1), "codes are not those of the rows"),
    "number": ("numbers", lambda numbers: numbers[::-1], "codes are not those of the rows"),
    "order": ("codes", lambda codes: codes[::-1], "codes are not sorted"),
    "begin": ("offsets", lambda begins: begins + np.uint32(1), "offsets are not its codes'"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_difference_of_the_bands_is_named(index: PartitionIndex, what: str) -> None:
    """Other codes, other pictures, another order, other places: space and band are said."""
    part, change, named = CHANGES[what]
    space = index.arrays.spaces["views-1"]
    bands = getattr(space.base, part)
    changed = (*bands[:-1], change(np.array(bands[-1])))
    space._base = msgspec.structs.replace(space.base, **{part: changed})
    assert any(
        line.startswith("partition 0: space views-1, band 3: ") and named in line
        for line in verified(index).differences
    )


def test_a_search_that_misses_is_found(
    index: PartitionIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search is compared with a scan that knows nothing of bands."""
    monkeypatch.setattr(index, "candidates", lambda rows, *_: [[] for _ in rows])
    assert any("misses" in line for line in verified(index).differences)


@pytest.mark.parametrize("full", [True, False])
def test_another_log_is_bounded(index: PartitionIndex, *, full: bool) -> None:
    """Where everything differs, some are named and the others counted."""
    other = [LogEntry(entry.offset, 1, b"x", entry.value) for entry in ENTRIES]
    found = verified(index, full=full, entries=other)
    assert len(found.differences) == NAMED_DIFFERENCES
    assert found.unnamed > 0


def test_an_erased_picture_is_named(index: PartitionIndex) -> None:
    """A record that was erased from the log on purpose wants a rebuild."""
    at = int(index.arrays.columns.ordinals[3])
    entries = [
        LogEntry(entry.offset, entry.timestamp_ms, entry.key, None) if entry.offset == at else entry
        for entry in ENTRIES
    ]
    found = verified(index, entries=entries)
    assert any(f"row of offset {at}: the log has no such picture" in x for x in found.differences)


@pytest.mark.parametrize(
    ("part", "damage"),
    [
        ("columns", "flip"),
        ("columns", "delete"),
        ("codes-2", "flip"),
        ("codes-2", "cut"),
        ("offsets-1", "flip"),
        ("offsets-1", "delete"),
        ("numbers-3", "flip"),
        ("numbers-3", "cut"),
    ],
)
def test_damaged_band_files_change_no_answer(
    sound: Path, tmp_path: Path, part: str, damage: str
) -> None:
    """They are named where one looks, and made anew from the rows where one opens to write."""
    shutil.copytree(sound, tmp_path / "index")
    path = next(path for path in sorted((tmp_path / "index" / "bands").rglob(part)))
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 4
    path.write_bytes(content[:-4] if damage == "cut" else content)
    if damage == "delete":
        path.unlink()
    with closing(PartitionIndex(tmp_path / "index", TOPIC, 0, beside=tmp_path)) as looked_at:
        assert part in (looked_at.arrays.damaged or "")
        assert any(f"{part}" in line for line in verified(looked_at).differences)
    with closing(PartitionIndex(tmp_path / "index", TOPIC, 0)) as opened:
        found = verified(opened)
        assert found.compared["searches"] > 10
        assert [line for line in found.differences if "band files" not in line] == []


@pytest.mark.parametrize("manifest", [{"format_version": 99, "other": 1}, {"spaces": 1}, 7])
def test_band_files_of_another_format_change_no_answer(
    sound: Path, tmp_path: Path, manifest: object
) -> None:
    """Whatever a newer program wrote: the bands are made anew from the rows."""
    shutil.copytree(sound, tmp_path / "index")
    batch = Batch()
    batch.put_bands(msgspec.msgpack.encode(manifest))
    with closing(PartitionIndex(tmp_path / "index", TOPIC, 0)) as index:
        index.store.write(batch)
    with closing(PartitionIndex(tmp_path / "index", TOPIC, 0)) as opened:
        assert opened.arrays.damaged
        found = verified(opened)
        assert [line for line in found.differences if "band files" not in line] == []
        assert found.compared["searches"] > 10


@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_a_damaged_table_is_never_an_answer(sound: Path, tmp_path: Path, damage: str) -> None:
    """Whoever looks, or opens to write, is told the folder and the repair."""
    directory = tmp_path / "index"
    shutil.copytree(sound, directory)
    with closing(PartitionIndex(directory, TOPIC, 0)) as index:
        index.store._db.flush()
    table = max((directory / "rocksdb").glob("*.sst"), key=lambda path: path.stat().st_size)
    content = bytearray(table.read_bytes())
    content[len(content) // 4] ^= 4
    table.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    if damage == "delete":
        table.unlink()
    # What other tests read of another copy of this index is cached under the same names.
    store_module._block_cache.cache_clear()
    for beside in (tmp_path, None):
        with pytest.raises(CorruptStateError, match=f"{directory}.*delete it"):
            verify_all(directory, beside)


def verify_all(directory: Path, beside: Path | None) -> None:
    """Open an index and compare everything."""
    with closing(PartitionIndex(directory, TOPIC, 0, beside=beside)) as index:
        verified(index)
