"""Golden values: fingerprints of ten made pictures, pinned.

A failure here means that the same bytes now give another fingerprint, so that what is stored no
longer matches what arrives. If a library was upgraded: keep the old version pinned, or raise
`agents.fingerprint.FINGERPRINT_VERSION` and migrate the stored pictures (each version is a code
space of its own), and only then put the new values here. Until the first release a change that
leaves old and new codes within the drift of `make evaluate` may redefine the version instead.
"""

import hashlib

import msgspec
import numpy as np
import pytest
from PIL import Image

from agents.decode import DecodeLimits
from agents.fingerprint import fingerprint
from schemas.records import Fingerprint
from tests.unit.agents.pictures import written

GOLDEN = {
    "bordered": "c6ef82fc8d75c886",
    "captioned": "0a865af03e15625e",
    "colour": "e1f569599d017778",
    "flat": "8da0ee8bb4fdb157",
    "jpeg": "3017910105a29c1d",
    "large": "a0f34b89fe8b3f0d",
    "plain": "7ac3e7443c885cb2",
    "tall": "3b5c4e08ae94d075",
    "tiny": "d1ee9457ff709240",
    "transparent": "39810cd13d77ab22",
}


def made(name: str) -> bytes:
    """One of the pictures, out of arithmetic alone."""
    number = sorted(GOLDEN).index(name)
    y, x = np.mgrid[:300, :420].astype(np.float64)
    noise = np.random.default_rng(number).normal(0, 12, (300, 420))
    waves = sum(
        np.sin(x / (7 + 5 * k + number) + k) * np.cos(y / (11 + 3 * k + number)) for k in range(5)
    )
    grey = np.clip(128 + 40 * waves + noise, 0, 255).astype(np.uint8)
    image = Image.fromarray(grey)
    match name:
        case "bordered":
            page = Image.new("L", (500, 380), 255)
            page.paste(image, (40, 40))
            image = page
        case "captioned":
            page = Image.new("L", (420, 380), 0)
            page.paste(image, (0, 80))
            for column in range(60, 360, 17):
                page.paste(235, (column, 30, column + 9, 52))
            image = page
        case "colour":
            image = Image.merge("RGB", (image, image.rotate(180), image.rotate(90, expand=False)))
        case "flat":
            image = Image.new("L", (420, 300), 77)
        case "large":
            image = image.resize((2100, 1500), Image.Resampling.BICUBIC)
        case "tall":
            image = image.crop((0, 0, 90, 300))
        case "tiny":
            image = image.resize((12, 9))
        case "transparent":
            image = Image.merge("LA", (image, image.transpose(Image.Transpose.ROTATE_180)))
        case _:
            pass
    return written(image, "JPEG" if name in {"jpeg", "large"} else "PNG")


def digest(name: str) -> str:
    """Everything in the fingerprint but the hash of the file."""
    found = fingerprint(made(name), DecodeLimits(pixels=10_000_000))
    assert isinstance(found, Fingerprint)
    content = msgspec.msgpack.encode(msgspec.structs.replace(found, sha256=bytes(32)))
    return hashlib.sha256(content).hexdigest()[:16]


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_fingerprint_is_as_ever(name: str) -> None:
    """Views, codes, asked codes and sketch are those that are stored."""
    assert digest(name) == GOLDEN[name], "see this file's docstring"
