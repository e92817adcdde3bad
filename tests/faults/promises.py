"""The table "promise, test, last result": tests/faults/PROMISES.md, written by this module.

A promise that no test holds is not made. `make chaos` writes the table, with its own result and
those of the last `make test` on this machine, which leaves them in build/test; a result that is not
there stays what it was.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from tests.faults.chaos_report import latest

ROOT: Final = Path(__file__).resolve().parents[2]
TABLE: Final = Path(__file__).with_name("PROMISES.md")
RESULTS: Final = ROOT / "build" / "test"
CHAOS_RESULTS: Final = ROOT / "build" / "chaos"
CHAOS: Final = "make chaos"


@dataclass(frozen=True, slots=True)
class Promise:
    """What is promised, and the tests that hold it, as path::name."""

    sentence: str
    tests: tuple[str, ...]
    readme: str | None = None
    """What the README makes it under: the words in bold."""


_FAULTS: Final = "tests/faults/test_"
_ODD_LOGS: Final = "tests/integration/test_odd_logs.py"

PROMISES: Final = (
    Promise(
        "Every picture ends in one outcome or dead letter; none is lost, whatever is killed",
        (
            f"{_FAULTS}processes.py::test_random_kills",
            f"{_FAULTS}soak.py::test_mixed_faults",
            f"{_FAULTS}failpoints.py::test_each_fail_point",
            f"{_FAULTS}processes.py::test_one_three_one",
            CHAOS,
        ),
        readme="Restart",
    ),
    Promise(
        "A dead letter is the record as it was, set aside once; its neighbours are processed",
        (
            f"{_FAULTS}poison.py::test_poison_at_the_committed_head",
            f"{_FAULTS}poison.py::test_dead_letters_that_cannot_be_written",
        ),
        readme="A dead letter",
    ),
    Promise(
        "When nothing can be read any more, the hasher stops",
        (
            f"{_FAULTS}poison.py::test_all_poison",
            "tests/unit/streams/test_circuit.py::test_a_restart_gets_no_further",
        ),
        readme="When nothing can be read",
    ),
    Promise(
        "A broker that restarts or dies needs no operator",
        (f"{_FAULTS}broker.py::test_broker_restarts",),
    ),
    Promise(
        "A wall clock that jumps loses nothing, times nothing out and ends no process",
        (
            f"{_FAULTS}clock.py::test_clock_jumps",
            f"{_FAULTS}clock.py::test_events_of_wrong_clocks",
        ),
    ),
    Promise(
        "An event whose time would let it expire unread is refused to its producer",
        (f"{_FAULTS}clock.py::test_an_event_that_would_expire_unread_is_refused",),
        readme="An event with a time",
    ),
    Promise(
        "A cut, half-open or slow network ends no process and loses nothing",
        (f"{_FAULTS}broker.py::test_network",),
    ),
    Promise(
        "SIGTERM ends a process within 20 s, with and without a broker",
        (
            f"{_FAULTS}processes.py::test_drain_with_events_held",
            f"{_FAULTS}processes.py::test_drain_without_a_broker",
        ),
    ),
    Promise(
        "A stop commits what it has delivered: nothing is done twice for it",
        (
            "tests/integration/test_drain.py::test_what_is_delivered_at_a_stop_is_committed",
            (
                "tests/unit/streams/test_hasher.py::"
                "test_a_drain_ends_what_it_can_and_leaves_what_is_delivered_acknowledged"
            ),
        ),
    ),
    Promise(
        "Records that are gone before they were read are named and counted; the rest is processed",
        (f"{_ODD_LOGS}::test_records_that_expired_before_they_were_read",),
    ),
    Promise(
        "A topic that is made anew is read from its beginning; an index of the old log is kept",
        (
            f"{_ODD_LOGS}::test_a_topic_that_is_made_anew_under_a_running_hasher",
            f"{_ODD_LOGS}::test_an_offset_of_a_topic_that_is_gone_means_nothing",
            f"{_ODD_LOGS}::test_an_index_log_that_is_made_anew_stops_the_matcher",
        ),
        readme="A topic that is not what it was",
    ),
    Promise(
        "Where to begin is never guessed: no committed offset, or one beyond the end, is an error",
        (f"{_ODD_LOGS}::test_no_start_where_nobody_knows_where_to_begin",),
        readme="A process that does not start",
    ),
    Promise(
        "A log that was truncated and has grown again is told whole; its index is made anew",
        (
            f"{_ODD_LOGS}::test_a_log_that_was_truncated_and_has_grown_again",
            "tests/unit/streams/test_matcher.py::test_a_log_that_was_truncated_and_has_grown_again",
            "tests/unit/streams/test_matcher.py::test_a_log_that_has_grown_again_under_an_open_index",
        ),
    ),
    Promise(
        "A topic that was truncated and has grown past what was read of it stops its reader",
        (
            f"{_ODD_LOGS}::test_events_that_were_cut_off_and_came_again",
            f"{_ODD_LOGS}::test_an_index_log_that_has_grown_again_under_a_frozen_matcher",
            "tests/unit/streams/test_feed.py::test_a_log_that_has_grown_past_what_was_read_stops",
        ),
        readme="A topic that is not what it was",
    ),
    Promise(
        "A producer that a broker refuses for good is replaced; what was on its way fails by name",
        (f"{_ODD_LOGS}::test_a_producer_whose_log_lost_its_end_is_replaced",),
    ),
    Promise(
        "A producer whose record was not delivered in time is used no more",
        (f"{_ODD_LOGS}::test_a_producer_whose_record_timed_out_is_replaced",),
    ),
    Promise(
        "Partitions that are added stop every process, with what to do",
        (
            f"{_ODD_LOGS}::test_partitions_that_are_added_stop_the_process",
            "tests/integration/test_topics.py::test_check",
        ),
    ),
    Promise(
        "A log record of an unknown version stops the matcher in front of it",
        (f"{_ODD_LOGS}::test_a_record_of_an_unknown_version_stops_the_matcher",),
    ),
    Promise(
        "A frozen hasher's late append changes nothing",
        ("tests/unit/index/test_partition.py::test_a_removal_delivered_again_changes_nothing",),
    ),
    Promise(
        "No key, header or transaction marker of another's producer ends a process",
        (
            f"{_ODD_LOGS}::test_odd_keys_and_headers_end_nobody",
            f"{_ODD_LOGS}::test_transaction_markers_are_no_events",
        ),
    ),
    Promise(
        "A workspace with many slow pictures holds up no other",
        (
            (
                "tests/integration/test_window_share.py::"
                "test_a_flood_of_slow_pictures_holds_up_nobody_else"
            ),
        ),
    ),
    Promise(
        "A full disk stops a matcher by name, and is no loss",
        (
            f"{_FAULTS}state.py::test_disk_full",
            "tests/unit/index/test_damage.py::test_a_full_disk_is_named",
        ),
    ),
    Promise(
        "A lost or damaged index is rebuilt or refused, and never finds less",
        (
            f"{_FAULTS}state.py::test_damaged_store",
            "tests/unit/index/test_damage.py::test_damage_is_never_silent",
        ),
        readme="A lost disk",
    ),
    Promise(
        "Search finds all that brute force finds, within a workspace and never beyond it",
        (
            "tests/unit/test_oracle.py::test_product_agrees",
            "tests/unit/index/test_partition.py::test_workspaces_never_mix",
        ),
    ),
    Promise(
        "While no host answers, a hasher waits instead of dead-lettering what it cannot fetch",
        ("tests/unit/streams/test_fetch.py::test_while_no_host_answers_nobody_is_rejected",),
        readme="No network",
    ),
    Promise(
        "A dead letter that is replayed ends in one outcome",
        ("tests/integration/test_dlq.py::test_a_picture_that_is_replayed_ends_in_one_outcome",),
        readme="Dead letters",
    ),
    Promise(
        "The log and the indexes can be looked at beside running processes",
        (
            "tests/integration/test_index_commands.py::test_the_log_is_printed",
            (
                "tests/integration/test_index_commands.py::"
                "test_an_index_is_counted_and_verified_beside_its_matcher"
            ),
        ),
        readme="What happened",
    ),
    Promise(
        "With traces and without, what is written to Kafka is the same",
        ("tests/integration/test_tracing.py::test_one_trace_from_the_event_to_its_outcome",),
        readme="Traces",
    ),
    Promise(
        "A redelivered event gets its first outcome again, byte for byte",
        ("tests/unit/index/test_partition.py::test_a_redelivery_gets_its_first_outcome_again",),
        readme="One outcome",
    ),
    Promise(
        "The next picture can match the one before it",
        ("tests/unit/index/test_partition.py::test_the_next_picture_matches_the_one_before_it",),
        readme="Order",
    ),
    Promise(
        "What is removed stays removed, also when it is delivered again or was not there yet",
        (
            (
                "tests/unit/index/test_partition.py::"
                "test_a_removed_picture_stays_removed_when_it_is_delivered_again"
            ),
            (
                "tests/unit/index/test_partition.py::"
                "test_a_picture_removed_before_it_arrives_is_never_indexed"
            ),
        ),
        readme="Removed",
    ),
)


def table(results: dict[str, str]) -> str:
    """Give the table, with each test's last result."""
    lines = [
        "# Promises",
        "",
        "What is promised, the test that holds it, and its last result where this was written.",
        "Written by `make chaos`, and by `python -m tests.faults.promises` after `make test`.",
        "",
        "| promise | test | last result |",
        "|---|---|---|",
    ]
    for promise in PROMISES:
        for number, test in enumerate(promise.tests):
            sentence = promise.sentence if number == 0 else ""
            lines.append(f"| {sentence} | `{test}` | {results.get(test, 'not run here')} |")
    return "\n".join([*lines, ""])


def last_results(folder: Path = RESULTS) -> dict[str, str]:
    """Read what pytest wrote of each test; of one with several parameters the worst counts."""
    found: dict[str, tuple[bool, float, str]] = {}
    for path in sorted(folder.glob("*.xml")):
        for suite in ET.parse(path).iter("testsuite"):  # noqa: S314 - pytest wrote it
            day = suite.get("timestamp", "")[:10]
            for case in suite.iter("testcase"):
                name = case.get("name", "").partition("[")[0]
                test = f"{case.get('classname', '').replace('.', '/')}.py::{name}"
                passed = case.find("failure") is None and case.find("error") is None
                earlier, seconds, _ = found.get(test, (True, 0.0, ""))
                found[test] = (passed and earlier, seconds + float(case.get("time", "0")), day)
    return {
        test: f"{'passed' if passed else 'FAILED'}, {seconds:.1f} s, {day}"
        for test, (passed, seconds, day) in found.items()
    }


def written_results(text: str) -> dict[str, str]:
    """Read the results that a table has."""
    return dict(re.findall(r"^\|[^|]*\| `([^`]+)` \| ([^|]+) \|$", text, re.MULTILINE))


def write_table() -> None:
    """Write the table anew."""
    chaos = latest(CHAOS_RESULTS)
    of_chaos = {} if chaos is None else {CHAOS: chaos.summary}
    TABLE.write_text(table(written_results(TABLE.read_text()) | last_results() | of_chaos))


if __name__ == "__main__":
    write_table()
