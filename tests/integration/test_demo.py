"""`make demo` as a newcomer runs it: its own expectations are what it is held against."""

import subprocess
import sys

from deploy.local.broker import ROOT

# 17 s on two idle cores.
DEMO_SECONDS = 300


def test_the_demo_is_as_expected() -> None:
    """It ends with exit code 0, after it has said of each expectation that it is met."""
    done = subprocess.run(
        [sys.executable, "-m", "deploy.local.demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEMO_SECONDS,
    )
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-2_000:]
    assert done.stdout.count("✓") >= 7
    assert "✗" not in done.stdout
