"""Rules for every test here: none is skipped, and what a run leaves behind goes into build/.

A skipped test looks like a passed one in every summary that people read. Where a tool or a broker
is missing, the test fails and says so.
"""

import gc
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest
from hypothesis.configuration import set_hypothesis_home_dir

set_hypothesis_home_dir(Path(__file__).resolve().parents[1] / "build" / "hypothesis")
# A time limit per example fails on a busy machine for no fault of the code; the blob lets anyone
# repeat a failure that was found elsewhere.
hypothesis.settings.register_profile("check-dedup", deadline=None, print_blob=True)
hypothesis.settings.load_profile("check-dedup")


def pytest_collection_finish() -> None:
    """Look through what was imported for the last time: each index that closes collects garbage."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skipped test is a failed one; an expected failure stays what it is."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a file that skips itself while it is imported."""
    report = yield
    if report.skipped:
        _fail(report)
    return report


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"Skipping is not allowed here. {reason}"
