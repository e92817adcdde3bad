"""The benchmark compares like with like and says what it needs."""

import sys

import numpy as np
import pytest

from streams.errors import MisconfiguredError
from streams.index import bench
from streams.index.bench import Kind
from streams.index.scan import flat_pairs


@pytest.mark.parametrize("kind", ["uniform", "skewed"])
def test_reports_both_searches(kind: Kind) -> None:
    """A small run finishes, finds the stored pictures and prints the ratio."""
    report = bench.run(codes=20_005, queries=6, radius=16, seed=1, kind=kind)
    assert report.hits > 3 * 10
    assert f"20,005 {kind} codes (200 in the delta), radius 16" in str(report)
    assert f"ratio of medians     {report.ratio:.1f}" in str(report)


def test_different_hits_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that misses a picture is not timed, it is reported."""
    monkeypatch.setattr(
        "streams.index.mih.flat_pairs", lambda c, n, q, _: flat_pairs(c, n, q, radius=0)
    )
    with pytest.raises(RuntimeError, match="different pictures"):
        bench.run(codes=2_000, queries=4, radius=8, seed=1)


def test_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without FAISS there is nothing to compare with."""
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MisconfiguredError, match="install faiss-cpu"):
        bench.run(codes=10, queries=1, radius=8, seed=1)


def test_skewed_codes_are_skewed() -> None:
    """A picture's codes are close to each other and unevenly set."""
    codes = bench.generate(2_000, "skewed", np.random.default_rng(1))
    assert 6 < np.bitwise_count(codes[:, 0] ^ codes[:, 1]).mean() < 10
    shares = [float((codes[:, 0] >> np.uint64(bit) & np.uint64(1)).mean()) for bit in range(64)]
    assert min(shares) < 0.4
    assert max(shares) > 0.6
