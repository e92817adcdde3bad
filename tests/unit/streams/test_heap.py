"""Free memory is shared by threads, and goes back to the kernel: of glibc as it is here."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from streams import heap

PIECES = """
import ctypes, threading
from pathlib import Path
import psutil
from streams.heap import give_back, tame

libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = libc.fclose.argtypes = [ctypes.c_void_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
"""


def run(code: str, tmp_path: Path, **environment: str) -> str:
    """Run it in a process of its own: what is set of the C library stays set."""
    done = subprocess.run(
        [sys.executable, "-c", PIECES + textwrap.dedent(code)],
        env={**os.environ, **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


THREADS = """
    {first}
    ready = threading.Barrier(9)

    def use():
        pieces = [libc.malloc(1000) for _ in range(100)]
        ready.wait()
        ready.wait()
        for piece in pieces:
            libc.free(piece)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    ready.wait()
    told = libc.fopen(b"heaps.xml", b"w")
    libc.malloc_info(0, told)
    libc.fclose(told)
    print(Path("heaps.xml").read_text().count("<heap "))
    ready.wait()
"""


def test_threads_share_one_heap(tmp_path: Path) -> None:
    """Each would have its own; who runs the process may say how many there are to be."""
    assert int(run(THREADS.format(first=""), tmp_path)) >= 8
    assert int(run(THREADS.format(first="tame()"), tmp_path)) == 1
    own = {"MALLOC_ARENA_MAX": "5"}
    assert int(run(THREADS.format(first="tame()"), tmp_path, **own)) == 5


def test_what_is_large_leaves_no_holes(tmp_path: Path) -> None:
    """Once a larger piece was freed, pieces of a megabyte lie among smaller ones, unless told."""
    freed = """
        {first}
        libc.free(libc.malloc(8 << 20))
        pieces = []
        for _ in range(50):
            pieces += [libc.malloc(1 << 20), libc.malloc(100_000)]
            ctypes.memset(pieces[-2], 1, 1 << 20)
        before = psutil.Process().memory_info().rss
        for piece in pieces[::2]:
            libc.free(piece)
        print(before - psutil.Process().memory_info().rss)
    """
    assert int(run(freed.format(first=""), tmp_path)) < 10e6
    assert int(run(freed.format(first="tame()"), tmp_path)) > 50e6


def test_what_is_free_goes_back(tmp_path: Path) -> None:
    """Behind one piece that is in use, freed memory stays with the process until it is told."""
    freed = """
        pieces = [libc.malloc(1000) for _ in range(50_000)]
        for piece in pieces[:-1]:
            libc.free(piece)
        before = psutil.Process().memory_info().rss
        give_back()
        print(before - psutil.Process().memory_info().rss)
    """
    assert int(run(freed, tmp_path)) > 40e6


@pytest.mark.parametrize(
    ("records", "seconds", "every"),
    [(1, 0.0, 1), (15, 0.01, 1), (16, 0.125, 16), (256, 0.75, 3), (256, 2.0, 1)],
)
def test_giving_back_after_many_records_waits(
    monkeypatch: pytest.MonkeyPatch, records: int, seconds: float, every: int
) -> None:
    """Up to two seconds from the last time, after whatever that was."""
    now, turn, turns = 0.0, 0, list[int]()
    monkeypatch.setattr(heap, "give_back", lambda: turns.append(turn))
    giving_back = heap.GivingBack(lambda: now)
    now += 1.0
    giving_back.after(1)
    for _ in range(3 * every):
        turn += 1
        now += seconds
        giving_back.after(records)
    assert turns == [0, every, 2 * every, 3 * every]
