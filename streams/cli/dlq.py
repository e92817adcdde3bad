"""`check-dedup dlq`: look at dead letters, send them again, mark them as handled."""

import heapq
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.progress import Progress

from schemas.reasons import REASONS
from streams.cli.session import out, session

if TYPE_CHECKING:
    from streams.kafka.dead_letter_queue import Action, Advance, DeadLetter, Place, Wanted

dlq_app = typer.Typer(
    help="Dead letters: look at them, send them again, mark them as handled.",
    no_args_is_help=True,
)

_LIST_LETTERS: Final = 20
_HANDLE_LETTERS: Final = 1_000
_SHOW_CHARACTERS: Final = 4_000
_WORD_CHARACTERS: Final = 120
_UNITS_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}

Reasons = Annotated[
    list[str] | None,
    typer.Option("--reason", help="Only with this reason code; give it again for another."),
]
Workspace = Annotated[
    str | None, typer.Option(help="Only of this workspace, as far as they can be read.")
]
Since = Annotated[
    str | None,
    typer.Option(help="Only from this time on: 90s, 30m, 2h or 7d ago, or a date as ISO 8601."),
]
Until = Annotated[str | None, typer.Option(help="Only before this time, in the same forms.")]
TopicNames = Annotated[
    list[str] | None,
    typer.Option("--topic", help="Only of this topic, image-ingested say; or of another too."),
]
Places = Annotated[
    list[str] | None, typer.Argument(help="Only these: topic[partition]@offset, as `list` prints.")
]
Everything = Annotated[bool, typer.Option("--all", help="Really all, where nothing else is said.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
MostHandled = Annotated[int, typer.Option("--most", help="At most so many, oldest first.", min=1)]


@dlq_app.command("list")
def list_letters(
    *,
    reason: Reasons = None,
    workspace: Workspace = None,
    since: Since = None,
    until: Until = None,
    topic: TopicNames = None,
    most: Annotated[int, typer.Option(help="List the newest so many.", min=0)] = _LIST_LETTERS,
) -> None:
    """Count the dead letters that nobody has handled, by reason, and list the newest."""
    wanted = _wanted(topic, reason, None, workspace=workspace, since=since, until=until)
    with session() as settings:
        from streams.kafka.dead_letter_queue import Scan

        counts: Counter[tuple[str, str]] = Counter()
        newest: list[tuple[int, Place, DeadLetter]] = []
        with _progress("reading dead letters") as advance:
            for letter in Scan(settings, wanted, advance):
                counts[letter.place.topic, letter.reason] += 1
                heapq.heappush(newest, (letter.timestamp_ms, letter.place, letter))
                if len(newest) > most:
                    heapq.heappop(newest)
        if not counts:
            out.print("no dead letters that anybody should look at")
            return
        for (name, code), count in counts.most_common():
            meaning = next((text for known, text in REASONS.items() if known == code), "")
            _line(f"{count:>6}  {_bounded(code)}  {name}  {meaning}")
        if newest:
            _line("")
        for time_ms, place, letter in sorted(newest, reverse=True):
            told = (letter.reason, letter.workspace or "-", letter.image_id or "-")
            _line("  ".join((str(place), _when(time_ms), *map(_bounded, told))))


@dlq_app.command("show")
def show(
    place: Annotated[str, typer.Argument(help="topic[partition]@offset, as `list` prints it.")],
    *,
    characters: Annotated[int, typer.Option(help="Of its value, at most.", min=1)] = (
        _SHOW_CHARACTERS
    ),
) -> None:
    """Print one dead letter: what our headers say, its own headers, its key and value.

    Control characters are escaped, credentials in URLs are masked, long texts are cut.
    """
    wanted = _place(place)
    with session() as settings:
        from streams.errors import MisconfiguredError
        from streams.kafka.dead_letter_queue import find
        from streams.kafka.dead_letter_text import printable, shown

        letter = find(settings, wanted)
        if letter is None:
            raise MisconfiguredError(f"{wanted}: there is no such record, or no longer")
        source = "not said"
        if letter.source is not None:
            topic, partition, offset = letter.source
            source = f"{topic}[{partition}]@{offset}"
        meaning = next((text for known, text in REASONS.items() if known == letter.reason), "")
        lines = [
            ("dead letter", str(letter.place)),
            ("id", letter.letter_id),
            ("when", _when(letter.timestamp_ms)),
            ("reason", printable(f"{letter.reason}  {meaning}".strip())),
            ("source", source),
            ("workspace", printable(letter.workspace or "")),
            ("image id", printable(letter.image_id or "")),
            ("key", shown(letter.key, characters)),
            *(
                (f"header {printable(name)}", shown(value, characters))
                for name, value in letter.headers
            ),
            ("value", shown(letter.value, characters)),
        ]
        for name, text in lines:
            _line(f"{name}: {text}")


@dlq_app.command("replay")
def replay(
    places: Places = None,
    *,
    reason: Reasons = None,
    workspace: Workspace = None,
    since: Since = None,
    until: Until = None,
    topic: TopicNames = None,
    everything: Everything = False,
    most: MostHandled = _HANDLE_LETTERS,
    dry_run: DryRun = False,
) -> None:
    """Send dead letters to the topics that they came from, as they were, and mark them handled.

    One whose picture has an outcome by now does no harm: the same outcome is sent again. One that
    fails again is a dead letter again. Interrupted, run it again: what was not marked is sent
    once more.
    """
    wanted = _wanted(topic, reason, places, workspace=workspace, since=since, until=until)
    _handle(wanted, "replayed", everything=everything, most=most, dry_run=dry_run)


@dlq_app.command("drop")
def drop(
    places: Places = None,
    *,
    reason: Reasons = None,
    workspace: Workspace = None,
    since: Since = None,
    until: Until = None,
    topic: TopicNames = None,
    everything: Everything = False,
    most: MostHandled = _HANDLE_LETTERS,
    dry_run: DryRun = False,
) -> None:
    """Mark dead letters as handled, without sending them again; they stay in their topic."""
    wanted = _wanted(topic, reason, places, workspace=workspace, since=since, until=until)
    _handle(wanted, "dropped", everything=everything, most=most, dry_run=dry_run)


def _handle(
    wanted: "Wanted", action: "Action", *, everything: bool, most: int, dry_run: bool
) -> None:
    if not wanted.restricts() and not everything:
        raise typer.BadParameter("say which dead letters, or --all")
    with session() as settings:
        from streams.kafka.dead_letter_queue import Handling, Scan

        scan = Scan(settings, wanted)
        letters = _capped(iter(scan), most)
        reasons: Counter[str] = Counter()

        def counted() -> "Iterator[DeadLetter]":
            for letter in letters:
                reasons[letter.reason] += 1
                yield letter

        with _progress("reading dead letters" if dry_run else f"{action} so far") as advance:
            scan.advance = advance
            if dry_run:
                handled, refused = sum(1 for _ in counted()), 0
            else:
                handling = Handling(settings, scan, action)
                for _ in handling.handle(counted()):
                    pass
                handled, refused = handling.handled, len(handling.refused)
        said = ", ".join(f"{count} {code}" for code, count in reasons.most_common())
        would = "would be " if dry_run else ""
        detail = f": {_bounded(said, 500)}" if said else ""
        out.print(f"{handled} dead letters {would}{action}{detail}", highlight=False, markup=False)
        if refused:
            out.print(
                f"{refused} left as they are: nobody waits for old questions, and what does not "
                "say where it came from cannot be sent there",
                highlight=False,
            )
        if handled + refused == most:
            out.print(f"stopped at {most} (--most); run it again for the next", highlight=False)


def _capped(letters: "Iterator[DeadLetter]", most: int) -> "Iterator[DeadLetter]":
    """Give so many and read no further."""
    for _, letter in zip(range(most), letters, strict=False):
        yield letter


def _wanted(
    topics: list[str] | None,
    reasons: list[str] | None,
    places: list[str] | None,
    *,
    workspace: str | None,
    since: str | None,
    until: str | None,
) -> "Wanted":
    from streams.kafka.dead_letter_queue import DEAD_LETTER_TOPICS, Wanted, dead_letter_topic

    unknown = sorted(set(reasons or ()) - REASONS.keys())
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: no such reason; the README lists them")
    try:
        named = tuple(dict.fromkeys(dead_letter_topic(name) for name in topics or ()))
    except ValueError as error:
        raise typer.BadParameter(f"--topic: {error}") from error
    found = frozenset(_place(text) for text in places or ())
    of_places = tuple(sorted({place.topic for place in found}))
    return Wanted(
        topics=named or of_places or DEAD_LETTER_TOPICS,
        places=found,
        reasons=frozenset(reasons or ()),
        workspace=workspace,
        since_ms=_time_ms("--since", since),
        until_ms=_time_ms("--until", until),
    )


def _place(text: str) -> "Place":
    from streams.kafka.dead_letter_queue import Place

    try:
        return Place.parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text}: {error}") from error


def _time_ms(option: str, text: str | None) -> int | None:
    """Read a duration before now, or a date; one without a zone is UTC."""
    if text is None:
        return None
    ago = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if ago is not None:
        seconds = int(ago[1]) * _UNITS_SECONDS[ago[2]]
        return max(0, round((time.time() - seconds) * 1000))
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        message = f"{option}: 90s, 30m, 2h, 7d or a date such as 2026-01-31T12:00Z is wanted"
        raise typer.BadParameter(message) from error
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    return max(0, round(parsed.timestamp() * 1000))


@contextmanager
def _progress(what: str) -> "Iterator[Advance]":
    """Show how far the topics are read, where anybody sees it."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)

        def advance(read: int, total: int) -> None:
            progress.update(task, completed=read, total=total)

        yield advance


def _line(text: str) -> None:
    """Print one line, however long: it is copied from, and searched with grep."""
    out.print(text, highlight=False, markup=False, soft_wrap=True, emoji=False)


def _bounded(text: str, limit: int = _WORD_CHARACTERS) -> str:
    """A stranger's text: no control characters, bounded."""
    from streams.kafka.dead_letter_text import printable

    text = printable(text)
    return text if len(text) <= limit else f"{text[:limit]}…"


def _when(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds")
