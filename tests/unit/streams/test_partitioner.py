"""Our partition of a workspace is the one that every Kafka client computes."""

import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as murmur2_of_aiokafka
from hypothesis import given
from hypothesis import strategies as st

from streams.kafka.partitioner import murmur2, partition_of


@given(st.binary(max_size=100))
def test_murmur2(key: bytes) -> None:
    """The hash is aiokafka's, for every key."""
    assert murmur2(key) == murmur2_of_aiokafka(key) & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("key", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_java(key: bytes, signed: int) -> None:
    """The hash is that of Kafka's own test (UtilsTest.testMurmur2)."""
    assert murmur2(key) == signed % 2**32


@given(st.text(min_size=1, max_size=100), st.integers(1, 200))
def test_partition(workspace: str, partitions: int) -> None:
    """The partition is the one that Faust's client would choose for the workspace as a key."""
    everywhere = list(range(partitions))
    chosen = DefaultPartitioner()(workspace.encode(), everywhere, everywhere)
    assert partition_of(workspace, partitions) == chosen
