"""What is known of every picture without reading its row: three growing arrays in memory.

Indexed by picture number. A search's hits are checked against them, vectorised, before any
row is read: whose picture it is, when it was born, until when it is visible.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.index.files import DamagedFilesError, write_durably
from streams.index.growing import with_room

# Later than every offset: a picture that was not removed.
NEVER: Final = np.iinfo(np.int64).max


class ColumnsManifest(msgspec.Struct, frozen=True):
    """What the columns' file must be: how many pictures, and the crc32 of its bytes."""

    pictures: int
    crc32: int


class Columns:
    """Ordinal (offset of the first record), workspace number, and removal of each picture."""

    def __init__(self) -> None:
        """Start empty."""
        self._length = 0
        self._ordinals = np.empty(0, np.int64)
        self._workspaces = np.empty(0, np.uint32)
        self._removed_at = np.empty(0, np.int64)

    def __len__(self) -> int:
        """Count the pictures."""
        return self._length

    @property
    def ordinals(self) -> NDArray[np.int64]:
        """Offsets of the first records, ascending."""
        return self._ordinals[: self._length]

    @property
    def workspaces(self) -> NDArray[np.uint32]:
        """Workspace numbers."""
        return self._workspaces[: self._length]

    @property
    def removed_at(self) -> NDArray[np.int64]:
        """Offsets of the removals, `NEVER` where there was none."""
        return self._removed_at[: self._length]

    def extend(self, ordinals: Sequence[int], workspaces: Sequence[int]) -> None:
        """Append pictures; their numbers are the next ones."""
        end = self._length + len(ordinals)
        self._ordinals = with_room(self._ordinals, end)
        self._workspaces = with_room(self._workspaces, end)
        self._removed_at = with_room(self._removed_at, end)
        self._ordinals[self._length : end] = ordinals
        self._workspaces[self._length : end] = workspaces
        self._removed_at[self._length : end] = NEVER
        self._length = end

    def remove(self, ordinal: int, removed_at: int) -> bool:
        """End a picture's visibility; False if no picture was born at `ordinal`."""
        number = int(np.searchsorted(self.ordinals, ordinal))
        if number == self._length or self._ordinals[number] != ordinal:
            return False
        self._removed_at[number] = min(self._removed_at[number], removed_at)
        return True

    def write(self, path: Path, pictures: int) -> ColumnsManifest:
        """Write the first `pictures` ordinals and workspaces (removals are in the store)."""
        content = self._ordinals[:pictures].tobytes() + self._workspaces[:pictures].tobytes()
        write_durably(path, content)
        return ColumnsManifest(pictures=pictures, crc32=zlib.crc32(content))

    @classmethod
    def read(cls, path: Path, manifest: ColumnsManifest) -> "Columns":
        """Read what `write` wrote.

        Raises:
            DamagedFilesError: the file is missing or not as its manifest says.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DamagedFilesError(str(path)) from error
        if zlib.crc32(content) != manifest.crc32 or len(content) != 12 * manifest.pictures:
            raise DamagedFilesError(str(path))
        columns = cls()
        columns.extend(
            np.frombuffer(content, np.int64, manifest.pictures),  # type: ignore[arg-type]
            np.frombuffer(content, np.uint32, manifest.pictures, 8 * manifest.pictures),  # type: ignore[arg-type]
        )
        return columns
