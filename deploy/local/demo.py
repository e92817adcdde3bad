"""`make demo`: the product at work, on a Kafka of its own, with pictures that are here already.

Publishes the pictures that scikit-image and scikit-learn ship, copies of them made on the spot,
two events that are no good, a redelivery and a removal; then sends the three requests of the API
by curl; shows what became of all, and holds it against what it expects. Exit status 0 if
everything was as expected, 1 if not.

Its state (build/demo) is new each time, and nothing runs on when it ends, however it ends. Each
matcher reads the log in order, so a copy is published when its original has its outcome.
"""

import io
import json
import os
import shutil
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

import psutil
import skimage
import sklearn
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.local.broker import ROOT, BrokerError
from deploy.local.client import Client, Record
from deploy.local.demo_requests import Answered, requests
from deploy.local.stack import Stack, StackError, interrupts_held, without_settings
from schemas.codec import encode_json
from schemas.reasons import REASONS
from schemas.records import ImageIngested, ImageMatched, Match
from schemas.topics import IMAGE_INGESTED, INDEX_LOG, dead_letter_topic_name
from streams.errors import CheckDedupError

DIRECTORY: Final = ROOT / "build" / "demo"
HASHERS: Final = 1
MATCHERS: Final = 1
# All of it takes a few seconds; a machine that is busy with other things needs room.
OUTCOMES_SECONDS: Final = 120.0

# One chess board in two files, grey and in colours: the same picture, whichever comes second.
TWINS: Final = frozenset({"chessboard_GRAY.png", "chessboard_RGB.png"})
# Gets a removal instead of copies.
REMOVED: Final = "flower.jpg"
# One scene, seen by the left and the right eye: may be suggested as a match, and never confirmed.
STEREO: Final = frozenset({"motorcycle_left.png", "motorcycle_right.png"})

# Of which a copy and a crop are sent over HTTP.
ASKED: Final = "astronaut.png"

KINDS: Final = ("half size", "JPEG q 20", "greyscale", "bordered")


@dataclass(frozen=True, slots=True)
class Sent:
    """A picture event as it was published, and what is expected of it."""

    name: str
    event: ImageIngested
    original: str
    """Name of the picture that this is, or is a copy of."""
    kind: str
    """One of KINDS; "original"; or what else makes this event special."""
    expected: str = "match"
    """`match`, `no match`, `known miss`, or the reason of a dead letter."""


@dataclass(slots=True)
class Seen:
    """What became of all that was published: outcomes and dead letters by image id, and times."""

    outcomes: dict[str, ImageMatched] = field(default_factory=dict)
    dead_letters: dict[str, Record] = field(default_factory=dict)
    redelivered: tuple[Record, ...] = ()
    """All deliveries of the outcome of the picture that was published twice."""
    published: int = 0
    first_outcome_seconds: float = 0.0
    """From the start of this program to the first outcome."""
    copies_per_second: float = 0.0


# --- pictures ---------------------------------------------------------------------------------


def shipped_pictures() -> dict[str, bytes]:
    """Read the pictures that two Python packages carry; nothing is downloaded."""
    folders = (
        Path(skimage.__file__).parent / "data",
        Path(sklearn.__file__).parent / "datasets" / "images",
    )
    files = (file for folder in folders for file in folder.iterdir())
    pictures = {file.name: file for file in files if file.suffix in {".png", ".jpg"}}
    return {name: pictures[name].read_bytes() for name in sorted(pictures)}


def copies_of(content: bytes) -> dict[str, bytes]:
    """Make a copy of each kind, in memory."""
    with Image.open(io.BytesIO(content)) as opened:
        shown = opened.convert("RGBA")
    picture = Image.new("RGB", shown.size, "white")
    picture.paste(shown, mask=shown)
    width, height = picture.size
    return {
        "half size": _jpeg(picture.resize((width // 2, height // 2)), 85),
        "JPEG q 20": _jpeg(picture, 20),
        "greyscale": _jpeg(ImageOps.grayscale(picture), 85),
        "bordered": _jpeg(ImageOps.expand(picture, max(width, height) // 12, "white"), 85),
    }


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    with io.BytesIO() as file:
        picture.save(file, "JPEG", quality=quality)
        return file.getvalue()


@contextmanager
def served(pictures: Mapping[str, bytes]) -> Iterator[str]:
    """Serve pictures by name on a free loopback port, as Check's media store would."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = pictures.get(unquote(self.path.lstrip("/")))
            if content is None:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing: standard error is the reader's."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="pictures", daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()


# --- the run ----------------------------------------------------------------------------------


class Demo:
    """One run against a stack that is up."""

    def __init__(self, stack: Stack, client: Client, url: str) -> None:
        self.sent: list[Sent] = []
        self.seen = Seen()
        self._stack = stack
        self._client = client
        self._url = url
        # A Kafka that is not ours may hold earlier demos.
        self.workspace = f"demo-{uuid.uuid4().hex[:8]}"

    def publish_originals(self, pictures: Mapping[str, bytes]) -> None:
        """Publish each shipped picture by URL; wait for all outcomes."""
        for name in pictures:
            event = self._event(name, url=self._url + quote(name))
            self.sent.append(Sent(name, event, name, "original", "no match"))
        self._publish(self.sent)

    def publish_copies(self, copies: Mapping[tuple[str, str], bytes], board: bytes) -> None:
        """Publish all copies inline, an unchanged plain picture, and what is no good, at once."""
        batch = [
            Sent(
                name=f"{original}, {kind}",
                event=self._event(f"{original}-{kind}", content=content),
                original=original,
                kind=kind,
                expected="match",
            )
            for (original, kind), content in copies.items()
        ]
        plain = min(TWINS)
        same = self._event(f"{plain}-again", content=board)
        batch.append(Sent(f"{plain}, same bytes", same, plain, "unchanged"))
        cut = next(iter(copies.values()))
        cut = cut[: len(cut) // 2]
        for name, content, reason in (
            ("text.jpg", b"This is a text file, whatever its name says.", "not_an_image"),
            ("cut-in-half.jpg", cut, "picture_truncated"),
        ):
            event = self._event(name, content=content)
            batch.insert(len(batch) // 2, Sent(name, event, name, "poison", reason))
        self.sent += batch
        began = time.monotonic()
        self._publish(batch)
        self.seen.copies_per_second = len(batch) / (time.monotonic() - began)

    def redeliver(self) -> None:
        """Publish a picture's event once more, as Kafka does when a producer retries."""
        again = next(sent for sent in self.sent if sent.kind == KINDS[0])
        self._client.ingest(again.event)
        self.seen.published += 1
        image_id = again.event.image_id
        self._await("the redelivery", lambda: len(self._client.outcomes(image_id)) > 1)
        self.seen.redelivered = tuple(self._client.outcomes(image_id))

    def remove(self, copy: bytes) -> None:
        """Remove a picture, and publish a copy of it once the log has the removal."""
        removed = next(sent for sent in self.sent if sent.name == REMOVED)
        before = len(self._client.records(INDEX_LOG))
        self._client.remove(self.workspace, removed.event.image_id)
        self.seen.published += 1
        self._await("the removal", lambda: len(self._client.records(INDEX_LOG)) > before)
        event = self._event(f"{REMOVED}-late", content=copy)
        late = Sent(f"{REMOVED}, after removal", event, REMOVED, "late", "no match")
        self.sent.append(late)
        self._publish([late])

    def _event(
        self, name: str, *, url: str | None = None, content: bytes | None = None
    ) -> ImageIngested:
        image_id = f"{name.replace(' ', '-')}~{uuid.uuid4().hex[:8]}"
        return ImageIngested(self.workspace, image_id, url=url, content=content)

    def _publish(self, batch: Sequence[Sent]) -> None:
        self._client.ingest(*(sent.event for sent in batch))
        self.seen.published += len(batch)
        ids = [sent.event.image_id for sent in batch]
        if not self.seen.outcomes:
            self._await("the first outcome", lambda: any(map(self._client.ended, ids)))
            self.seen.first_outcome_seconds = seconds_since_start()
        self._await("all outcomes", lambda: all(map(self._client.ended, ids)))
        for image_id in ids:
            for record in self._client.outcomes(image_id):
                self.seen.outcomes[image_id] = record.outcome()
            for record in self._client.dead_letters(image_id):
                self.seen.dead_letters[image_id] = record

    def _await(self, what: str, condition: Callable[[], bool]) -> None:
        alive = self._stack.require_alive
        if not self._client.wait(condition, OUTCOMES_SECONDS, meanwhile=alive):
            tails = "\n".join(member.log_tail() for member in self._stack.members)
            raise StackError(f"waited {OUTCOMES_SECONDS:g} s in vain for {what}; {tails}")


def seconds_since_start() -> float:
    """Give this program's age, its imports included."""
    return time.time() - psutil.Process().create_time()


# --- what is expected -------------------------------------------------------------------------


def expectations(sent: Sequence[Sent], seen: Seen) -> list[tuple[str, list[str]]]:
    """Hold what was seen against what was expected: each claim, and what contradicts it."""
    originals = [one for one in sent if one.kind == "original"]
    copies = [one for one in sent if one.expected == "match"]
    poison = [one for one in sent if one.kind == "poison"]
    late = [one for one in sent if one.kind == "late"]
    ended = [f"{one.name} has none" for one in sent if not _endings(one, seen)]
    ended += [f"{one.name} has two" for one in sent if _endings(one, seen) > 1]
    return [
        (f"all {len(sent)} pictures ended in one outcome or one dead letter", ended),
        (
            f"{len(originals)} originals match nothing, save one in two files (stereo: suggested)",
            _matching(originals, sent, seen) + _unmatched_twins(originals, seen),
        ),
        (
            f"{len(copies)} copies match their original, and no other (the stereo pair aside)",
            [wrong for one in copies for wrong in _wrong_matches(one, sent, seen)],
        ),
        (
            f"{len(poison)} broken ones are dead letters: their own bytes, and the right reason",
            [wrong for one in poison for wrong in _wrong_dead_letter(one, seen)],
        ),
        ("the event published twice has one outcome, sent twice", _wrong_redelivery(seen)),
        (f"once removed, {REMOVED} is found by nothing", _matching(late, sent, seen)),
    ]


def _endings(one: Sent, seen: Seen) -> int:
    image_id = one.event.image_id
    return (image_id in seen.outcomes) + (image_id in seen.dead_letters)


def _matching(ones: Sequence[Sent], sent: Sequence[Sent], seen: Seen) -> list[str]:
    by_id = {one.event.image_id: one for one in sent}
    return [
        f"{one.name} matches {by_id[match.image_id].name}"
        for one in ones
        if (outcome := seen.outcomes.get(one.event.image_id)) is not None
        for match in outcome.matches
        if (pair := {one.original, by_id[match.image_id].original}) != TWINS
        and (pair != STEREO or match.tier == "confirmed_sibling")
    ]


def _unmatched_twins(originals: Sequence[Sent], seen: Seen) -> list[str]:
    twins = [one for one in originals if one.original in TWINS]
    outcomes = [seen.outcomes.get(one.event.image_id) for one in twins]
    if sum(bool(outcome and outcome.matches) for outcome in outcomes) == len(twins) // 2:
        return []
    return [f"of {' and '.join(sorted(TWINS))} not the second matches the first"]


def _wrong_matches(one: Sent, sent: Sequence[Sent], seen: Seen) -> Iterator[str]:
    outcome = seen.outcomes.get(one.event.image_id)
    if outcome is None:
        return  # said already
    if original_match(one, sent, outcome) is None:
        yield f"{one.name} does not match its original"
    by_id = {other.event.image_id: other for other in sent}
    for match in outcome.matches:
        other = by_id[match.image_id]
        pair = {other.original, one.original}
        if len(pair) > 1 and pair not in (STEREO, TWINS):
            yield f"{one.name} matches {other.name}"


def _wrong_dead_letter(one: Sent, seen: Seen) -> Iterator[str]:
    letter = seen.dead_letters.get(one.event.image_id)
    if letter is None:
        yield f"{one.name} is no dead letter"
        return
    reason = letter.header("dlq-reason")
    if reason != one.expected:
        yield f"{one.name}: {reason} instead of {one.expected}"
    if (letter.key, letter.value) != (one.event.image_id.encode(), encode_json(one.event)):
        yield f"{one.name}: not the bytes that were published"


def _wrong_redelivery(seen: Seen) -> list[str]:
    if len(seen.redelivered) != 2:  # noqa: PLR2004 - published twice
        return [f"{len(seen.redelivered)} deliveries"]
    first, second = seen.redelivered
    return [] if first.same == second.same else ["the two deliveries differ"]


def original_match(one: Sent, sent: Sequence[Sent], outcome: ImageMatched) -> Match | None:
    """Find a copy's match with its original."""
    ids = {
        other.event.image_id
        for other in sent
        if other.kind == "original" and other.name == one.original
    }
    return next((match for match in outcome.matches if match.image_id in ids), None)


# --- what is shown ----------------------------------------------------------------------------


def show(out: Console, sent: Sequence[Sent], seen: Seen, answered: Sequence[Answered] = ()) -> int:
    """Print it all; give the number of expectations that were not met."""
    out.print(_copies_table(sent, seen))
    out.print(
        "Bits that differ from the original: of the 64-bit code, which finds / of the 256-bit "
        "one, with which it is decided: [green]confirmed[/] or [cyan]suggested[/].\n"
        "t: its trimmed view met, which is the picture without a border.\n",
        style="dim",
    )
    out.print(_cases_table(sent, seen), "")
    out.print(_dead_letters_table(sent, seen), "")
    for one in answered:
        out.print(f"$ {one.command}", style="bold", markup=False, soft_wrap=True)
        out.print(json.dumps(one.body, separators=(",", ":")), markup=False, soft_wrap=True)
    out.print()
    out.print(
        f"[bold]{seen.published}[/] events; [bold]{seen.copies_per_second:.0f}[/] pictures/s from "
        "publishing the copies to their last outcome.\n"
        f"First outcome [bold]{seen.first_outcome_seconds:.1f} s[/] after the start of everything, "
        f"Kafka included; all done in {seconds_since_start():.1f} s.\n"
    )
    failed = 0
    over_http = (
        f"{len(answered)} requests are answered, the last two with what came as an event",
        [contradiction for one in answered for contradiction in one.wrong],
    )
    for claim, wrong in [*expectations(sent, seen), *([over_http] if answered else [])]:
        failed += bool(wrong)
        out.print(Text("✗ " if wrong else "✓ ", "bold red" if wrong else "bold green") + claim)
        for contradiction in wrong:
            out.print(f"    {contradiction}", style="red", markup=False)
    return failed


def _copies_table(sent: Sequence[Sent], seen: Seen) -> Table:
    table = _table("What matched what: each copy, by its original")
    table.add_column("original", no_wrap=True)
    for kind in KINDS:
        table.add_column(kind, no_wrap=True)
    rows: dict[str, dict[str, Text]] = {}
    for one in sent:
        if one.kind in KINDS:
            rows.setdefault(one.original, {})[one.kind] = _cell(one, sent, seen)
    for original, cells in rows.items():
        table.add_row(original, *(cells.get(kind, Text()) for kind in KINDS))
    return table


def _cell(one: Sent, sent: Sequence[Sent], seen: Seen) -> Text:
    outcome = seen.outcomes.get(one.event.image_id)
    if outcome is None:
        return Text("no outcome", "bold red")
    strangers = [wrong for wrong in _wrong_matches(one, sent, seen) if "not match" not in wrong]
    if strangers:
        return Text("another one", "bold red")
    match = original_match(one, sent, outcome)
    if match is None:
        return Text("not found", "bold red")
    trimmed = " t" if "trimmed" in match.views else ""
    style = "green" if match.tier == "confirmed_sibling" else "cyan"
    fine = "-" if match.fine_distance is None else match.fine_distance
    return Text(f"{match.score:2} / {fine:<2}{trimmed}", style)


def _cases_table(sent: Sequence[Sent], seen: Seen) -> Table:
    table = _table("Cases that deserve a word")
    for title in ("picture", "outcome"):
        table.add_column(title, overflow="fold", ratio=3)
    table.add_column("why", ratio=5)
    by_id = {one.event.image_id: one for one in sent}
    for one in sent:
        outcome = seen.outcomes.get(one.event.image_id)
        for words in _case(one, outcome, by_id) if outcome is not None else ():
            table.add_row(one.name, *words)
    if seen.redelivered:
        name = by_id[(seen.redelivered[0].key or b"").decode()].name
        deliveries = f"{len(seen.redelivered)} deliveries"
        table.add_row(f"{name}, published twice", deliveries, "of one outcome: the same event id")
    return table


def _case(one: Sent, outcome: ImageMatched, by_id: Mapping[str, Sent]) -> Iterator[tuple[str, str]]:
    """Say, and why, where an outcome is not simply a copy's match with its original."""
    if one.kind == "late" and not outcome.match:
        yield "no match", "what was removed is found by nothing"
    for match in outcome.matches:
        other = by_id[match.image_id]
        if match.relation == "identical":
            yield other.name, "identical bytes"
        elif {other.original, one.original} == TWINS:
            yield other.name, "one board in two files, grey and in colours"
        if {other.original, one.original} == STEREO:
            yield (
                f"{match.tier.removesuffix('_sibling')} {other.name}",
                "one scene, seen by the left and the right eye",
            )


def _dead_letters_table(sent: Sequence[Sent], seen: Seen) -> Table:
    table = _table("Dead letters")
    for title in ("picture", "reason", "meaning"):
        table.add_column(title)
    names = {one.event.image_id: one.name for one in sent}
    for image_id, letter in seen.dead_letters.items():
        reason = letter.header("dlq-reason")
        meaning = next((text for code, text in REASONS.items() if code == reason), "")
        table.add_row(names[image_id], reason, meaning, style="yellow")
    return table


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )


# --- the command ------------------------------------------------------------------------------


def run(out: Console) -> int:
    """Run the demo once; give its exit status."""
    environment = without_settings(os.environ)
    stack = Stack(DIRECTORY, hashers=HASHERS, matchers=MATCHERS, apis=1, environment=environment)
    stack.stop()  # what a demo left that was killed
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    pictures = shipped_pictures()
    with ExitStack() as cleanup, out.status("reading the pictures") as status:
        cleanup.callback(_stop, stack)
        cleanup.callback(status.update, "stopping")
        # Copies are made while Kafka starts.
        pool = cleanup.enter_context(ThreadPoolExecutor(1))
        made = pool.submit(lambda: {name: copies_of(pictures[name]) for name in pictures})
        stack.start(status.update)
        topics = ("image-matched", dead_letter_topic_name(IMAGE_INGESTED), INDEX_LOG)
        client = cleanup.enter_context(Client(stack.settings, topics))
        demo = Demo(stack, client, cleanup.enter_context(served(pictures)))
        status.update("publishing the pictures, waiting for the first outcomes")
        demo.publish_originals(pictures)
        copies = {
            (name, kind): content
            for name, by_kind in made.result().items()
            if name not in TWINS | {REMOVED}
            for kind, content in by_kind.items()
        }
        status.update("publishing copies of them")
        demo.publish_copies(copies, pictures[min(TWINS)])
        status.update("publishing one of them again")
        demo.redeliver()
        status.update(f"removing {REMOVED}")
        demo.remove(made.result()[REMOVED][KINDS[0]])
        status.update("asking over HTTP")
        stack.await_ready()
        answered = list(requests(stack, demo.workspace, pictures, ASKED))
        status.stop()
        out.print(
            f"\n[bold]check-dedup[/]: {len(pictures)} pictures by URL, then {len(copies)} copies "
            f"of them inline.\nKafka on {stack.bootstrap}, {HASHERS} hasher, {MATCHERS} matcher, "
            f"logs in {os.path.relpath(stack.logs)}.\n"
        )
        failed = show(out, demo.sent, demo.seen, answered)
    if failed:
        out.print(f"\n[bold red]{failed} of the expectations above were not met.[/]")
        return 1
    out.print("\nEverything as expected. To try your own pictures: [bold]make up[/].")
    return 0


def _stop(stack: Stack) -> None:
    with interrupts_held():
        stack.stop()


def main() -> int:
    """Run the demo; errors that have a name are told in a few lines."""
    # A TERM is cleaned up after like a Ctrl-C, also where the shell started us without the latter.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    out = Console(highlight=False)
    try:
        return run(out)
    except (BrokerError, StackError, CheckDedupError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing is left running", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
