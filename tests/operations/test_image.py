"""The image, as far as it can be made without an engine: its lint, and its own install commands."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from streams.settings import declarations
from tests.operations.tools import ROOT, run

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
HADOLINT = ROOT / ".venv" / "bin" / "hadolint"


def copied() -> list[str]:
    """Give what the Dockerfile copies from the repository."""
    lines = re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE.read_text(), re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


def test_the_dockerfile_is_as_hadolint_wants_it(tmp_path: Path) -> None:
    """No finding, and one where `latest` and the root user are planted."""
    ours = run(HADOLINT, "--failure-threshold", "info", DOCKERFILE)
    assert ours.returncode == 0, ours.stdout

    spoilt = tmp_path / "Dockerfile"
    text = DOCKERFILE.read_text().replace("USER 10001:10001", "USER root")
    spoilt.write_text(text.replace("FROM ${PYTHON_IMAGE}\n", "FROM python:latest\n"))
    found = run(HADOLINT, "--failure-threshold", "info", spoilt)
    assert found.returncode != 0
    assert "DL3002" in found.stdout
    assert "DL3007" in found.stdout


def test_the_image_runs_without_rights() -> None:
    """A number as user, so that Kubernetes can tell that it is not root; a check of its health."""
    text = DOCKERFILE.read_text()
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["10001:10001"]
    assert "/livez" in text
    assert re.search(r"^ARG PYTHON_IMAGE=python:\d+\.\d+\.\d+-\S+$", text, re.MULTILINE)


def test_the_install_commands_work_in_a_clean_folder(tmp_path: Path) -> None:
    """The files that the Dockerfile copies are enough for the wheel; the product runs from it."""
    clean = tmp_path / "build"
    for name in copied():
        source, target = ROOT / name, clean / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    installed = tmp_path / "installed"
    before = sorted(clean.rglob("*"))

    done = subprocess.run(
        ["sh", "deploy/install.sh", installed],
        cwd=clean,
        env=os.environ | {"PYTHON": str(ROOT / ".venv" / "bin" / "python")},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(clean.rglob("*")) == before
    program = installed / "bin" / "check-dedup"
    assert not (installed / "bin" / "pip").exists()
    assert "matcher" in run(program, "--help", cwd=tmp_path).stdout
    settings = run(program, "settings", cwd=tmp_path).stdout
    assert all(declared.variable in settings for declared in declarations())
    # Nothing of the repository is needed any more, and the schemas came along.
    inside = "import schemas.codec, streams.matcher; print(streams.matcher.__file__)"
    said = run(installed / "bin" / "python", "-c", inside, cwd=tmp_path).stdout
    assert said.startswith(str(installed)), said
