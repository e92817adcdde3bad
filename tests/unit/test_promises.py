"""Each promise names tests that exist, and the table is that of the promises."""

import ast
import re
from pathlib import Path

from tests.faults.promises import (
    CHAOS,
    PROMISES,
    ROOT,
    TABLE,
    last_results,
    table,
    written_results,
)


def defined(path: Path) -> set[str]:
    """Name the tests of a file."""
    found = ast.walk(ast.parse(path.read_text()))
    return {each.name for each in found if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_promise_has_a_test() -> None:
    """A promise whose test is gone, or was renamed, is found."""
    for promise in PROMISES:
        assert promise.tests
        for test in promise.tests:
            if test == CHAOS:
                continue  # it writes this very table
            path, _, name = test.partition("::")
            assert name in defined(ROOT / path), test


def test_what_the_readme_promises_is_held_by_a_test() -> None:
    """Each point in bold is a promise of the table, or no promise: where to look."""
    no_promises = {"Is an index right?", "Look at", "In a cluster"}
    points = re.findall(r"^- \*\*(.+?)\*\*", (ROOT / "README.md").read_text(), re.MULTILINE)
    promised = [promise.readme for promise in PROMISES if promise.readme is not None]
    assert sorted(points) == sorted({*promised, *no_promises})


def test_table() -> None:
    """The table has these promises and tests; its results are those of whoever wrote it."""

    def without_results(text: str) -> str:
        return re.sub(r"\| [^|]*\|$", "|", text, flags=re.MULTILINE)

    assert without_results(TABLE.read_text()) == without_results(table({}))


def test_results(tmp_path: Path) -> None:
    """One failed parameter is a failed test."""
    (tmp_path / "some.xml").write_text(
        '<testsuites><testsuite timestamp="2026-11-25T01:02:03">'
        '<testcase classname="tests.faults.test_soak" name="test_a[1]" time="1.5"/>'
        '<testcase classname="tests.faults.test_soak" name="test_a[2]" time="2">'
        "<failure/></testcase>"
        '<testcase classname="tests.faults.test_soak" name="test_b" time="3"/>'
        "</testsuite></testsuites>"
    )
    assert last_results(tmp_path) == {
        "tests/faults/test_soak.py::test_a": "FAILED, 3.5 s, 2026-11-25",
        "tests/faults/test_soak.py::test_b": "passed, 3.0 s, 2026-11-25",
    }


def test_results_that_are_not_there_stay() -> None:
    """A run of some tests does not make those of the others unknown."""
    test = PROMISES[0].tests[0]
    assert written_results(table({test: "passed, 1.0 s, 2026-11-25"}))[test] == (
        "passed, 1.0 s, 2026-11-25"
    )
