"""What an index searches: columns and code spaces, in memory and in memory-mapped files.

Derived: all of it follows from the rows, and is made again from them where files are lost or
damaged. A partition's index owns one; it adds rows, asks for candidates, and writes down which
files are in use.

Not thread-safe: one thread at a time. Files are merged in a thread of their own.
"""

import logging
import shutil
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.records import Fingerprint
from streams.errors import CorruptStateError
from streams.index import files
from streams.index.columns import Columns, ColumnsManifest
from streams.index.mih import EXACT, NEAR, Layout, MultiIndexHash, SortedBands
from streams.index.store import Row

logger = logging.getLogger(__name__)

_Asked = tuple[Row, Sequence[bytes]]

# The exact-match space: the first 64 bits of every picture's sha256, searched at radius 0.
BYTES_SPACE: Final = "sha256"

# A merge rewrites the base, so it is worth its while for a hundredth of the base; below the first
# bound the delta answers as fast as a base would, above the second its memory and its re-sorting
# begin to show (measured: notes of `streams.index.mih`).
_MERGE_LEAST_CODES = 50_000
_MERGE_MOST_CODES = 400_000
_MERGE_SHARE = 100

_FIRST_ROWS_SEARCHED = 32
# 60 MB while they are sorted by picture.
_HITS_AT_ONCE = 500_000
_NO_WORKSPACE = np.iinfo(np.uint32).max


class BandsManifest(msgspec.Struct, frozen=True):
    """The band files in use: one generation, all spaces up to the same picture."""

    format_version: int
    generation: int
    columns: ColumnsManifest
    spaces: dict[str, files.Manifest]

    @property
    def size_bytes(self) -> int:
        """Give the size of the spaces' files."""
        return sum(file.size_bytes for part in self.spaces.values() for file in part.files)


class _Version(msgspec.Struct, frozen=True):
    format_version: int


class PictureArrays:
    """The columns and code spaces of one partition's pictures."""

    def __init__(
        self,
        directory: Path,
        manifest: bytes | None,
        workspaces: Mapping[str, int],
        *,
        only_look: bool,
    ) -> None:
        """Map the files that the manifest names; without it, or where they are damaged, be empty.

        `workspaces`: the workspaces' numbers, looked up in each call. What else is in `directory`
        is deleted, unless this is to `only_look`.
        """
        self._directory = directory
        self._workspaces = workspaces
        self._merge: Merge | None = None
        self.columns = Columns()
        self.spaces: dict[str, MultiIndexHash] = {}
        self.generation = 0
        """Of the files; 0: there are none."""
        self.merges = 0
        """Since this was made."""
        self.files_bytes = 0
        self.damaged: str | None = None
        """What was wrong with the files, where the rows have to give everything again."""
        if manifest is not None:
            try:
                self._open(_manifest(manifest))
            except files.DamagedFilesError as error:
                logger.warning("band files are rebuilt from the rows: %s", error)
                self.columns, self.spaces = Columns(), {}
                self.damaged = str(error)
        if not only_look:
            self._delete_other_files()

    @property
    def codes(self) -> int:
        """Count the codes in all spaces."""
        return sum(len(space) for space in self.spaces.values())

    @property
    def delta_bytes(self) -> int:
        """What the codes that are not in files yet take in memory."""
        return sum(space.delta_bytes for space in self.spaces.values())

    def add(self, rows: Sequence[Row]) -> None:
        """Add rows, whose numbers are the next ones; blank ones are there and are never found."""
        if not rows:
            return
        workspaces = [self._workspaces[row.record.workspace] for row in rows]
        self.columns.extend([row.ordinal for row in rows], workspaces)
        codes: defaultdict[str, list[bytes]] = defaultdict(list)
        numbers: defaultdict[str, list[int]] = defaultdict(list)
        for row in rows:
            if row.record.fingerprint.is_blank:
                self.columns.remove(row.ordinal, row.ordinal)
                continue
            for space, found in codes_by_space(row.record.fingerprint):
                codes[space] += found
                numbers[space] += [row.number] * len(found)
        for space, found in codes.items():
            self._space(space).add(as_codes(found), np.array(numbers[space], np.uint32))

    # --- searching ----------------------------------------------------------------------------

    def candidates(
        self, rows: Sequence[Row], codes: Sequence[Sequence[bytes]], radius: int, bound: int
    ) -> list[Sequence[int]]:
        """Find, for each row and its codes, the pictures visible at its ordinal within the radius.

        A row without codes finds identical bytes only. Visible: of the same workspace, born before
        it, not removed before it. At most `bound` ordinals for each row: of the nearest, and of the
        oldest among equally near ones.
        """
        results: list[Sequence[int]] = [()] * len(rows)
        groups: dict[str, list[int]] = {}
        for position, row in enumerate(rows):
            fingerprint = row.record.fingerprint
            if not fingerprint.is_blank:
                space = space_of(fingerprint) if codes[position] else BYTES_SPACE
                groups.setdefault(space, []).append(position)
        for space, positions in groups.items():
            near = space != BYTES_SPACE
            asked = [
                (rows[position], codes[position] if near else _bytes_codes(rows[position]))
                for position in positions
            ]
            found = self._search_all(space, asked, radius if near else 0, bound)
            for position, ordinals in zip(positions, found, strict=True):
                results[position] = ordinals
        return results

    def _search_all(
        self, space: str, asked: Sequence[_Asked], radius: int, bound: int
    ) -> Iterator[list[int]]:
        """Search for a few rows first, and then for as many together as their hits allow.

        A picture that everybody forwards is hit by each of its copies: a group of them among
        20,000 equal ones took 790 MB at once, before the cut to the bound.
        """
        start, size = 0, _FIRST_ROWS_SEARCHED
        while start < len(asked):
            some = asked[start : start + size]
            ordinals, hits = self._search(space, some, radius, bound)
            yield from ordinals
            start += len(some)
            size = max(1, min(4 * size, _HITS_AT_ONCE * len(some) // max(1, hits)))

    def _search(
        self, space: str, asked: Sequence[_Asked], radius: int, bound: int
    ) -> tuple[list[list[int]], int]:
        """Give the ordinals of each row's candidates, and how many hits were looked at."""
        rows, queries = [row for row, _ in asked], [codes for _, codes in asked]
        if space not in self.spaces:  # asked for before any picture came
            return [[] for _ in rows], 0
        asker = np.repeat(np.arange(len(rows)), [len(codes) for codes in queries])
        hits = self.spaces[space].search(as_codes([c for q in queries for c in q]), radius)
        picture = asker[hits.query]
        number = hits.number.astype(np.int64)
        ordinals = np.array([row.ordinal for row in rows], np.int64)[picture]
        numbers = np.array([row.number for row in rows], np.int64)[picture]
        workspaces = np.array(
            [self._workspaces.get(row.record.workspace, _NO_WORKSPACE) for row in rows], np.uint32
        )
        visible = (
            (number < numbers)
            & (self.columns.workspaces[number] == workspaces[picture])
            & (self.columns.removed_at[number] > ordinals)
        )
        picture, number, distance = picture[visible], number[visible], hits.distance[visible]
        # By picture asked for, then nearest, then oldest; of several codes only the nearest counts.
        nearest = np.lexsort((distance, number, picture))
        picture, number, distance = picture[nearest], number[nearest], distance[nearest]
        first = np.ones(len(number), bool)
        first[1:] = (picture[1:] != picture[:-1]) | (number[1:] != number[:-1])
        picture, number, distance = picture[first], number[first], distance[first]
        order = np.lexsort((number, distance, picture))
        picture, number, distance = picture[order], number[order], distance[order]
        starts = np.searchsorted(picture, np.arange(len(rows) + 1))
        found = self.columns.ordinals[number]
        ordinals_of = [
            found[low : min(high, low + bound)].tolist() for low, high in pairwise(starts)
        ]
        return ordinals_of, len(hits)

    # --- files --------------------------------------------------------------------------------

    def merge(self) -> "Merge | None":
        """Give a merge that has finished, or begin one when the deltas have grown enough.

        One that is given is to be written down and then adopted.
        """
        merge = self._merge
        if merge is None:
            waiting = sum(space.delta_codes for space in self.spaces.values())
            enough = self.codes // _MERGE_SHARE
            if waiting >= min(max(enough, _MERGE_LEAST_CODES), _MERGE_MOST_CODES):
                generation = self.generation + 1
                directory = self._files_of(generation)
                self._merge = Merge(directory, generation, self.columns, self.spaces)
            return None
        return None if merge.thread.is_alive() else merge

    def adopt(self, merge: "Merge") -> None:
        """Search the files of a merge, which are written down as those in use."""
        manifest = merge.manifest
        for name, base in merge.bases.items():
            self.spaces[name].adopt(base, merge.frozen_codes[name])
        self.generation = manifest.generation
        self.merges += 1
        self.files_bytes = manifest.size_bytes
        self._merge = None
        self._delete_other_files()

    def close(self) -> None:
        """Wait for a merge under way (seconds at most), which is not adopted."""
        if self._merge is not None:
            self._merge.thread.join()

    def _space(self, name: str) -> MultiIndexHash:
        space = self.spaces.get(name)
        if space is None:
            space = self.spaces[name] = MultiIndexHash(layout=_layout(name))
        return space

    def _files_of(self, generation: int) -> Path:
        return self._directory / str(generation)

    def _open(self, manifest: BandsManifest) -> None:
        self.generation = manifest.generation
        directory = self._files_of(manifest.generation)
        self.columns = Columns.read(directory / "columns", manifest.columns)
        self.spaces = {
            name: MultiIndexHash(files.open_files(directory / name, part), _layout(name))
            for name, part in manifest.spaces.items()
        }
        self.files_bytes = manifest.size_bytes

    def _delete_other_files(self) -> None:
        for found in self._directory.glob("*"):
            if found.name != str(self.generation):
                shutil.rmtree(found)


class Merge:
    """A merge in its own thread: all spaces, up to the pictures known when it began."""

    def __init__(
        self,
        directory: Path,
        generation: int,
        columns: Columns,
        spaces: Mapping[str, MultiIndexHash],
    ) -> None:
        """Freeze what is there, and begin."""
        self._generation = generation
        self._failure: Exception | None = None
        self._directory = directory
        self._columns = columns
        self._pictures = len(columns)
        self._frozen = {name: (space.base, *space.freeze()) for name, space in spaces.items()}
        self.frozen_codes = {name: len(codes) for name, (_, codes, _) in self._frozen.items()}
        self.bases: dict[str, SortedBands] = {}
        self._manifest: BandsManifest | None = None
        self.thread = threading.Thread(target=self._run, name="merge", daemon=True)
        self.thread.start()

    @property
    def manifest(self) -> BandsManifest:
        """What the finished files must be.

        Raises:
            CorruptStateError: the merge failed.
        """
        if self._manifest is None:
            message = f"merging the band files failed: {self._failure}"
            raise CorruptStateError(message) from self._failure
        return self._manifest

    def _run(self) -> None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            spaces: dict[str, files.Manifest] = {}
            for name, (base, codes, numbers) in self._frozen.items():
                place = self._directory / name
                spaces[name] = files.merge(base, codes, numbers, place, _layout(name))
                # Opened here: reading through 36 million codes takes a second or two.
                self.bases[name] = files.open_files(place, spaces[name])
            self._manifest = BandsManifest(
                format_version=files.FORMAT_VERSION,
                generation=self._generation,
                columns=self._columns.write(self._directory / "columns", self._pictures),
                spaces=spaces,
            )
        except Exception as error:  # noqa: BLE001 - handed to the index's own thread
            self._failure = error


def _manifest(encoded: bytes) -> BandsManifest:
    """Read the manifest; of another version nothing but the version need be as we know it."""
    try:
        version = msgspec.msgpack.decode(encoded, type=_Version).format_version
        if version == files.FORMAT_VERSION:
            return msgspec.msgpack.decode(encoded, type=BandsManifest)
    except msgspec.MsgspecError as error:
        raise files.DamagedFilesError(f"the manifest of the band files: {error}") from error
    raise files.DamagedFilesError(f"the band files are of format {version}")


def space_of(fingerprint: Fingerprint) -> str:
    """Name the code space of a fingerprint's views: versions are never compared."""
    return f"views-{fingerprint.version}"


def _layout(space: str) -> Layout:
    return EXACT if space == BYTES_SPACE else NEAR


def codes_by_space(fingerprint: Fingerprint) -> list[tuple[str, list[bytes]]]:
    """Give a picture's codes by space, 8 bytes each; equal codes of several views once."""
    spaces = [(BYTES_SPACE, [fingerprint.sha256[:8]])]
    if fingerprint.views:
        spaces.append((space_of(fingerprint), list({view.code: 0 for view in fingerprint.views})))
    return spaces


def _bytes_codes(row: Row) -> list[bytes]:
    return [row.record.fingerprint.sha256[:8]]


def as_codes(codes: Sequence[bytes]) -> NDArray[np.uint64]:
    """Give codes as numbers, most significant bit first."""
    return np.frombuffer(b"".join(codes), ">u8").astype(np.uint64)
