"""Whatever happens to the files of an index, it is refused, is what it was, or is an earlier self.

Never one that silently finds less: an earlier self knows how far it got, and the rest is read from
the log again.
"""

import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import pytest

from agents.decide import default_match_settings
from agents.match_images import outcomes
from schemas.codec import encode_log
from schemas.records import Fingerprint, Hashed, LogRecord, Removed, Source, View
from streams.entry import LogEntry
from streams.errors import CorruptStateError, RetryableError
from streams.index import store
from streams.index.partition import PartitionIndex

ROOT = Path(__file__).resolve().parents[3]
TOPIC = "topic-id"
GROUP = 20
# Of a MANIFEST's first two records the second begins here: 4 bytes of checksum, 2 of length, type.
RECORD_TYPE = 46 + 6

State = tuple[object, ...]


def log() -> list[LogEntry]:
    """Give settings, and pictures, and a removal after every tenth."""
    chance = random.Random(7)
    records: list[LogRecord] = [default_match_settings(partitions=1)]
    for number in range(120):
        code = chance.getrandbits(64).to_bytes(8)
        views = (View("whole", (0, 0, 9, 9), code, code * 4),)
        found = Fingerprint(1, number.to_bytes(32), "PNG", 9, 9, 9, 9, views)
        records.append(Hashed(1, "w", f"i{number}", "event", found, 0))
        if number % 10 == 9:
            place = Source("image-removed", 0, number)
            records.append(Removed(1, "w", f"i{chance.randrange(number)}", place))
    return [LogEntry(n, 1000 + n, b"k%d" % n, encode_log(r)) for n, r in enumerate(records)]


ENTRIES = log()


def apply(index: PartitionIndex, entries: Iterable[LogEntry]) -> None:
    """Apply entries in groups, as the matcher does."""
    entries = list(entries)
    for low in range(0, len(entries), GROUP):
        group = entries[low : low + GROUP]
        arrivals = index.stage(group, group[-1].offset + 1)
        found = outcomes(index, 0, [arrival.first for arrival in arrivals])
        index.commit({ordinal: each.value for ordinal, each in found.items()})


def state(index: PartitionIndex) -> State:
    """Give all that an index holds."""
    rows = list(index.all_rows())
    return index.next_offset, rows, index.outcomes([row.ordinal for row, _ in rows])


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give an index as kill -9 leaves it: two tables, and a log of what came last."""
    directory = tmp_path_factory.mktemp("sound")
    with closing(PartitionIndex(directory / "open", TOPIC, 0)) as index:
        for low, high in ((0, 40), (40, 80), (80, len(ENTRIES))):
            if low:
                index._store._db.flush()
            apply(index, ENTRIES[low:high])
        shutil.copytree(directory / "open", directory / "killed")
    return directory / "killed"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> State:
    """Give what an index holds that has applied everything."""
    with closing(PartitionIndex(tmp_path_factory.mktemp("whole") / "index", TOPIC, 0)) as index:
        apply(index, ENTRIES)
        return state(index)


def flip_a_bit(content: bytearray, chance: random.Random) -> None:
    """Flip one bit."""
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)


def truncate(content: bytearray, chance: random.Random) -> None:
    """Cut the end off."""
    del content[chance.randrange(len(content)) :]


def blank(content: bytearray, chance: random.Random) -> None:
    """Make a block of zeros."""
    start = chance.randrange(len(content))
    content[start : start + 4096] = bytes(len(content[start : start + 4096]))


def hurt(
    directory: Path,
    pattern: str,
    damage: Callable[[bytearray, random.Random], None] | None,
    chance: random.Random,
) -> None:
    """Damage one of the files of a pattern; without a damage, delete it."""
    path = chance.choice(sorted((directory / "rocksdb").glob(pattern)))
    if damage is None:
        path.unlink()
        return
    content = bytearray(path.read_bytes())
    damage(content, chance)
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, blank, None])
@pytest.mark.parametrize("pattern", ["*.sst", "*.log", "CURRENT", "MANIFEST-*", "OPTIONS-*"])
def test_damage_is_never_silent(
    pattern: str,
    damage: Callable[[bytearray, random.Random], None] | None,
    sound: Path,
    whole: State,
    tmp_path: Path,
) -> None:
    """Refused by name; or, when the log was applied from where it says it is, as it should be."""
    # Each damage in this very file, and in one place that is another one in each run.
    for seed in (1, random.randrange(2**31)):
        directory = tmp_path / str(seed)
        shutil.copytree(sound, directory)
        hurt(directory, pattern, damage, random.Random(seed))
        if pattern == "MANIFEST-*" and not opens(directory):
            continue
        try:
            with closing(PartitionIndex(directory, TOPIC, 0)) as index:
                apply(index, ENTRIES[index.next_offset :])
                assert state(index) == whole, f"seed {seed}"
        except CorruptStateError as error:
            if str(directory) not in str(error):
                raise


def opens(directory: Path, seconds: float = 20.0) -> bool:
    """Open an index in a process of its own, in bounded time."""
    code = (
        "import sys; from pathlib import Path; from streams.index import store\n"
        "store._OPEN_SECONDS = float(sys.argv[2])\n"
        f"store.Store(Path(sys.argv[1]), store.Identity(store.FORMAT_VERSION, {TOPIC!r}, 0))\n"
    )
    command = [sys.executable, "-c", code, str(directory / "rocksdb"), str(seconds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, text=True)
    if done.returncode != 0:
        assert "store.py" in done.stderr
    return done.returncode == 0


def test_a_database_that_opens_for_ever_ends_the_process(sound: Path, tmp_path: Path) -> None:
    """RocksDB reads this one bit in a loop without end; we stop, and say where."""
    shutil.copytree(sound, tmp_path / "index")
    (manifest,) = (tmp_path / "index" / "rocksdb").glob("MANIFEST-*")
    content = bytearray(manifest.read_bytes())
    assert content[RECORD_TYPE] == 1
    content[RECORD_TYPE] = 5
    manifest.write_bytes(content)
    assert not opens(tmp_path / "index", seconds=2.0)


def test_another_format_is_rebuilt(sound: Path, tmp_path: Path, whole: State) -> None:
    """An index of a version that we do not know is begun anew, from the log."""
    shutil.copytree(sound, tmp_path / "index")
    unknown = store.Identity(store.FORMAT_VERSION + 1, TOPIC, 0)
    store.Store(tmp_path / "index" / "rocksdb", unknown).close()
    with closing(PartitionIndex(tmp_path / "index", TOPIC, 0)) as index:
        assert index.next_offset == 0
        apply(index, ENTRIES)
        assert state(index) == whole


def test_a_full_disk_is_named(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It wants room and another try, and not a new index."""
    shutil.copytree(sound, tmp_path / "index")
    index = PartitionIndex(tmp_path / "index", TOPIC, 0)
    index._store._db.close()
    index.stage((), index.next_offset)
    with pytest.raises(CorruptStateError, match="cannot be written"):
        index.commit({})
    monkeypatch.setattr(store, "_NO_ROOM_BYTES", 2**63)
    with pytest.raises(RetryableError, match="disk is full"):
        index.commit({})
