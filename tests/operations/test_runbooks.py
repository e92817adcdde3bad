"""The commands of runbooks and guides exist: ours run on the running product, kubectl's are known.

What reads is run as it stands; what changes something is held against its own `--help`.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from deploy.local.broker import Broker
from deploy.local.stack import Stack
from tests.operations.tools import K8S, kustomize, resources, run, tool

READS: Final = (("topics", "check"), ("dlq", "list"), ("topics", "acls"))
PAGES: Final = sorted([*(K8S / "runbooks").glob("*.md"), *(K8S / "guides").glob("*.md")])


def commands(page: Path) -> list[str]:
    """Give the lines of a page's shell blocks."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


def ours(line: str) -> list[str] | None:
    """Give the words after `check-dedup`, where a line runs it in a pod."""
    words = shlex.split(line)
    if "--" in words and words[words.index("--") + 1] == "check-dedup":
        return words[words.index("--") + 2 :]
    return None


def all_ours() -> list[list[str]]:
    """Give every different command of ours on all pages."""
    found = {tuple(words) for page in PAGES for line in commands(page) if (words := ours(line))}
    return [list(words) for words in sorted(found)]


def options(words: list[str]) -> set[str]:
    """Give the options that a command is given, without their values."""
    return {word.split("=")[0] for word in words if word.startswith("--")} - {"--"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A Kafka with the topics."""
    with Broker(tmp_path_factory.mktemp("kafka")) as broker:
        made = Stack(tmp_path_factory.mktemp("stack"), hashers=0, matchers=0, broker=broker)
        made.command("topics", "create")
        yield made


@pytest.mark.parametrize("words", all_ours(), ids=" ".join)
def test_our_commands_run(stack: Stack, words: list[str]) -> None:
    """What only reads ends with 0; of the others, command and options are known."""
    if tuple(words[:2]) in READS:
        stack.command(*words)
        return
    page = stack.command(*words[:2], "--help")
    assert options(words) <= set(re.findall(r"--[a-z-]+", page))


def kubectl_lines() -> list[str]:
    """Give every different line that starts kubectl on all pages."""
    return sorted(
        {line for page in PAGES for line in commands(page) if line.startswith("kubectl ")}
    )


def test_every_line_is_one_that_is_checked() -> None:
    """A page with a command that neither kubectl nor we run would be checked by nobody."""
    assert [
        f"{page.name}: {line}"
        for page in PAGES
        for line in commands(page)
        if not line.startswith("kubectl ")
    ] == []
    assert all(commands(page) for page in PAGES if page.parent.name == "runbooks")


@pytest.fixture(scope="module")
def global_options() -> set[str]:
    """What every kubectl command takes."""
    return set(re.findall(r"--[a-z-]+", run(tool("kubectl"), "options").stdout))


@pytest.fixture(scope="module")
def names() -> set[str]:
    """What overlays/production has, as `kind/name`, and what comes of it."""
    short = {"deployment": "deploy"}
    found = resources(kustomize(K8S / "overlays" / "production"))
    known = {
        f"{short.get(kind, kind)}/{resource['metadata']['name']}"
        for resource in found
        for kind in (resource["kind"].lower(),)
    }
    # Of the StatefulSet.
    return known | {
        "pod/check-dedup-matcher-0",
        "persistentvolumeclaim/data-check-dedup-matcher-0",
    }


@pytest.mark.parametrize("line", kubectl_lines())
def test_kubectl_knows_the_command(line: str, global_options: set[str], names: set[str]) -> None:
    """The command, its options, and what it names are there."""
    words = shlex.split(line)
    words = words[: words.index("--")] if "--" in words else words
    positional = []
    rest = iter(words[1:])
    for word in rest:
        if word in {"--namespace", "--selector", "--output", "--patch", "--filename", "--sort-by"}:
            next(rest)
        elif not word.startswith("-"):
            positional.append(word)
    verb = positional[:2] if positional[0] == "rollout" else positional[:1]
    page = run(tool("kubectl"), *verb, "--help").stdout
    assert "Usage:" in page
    assert options(words) <= set(re.findall(r"--[a-z-]+", page)) | global_options
    named = {word for word in positional if "/" in word and not word.startswith("deploy/k8s")}
    assert named <= names
