"""What a process stands on: its disk, and the files there."""

import io
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import pytest
from rocksdict import Rdict

from streams.index import store
from tests.faults.harness import PARTITIONS, System

DISK: Final = "96m"


@pytest.fixture
def small_disk(system: System) -> Iterator[Path]:
    """Move a matcher's data to a disk of its own, that can be filled."""
    matcher = system.of("matcher")[0]
    directory = system.data_of(matcher.name)
    # It has joined its group; asked to stop at once, it opens no index.
    system.await_true(f"{matcher.name} has an index", directory.is_dir)
    system.take_away(matcher)
    moved = directory.with_name("moved")
    directory.rename(moved)
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(directory)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    assert mounted.returncode == 0, f"a disk to be filled takes root: {mounted.stderr}"
    try:
        shutil.copytree(moved, directory, dirs_exist_ok=True)
        system.bring_back(matcher)
        system.await_members()
        yield directory
    finally:
        # Whatever went wrong, nothing stays mounted.
        if matcher.process is not None:
            matcher.process.kill()
            matcher.process.wait()
            matcher.process = None
        subprocess.run(["umount", str(directory)], check=True)
        shutil.rmtree(directory)
        moved.rename(directory)
        matcher.start()


def fill(directory: Path) -> Path:
    """Take all room that a disk has."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(64 * 1024))
        except OSError:
            return ballast


def test_disk_full(system: System, small_disk: Path) -> None:
    """A full disk stops a matcher by name, before it commits; with room again it goes on."""
    matcher = system.of("matcher")[0]
    ballast = fill(small_disk)
    with system.publishing(), system.expecting_ends(matcher):
        system.await_true("the matcher ends", lambda: bool(matcher.unasked_exits))
        assert "its disk is full" in matcher.said(), system.describe("another end")
        system.pause(1)
        ballast.unlink()
    assert system.judge().outcomes


def gone(directory: Path) -> None:
    """Take the database away, and leave the files that are derived from it."""
    shutil.rmtree(directory / "rocksdb")


def table_truncated(directory: Path) -> None:
    """Cut off the end of the newest table; where there is none yet, of the log of writes."""
    with newest(directory).open("r+b") as file:
        file.truncate(file.seek(0, io.SEEK_END) // 2)


def bit_flipped(directory: Path) -> None:
    """Flip a bit in the middle of the newest table, or of the log of writes."""
    path = newest(directory)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def of_another_version(directory: Path) -> None:
    """Say that it has a format which this version does not know."""
    opened = Rdict(str(directory / "rocksdb"), options=store._options())
    content = opened[store._IDENTITY]
    assert content is not None
    identity = msgspec.msgpack.decode(content, type=store.Identity)
    later = msgspec.structs.replace(identity, format_version=store.FORMAT_VERSION + 1)
    opened.put(store._IDENTITY, msgspec.msgpack.encode(later))
    opened.close()


def newest(directory: Path) -> Path:
    """Give the newest file that holds rows."""
    found = [*directory.glob("rocksdb/*.sst"), *directory.glob("rocksdb/*.log")]
    return max((path for path in found if path.stat().st_size), key=lambda path: path.name)


def test_damaged_store(system: System) -> None:
    """An index deleted, cut, flipped or of another version is made anew, or refused by name."""
    damages = [gone, table_truncated, bit_flipped, of_another_version]
    system.chance.shuffle(damages)
    matcher, other = system.of("matcher")
    system.take_away(other)
    with system.publishing():
        system.pause(2)
    system.await_settled()
    assert system.partitions_of(matcher) == tuple(range(PARTITIONS))
    system.take_away(matcher)
    for partition, damage in enumerate(damages):
        directory = system.data_of(matcher.name) / f"partition-{partition}"
        system.timeline.add(f"{damage.__name__} in {directory.name}")
        damage(directory)
    deleted = []

    def done() -> bool:
        """Do what an index that is refused asks for, and see whether all are there again."""
        for refused in re.findall(r"the index in (\S+) .*delete it", matcher.said()):
            if refused not in deleted:
                system.timeline.add(f"{refused} is refused")
                deleted.append(refused)
                shutil.rmtree(refused)
        return not system.behind()

    with system.publishing(), system.expecting_ends(matcher):
        system.bring_back(matcher)
        system.pause(2)
    with system.expecting_ends(matcher):
        system.await_true("every index is there again", done)
    assert len(matcher.unasked_exits) == len(deleted)
    said = matcher.said()
    rebuilt = set(re.findall(r"index-log\[(\d)\]: rebuilt 0 to", said))
    for partition, damage in enumerate(damages):
        if damage in (gone, of_another_version):
            assert str(partition) in rebuilt, f"{damage.__name__}: {said[-2000:]}"
    report = system.judge()
    system.bring_back(other)
    system.await_members()
    assert report.outcomes
