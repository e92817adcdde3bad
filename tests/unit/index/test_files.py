"""The base's files: exact merges, durable before they count, refused when damaged."""

import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from streams.index import files
from streams.index.mih import Bands, Layout, MultiIndexHash, SortedBands
from streams.index.scan import Scan
from streams.index.space import Codes, Numbers

LAYOUT = Layout(small=Bands((8, 8, 8)), large=Bands((10, 9)), large_from_codes=5_000)
CODES = 4_000
FILES = [f"{part}-{band}" for band in range(3) for part in ("codes", "offsets", "numbers")]


def _random_codes(count: int, first_number: int = 0) -> tuple[Codes, Numbers]:
    rng = np.random.default_rng(count + first_number)
    numbers = (first_number + np.arange(count) // 4).astype(np.uint32)
    return rng.integers(0, 2**64, count, dtype=np.uint64), numbers


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, files.Manifest]:
    """Write a base."""
    return tmp_path / "base", files.merge(None, *_random_codes(CODES), tmp_path / "base", LAYOUT)


def _assert_holds(bands: SortedBands, codes: Codes, numbers: Numbers) -> None:
    """Every band has every code with its number, sorted, and offsets that say where."""
    expected = np.sort(np.rec.fromarrays([codes, numbers]))
    for band, (width, start) in enumerate(zip(bands.bands.widths, bands.bands.starts, strict=True)):
        rotated = bands.codes[band]
        assert np.all(rotated[1:] >= rotated[:-1])
        turned = [int(code) for code in rotated]
        plain = [(code >> start | code << (64 - start)) & (2**64 - 1) for code in turned]
        held = np.rec.fromarrays([np.array(plain, dtype=np.uint64), bands.numbers[band]])
        assert np.array_equal(np.sort(held), expected)
        values = np.arange((1 << width) + 1)
        wanted = np.searchsorted(rotated >> np.uint64(64 - width), values)
        assert np.array_equal(bands.offsets[band], wanted)


def test_written_bands_are_read_back(tmp_path: Path) -> None:
    """Bands from files are those built in memory."""
    codes, numbers = _random_codes(CODES)
    manifest = files.merge(None, codes, numbers, tmp_path / "base", LAYOUT)
    built = SortedBands.build(LAYOUT.small, codes, numbers)
    for bands in (built, files.open_files(tmp_path / "base", manifest)):
        _assert_holds(bands, codes, numbers)


def test_a_small_file_is_written_durably(tmp_path: Path) -> None:
    """What lies beside the bands is written and described in the same way."""
    file = files.write_durably(tmp_path / "columns", b"abc")
    assert (tmp_path / "columns").read_bytes() == b"abc"
    assert file == files.File(name="columns", size_bytes=3, crc32=0x352441C2)


def test_a_manifest_survives_encoding(written: tuple[Path, files.Manifest]) -> None:
    """The store keeps manifests as bytes."""
    encoded = msgspec.msgpack.encode(written[1])
    assert msgspec.msgpack.decode(encoded, type=files.Manifest) == written[1]


@pytest.mark.parametrize("block_codes", [1, 100, 1 << 20])
@pytest.mark.parametrize("newer", [0, 1, 500, 1_500])
def test_a_merge_holds_old_and_new_codes(
    written: tuple[Path, files.Manifest],
    monkeypatch: pytest.MonkeyPatch,
    block_codes: int,
    newer: int,
) -> None:
    """With the same bands (up to 500 new codes here) and with others, in blocks of any size."""
    monkeypatch.setattr(files, "_BLOCK_CODES", block_codes if newer <= 500 else 64 * block_codes)
    monkeypatch.setattr(files, "_SORTED_CODES", 512 * block_codes)
    directory, manifest = written
    old, new = _random_codes(CODES), _random_codes(newer, first_number=CODES)
    base = files.open_files(directory, manifest)
    merged = files.merge(base, *new, directory.parent / "next", LAYOUT)
    assert merged.widths == LAYOUT.bands(CODES + newer).widths
    reopened = files.open_files(directory.parent / "next", merged)
    _assert_holds(reopened, np.concatenate([old[0], new[0]]), np.concatenate([old[1], new[1]]))


def test_a_merge_keeps_crowded_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are cut between band values, also where one value has more codes than a block."""
    monkeypatch.setattr(files, "_BLOCK_CODES", 50)
    codes, numbers = _random_codes(1_000)
    codes[100:900] = codes[0]
    first = files.merge(None, codes[:500], numbers[:500], tmp_path / "a", LAYOUT)
    base = files.open_files(tmp_path / "a", first)
    second = files.merge(base, codes[500:], numbers[500:], tmp_path / "b", LAYOUT)
    _assert_holds(files.open_files(tmp_path / "b", second), codes, numbers)


def test_a_base_without_codes_has_files(tmp_path: Path) -> None:
    """An _empty space can be merged and opened."""
    manifest = files.merge(None, *_random_codes(0), tmp_path / "base", LAYOUT)
    assert len(files.open_files(tmp_path / "base", manifest)) == 0


def test_files_are_never_overwritten(written: tuple[Path, files.Manifest]) -> None:
    """A merge into the directory of a base in use is refused."""
    directory, manifest = written
    with pytest.raises(FileExistsError):
        files.merge(None, *_random_codes(10), directory, LAYOUT)
    files.open_files(directory, manifest)


def test_everything_is_on_disk_before_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is synced after its last write, then its directory, then the directory above."""
    synced: list[tuple[str, int]] = []

    def record(descriptor: int) -> None:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        synced.append((path, os.fstat(descriptor).st_size))

    monkeypatch.setattr(os, "fsync", record)
    manifest = files.merge(None, *_random_codes(CODES), tmp_path / "base", LAYOUT)
    written = [(str(tmp_path / "base" / file.name), file.size_bytes) for file in manifest.files]
    assert synced[:-2] == written
    assert [path for path, _ in synced[-2:]] == [str(tmp_path / "base"), str(tmp_path)]


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.Random(path.name).randrange(len(content))] ^= 16
    path.write_bytes(content)


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _extend(path: Path) -> None:
    os.truncate(path, path.stat().st_size + 8)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _exchange(path: Path) -> None:
    part, band = path.name.split("-")
    other = path.with_name(f"{part}-{(int(band) + 1) % 3}")
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [_flip_a_bit, _truncate, _extend, _empty, _exchange, Path.unlink]
)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_refused_by_name(
    written: tuple[Path, files.Manifest], name: str, damage: Callable[[Path], None]
) -> None:
    """Whatever happened to whichever file, it is not searched."""
    directory, manifest = written
    damage(directory / name)
    part = name.split("-", maxsplit=1)[0]
    with pytest.raises(files.DamagedFilesError, match=part if damage is _exchange else name):
        files.open_files(directory, manifest)


@pytest.mark.parametrize(
    "change", [{"codes": CODES - 1}, {"widths": (8, 8)}, {"widths": (8, 8, 9)}]
)
def test_a_manifest_that_contradicts_its_files_is_refused(
    written: tuple[Path, files.Manifest], change: dict[str, object]
) -> None:
    """Sizes follow from the widths and the number of codes."""
    directory, manifest = written
    with pytest.raises(files.DamagedFilesError):
        files.open_files(directory, msgspec.structs.replace(manifest, **change))


def _in_a_child(action: Callable[[], object]) -> int:
    """Give the signal that ended the action, 0 if it finished."""
    child = os.fork()
    if child == 0:
        action()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


@pytest.mark.parametrize("newer", [500, 1_500])
def test_a_kill_at_any_step_of_a_merge_leaves_the_old_base(
    written: tuple[Path, files.Manifest], newer: int
) -> None:
    """Killed before any write or sync, the old base opens and a new merge succeeds."""
    directory, manifest = written
    codes, numbers = _random_codes(CODES)
    new = _random_codes(newer, first_number=CODES)
    kills = 0
    while True:
        attempt = directory.parent / f"attempt-{kills}"

        def merge_and_die(steps: int = kills, attempt: Path = attempt) -> None:
            left = steps

            def step(original: Callable[..., object]) -> Callable[..., object]:
                def counted(*arguments: object) -> object:
                    nonlocal left
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    left -= 1
                    return original(*arguments)

                return counted

            files._Output.append = step(files._Output.append)  # type: ignore[method-assign,assignment]
            os.fsync = step(os.fsync)  # type: ignore[assignment]
            files.merge(files.open_files(directory, manifest), *new, attempt, LAYOUT)

        if _in_a_child(merge_and_die) == 0:
            break
        kills += 1
        _assert_holds(files.open_files(directory, manifest), codes, numbers)
    bands = len(LAYOUT.bands(CODES + newer).widths)
    assert kills >= bands * 6 + 2
    merged = files.merge(
        files.open_files(directory, manifest), *new, directory.parent / "again", LAYOUT
    )
    assert len(files.open_files(directory.parent / "again", merged)) == CODES + newer


def test_searches_are_right_while_another_thread_merges(tmp_path: Path) -> None:
    """Before, during and after a merge, with adds going on, hits are brute force's."""
    space, oracle = MultiIndexHash(), Scan()
    rng = np.random.default_rng(8)
    bases: list[SortedBands] = []
    searches_during_merges = 0

    def merge(base: SortedBands, codes: Codes, numbers: Numbers, directory: Path) -> None:
        bases.append(files.open_files(directory, files.merge(base, codes, numbers, directory)))

    for generation in range(3):
        frozen = space.freeze()
        directory = tmp_path / str(generation)
        merging = threading.Thread(target=merge, args=(space.base, *frozen, directory))
        merging.start()
        adopted = False
        while not adopted or len(oracle) < 40_000 * (generation + 1):
            searches_during_merges += merging.is_alive()
            if not adopted and not merging.is_alive():
                space.adopt(bases.pop(), len(frozen[0]))
                adopted = True
            codes, numbers = _random_codes(4_000, first_number=len(oracle) // 4)
            space.add(codes, numbers)
            oracle.add(codes, numbers)
            queries = np.concatenate([rng.choice(codes, 5) ^ np.uint64(3), codes[:1]])
            for radius in (0, 8):
                got, wanted = space.search(queries, radius), oracle.search(queries, radius)
                assert got.query.tolist() == wanted.query.tolist()
                assert got.number.tolist() == wanted.number.tolist()
                assert got.distance.tolist() == wanted.distance.tolist()
        assert len(space) == len(oracle)
    assert searches_during_merges > 0
