"""Fail points are inert in production, and kill where and when a test says."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from streams.errors import MisconfiguredError
from streams.failpoints import NAMES, VARIABLE, FailPoints
from streams.settings import declarations

ROOT = Path(__file__).resolve().parents[3]


def test_inert() -> None:
    """Without the variable every place is passed, as often as one likes."""
    points = FailPoints()
    points.arm({"CHECK_DEDUP_LOG_LEVEL": "INFO"})
    for name in NAMES * 3:
        points.reach(name)


def test_only_tests_name_the_variable() -> None:
    """It is no setting, and nothing that is deployed has it."""
    assert VARIABLE not in {declared.variable for declared in declarations()}
    named = [
        path.relative_to(ROOT)
        for folder in ("agents", "schemas", "streams", "deploy")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in {".py", ".yaml", ".yml", ".sh", ".md"} and VARIABLE in path.read_text()
    ]
    assert named == [Path("streams/failpoints.py")]


def test_every_place_is_reached_by_the_product() -> None:
    """A place that no code passes would be a test of nothing."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "streams").rglob("*.py")))
    assert [name for name in NAMES if f'failpoints.reach("{name}")' not in text] == []


def test_kills() -> None:
    """As kill -9 does, at the named place, when it is reached for the second time."""
    code = (
        "from streams import failpoints\n"
        f"failpoints.arm({{{VARIABLE!r}: 'write.after@2'}})\n"
        "failpoints.reach('write.after'); failpoints.reach('write.before'); print(1, flush=True)\n"
        "failpoints.reach('write.after'); print(2, flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"1\n")


@pytest.mark.parametrize("wanted", ["", "write.after", "nowhere@1", "write.after@x"])
def test_wrong_place(wanted: str) -> None:
    """A place that does not exist is refused: the test that names it would test nothing."""
    with pytest.raises(MisconfiguredError):
        FailPoints().arm({VARIABLE: wanted})
