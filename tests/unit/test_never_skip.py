"""The rule that no test is skipped, tried out on small runs of pytest."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
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


def run(folder: Path, sources: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run pytest on files beside a copy of our rules; it names each failure and its reason."""
    shutil.copy(RULES, folder)
    for name, source in sources.items():
        (folder / f"test_{name}.py").write_text(f"import pytest\n\n{source}")
    options = ["-p", "no:cacheprovider", "--continue-on-collection-errors", "-rfEx"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--rootdir", str(folder), str(folder)],
        cwd=folder,
        # Plugins take longer to import than all of this, and have no part in it.
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture(scope="module")
def skipping(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """A run of files that each skip in their own way."""
    return run(tmp_path_factory.mktemp("skips"), SKIPS)


@pytest.mark.parametrize("name", SKIPS)
def test_a_skip_is_a_failure(skipping: subprocess.CompletedProcess[str], name: str) -> None:
    """However a test skips itself, it is listed as failed, and why."""
    summary = skipping.stdout.rpartition("short test summary info")[2].splitlines()
    (line,) = [line for line in summary if f"test_{name}.py" in line]
    assert line.startswith(("FAILED", "ERROR"))
    assert "Skipping is not allowed here" in line
    assert "no broker" in line.replace("no_broker", "no broker")


def test_a_run_with_skips_fails(skipping: subprocess.CompletedProcess[str]) -> None:
    """Pytest's exit status says so, and nothing is counted as skipped."""
    assert skipping.returncode != 0
    assert "skipped" not in skipping.stdout.splitlines()[-1]


def test_one_skip_alone_fails_a_run(tmp_path: Path) -> None:
    """Also where everything else passes."""
    passes = "def test_it():\n    pass\n"
    assert run(tmp_path, {"call": SKIPS["call"], "other": passes}).returncode != 0


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    """`xfail` states a known defect and stays allowed."""
    source = "@pytest.mark.xfail\ndef test_it():\n    raise AssertionError\n"
    done = run(tmp_path, {"it": source})
    assert done.returncode == 0
    assert "1 xfailed" in done.stdout
