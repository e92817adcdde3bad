"""`check-dedup status`: what its lines say, and where it looks."""

from deploy.local.stack import METRICS_PORT
from streams.status import ENDPOINTS, Group, Index, Ready, Status, lines


def seen(seconds: float, done: int, outcomes: int, index: Index | None = None) -> Status:
    """A status at some time."""
    group = Group("check-dedup-hasher", 2, 5, 1.25, done)
    return Status(seconds, (group,), outcomes, outcomes + 100, 3, 7, 4, 45, index)


def test_lines() -> None:
    """One each; without an earlier look there are no rates."""
    index = Index(1, 12, 3 * 1024**3, Ready(2.25, 1.04, 300))
    assert lines(seen(10, 50, 20, index)) == [
        ("hasher", "lag 5 records, 1.2 s; 2 members"),
        ("outcomes", "20"),
        ("dead letters", "3"),
        ("index", "12 pictures; at least 3.0 GiB left on disk"),
        ("restart", "a matcher answered 2.2 s after its start"),
        (
            "takeover",
            "session timeout 45 s, then rebuild: 300 records in 1.0 s at the last assignment",
        ),
        ("processes", "4 tell their metrics"),
    ]


def test_rates() -> None:
    """Are those between two looks, also where a topic has forgotten old records meanwhile."""
    found = dict(lines(seen(14, 90, 22), seen(10, 50, 20)))
    assert found["hasher"] == "lag 5 records, 1.2 s, 10.0/s; 2 members"
    assert found["outcomes"] == "22, 0.5/s"
    assert found["dead letters"] == "3, 0.0/s"
    assert found["index"].startswith("no matcher tells")
    assert found["takeover"].startswith("no matcher tells")


def test_a_matcher_that_rebuilds() -> None:
    """It has told its index, and not when it was ready."""
    found = dict(lines(seen(10, 50, 20, Index(1, 12, 3 * 1024**3))))
    assert found["restart"] == found["takeover"] == "no matcher is ready yet"


def test_it_looks_where_make_up_tells() -> None:
    """Without being told."""
    assert ENDPOINTS[0] == f"http://127.0.0.1:{METRICS_PORT}/metrics"
