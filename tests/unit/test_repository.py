"""The repository runs on any machine: it names no registry, and no path of one machine.

What a newcomer would trip over, held by a test because no linter looks for it.
"""

import ast
import io
import os
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MADE = {".git", ".venv", "build", "__pycache__"}
LOCKS = ("requirements.lock", "requirements-dev.lock")
FOLDERS = ("agents", "schemas", "streams", "deploy", "tests")

# Assembled, so that this file does not contain what it looks for.
REGISTRY_HOSTS = [
    ".".join(labels)
    for labels in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("repo", "maven", "apache", "org"),
        ("repo1", "maven", "org"),
        ("registry", "npmjs", "org"),
        ("registry", "yarnpkg", "com"),
        ("deb", "debian", "org"),
        ("proxy", "golang", "org"),
    )
]
MACHINE_PATHS = re.compile(r"(?<![\w.)}/-])/(?:work|root)(?![\w-])")
INDEX_OPTIONS = re.compile(r"--(?:index|extra-index|find-links|trusted)\b|://")


def files() -> Iterator[Path]:
    """Every file of the repository, also one that is not committed yet."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [
            name for name in folders if name not in MADE and not name.endswith(".egg-info")
        ]
        yield from (Path(folder, name) for name in names)


def text_of(path: Path) -> str:
    """The file as text; pictures and other binary files read as gibberish that matches nothing."""
    return path.read_text(encoding="utf-8", errors="replace")


def prose_of(path: Path) -> Iterator[str]:
    """Comments and docstrings of a Python file; all of a Markdown file."""
    if path.suffix == ".md":
        yield text_of(path)
        return
    source = text_of(path)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def named_files(prose: str) -> list[str]:
    """Paths from the root, such as a module's, that the text names."""
    return re.findall(rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w/.-]*\w\.[a-z]{{2,5}}\b", prose)


def missing(prose: str) -> list[str]:
    """The named files that are not there."""
    return [name for name in named_files(prose) if not (ROOT / name).exists()]


def machine_paths(text: str) -> list[str]:
    """Lines with an absolute path that exists on one machine only."""
    return [line for line in text.splitlines() if MACHINE_PATHS.search(line)]


def test_no_file_names_a_registry() -> None:
    """Where packages come from is the machine's configuration, not ours."""
    found = [
        f"{path.relative_to(ROOT)}: {host}"
        for path in files()
        for host in REGISTRY_HOSTS
        if host in text_of(path)
    ]
    assert found == []


def test_no_file_names_a_path_of_one_machine() -> None:
    """Nothing here depends on where the repository, or anything beside it, was once put."""
    found = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in files()
        for line in machine_paths(text_of(path))
    ]
    assert found == []


def test_machine_paths_are_recognised() -> None:
    """The pattern finds what it is for, and leaves ordinary URLs and relative paths alone."""
    for name in ("work", "root"):
        for line in (f"open('/{name}/main/x')", f"see /{name}/x", f"HOME=/{name}"):
            assert machine_paths(line) == [line]
        assert machine_paths(f"a/{name}/b https://host/{name}/b /{name}-list ./{name}/b") == []


def test_nobody_asks_what_ends_a_process_while_a_coordinator_moves() -> None:
    """A segmentation fault of librdkafka, see `committed_of`; no test can have it come for sure."""
    call = ".list_consumer_group_" + "offsets("
    assert [path for path in files() if path.suffix == ".py" and call in text_of(path)] == []


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_has_hashes(name: str) -> None:
    """Each requirement is one exact version, followed by at least one hash."""
    requirements = re.split(r"\n(?=\S)", (ROOT / name).read_text())
    packages = [entry for entry in requirements if not entry.startswith("#")]
    assert len(packages) > 20
    for package in packages:
        assert re.match(r"[a-z0-9.-]+(\[[a-z,]+\])?==\S+ ", package), package
        assert "--hash=sha256:" in package, package


@pytest.mark.parametrize("name", LOCKS)
def test_locks_name_no_index(name: str) -> None:
    """No index option, no address."""
    assert INDEX_OPTIONS.search((ROOT / name).read_text()) is None


def test_the_runtime_lock_is_part_of_the_development_lock() -> None:
    """What is tested is what is deployed: the same versions."""
    runtime, development = (
        set(re.findall(r"^\S+==\S+", (ROOT / name).read_text(), re.MULTILINE)) for name in LOCKS
    )
    assert runtime <= development


def test_comments_and_documents_name_files_that_exist() -> None:
    """A comment, docstring or document that points to a file of ours points to one."""
    readable = (path for path in files() if path.suffix in {".py", ".md"})
    found = [
        f"{path.relative_to(ROOT)} names {name}"
        for path in readable
        if path.name != "CHANGELOG.md"  # tells of files that are gone
        if missing(text_of(path))  # not of the prose only, which takes long to find
        for name in missing("\n".join(prose_of(path)))
    ]
    assert found == []


def test_named_files_are_recognised() -> None:
    """The pattern sees a path from the root and nothing that merely looks like one."""
    folder = FOLDERS[-1]
    assert named_files(f"see {folder}/unit/gone.py.") == [f"{folder}/unit/gone.py"]
    assert named_files(f"build/{folder}/gone.py, {folder}/unit and {folder}/*.py") == []
