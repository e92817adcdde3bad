"""What a decode process does with a picture: its fingerprint, and how long each half took.

Imported by the children of `streams.decoding.pool`, whose memory is bounded: it imports only what
they need.
"""

import hashlib
import time

from agents.decode import DecodeLimits, decode
from agents.fingerprint import fingerprint_of
from schemas.reasons import Rejection
from schemas.records import Fingerprint

Timed = tuple[Fingerprint | Rejection, float, float]


def timed_fingerprint(content: bytes, limits: DecodeLimits) -> Timed:
    """Do as `agents.fingerprint.fingerprint`; give seconds of decoding and of hashing, too."""
    began = time.perf_counter()
    picture = decode(content, limits)
    decoded = time.perf_counter()
    if isinstance(picture, Rejection):
        return picture, decoded - began, 0.0
    found = fingerprint_of(picture, hashlib.sha256(content).digest())
    return found, decoded - began, time.perf_counter() - decoded
