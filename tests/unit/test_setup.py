"""`make setup` on a machine where something is missing."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What the script uses before it has looked for anything.
SHELL_TOOLS = ("sh", "dirname", "sed", "head")
PRESENT = {
    "python3.11": f'exec "{sys.executable}" "$@"',
    "java": "echo 'openjdk version \"17.0.15\" 2025-04-15' >&2",
    "mvn": "exit 0",
}


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A copy of the set-up script, and a `bin` that holds all that may be found."""
    script = tmp_path / "deploy" / "local" / "setup.sh"
    script.parent.mkdir(parents=True)
    shutil.copy(ROOT / "deploy" / "local" / "setup.sh", script)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in SHELL_TOOLS:
        path = shutil.which(name)
        assert path is not None
        (tools / name).symlink_to(path)
    for name, text in PRESENT.items():
        install(tmp_path, name, text)
    return tmp_path


def install(machine: Path, name: str, text: str) -> None:
    """Put a stand-in for a tool on the machine."""
    tool = machine / "bin" / name
    tool.write_text(f"#!/bin/sh\n{text}\n")
    tool.chmod(0o755)


def set_up(machine: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script with nothing on the PATH but the machine's `bin`."""
    return subprocess.run(
        [machine / "bin" / "sh", machine / "deploy" / "local" / "setup.sh"],
        env={"PATH": str(machine / "bin"), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_everything_missing_is_named_at_once(machine: Path) -> None:
    """One run tells all that has to be installed, and with which package; nothing was touched."""
    for name in PRESENT:
        (machine / "bin" / name).unlink()
    before = sorted(machine.iterdir())

    done = set_up(machine)

    assert done.returncode == 1
    for package in ("python3.11-venv", "openjdk-17-jre-headless", "apt-get install maven"):
        assert package in done.stderr
    assert sorted(machine.iterdir()) == before


@pytest.mark.parametrize(
    ("tool", "stand_in", "message"),
    [
        ("python3.11", "exit 1", "Python 3.11 or newer"),
        ("java", "echo 'openjdk version \"11.0.2\" 2019-01-15' >&2", "found Java 11"),
        ("java", "echo 'java version \"1.8.0_202\"' >&2", "found Java 1"),
        ("mvn", None, "Maven (mvn)"),
    ],
)
def test_one_missing_tool_is_the_only_one_named(
    machine: Path, tool: str, stand_in: str | None, message: str
) -> None:
    """Absent or too old: it is named, and the tools that are there are not."""
    (machine / "bin" / tool).unlink()
    if stand_in is not None:
        install(machine, tool, stand_in)
    done = set_up(machine)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("  - ") == 1


def test_a_chosen_python_that_does_not_fit_is_named(machine: Path) -> None:
    """PYTHON is not silently replaced by another one."""
    done = set_up(machine, PYTHON="/nowhere/python")
    assert done.returncode == 1
    assert "PYTHON=/nowhere/python is not one" in done.stderr


def test_a_kafka_elsewhere_needs_neither_java_nor_maven(machine: Path) -> None:
    """With KAFKA_BOOTSTRAP_SERVERS, only Python is asked for."""
    for name in PRESENT:
        (machine / "bin" / name).unlink()
    done = set_up(machine, KAFKA_BOOTSTRAP_SERVERS="kafka.example:9092")
    assert done.returncode == 1
    assert done.stderr.count("  - ") == 1
    assert "Python 3.11 or newer" in done.stderr
