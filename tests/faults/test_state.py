"""What a process stands on: its disk."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.faults.harness import System

DISK: Final = "96m"


@pytest.fixture
def small_disk(system: System) -> Iterator[Path]:
    """Move a matcher's data to a disk of its own, that can be filled."""
    matcher = system.of("matcher")[0]
    directory = system.data_of(matcher.name)
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
