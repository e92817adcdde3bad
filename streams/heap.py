"""What the C library keeps of memory that is free: without a word to it, as much as is in use.

glibc gives each thread a heap of its own, up to eight for each core, and what is freed in one of
them serves no other; what is free inside a heap it gives back only when told to. RocksDB,
librdkafka and asyncio make thirty threads. Measured in half an hour of faults, a matcher with an
index of 45,000 pictures: 187 MB in 16 heaps, of which 89 were in use. With two heaps 2 to 5 MB
stayed each time after giving back, with one 0 to 2 MB, and neither a hasher nor a matcher is slower
by it (`make bench`'s figures of both, twice each in turns).

What is large comes from the kernel and goes back there, but what glibc takes for large grows with
what is freed, up to 32 MB: RocksDB's memtables, of pieces of 1 MB, then lie in a heap between what
is small. With a fixed bound they do so only where a heap has that much free already.
"""

import ctypes
import os
import time
from collections.abc import Callable
from typing import Final

# malloc.h
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_HEAPS: Final = 1
# Just less than a piece of a memtable. With 128 KB the arrays of a search are large too, and a
# matcher takes a third of the records.
_LARGE_BYTES: Final = 1_000_000
# The free end of a heap, which is then not given back with each array; a matcher calls `give_back`.
_FREE_END_BYTES: Final = 16 * 1024 * 1024

# RocksDB frees 32 MB of a partition's newest rows when it writes them to a file, a merge the codes
# that are in files now, and each search takes another part of what is free: at 25 pictures/s 8 MB
# within two seconds once a matcher has lived for long, 1 to 2 in a group.
_FEW_RECORDS: Final = 16
# At full load groups have 64 records and more: each would fetch 1 to 4 MB again that it gave back,
# and a matcher that did so after each took 4 to 16 % fewer records.
_MANY_RECORDS_SECONDS: Final = 2.0

# Another C library has neither function, and needs neither.
_libc: Final = ctypes.CDLL(None)
_mallopt: Final = getattr(_libc, "mallopt", None)
_malloc_trim: Final = getattr(_libc, "malloc_trim", None)


def tame() -> None:
    """Have threads that begin from now on share one heap, and what is large enlarge none.

    What the environment says of it (`MALLOC_ARENA_MAX` and the like) is left as it is.
    """
    for variable, parameter, value in (
        ("MALLOC_ARENA_MAX", _M_ARENA_MAX, _HEAPS),
        ("MALLOC_MMAP_THRESHOLD_", _M_MMAP_THRESHOLD, _LARGE_BYTES),
        ("MALLOC_TRIM_THRESHOLD_", _M_TRIM_THRESHOLD, _FREE_END_BYTES),
    ):
        if _mallopt is not None and variable not in os.environ:
            _mallopt(parameter, value)


def give_back() -> None:
    """Give what is free to the kernel, from where it comes when used; 1 ms for a heap of 60 MB."""
    if _malloc_trim is not None:
        _malloc_trim(ctypes.c_size_t(0))


class GivingBack:
    """Gives back in a thread that takes and frees much: after each group of few records.

    Not by how busy the thread is: while others have the processors, all of it takes long. Groups
    become large where a thread does not keep up. For one thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Count from now on; `clock` gives seconds."""
        self._clock = clock
        self._given_back = clock()

    def after(self, records: int) -> None:
        """Give back after a group, unless it is of many records and the last time not long ago."""
        now = self._clock()
        if records < _FEW_RECORDS or now - self._given_back >= _MANY_RECORDS_SECONDS:
            give_back()
            self._given_back = now
