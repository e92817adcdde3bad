"""`check-dedup status` against the running product."""

import re
import subprocess
import time
import uuid

from deploy.local.client import Client
from deploy.local.stack import COMMAND, Stack, without_settings
from schemas.records import ImageIngested
from tests.integration.pictures import photograph_file

WAIT_SECONDS = 60.0


def looked(stack: Stack) -> dict[str, str]:
    """What it prints."""
    endpoints = [f"--metrics={member.metrics_url}" for member in stack.members]
    printed = stack.command("status", "--once", *endpoints)
    return dict(line.split(": ", 1) for line in printed.splitlines())


def test_a_look(stack: Stack, client: Client, workspace: str) -> None:
    """One line each; a new outcome is one more, and what has ended does not wait any more."""
    before = int(looked(stack)["outcomes"])
    event = ImageIngested(workspace, uuid.uuid4().hex, content=photograph_file(9700))
    client.ingest(event)
    assert client.wait(lambda: bool(client.outcomes(event.image_id)), WAIT_SECONDS)
    deadline = time.monotonic() + WAIT_SECONDS
    while "lag 0 records, 0.0 s; 2 members" not in (found := looked(stack))["hasher"]:
        assert time.monotonic() < deadline, found
    assert list(found) == [
        "hasher",
        "matcher",
        "outcomes",
        "dead letters",
        "index",
        "restart",
        "takeover",
        "processes",
    ]
    assert re.fullmatch(r"a matcher answered \d+\.\d s after its start", found["restart"])
    session = f"session timeout {stack.settings.session_timeout_seconds} s, then rebuild: "
    assert found["takeover"].startswith(session)
    assert int(found["outcomes"]) == before + 1
    assert found["matcher"].endswith("; 1 member")
    assert int(found["index"].split()[0]) > 0
    assert found["processes"] == f"{len(stack.members)} tell their metrics"


def test_without_metrics(stack: Stack) -> None:
    """What Kafka knows is there all the same; the index is said to be unknown."""
    printed = stack.command("status", "--once", "--metrics=http://127.0.0.1:9/metrics")
    assert "hasher: lag " in printed
    assert "0 tell their metrics" in printed
    assert "no matcher tells" in printed


def test_without_kafka() -> None:
    """It says so in one line, and the exit code is 1."""
    done = subprocess.run(
        [COMMAND, "status", "--once"],
        env=without_settings({"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9"}),
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert sum(line.startswith("error: ") for line in done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
