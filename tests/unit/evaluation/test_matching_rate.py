"""The benchmark of the matcher's work does that work."""

from agents.decide import decide, default_match_settings
from streams.evaluation import matching_rate
from streams.evaluation.matching_rate import made_fingerprint


def test_copies_are_found_and_nothing_else() -> None:
    """Three of ten records are copies of an earlier picture."""
    rate = matching_rate.run(pictures=200, measured=100, viral=5, seed=1)
    assert 0.15 * 100 < rate.matched < 0.45 * 100
    assert rate.records_per_second > 0
    assert "100 records" in str(rate)


def test_made_copy_relates_to_its_origin_as_a_recompressed_one_does() -> None:
    """Decided by its sketch; another picture is not even met."""
    settings = default_match_settings(partitions=1)
    origin = made_fingerprint(3, seed=1)
    decision = decide(made_fingerprint(3, seed=1, copy=9), origin, settings)
    assert decision is not None
    assert decision.relation == "near_identical"
    assert decide(made_fingerprint(4, seed=1), origin, settings) is None
