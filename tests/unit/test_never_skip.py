"""The rule that no test is skipped, tried out on small runs of pytest."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RULES = Path(__file__).resolve().parents[1] / "conftest.py"

SKIPS = {
    "mark": "@pytest.mark.skip(reason='no broker')\ndef test_it():\n    pass\n",
    "condition": "@pytest.mark.skipif(True, reason='no broker')\ndef test_it():\n    pass\n",
    "call": "def test_it():\n    pytest.skip('no broker')\n",
    "fixture": (
        "@pytest.fixture\ndef it():\n    pytest.skip('no broker')\n\n\ndef test_it(it):\n    pass\n"
    ),
    "module": "pytest.skip('no broker', allow_module_level=True)\n",
    "import": "pytest.importorskip('no_broker')\n",
}


def run(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on one file beside a copy of our rules."""
    shutil.copy(RULES, folder)
    (folder / "test_it.py").write_text(f"import pytest\n\n{source}")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    return subprocess.run(
        [*command, str(folder)],
        cwd=folder,
        # Plugins take longer to import than all of this, and have no part in it.
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("source", SKIPS.values(), ids=SKIPS.keys())
def test_a_skip_fails_the_run(tmp_path: Path, source: str) -> None:
    """However a test skips itself, pytest's exit status says that something failed, and why."""
    done = run(tmp_path, source)
    assert done.returncode != 0
    assert "Skipping is not allowed here" in done.stdout
    assert "no broker" in done.stdout.replace("no_broker", "no broker")
    assert "skipped" not in done.stdout.splitlines()[-1]


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    """`xfail` states a known defect and stays allowed."""
    done = run(tmp_path, "@pytest.mark.xfail\ndef test_it():\n    raise AssertionError\n")
    assert done.returncode == 0
    assert "1 xfailed" in done.stdout
