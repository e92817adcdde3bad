"""The base's files: sorted bands on disk, memory-mapped, checked when opened.

Called by the index's store: `merge` and `open_files` in a background thread, while searches go on
over the old files. A merge writes into a directory of its own and everything is on disk before its
manifest is returned; the store then switches by writing that manifest under one key. A directory
that no manifest names is garbage. What is lost or damaged is named, and rebuilt from the rows.
"""

import os
import zlib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.errors import CorruptStateError
from streams.index.mih import (
    NEAR,
    Bands,
    Layout,
    Offsets,
    SortedBands,
    band_values,
    merged_band,
    offsets,
    rotate,
    value_counts,
)
from streams.index.space import Codes, Numbers

FORMAT_VERSION = 1
"""Of the files' content; another one is not read."""

_PARTS = ("codes", "offsets", "numbers")
_CODE = np.dtype("<u8")
_NUMBER = np.dtype("<u4")

_BLOCK_CODES = 1 << 20
"""Codes merged or copied at once: at most 7 ms each step, 50 MB in all."""
_SORTED_CODES = 1 << 22
"""Codes sorted at once in a rebuild, which reads all codes once for each sort. For 36 million that
is 9 times for each of three bands, and 19 s in all, a third of them sorting; it takes 0.3 GB."""

Blocks = Iterator[tuple[Codes, Numbers]]


class DamagedFilesError(CorruptStateError):
    """A file of the base is missing or is not what was written; the message names it."""


class File(msgspec.Struct, frozen=True):
    """One file as it was written."""

    name: str
    size_bytes: int
    crc32: int


class Manifest(msgspec.Struct, frozen=True):
    """What a base consists of; bands in order, of each the codes, offsets and numbers."""

    widths: tuple[int, ...]
    codes: int
    files: tuple[File, ...]


def merge(
    base: SortedBands | None,
    codes: Codes,
    numbers: Numbers,
    directory: Path,
    layout: Layout = NEAR,
) -> Manifest:
    """Write the base's codes and new ones into a directory without a base, block by block.

    Without a base, or where the layout wants other bands for so many codes, all is sorted anew.
    Files and directory are on disk before the manifest is returned; a file that is already there
    is a FileExistsError.
    """
    total = len(codes) + (len(base) if base else 0)
    bands = layout.bands(total)
    if base and base.bands == bands:
        newer = SortedBands.build(bands, codes, numbers)
        merged = (_merged(base, newer, band) for band in range(len(bands.widths)))
        return _write(directory, bands, total, merged)
    sources = [(codes, numbers)] + ([(base.codes[0], base.numbers[0])] if base else [])
    rebuilt = (
        _rebuilt(sources, start, width)
        for start, width in zip(bands.starts, bands.widths, strict=True)
    )
    return _write(directory, bands, total, rebuilt)


def open_files(directory: Path, manifest: Manifest) -> SortedBands:
    """Map the files of a base, reading all of them: that checks them and warms the page cache.

    Reads 1.3 GB for 36 million codes. Raises DamagedFilesError.
    """
    bands = Bands(manifest.widths)
    expected = [
        (dtype, count)
        for width in bands.widths
        for dtype, count in (
            (_CODE, manifest.codes),
            (_NUMBER, (1 << width) + 1),
            (_NUMBER, manifest.codes),
        )
    ]
    if len(manifest.files) != len(expected):
        raise DamagedFilesError(f"{directory}: the manifest names {len(manifest.files)} files")
    arrays = [
        _map(directory, file, dtype, count)
        for file, (dtype, count) in zip(manifest.files, expected, strict=True)
    ]
    return SortedBands(
        bands=bands,
        codes=tuple(arrays[::3]),
        offsets=tuple(arrays[1::3]),
        numbers=tuple(arrays[2::3]),
    )


def _map(directory: Path, file: File, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    path = directory / file.name
    try:
        size_bytes = path.stat().st_size
        if not size_bytes == file.size_bytes == count * dtype.itemsize:
            raise DamagedFilesError(f"{path}: {size_bytes} bytes, not {file.size_bytes}")
        # The plain array: np.memmap pays for its subclass in every operation. An empty file
        # cannot be mapped.
        array = np.memmap(path, dtype, mode="r").view(np.ndarray) if count else np.empty(0, dtype)
    except OSError as error:
        raise DamagedFilesError(f"{path}: {error.strerror}") from error
    crc32 = 0
    for first in range(0, count, _BLOCK_CODES):
        crc32 = zlib.crc32(array[first : first + _BLOCK_CODES].data, crc32)
    if crc32 != file.crc32:
        raise DamagedFilesError(f"{path}: crc32 {crc32:08x}, not {file.crc32:08x}")
    return array


def _blocks(codes: Codes, numbers: Numbers) -> Blocks:
    for first in range(0, len(codes), _BLOCK_CODES):
        block = slice(first, first + _BLOCK_CODES)
        yield codes[block], numbers[block]


def _cuts(begins: Offsets, codes: int) -> Iterator[tuple[int, int]]:
    """Cut a band's values into ranges with about so many codes; one value is never cut."""
    cuts = np.searchsorted(begins[:-1], np.arange(0, begins[-1], codes))
    return pairwise([*cuts.tolist(), len(begins) - 1])


def _merged(older: SortedBands, newer: SortedBands, band: int) -> tuple[Offsets, Blocks]:
    begins = older.offsets[band] + newer.offsets[band]

    def blocks() -> Blocks:
        for first, last in _cuts(begins, _BLOCK_CODES):
            yield merged_band(
                *_between(older, band, first, last), *_between(newer, band, first, last)
            )

    return begins, blocks()


def _between(bands: SortedBands, band: int, first: int, last: int) -> tuple[Codes, Numbers]:
    """Give the codes and numbers whose band values are from `first` up to `last`."""
    codes = slice(bands.offsets[band][first], bands.offsets[band][last])
    return bands.codes[band][codes], bands.numbers[band][codes]


def _rebuilt(
    sources: list[tuple[Codes, Numbers]], start: int, width: int
) -> tuple[Offsets, Blocks]:
    counts = np.zeros(1 << width, dtype=np.int64)
    for source in sources:
        for codes, _ in _blocks(*source):
            counts += value_counts(rotate(codes, start), width)
    begins = offsets(counts)

    def blocks() -> Blocks:
        for first, last in _cuts(begins, _SORTED_CODES):
            found = []
            for source in sources:
                for codes, numbers in _blocks(*source):
                    rotated = rotate(codes, start)
                    values = band_values(rotated, width)
                    inside = np.flatnonzero((values >= first) & (values < last))
                    found.append((rotated[inside], numbers[inside]))
            codes, numbers = (np.concatenate(parts) for parts in zip(*found, strict=True))
            order = np.argsort(codes)
            yield codes[order], numbers[order]

    return begins, blocks()


class _Output:
    """A new file, written block by block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("xb")
        self._crc32 = 0

    def append(self, content: bytes | memoryview) -> None:
        self._crc32 = zlib.crc32(content, self._crc32)
        self._file.write(content)

    def finish(self) -> File:
        with self._file as file:
            file.flush()
            os.fsync(file.fileno())
            return File(name=self._path.name, size_bytes=file.tell(), crc32=self._crc32)


def write_durably(path: Path, content: bytes) -> File:
    """Write a new file; it is on disk, under its name, before this returns."""
    output = _Output(path)
    output.append(content)
    file = output.finish()
    _sync(path.parent)
    return file


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _write(
    directory: Path, bands: Bands, count: int, contents: Iterable[tuple[Offsets, Blocks]]
) -> Manifest:
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for band, (begins, blocks) in enumerate(contents):
        outputs = [_Output(directory / f"{part}-{band}") for part in _PARTS]
        code_file, offset_file, number_file = outputs
        offset_file.append(begins.astype(_NUMBER, copy=False).data)
        for codes, numbers in blocks:
            code_file.append(codes.astype(_CODE, copy=False).data)
            number_file.append(numbers.astype(_NUMBER, copy=False).data)
        files += [output.finish() for output in outputs]
    _sync(directory)
    _sync(directory.parent)
    return Manifest(widths=bands.widths, codes=count, files=tuple(files))
