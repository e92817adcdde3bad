"""The programs that these tests need, by name: found, or a failure that says how to get them."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

Resource = dict[str, Any]

ROOT: Final = Path(__file__).resolve().parents[2]
K8S: Final = ROOT / "deploy" / "k8s"
OLDEST_KUBECTL: Final = (1, 27)

_GET: Final = {
    "kubectl": "kubectl 1.27 or later: kubernetes.io/docs/tasks/tools",
    "promtool": "Debian, Ubuntu: apt-get install prometheus    macOS: brew install prometheus",
    "prometheus": "Debian, Ubuntu: apt-get install prometheus    macOS: brew install prometheus",
}


def tool(name: str) -> str:
    """Give the path of a program, or fail the test by saying how to get it."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is missing. {_GET[name]}", pytrace=False)
    return found


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a program; give its exit code and what it says."""
    words: Sequence[str] = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)


def kustomize(folder: Path) -> str:
    """Render a kustomization."""
    kubectl = tool("kubectl")
    said = run(kubectl, "version", "--client").stdout
    version = re.search(r"v(\d+)\.(\d+)", said)
    assert version, said
    found = (int(version[1]), int(version[2]))
    assert found >= OLDEST_KUBECTL, f"kubectl {found} is too old. {_GET['kubectl']}"
    done = run(kubectl, "kustomize", folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def resources(rendered: str) -> list[Resource]:
    """Give each resource of a rendered kustomization."""
    return [found for found in yaml.safe_load_all(rendered) if found]
