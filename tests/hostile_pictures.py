"""Pictures made to harm whoever decodes them, generated on the spot; nothing of them is kept.

Used by the test that runs them through the real decode processes, and as seeds of the fuzz runs.
Each has a name, and the reasons that it may be rejected with; `ok` where it may be a fingerprint.
"""

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from PIL import Image

OK: Final = "ok"
DAMAGED: Final = frozenset({"picture_truncated", "picture_undecodable"})
# A file that is whole by its own words, or not: what is not seen is not told.
ANY: Final = DAMAGED | {OK, "too_many_pixels", "not_an_image"}
TOO_MANY: Final = frozenset({"too_many_pixels"})
FORMATS: Final = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF")
HUGE: Final = 30_000


@dataclass(frozen=True, slots=True)
class Hostile:
    """One hostile file."""

    name: str
    content: bytes = field(repr=False)
    expected: frozenset[str]


def photograph(width: int = 160, height: int = 120, mode: str = "RGB") -> Image.Image:
    """Give a picture with something in it."""
    coarse = np.random.default_rng(7).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return picture.convert(mode)


def written(picture: Image.Image, form: str, **options: object) -> bytes:
    """Give a file's bytes."""
    with io.BytesIO() as file:
        picture.save(file, form, **options)
        return file.getvalue()


def plain() -> dict[str, bytes]:
    """Give one good file of each format."""
    return {form: written(photograph(), form) for form in FORMATS}


def hostile() -> Iterator[Hostile]:
    """Give all of them."""
    for make in (
        truncations,
        lying_sizes,
        bombs,
        metadata,
        animations,
        thin,
        pngs,
        jpegs,
        tiffs,
        webps_and_avifs,
        bmps_and_gifs,
        others,
        noise,
    ):
        yield from make()


# --- of every format --------------------------------------------------------------------------


def truncations() -> Iterator[Hostile]:
    """Cut at every tenth, and after a few bytes: half a picture is none."""
    variants = {
        **plain(),
        "JPEG-progressive": written(photograph(), "JPEG", progressive=True),
        "TIFF-lzw": written(photograph(), "TIFF", compression="tiff_lzw"),
        "WEBP-lossless": written(photograph(), "WEBP", lossless=True),
        "WEBP-alpha": written(photograph(mode="RGBA"), "WEBP"),
    }
    for form, content in variants.items():
        for tenth in range(1, 10):
            cut = content[: len(content) * tenth // 10]
            yield Hostile(f"{form} cut at {tenth}0 %", cut, DAMAGED)
        for kept in (1, 4, 12, 20):
            expected = DAMAGED | {"not_an_image"}
            yield Hostile(f"{form} of {kept} bytes", content[:kept], expected)
        whole_but_one = DAMAGED | {OK}  # a JPEG without its last byte shows all of the picture
        yield Hostile(f"{form} without its last byte", content[:-1], whole_but_one)


def _resized(form: str, content: bytes, width: int, height: int) -> bytes:
    """Write other sizes into a file's header."""
    patched = bytearray(content)
    old = photograph().size
    layouts: dict[str, tuple[str, tuple[int, ...]]] = {
        "JPEG": (">HH", (old[1], old[0])),
        "PNG": (">II", old),
        "GIF": ("<HH", old),
        "WEBP": ("<HH", old),
        "AVIF": (">II", old),
        "BMP": ("<ii", old),
    }
    if form == "TIFF":
        for tag, was, value in ((256, old[0], width), (257, old[1], height)):
            at = patched.index(struct.pack("<HHII", tag, 4, 1, was))
            patched[at : at + 12] = struct.pack("<HHII", tag, 4, 1, value)
        return bytes(patched)
    layout, stands = layouts[form]
    new = (height, width) if form == "JPEG" else (width, height)
    needle = struct.pack(layout, *stands)
    at = patched.find(needle)
    assert at > 0, form
    while at >= 0:
        limit = 0xFFFF if layout.endswith("HH") else 0x7FFFFFFF
        patched[at : at + len(needle)] = struct.pack(layout, *(min(side, limit) for side in new))
        at = patched.find(needle, at + len(needle))
    if form == "PNG":
        patched[29:33] = struct.pack(">I", zlib.crc32(patched[12:29]))
    return bytes(patched)


def lying_sizes() -> Iterator[Hostile]:
    """Sizes that the pixels do not have: huge, nothing, a row more, a row less."""
    width, height = photograph().size
    for form, content in plain().items():
        # WebP writes sizes of 14 bits; the top two are a scale that decoders ignore.
        huge = ANY if form == "WEBP" else TOO_MANY | DAMAGED
        yield Hostile(f"{form} of {HUGE} x {HUGE}", _resized(form, content, HUGE, HUGE), huge)
        largest = _resized(form, content, 0x7FFFFFFF, 0x7FFFFFFF)
        yield Hostile(f"{form} of the largest size", largest, huge)
        for size in ((0, 0), (0, height), (width, 0)):
            nothing = _resized(form, content, *size)
            yield Hostile(f"{form} of {size[0]} x {size[1]}", nothing, DAMAGED)
        yield Hostile(f"{form}, taller than it is", _resized(form, content, width, height * 4), ANY)
        yield Hostile(f"{form}, smaller than it is", _resized(form, content, width // 2, 3), ANY)


def thin() -> Iterator[Hostile]:
    """One pixel by sixty thousand, which careless arithmetic divides by zero."""
    for form in FORMATS:
        long = 16_000 if form == "WEBP" else 60_000
        # Decoders of AVIF refuse sides over 32,768.
        expected = DAMAGED if form == "AVIF" else frozenset({OK})
        for size in ((1, long), (long, 1)):
            content = written(Image.new("RGB", size, (9, 200, 90)), form)
            yield Hostile(f"{form} of {size[0]} x {size[1]}", content, expected)


def bombs() -> Iterator[Hostile]:
    """Small files of many real pixels: within the limit of pixels, and beyond that of memory."""
    side = 10_000
    rows = bytes(1 + side) * 100
    yield Hostile(
        "PNG of 100 MP, grey", _png(side, side, 8, 0, _squeezed(rows, 100)), frozenset({OK})
    )
    wide_rows = bytes(1 + side * 4) * 10
    yield Hostile(
        "PNG of 100 MP, RGBA", _png(side, side, 8, 6, _squeezed(wide_rows, 1_000)), TOO_MANY
    )
    beyond = _png(50_000, 50_000, 1, 0, _squeezed(bytes(6_251), 50_000))
    yield Hostile("PNG of 2,500 MP", beyond, TOO_MANY)
    big = Image.new("L", (8_000, 8_000))
    for form, options in (
        ("GIF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
    ):
        content = written(big, form, **options)
        named = "-".join([form, *map(str, options.values())])
        yield Hostile(f"{named} of 64 MP", content, frozenset({OK, "decode_timeout"}))
    # Run-length encoded: two bytes for a row of 255, and the end.
    line = b"\xff\x00" * (side // 255) + b"\x00\x00"
    yield Hostile("BMP of 100 MP, run-length encoded", _bmp(side, side, line * 1_000), ANY)
    yield Hostile("TIFF of one huge tile", _tiff_tile(HUGE), TOO_MANY | DAMAGED)
    canvas = bytearray(written(Image.new("P", (10, 10)), "GIF"))
    at = canvas.index(b",\0\0\0\0")
    canvas[at + 5 : at + 9] = struct.pack("<HH", 0xFFFF, 0xFFFF)
    yield Hostile("GIF with a frame beyond its canvas", bytes(canvas), TOO_MANY)


def metadata() -> Iterator[Hostile]:
    """Profiles, EXIF and text that are larger than the picture, or unpack to more."""
    mega = bytes(1_000_000)
    jpeg = plain()["JPEG"]
    segment = b"\xff\xe2\xff\xffICC_PROFILE\0" + b"\1\xff" + bytes(0xFFFF - 16)
    yield Hostile("JPEG with 500 segments of ICC", jpeg[:2] + segment * 500 + jpeg[2:], ANY)
    comment = b"\xff\xfe\x00\x04hi"
    yield Hostile("JPEG with 200,000 comments", jpeg[:2] + comment * 200_000 + jpeg[2:], ANY)
    exif = (
        b"Exif\0\0II*\0" + struct.pack("<IH", 8, 0xFFFF) + b"\x12\x01\x03\0\1\0\0\0\6\0\0\0" * 5_000
    )
    app1 = b"\xff\xe1" + struct.pack(">H", len(exif[:65_000]) + 2) + exif[:65_000]
    yield Hostile("JPEG with an endless EXIF", jpeg[:2] + app1 + jpeg[2:], ANY)
    around = struct.pack("<HHHII", 1, 0x8769, 4, 1, 8) + struct.pack("<I", 8)
    loop = b"Exif\0\0II*\0" + struct.pack("<I", 8) + around
    app1 = b"\xff\xe1" + struct.pack(">H", len(loop) + 2) + loop
    yield Hostile("JPEG whose EXIF contains itself", jpeg[:2] + app1 + jpeg[2:], ANY)
    for name, body in (
        ("iCCP", b"x\0\0" + zlib.compress(mega * 200)),
        ("zTXt", b"x\0\0" + zlib.compress(mega * 200)),
        ("iTXt", b"x\0\1\0\0\0" + zlib.compress(mega * 200)),
        ("tEXt", b"x\0" + mega * 20),
        ("eXIf", b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x8769, 4, 1, 8)),
    ):
        yield Hostile(f"PNG with a vast {name}", _with_chunk(name.encode(), body), ANY)
    many = _chunk(b"tEXt", b"k\0v") * 200_000
    yield Hostile("PNG with 200,000 texts", _with_raw(many), ANY)
    small = _chunk(b"zTXt", b"k\0\0" + zlib.compress(mega)) * 500
    yield Hostile("PNG with 500 texts of 1 MB each", _with_raw(small), ANY)
    webp = written(photograph(), "WEBP", exif=b"Exif\0\0" + mega * 20, icc_profile=mega)
    yield Hostile("WEBP with 20 MB of EXIF", webp, ANY)
    avif = written(photograph(), "AVIF", exif=b"Exif\0\0II*\0" + mega * 5, xmp=mega)
    yield Hostile("AVIF with 5 MB of EXIF", avif, ANY)


def animations() -> Iterator[Hostile]:
    """Frames without end: only the first is ever looked at."""
    frames = [Image.new("L", (8, 8), value % 256) for value in range(1_000)]
    for form in ("GIF", "PNG", "WEBP", "TIFF"):
        content = written(frames[0], form, save_all=True, append_images=frames[1:])
        yield Hostile(f"{form} of 1,000 frames", content, ANY)
    gif = written(frames[0], "GIF", save_all=True, append_images=frames[1:3])
    yield Hostile("GIF of 300,000 frames", gif[:-1] + gif[-40:-1] * 300_000 + b";", ANY)
    blocks = gif[:13] + (b"!\xfe\xff" + b"x" * 255 + b"\0") * 60_000
    yield Hostile("GIF of comments only", blocks, DAMAGED)
    extension = gif[:-1] + b"!\xff\x0bNETSCAPE2.0" + b"\x03\1\0\0" * 2_000_000
    yield Hostile("GIF with an extension that never ends", extension, ANY)
    apng = bytearray(written(frames[0], "PNG", save_all=True, append_images=frames[1:3]))
    at = apng.index(b"acTL")
    apng[at + 4 : at + 12] = struct.pack(">II", 0x7FFFFFFF, 0)
    apng[at + 12 : at + 16] = struct.pack(">I", zlib.crc32(apng[at : at + 12]))
    yield Hostile("APNG that announces two thousand million frames", bytes(apng), ANY)


# --- of one format ----------------------------------------------------------------------------


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _squeezed(piece: bytes, times: int) -> bytes:
    packer = zlib.compressobj(9)
    packed = [packer.compress(piece) for _ in range(times)]
    return b"".join(packed) + packer.flush()


def _png(width: int, height: int, depth: int, kind: int, pixels: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", pixels)
        + _chunk(b"IEND", b"")
    )


def _with_raw(chunks: bytes) -> bytes:
    """A good PNG with chunks before its pixels."""
    png = plain()["PNG"]
    return png[:33] + chunks + png[33:]


def _with_chunk(kind: bytes, body: bytes) -> bytes:
    return _with_raw(_chunk(kind, body))


def pngs() -> Iterator[Hostile]:
    """Chunks damaged, missing, twice, in another order, in pieces."""
    png = plain()["PNG"]
    for name in (b"IHDR", b"IDAT", b"IEND"):
        wrong = bytearray(png)
        at = wrong.index(name)
        length = int.from_bytes(wrong[at - 4 : at])
        wrong[at + 4 + length] ^= 0xFF
        expected = DAMAGED if name == b"IHDR" else DAMAGED | {OK}
        yield Hostile(f"PNG with a wrong checksum of {name.decode()}", bytes(wrong), expected)
        without = png[: at - 4] + png[at + 8 + length :]
        yield Hostile(f"PNG without {name.decode()}", without, DAMAGED | {OK})
        chunk = png[at - 4 : at + 8 + length]
        yield Hostile(f"PNG with {name.decode()} twice", png.replace(chunk, chunk * 2), ANY)
    pieces = _chunk(b"IDAT", b"") * 200_000
    yield Hostile("PNG with 200,000 empty pieces", _with_raw(pieces), ANY)
    yield Hostile("PNG with a chunk of 4 GB", _with_raw(b"\xff\xff\xff\xfftEXt"), DAMAGED)
    yield Hostile("PNG of an unknown depth", _png(9, 9, 77, 3, zlib.compress(bytes(90))), DAMAGED)
    yield Hostile("PNG without a palette", _png(9, 9, 8, 3, zlib.compress(bytes(90))), ANY)
    yield Hostile("PNG with no pixels in it", _png(99, 99, 8, 2, zlib.compress(b"")), DAMAGED)
    more = _png(9, 9, 8, 0, zlib.compress(bytes(50_000_000)))
    yield Hostile("PNG with more pixels than it says", more, ANY)
    interlaced = bytearray(_png(2_000, 2_000, 8, 0, zlib.compress(b"\xff" * 500_000)))
    interlaced[28] = 1
    interlaced[29:33] = struct.pack(">I", zlib.crc32(interlaced[12:29]))
    yield Hostile("PNG, interlaced, of unknown filters", bytes(interlaced), DAMAGED)


def _scans(jpeg: bytes) -> tuple[bytes, bytes, bytes]:
    """Cut a JPEG into what is before its last scan, that scan, and the end."""
    at = jpeg.rindex(b"\xff\xda")
    return jpeg[:at], jpeg[at:-2], jpeg[-2:]


def jpegs() -> Iterator[Hostile]:
    """Scans without end, tables that are none, markers where none belong."""
    slow = frozenset({"decode_timeout"}) | ANY
    before, scan, end = _scans(written(photograph(), "JPEG", progressive=True))
    yield Hostile("JPEG of 20,000 scans", before + scan * 20_000 + end, slow)
    large = written(photograph(4_000, 4_000), "JPEG", progressive=True, quality=5)
    before, scan, end = _scans(large)
    empty = scan[: 2 + int.from_bytes(scan[2:4])]  # the header alone: one bit stream of nothing
    yield Hostile("JPEG of 16 MP and 5,000 scans", before + scan + empty * 5_000 + end, slow)
    jpeg = plain()["JPEG"]
    yield Hostile("JPEG of 20,000 restarts", jpeg[:-2] + b"\xff\xd0" * 20_000 + jpeg[-2:], ANY)
    yield Hostile("JPEG of fill bytes", jpeg[:2] + b"\xff" * 5_000_000 + jpeg[2:], slow)
    # The standard's own tables count then, as in the frames of a film.
    yield Hostile("JPEG without tables", jpeg.replace(b"\xff\xc4", b"\xff\xfe"), ANY)
    yield Hostile("JPEG without quantisation", jpeg.replace(b"\xff\xdb", b"\xff\xfe"), DAMAGED)
    for kind in (0xC3, 0xC5, 0xC9, 0xCA, 0xCF):
        other = jpeg.replace(b"\xff\xc0", bytes([0xFF, kind]))
        yield Hostile(f"JPEG of process {kind:#x}", other, ANY)
    mpo = written(photograph(), "MPO", save_all=True, append_images=[photograph()] * 3)
    at = mpo.index(b"MPF\0") + 4
    yield Hostile("MPO that points everywhere", mpo[: at + 8] + b"\xff" * 80 + mpo[at + 88 :], ANY)
    yield Hostile("JPEG in a JPEG", jpeg[:2] + jpeg + jpeg[2:], ANY)


def _tiff(entries: list[tuple[int, int, int, int]], following: int = 0, tail: bytes = b"") -> bytes:
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", following) + tail


def _grey(
    width: int, height: int, **changes: tuple[int, int, int]
) -> list[tuple[int, int, int, int]]:
    """Entries of a plain grey picture; `changes` by t<tag>: type, count, value."""
    entries = {
        256: (4, 1, width),
        257: (4, 1, height),
        258: (3, 1, 8),
        259: (3, 1, 1),
        262: (3, 1, 1),
        273: (4, 1, 8),
        277: (3, 1, 1),
        278: (4, 1, height),
        279: (4, 1, width * height),
    } | {int(name[1:]): change for name, change in changes.items()}
    return [(tag, *entry) for tag, entry in sorted(entries.items())]


def _tiff_tile(side: int) -> bytes:
    return _tiff(
        _grey(64, 64, t322=(4, 1, side), t323=(4, 1, side), t324=(4, 1, 8), t325=(4, 1, 9)),
        tail=bytes(5_000),
    )


def tiffs() -> Iterator[Hostile]:
    """Directories that lead round in circles, out of the file, or nowhere."""
    pixels = bytes(range(256)) * 64
    yield Hostile("TIFF whose directory follows itself", _tiff(_grey(64, 64), 8, pixels), ANY)
    loop = _grey(64, 64, t34665=(4, 1, 8), t330=(4, 1, 8), t34853=(4, 1, 8))
    yield Hostile("TIFF whose directory contains itself", _tiff(loop, 8, pixels), ANY)
    for name, changes in {
        "with 4,000 million strips": {"t273": (4, 0xFFFFFFFF, 8)},
        "with a text of 4 GB": {"t270": (2, 0xFFFFFFFF, 8)},
        "with its strip out of the file": {"t273": (4, 1, 0x7FFFFFFF)},
        "with 65,535 samples": {"t277": (3, 1, 0xFFFF)},
        "with 65,535 bits": {"t258": (3, 1, 0xFFFF)},
        "of an unknown compression": {"t259": (3, 1, 0xFFFE)},
        "with a profile of 4 GB": {"t34675": (7, 0xFFFFFFFF, 8)},
        "of no rows per strip": {"t278": (4, 1, 0)},
        "with an orientation of 60,000": {"t274": (3, 1, 60_000)},
        "compressed, of nothing": {"t259": (3, 1, 5)},
        "of fax, of nothing": {"t259": (3, 1, 4), "t258": (3, 1, 1)},
        "of JPEG, of nothing": {"t259": (3, 1, 7)},
        "of ZSTD, of nothing": {"t259": (3, 1, 50_000)},
        "of LZMA, of nothing": {"t259": (3, 1, 34_925)},
        "with a predictor of 60,000": {"t259": (3, 1, 5), "t317": (3, 1, 60_000)},
        "with types unknown": {"t256": (99, 1, 64)},
        "with its width a fraction": {"t256": (5, 1, 8)},
    }.items():
        content = _tiff(_grey(64, 64, **changes), 0, pixels)
        yield Hostile(f"TIFF {name}", content, ANY)
    entries = [(tag, 3, 1, tag & 0xFF) for tag in range(0xFFFF)]
    yield Hostile("TIFF with 65,535 entries", _tiff(entries, 0, pixels), ANY)
    # Every strip is the same few bytes: much from little.
    rows, strips = 4_000, 4_000
    shared = struct.pack("<I", 8) * strips
    counts = struct.pack("<I", 100) * strips
    listed = _grey(
        4_000, rows, t278=(4, 1, 1), t273=(4, strips, 200), t279=(4, strips, 200 + len(shared))
    )
    content = _tiff(listed)
    content += bytes(200 - len(content)) + shared + counts
    yield Hostile("TIFF of 4,000 strips in one place", content, ANY)
    big = b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 0xFFFFFFFFFFFFFFFF)
    yield Hostile("BigTIFF of endless entries", big, DAMAGED)


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + kind + body


def webps_and_avifs() -> Iterator[Hostile]:
    """Containers whose parts are longer than the whole, missing, or each other's."""
    webp = plain()["WEBP"]
    for length in (0, 4, 0x7FFFFFFF, 0xFFFFFFFF):
        patched = webp[:4] + struct.pack("<I", length) + webp[8:]
        yield Hostile(f"WEBP of {length} bytes by its own words", patched, ANY)
        patched = webp[:16] + struct.pack("<I", length) + webp[20:]
        yield Hostile(f"WEBP with a part of {length} bytes", patched, ANY)
    extended = b"VP8X\x0a\0\0\0\x10\0\0\0" + b"\xff" * 6
    riff = b"WEBP" + extended + webp[12:]
    content = b"RIFF" + struct.pack("<I", len(riff)) + riff
    yield Hostile("WEBP with a canvas of 16 million squared", content, DAMAGED | TOO_MANY)
    lossless = written(photograph(), "WEBP", lossless=True)
    at = lossless.index(b"VP8L") + 9
    # 14 bits each, less one; then what the pixels do not fill.
    largest = lossless[:at] + struct.pack("<I", 0x0FFFFFFF) + lossless[at + 4 :]
    yield Hostile("WEBP, lossless, of 16,384 x 16,384", largest, TOO_MANY | DAMAGED)
    avif = plain()["AVIF"]
    for name in (b"meta", b"iloc", b"ipco", b"ipma", b"mdat", b"ispe", b"av1C", b"pitm", b"iinf"):
        gone = avif.replace(name, b"skip")
        yield Hostile(f"AVIF without {name.decode()}", gone, ANY)
        at = avif.index(name)
        for length in (0, 1, 7, 0x7FFFFFFF):
            patched = avif[: at - 4] + struct.pack(">I", length) + avif[at:]
            yield Hostile(f"AVIF with {name.decode()} of {length} bytes", patched, ANY)
    start = avif[: avif.index(b"meta") - 4]
    yield Hostile("AVIF of its first box", start, DAMAGED)
    deep = b""
    for _ in range(5_000):
        deep = _box(b"iprp", deep)
    yield Hostile("AVIF of 5,000 boxes in each other", start + _box(b"meta", bytes(4) + deep), ANY)
    many = _box(b"free", b"") * 500_000
    yield Hostile("AVIF of 500,000 empty boxes", start + many + avif[len(start) :], ANY)
    self_made = start + _box(
        b"meta",
        bytes(4)
        + _box(b"hdlr", bytes(8) + b"pict" + bytes(13))
        + _box(b"pitm", bytes(4) + b"\0\1")
        + _box(
            b"iinf",
            bytes(4) + b"\0\1" + _box(b"infe", b"\2\0\0\0\0\1\0\0grid\0"),
        )
        + _box(b"iref", bytes(4) + _box(b"dimg", b"\0\1\0\2\0\1\0\1"))
        + _box(b"iloc", bytes(4) + b"\x44\0\0\1\0\1\0\0\0\1" + struct.pack(">II", 0, 8)),
    )
    yield Hostile("AVIF that is made of itself", self_made, DAMAGED)


def _bmp(width: int, height: int, pixels: bytes, compression: int = 1, colours: int = 256) -> bytes:
    palette = bytes(4 * 256)
    offset = 14 + 40 + len(palette)
    info = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, 8, compression, len(pixels), 0, 0, colours, 0
    )
    return (
        b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset) + info + palette + pixels
    )


def bmps_and_gifs() -> Iterator[Hostile]:
    """Run lengths out of the picture, palettes out of the file, codes that mean themselves."""
    for name, pixels in {
        "runs beyond the rows": b"\xff\x01" * 10_000,
        "jumps beyond the picture": b"\0\2\xff\xff" * 50_000,
        "literals that are not there": b"\0\xff" * 10_000,
        "no end": b"\0\0" * 10_000,
        "nothing": b"",
    }.items():
        yield Hostile(f"BMP with {name}", _bmp(100, 100, pixels), ANY)
    yield Hostile("BMP of a negative size", _bmp(-100, -100, bytes(10_000), 0), ANY)
    yield Hostile(
        "BMP of the most negative size", _bmp(100, -0x80000000, bytes(99), 0), DAMAGED | TOO_MANY
    )
    yield Hostile("BMP of endless colours", _bmp(9, 9, bytes(999), 0, 0x7FFFFFFF), ANY)
    yield Hostile("BMP of an unknown compression", _bmp(9, 9, bytes(999), 77), DAMAGED)
    head = bytearray(_bmp(100, 100, bytes(10_000), 0))
    for size in (0, 12, 39, 64, 124, 0xFFFF, 0x7FFFFFFF):
        head[14:18] = struct.pack("<I", size)
        yield Hostile(f"BMP with a header of {size} bytes", bytes(head), ANY)
    for offset in (0, 0x7FFFFFFF, 0xFFFFFFFF):
        moved = bytearray(_bmp(100, 100, bytes(10_000), 0))
        moved[10:14] = struct.pack("<I", offset)
        yield Hostile(f"BMP with pixels at {offset}", bytes(moved), ANY)
    screen = b"GIF89a" + struct.pack("<HHBBB", 100, 100, 0x80, 0, 0) + bytes(6)
    image = b"," + struct.pack("<HHHHB", 0, 0, 100, 100, 0)
    for name, packed in {
        "codes of 12 bits": b"\x0c\xff" + b"\xff" * 255 + b"\0;",
        "codes of no bits": b"\x00\xff" + b"\xff" * 255 + b"\0;",
        "codes of 255 bits": b"\xff\xff" + b"\xff" * 255 + b"\0;",
        "codes that clear": b"\x02\xff" + b"\x24" * 255 + b"\0;",
        "no codes": b"\x02\0;",
        "blocks of one byte": b"\x02" + b"\x01\x44" * 1_000_000 + b"\0;",
    }.items():
        yield Hostile(f"GIF with {name}", screen + image + packed, ANY)


# --- what is no picture -----------------------------------------------------------------------


def others() -> Iterator[Hostile]:
    """Documents, archives, films, and files that are two things at once."""
    jpeg, png, gif = (plain()[form] for form in ("JPEG", "PNG", "GIF"))
    none = frozenset({"not_an_image"})
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    for name, content in {
        "SVG": svg,
        "SVG with an XML head": b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a "aa">]>' + svg,
        "PDF": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n%%EOF",
        "PDF with a JPEG in it": b"%PDF-1.7\nstream\n" + jpeg + b"\nendstream",
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n(file) run",
        "HTML": b"<html><img src=x></html>",
        "ZIP": b"PK\3\4" + bytes(100),
        "MP4": b"\0\0\0\x18ftypisom" + bytes(100),
        "HEIC": b"\0\0\0\x18ftypheic" + bytes(100),
        "ICO": written(photograph(), "ICO"),
        "PSD": b"8BPS\0\1" + bytes(100),
        "WAV": b"RIFF\x24\0\0\0WAVEfmt " + bytes(100),
        "a program": b"\x7fELF\2\1\1" + bytes(100),
        "a PNG after a blank": b" " + png,
        "a JPEG after a mark": b"\xef\xbb\xbf" + jpeg,
    }.items():
        yield Hostile(name, content, none)
    fine = frozenset({OK})
    yield Hostile("GIF and script", gif + b"=1;alert(1)", fine)
    yield Hostile("JPEG and ZIP", jpeg + b"PK\3\4" + bytes(10_000), fine)
    yield Hostile("PNG and 20 MB of anything", png + bytes(20_000_000), fine)
    yield Hostile("PNG and JPEG", png + jpeg, fine)
    yield Hostile("JPEG's mark and PNG", jpeg[:3] + png, DAMAGED)
    yield Hostile("PNG's mark and JPEG", png[:8] + jpeg, DAMAGED)
    yield Hostile("GIF's mark and TIFF", gif[:6] + plain()["TIFF"], DAMAGED | TOO_MANY)
    yield Hostile("nothing", b"", frozenset({"picture_empty"}))
    yield Hostile("one byte", b"\0", none)
    yield Hostile("20 MB of zeros", bytes(20_000_000), none)


def noise() -> Iterator[Hostile]:
    """Each format's first bytes and then anything; each file with some of its bytes changed."""
    chance = random.Random(1)
    for form, content in plain().items():
        for number in range(3):
            body = content[:16] + chance.randbytes(20_000)
            yield Hostile(f"{form} of noise {number}", body, ANY)
        for number in range(8):
            changed = bytearray(content)
            for _ in range(20):
                changed[chance.randrange(len(changed))] = chance.randrange(256)
            yield Hostile(f"{form} with changes {number}", bytes(changed), ANY)


SEEDS: Final[tuple[Callable[[], Iterator[Hostile]], ...]] = (
    pngs,
    tiffs,
    webps_and_avifs,
    bmps_and_gifs,
)
"""Those that are small, for the fuzz runs."""
