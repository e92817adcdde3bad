"""Pictures and their odd files for the integration tests; any number of different photographs."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

SIZE = (320, 240)


def photograph(seed: int) -> Image.Image:
    """A picture of its own: no two seeds come near each other."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC)


def written(picture: Image.Image, form: str = "JPEG", **options: object) -> bytes:
    """A file's bytes."""
    with io.BytesIO() as file:
        picture.save(file, form, **options)
        return file.getvalue()


def photograph_file(seed: int) -> bytes:
    """A photograph as it is sent."""
    return written(photograph(seed), quality=90)


def copy_file(seed: int) -> bytes:
    """The same photograph, at half the size, compressed again."""
    return written(photograph(seed).resize((160, 120)), quality=60)


def bomb(side: int = 30_000) -> bytes:
    """A PNG of `side` x `side` white pixels: some 100 KB that want a gigabyte."""
    row = b"\x00" + b"\xff" * (side // 8)
    packer = zlib.compressobj(9)
    pixels = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def odd_files(picture: Image.Image) -> dict[str, bytes]:
    """Give one picture in forms that careless code stumbles over, all displayed as the picture."""
    grey = np.asarray(picture.convert("L"), dtype=np.uint16) * 257
    palette = picture.quantize(255)
    other = picture.transpose(Image.Transpose.ROTATE_180)
    turned = Image.Exif()
    turned[0x0112] = 6  # shown after a quarter turn to the right
    frames: dict[str, object] = {"save_all": True, "append_images": [other], "duration": 100}
    return {
        "cmyk": written(picture.convert("CMYK")),
        "16-bit": written(Image.fromarray(grey), "PNG"),
        "palette-with-transparency": written(palette, "PNG", transparency=255),
        "animated-gif": written(picture, "GIF", **frames),
        "animated-webp": written(picture, "WEBP", **frames),
        "exif-rotated": written(picture.transpose(Image.Transpose.ROTATE_90), exif=turned),
    }
