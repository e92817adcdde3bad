"""A few seconds of fuzzing, so that it works when it is wanted for long; and a fault is noticed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 3
BOUND_SECONDS = 300.0


def run(target: str, *, code: str = "pass") -> subprocess.CompletedProcess[str]:
    """Fuzz one target; `code` is run first in its process."""
    program = f"import sys; from tests.fuzz import run; {code}; sys.exit(run.main())"
    return subprocess.run(
        [sys.executable, "-c", program, target, str(SECONDS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=BOUND_SECONDS,
    )


@pytest.mark.parametrize("target", TARGETS)
def test_a_short_run_finds_nothing(target: str) -> None:
    """It has run all its seeds and more, and found no way to do harm."""
    done = run(target)
    assert done.returncode == 0, done.stderr[-3_000:]
    executed = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    assert executed is not None
    assert int(executed[1]) > 100


def test_a_fault_ends_the_run(tmp_path: Path) -> None:
    """With an error, and the input in a file: a decoder that raises is planted."""
    planted = (
        f"run.MADE = run.Path({str(tmp_path)!r}); "
        "run.TARGETS = {'records': (lambda content: 1 // (b'removed' not in content), "
        "run.TARGETS['records'][1])}"
    )
    done = run("records", code=planted)
    assert done.returncode != 0
    assert "ZeroDivisionError" in done.stderr + done.stdout
    (found,) = tmp_path.glob("records/crash-*")
    assert b"removed" in found.read_bytes()
