"""Which partition a workspace lives on: Kafka's own hash, computed by us.

Pure. The hasher and the API give the partition of every log record explicitly, so that one
workspace stays on one partition whatever the record's key is. The same arithmetic as the Java
client, aiokafka and librdkafka's `murmur2_random`, for keys that are not empty.
"""

from typing import Final

_MULTIPLIER: Final = 0x5BD1E995
_SEED: Final = 0x9747B28C
_32_BITS: Final = 0xFFFFFFFF


def partition_of(workspace: str, partitions: int) -> int:
    """Give the partition, 0 to `partitions` - 1, of everything that belongs to a workspace."""
    return (murmur2(workspace.encode()) & 0x7FFFFFFF) % partitions


def murmur2(key: bytes) -> int:
    """Austin Appleby's MurmurHash2, 32 bits, with Kafka's seed (`Utils.murmur2`)."""
    whole = len(key) & ~3
    state = _SEED ^ len(key)
    for start in range(0, whole, 4):
        word = int.from_bytes(key[start : start + 4], "little") * _MULTIPLIER & _32_BITS
        word = (word ^ word >> 24) * _MULTIPLIER & _32_BITS
        state = state * _MULTIPLIER & _32_BITS ^ word
    if whole < len(key):
        state = (state ^ int.from_bytes(key[whole:], "little")) * _MULTIPLIER & _32_BITS
    state = (state ^ state >> 13) * _MULTIPLIER & _32_BITS
    return state ^ state >> 15
