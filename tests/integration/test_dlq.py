"""Dead letters found, shown, sent again and dropped, on the real broker and through the product."""

import json
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from deploy.local.client import Client
from deploy.local.stack import COMMAND, Stack
from schemas.codec import Headers, dead_letter_headers, encode_json
from schemas.reasons import Reason
from schemas.records import ImageIngested
from schemas.topics import (
    DEAD_LETTERS_HANDLED,
    IMAGE_INGESTED,
    MATCH_ASKED,
    dead_letter_topic_name,
)
from streams.kafka.dead_letter_queue import Handling, Place, Scan, Wanted, find
from tests.integration.pictures import photograph_file

WAIT_SECONDS = 60.0
DEAD_LETTERS = dead_letter_topic_name(IMAGE_INGESTED)
TEXT = b"This is no picture."
PICTURE = photograph_file(1_200)


def letters(
    client: Client,
    workspace: str,
    number: int,
    *,
    content: bytes = PICTURE,
    reason: Reason = "fetch_failed",
    headers: Headers = (("x-trace", b"\x00\xff"), ("x-trace", None)),
) -> list[str]:
    """Put dead letters of good pictures into their topic, as a hasher without a network would.

    Give their image ids. Their sources are places that no other letter names.
    """
    ids = [f"letter-{uuid.uuid4().hex}" for _ in range(number)]
    records = []
    for image_id in ids:
        event = encode_json(ImageIngested(workspace, image_id, content=content))
        offset = uuid.uuid4().int % 10**12
        ours = dead_letter_headers(
            headers, topic=IMAGE_INGESTED, partition=1, offset=offset, reason=reason
        )
        records.append((DEAD_LETTERS, image_id.encode(), event, tuple(ours)))
    client.send(*records, partition=1)
    return ids


def listed(stack: Stack, *arguments: str) -> str:
    """What `dlq list` prints."""
    return stack.command("dlq", "list", *arguments)


def left(stack: Stack, workspace: str) -> list[str]:
    """Image ids of the letters of a workspace that nobody has handled."""
    return [letter.image_id or "" for letter in Scan(stack.settings, Wanted(workspace=workspace))]


def await_outcomes(client: Client, stack: Stack, ids: list[str]) -> None:
    """Wait until each picture has its outcome; none may have two that differ."""
    assert client.wait(
        lambda: all(map(client.outcomes, ids)), WAIT_SECONDS, meanwhile=stack.require_alive
    )
    for image_id in ids:
        assert len({record.same for record in client.outcomes(image_id)}) == 1


def test_a_picture_that_is_replayed_ends_in_one_outcome(
    client: Client, stack: Stack, workspace: str
) -> None:
    """A dry run does nothing; a cap leaves the rest for the next run; then nothing is left."""
    ids = letters(client, workspace, 5)
    others = letters(client, f"other-{workspace}", 1)
    filters = ("--workspace", workspace, "--reason", "fetch_failed")
    assert "5 dead letters would be replayed" in stack.command(
        "dlq", "replay", *filters, "--dry-run"
    )
    assert left(stack, workspace) == ids
    said = stack.command("dlq", "replay", *filters, "--most", "3")
    assert "3 dead letters replayed: 3 fetch_failed" in said
    assert "stopped at 3" in said
    assert left(stack, workspace) == ids[3:]
    assert "2 dead letters replayed" in stack.command("dlq", "replay", *filters)
    assert "0 dead letters replayed" in stack.command("dlq", "replay", *filters)
    await_outcomes(client, stack, ids)
    assert left(stack, f"other-{workspace}") == others


def test_a_replay_is_the_record_as_it_was(client: Client, stack: Stack, workspace: str) -> None:
    """Bytes, key, headers and partition, of what no picture can come of too; it fails again.

    Then it is a letter of its own: listed again, and once.
    """
    (image_id,) = letters(client, workspace, 1, content=TEXT, reason="decode_timeout")
    (before,) = Scan(stack.settings, Wanted(workspace=workspace))
    with Client(stack.settings, (IMAGE_INGESTED,)) as watching:
        stack.command("dlq", "replay", str(before.place))
        assert watching.wait(lambda: bool(watching.records(IMAGE_INGESTED, image_id)), WAIT_SECONDS)
        (sent,) = watching.records(IMAGE_INGESTED, image_id)
    assert (sent.key, sent.value, sent.partition) == (before.key, before.value, 1)
    assert (
        list(sent.headers) == list(before.headers) == [("x-trace", b"\x00\xff"), ("x-trace", None)]
    )
    assert client.wait(
        lambda: len(client.dead_letters(image_id)) == 2, WAIT_SECONDS, meanwhile=stack.require_alive
    )
    (after,) = Scan(stack.settings, Wanted(workspace=workspace))
    assert (after.reason, after.image_id) == ("not_an_image", image_id)
    assert after.letter_id != before.letter_id
    assert (after.key, after.value, after.headers) == (before.key, before.value, before.headers)


def test_a_replay_that_ends_between_sending_and_marking_sends_again(
    client: Client, stack: Stack, workspace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost, and the second sending changes no outcome."""
    ids = letters(client, workspace, 4)
    scan = Scan(stack.settings, Wanted(workspace=workspace))
    handling = Handling(stack.settings, scan, "replayed")

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(handling, "_mark", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(handling.handle(scan))
    await_outcomes(client, stack, ids)
    assert left(stack, workspace) == ids
    assert "4 dead letters replayed" in stack.command("dlq", "replay", "--workspace", workspace)
    assert client.wait(
        lambda: all(len(client.outcomes(image_id)) >= 2 for image_id in ids),
        WAIT_SECONDS,
        meanwhile=stack.require_alive,
    )
    await_outcomes(client, stack, ids)
    assert left(stack, workspace) == []


def test_a_replay_that_is_killed_can_be_run_again(
    client: Client, stack: Stack, workspace: str
) -> None:
    """`kill -9` when the first marks are in: none is marked that was not sent, each ends once.

    Marks lie in several partitions: which of a group are in when the process dies is open.
    """
    ids = letters(client, workspace, 250)
    arguments = [str(COMMAND), "dlq", "replay", "--workspace", workspace]
    with Client(stack.settings, (IMAGE_INGESTED, DEAD_LETTERS_HANDLED)) as watching:
        running = subprocess.Popen(arguments, env=stack.environment, stdout=subprocess.DEVNULL)
        assert watching.wait(lambda: bool(watching.records(DEAD_LETTERS_HANDLED)), WAIT_SECONDS)
        running.send_signal(signal.SIGKILL)
        running.wait()
        remaining = left(stack, workspace)
        marked = [image_id for image_id in ids if image_id not in remaining]
        assert marked
        assert remaining == [image_id for image_id in ids if image_id not in marked]
        assert watching.wait(
            lambda: all(watching.records(IMAGE_INGESTED, image_id) for image_id in marked),
            WAIT_SECONDS,
        )
    assert stack.command("dlq", "replay", "--workspace", workspace)
    await_outcomes(client, stack, ids)
    assert left(stack, workspace) == []


def test_dropped_letters_are_listed_no_more(client: Client, stack: Stack, workspace: str) -> None:
    """They stay in their topic, and can be looked at there."""
    letters(client, workspace, 2)
    (kept,) = letters(client, workspace, 1, reason="http_status")
    filters = ("--workspace", workspace, "--reason", "fetch_failed")
    place = next(iter(Scan(stack.settings, Wanted(workspace=workspace)))).place
    assert "2 dead letters dropped" in stack.command("dlq", "drop", *filters)
    assert left(stack, workspace) == [kept]
    assert find(stack.settings, place) is not None
    assert "no dead letters" in listed(stack, *filters)


def test_a_letter_that_is_delivered_twice_is_one(
    client: Client, stack: Stack, workspace: str
) -> None:
    """Listed once, and handled with one mark."""
    (image_id,) = letters(client, workspace, 1)
    (letter,) = Scan(stack.settings, Wanted(workspace=workspace))
    assert client.wait(lambda: bool(client.dead_letters(image_id)), WAIT_SECONDS)
    (record,) = client.dead_letters(image_id)
    client.send((DEAD_LETTERS, record.key, record.value, record.headers), partition=1)
    assert left(stack, workspace) == [image_id]
    stack.command("dlq", "drop", str(letter.place))
    assert left(stack, workspace) == []


def test_the_list_counts_by_reason_and_knows_times(
    client: Client, stack: Stack, workspace: str
) -> None:
    """Newest first; before the letters and after them there are none."""
    before = time.time()
    letters(client, workspace, 3)
    ids = letters(client, workspace, 1, reason="http_status")
    text = listed(stack, "--workspace", workspace, "--most", "2")
    summary = [line.split() for line in text.partition("\n\n")[0].splitlines()]
    counts = {line[1]: line[0] for line in summary if line[0].isdigit()}
    assert counts == {"fetch_failed": "3", "http_status": "1"}
    assert text.count(f"{DEAD_LETTERS}[1]@") == 2
    assert "The host answered with an error status." in " ".join(text.split())
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(before - 1))
    for options, number in (
        (("--since", at), 4),
        (("--until", at), 0),
        (("--since", "1h"), 4),
        (("--until", "1h"), 0),
        (("--topic", IMAGE_INGESTED), 4),
        (("--topic", "image-removed"), 0),
    ):
        said = stack.command("dlq", "drop", "--workspace", workspace, *options, "--dry-run")
        assert said.startswith(f"{number} dead letters would be dropped")
    newest = [letter.image_id for letter in Scan(stack.settings, Wanted(workspace=workspace))][-1]
    assert newest == ids[0]


HOSTILE = {
    "workspace": "w\u001b[2J\u202e",
    "image_id": "x\u0007",
    "url": "https://user:hunter2@example.org/p.jpg?token=hunter2&x=1",
}


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "garbage"])
def test_show_prints_nothing_that_a_stranger_can_use(
    client: Client, stack: Stack, *, as_json: bool
) -> None:
    """No control character, no password, and no more than was asked for."""
    value = json.dumps(HOSTILE).encode().replace(b"@", b"\\u0040")
    if not as_json:
        value = (
            b"\x1b]0;title\x07 http:\\/\\/user:hunter2@h/ \xff\xfe" + value + b"\x1b[31m" * 9_999
        )
    ours = dead_letter_headers(
        [("x-\x1b[2J", b"\x1b[31m ftp://u:hunter2@h/")],
        topic=IMAGE_INGESTED,
        partition=1,
        offset=uuid.uuid4().int % 10**12,
        reason="schema_violation",
    )
    ((partition, offset),) = client.send((DEAD_LETTERS, b"k\x1b[2J", value, ours), partition=1)
    shown = stack.command("dlq", "show", f"{IMAGE_INGESTED}[{partition}]@{offset}")
    assert "hunter2" not in shown
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert "The value is JSON, but not as the topic's schema says." in shown
    assert "***@" in shown
    assert len(shown) < 6_000
    text = listed(stack, "--reason", "schema_violation")
    assert all(character.isprintable() or character == "\n" for character in text)
    stack.command("dlq", "drop", f"{DEAD_LETTERS}[{partition}]@{offset}")


def test_what_cannot_be_sent_anywhere_is_left(client: Client, stack: Stack) -> None:
    """Old questions, and records whose headers name no source, or another topic's."""
    questions = dead_letter_topic_name(MATCH_ASKED)
    ours = dead_letter_headers((), topic=MATCH_ASKED, partition=0, offset=1, reason="not_json")
    astray = dead_letter_headers((), topic="index-log", partition=0, offset=1, reason="not_json")
    (question,) = client.send((questions, b"q", b"?", ours), partition=0)
    foreign = client.send(
        (DEAD_LETTERS, b"foreign", b"?", ()), (DEAD_LETTERS, b"foreign", b"?", astray), partition=0
    )
    places = [f"{questions}[0]@{question[1]}", *(f"{DEAD_LETTERS}[0]@{at}" for _, at in foreign)]
    said = stack.command("dlq", "replay", *places)
    assert said.startswith("0 dead letters replayed")
    assert "3 left as they are" in said
    assert "3 dead letters dropped" in stack.command("dlq", "drop", *places)


def test_errors_are_words(stack: Stack) -> None:
    """Exit code 2 for what was asked wrongly, 1 for what cannot be done; one line that says why."""
    for arguments, code, words in (
        (("replay",), 2, "say which dead letters, or --all"),
        (("drop",), 2, "say which dead letters, or --all"),
        (("list", "--reason", "bad_luck"), 2, "no such reason"),
        (("list", "--since", "yesterday"), 2, "90s, 30m, 2h, 7d"),
        (("list", "--topic", "index-log"), 2, "no such topic"),
        (("show", "image-ingested"), 2, "topic[partition]@offset is wanted"),
        (("show", "image-ingested[0]@999999999"), 1, "there is no such record"),
        (("show", "image-ingested[99]@0"), 1, "there is no such record"),
    ):
        done = stack.try_command("dlq", *arguments)
        assert done.returncode == code, done.stderr
        assert words in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr
    done = subprocess.run(
        [str(COMMAND), "dlq", "list"],
        env={"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "PATH": ""},
        cwd=Path(COMMAND).parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_SECONDS,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("error: dead-letters-handled[0]")


def test_places_are_read_as_they_are_printed() -> None:
    """And of nothing else."""
    place = Place(DEAD_LETTERS, 3, 14)
    assert Place.parse(str(place)) == place
    assert Place.parse("image-ingested[3]@14") == place
    for text in ("", "image-ingested", "image-ingested[x]@1", "image-ingested[1]@-1", "[1]@1"):
        with pytest.raises(ValueError, match="wanted"):
            Place.parse(text)
