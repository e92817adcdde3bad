"""The command line: `check-dedup --help`.

Each command reads the settings, calls one function of the product and prints what it gives. An
error that has a name is printed as one line and ends with exit code 1; with the wrong words on
the command line it is 2. Heavy imports are inside the commands: `--help` answers at once.
"""

import contextlib
import json
import logging
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from streams.errors import CheckDedupError
from streams.settings import Settings, declarations

if TYPE_CHECKING:
    from schemas.records import Fingerprint, ImageMatched, Match
    from streams.publish import Ended

app = typer.Typer(
    name="check-dedup",
    help="Image deduplication for Check: have we seen this picture before, which one, how sure?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
topics_app = typer.Typer(help="The topics on the broker.", no_args_is_help=True)
keys_app = typer.Typer(help="The keys of the API.", no_args_is_help=True)
bench_app = typer.Typer(help="Measure, with a peer in the same run.", no_args_is_help=True)
app.add_typer(topics_app, name="topics")
app.add_typer(keys_app, name="keys")
app.add_typer(bench_app, name="bench")

out = Console()


@app.command()
def hasher() -> None:
    """Run a hasher: fetch and hash pictures, append them to index-log. Any number may run."""
    with _settings(logs=True) as settings:
        from streams.hasher import run_hasher

        run_hasher(settings)


@app.command()
def matcher() -> None:
    """Run a matcher: answer each picture of index-log from an index on local disk."""
    with _settings(logs=True) as settings:
        from streams.matcher import run_matcher

        run_matcher(settings)


@app.command()
def api() -> None:
    """Run an API server: POST /v1/match/ over HTTP. Any number may run."""
    with _settings(logs=True) as settings:
        from streams.api.server import run_api

        run_api(settings)


@keys_app.command("create")
def create_key(
    workspace: Annotated[str, typer.Option(help="Whose pictures the key is for.")],
    right: Annotated[
        list[str],
        typer.Option(help="match, read or admin (all); give it again for another right."),
    ],
) -> None:
    """Make an API key and print it, this once; the file keeps only a salted hash."""
    with _settings() as settings:
        from streams.api import keys

        now_ms = time.time_ns() // 1_000_000
        typer.echo(keys.create(settings.keys_file, workspace, right, now_ms=now_ms))


@keys_app.command("list")
def list_keys() -> None:
    """List the API keys: id, workspace, rights, and when each was made."""
    with _settings() as settings:
        from streams.api import keys

        table = Table(box=None, header_style="bold", pad_edge=False)
        for heading in ("id", "made", "rights", "workspace"):
            table.add_column(heading, overflow="fold")
        for key in keys.read(settings.keys_file):
            made = datetime.fromtimestamp(key.created_at_ms // 1000, UTC).isoformat()
            table.add_row(key.id, made, " ".join(key.rights), Text(key.workspace))
        out.print(table)


@keys_app.command("revoke")
def revoke_key(identifier: Annotated[str, typer.Argument(help="The id, as listed.")]) -> None:
    """Revoke an API key; running servers refuse it from their next request on."""
    with _settings() as settings:
        from streams.api import keys

        if not keys.revoke(settings.keys_file, identifier):
            typer.echo(f"error: there is no key {identifier}", err=True)
            raise typer.Exit(1)
        out.print(f"{identifier} is revoked")


@app.command("settings")
def show_settings() -> None:
    """Print every setting: environment variable, value, unit, default and meaning."""
    with _settings() as settings:
        for declared in declarations():
            value, default = str(getattr(settings, declared.name)), str(declared.default)
            changed = f" (default {default or 'empty'})" if value != default else ""
            unit = f" {declared.unit}" if declared.unit else ""
            line = f"{declared.variable} = {value or 'empty'}{unit}{changed}"
            out.print(line, style="bold", highlight=False, markup=False, soft_wrap=True)
            out.print(Padding(declared.meaning, (0, 0, 1, 4)), highlight=False, markup=False)


@topics_app.command("create")
def create_topics() -> None:
    """Make every topic, first settings record and first offset that is not there yet."""
    with _settings() as settings:
        from agents.decide import default_match_settings
        from streams import topics

        created = topics.create(
            settings,
            default_match_settings(settings.partitions),
            clock_ms=lambda: time.time_ns() // 1_000_000,
            new_key=lambda: uuid.uuid4().hex,
        )
        for name in created.topics:
            out.print(f"created {name}")
        out.print(
            f"{len(created.topics)} topics made, settings written into {len(created.settings)} "
            f"partitions of index-log, {len(created.offsets)} first offsets committed"
        )


@topics_app.command("check")
def check_topics() -> None:
    """Hold the broker's topics against their declarations; exit 1 where they differ."""
    with _settings() as settings:
        from streams import topics

        problems = topics.check(settings)
        for problem in problems:
            out.print(problem, style="red", highlight=False, soft_wrap=True)
        if problems:
            raise typer.Exit(1)
        out.print("all topics are as declared")


@app.command()
def publish(
    paths: Annotated[list[str], typer.Argument(help="Picture files, folders of them, or URLs.")],
    workspace: Annotated[str, typer.Option(help="Whose pictures these are.")],
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the outcomes.")] = False,
    timeout_seconds: Annotated[float, typer.Option(help="How long to wait.")] = 60.0,
) -> None:
    """Publish pictures to image-ingested, as Check does; each under a fresh image id."""
    with _settings() as settings:
        from streams.publish import Publication, events_of, short_names

        events = events_of(paths, workspace, unique=lambda: uuid.uuid4().hex)
        with Publication(settings) as publication:
            publication.send(list(events.values()))
            if not wait:
                out.print(f"{len(events)} events published")
                return
            ended = publication.wait(timeout_seconds)
        short = short_names(events)
        names = {event.image_id: short[path] for path, event in events.items()}
        out.print(outcome_table(names, ended))
        missing = len(events) - len(ended)
        if missing:
            out.print(
                f"{missing} of {len(events)} have no outcome after {timeout_seconds:g} s: does a "
                "hasher run, and a matcher?",
                style="red",
            )
            raise typer.Exit(1)


@app.command("fingerprint")
def show_fingerprint(
    file: Annotated[Path, typer.Argument(help="A picture.", exists=True, dir_okay=False)],
) -> None:
    """Print a picture's fingerprint as JSON."""
    with _settings() as settings:
        found = _fingerprint(file, settings)
        views = [
            {
                "name": view.name,
                "rectangle": view.rectangle,
                "code": view.code.hex(),
                "fine": view.fine.hex(),
            }
            for view in found.views
        ]
        described = {
            "version": found.version,
            "sha256": found.sha256.hex(),
            "format": found.format,
            "size_pixels": [found.width_pixels, found.height_pixels],
            "decoded_size_pixels": [found.decoded_width_pixels, found.decoded_height_pixels],
            "animated": found.animated,
            "low_information": found.low_information,
            "views": views,
        }
        out.print_json(json.dumps(described))


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="A picture.", exists=True, dir_okay=False)],
    second: Annotated[Path, typer.Argument(help="A later one.", exists=True, dir_okay=False)],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    page_file: Annotated[
        Path | None, typer.Option("--html", help="Write the views, drawn, to this file.")
    ] = None,
) -> None:
    """Say whether, and why, the product relates two pictures (with its default settings)."""
    with _settings() as settings:
        from agents.decide import default_match_settings
        from streams.evaluation import page
        from streams.evaluation.compare import compare as compare_pictures

        earlier, picture = _fingerprint(first, settings), _fingerprint(second, settings)
        found = compare_pictures(picture, earlier, default_match_settings(settings.partitions))
        if as_json:
            out.print_json(msgspec.json.encode(found).decode())
        else:
            out.print(found.explanation, highlight=False, soft_wrap=True)
            if found.decision is not None:
                said = found.decision
                out.print(f"{said.relation}, {said.tier}, confidence {said.weight:.3f}")
        if page_file is not None:
            parts = [page.views(first, earlier), page.views(second, picture)]
            page_file.write_text(page.document(found.explanation, parts), encoding="utf-8")


@app.command()
def evaluate(
    images: Annotated[Path, typer.Option(help="A folder.", exists=True, file_okay=False)],
    pairs: Annotated[
        Path | None,
        typer.Option(help="CSV: a, b, label (same, other_text or different).", exists=True),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all as JSON.")] = None,
    page_file: Annotated[Path | None, typer.Option("--html", help="Write a page.")] = None,
) -> None:
    """Relate all pictures of a folder to each other; count what was found, missed and false."""
    with _settings() as settings:
        from rich.progress import Progress

        from agents.decide import default_match_settings
        from agents.decode import DecodeLimits
        from streams.evaluation import evaluate as evaluation
        from streams.evaluation import page

        names = evaluation.picture_names(images)
        labels = evaluation.read_pairs(pairs, names) if pairs else {}
        with Progress(transient=True) as progress:
            task = progress.add_task("fingerprints", total=len(names))
            result = evaluation.evaluate(
                images,
                names,
                labels,
                default_match_settings(settings.partitions),
                DecodeLimits(pixels=settings.pixel_limit),
                advance=lambda: progress.advance(task),
            )
        for line in evaluation.summary(result):
            out.print(line, highlight=False, markup=False, soft_wrap=True)
        if json_file is not None:
            json_file.write_bytes(msgspec.json.format(msgspec.json.encode(result)))
        if page_file is not None:
            page_file.write_text(page.evaluation(images, result), encoding="utf-8")


@bench_app.command("search")
def bench_search(
    codes: Annotated[int, typer.Option(help="Codes in the index, ten a picture.")] = 1_000_000,
    queries: Annotated[int, typer.Option(help="Pictures asked for.")] = 200,
    radius: Annotated[int, typer.Option(help="Search radius in bits.", min=0, max=16)] = 8,
    kind: Annotated[Literal["uniform", "skewed"], typer.Option(help="Of codes.")] = "uniform",
    seed: Annotated[int, typer.Option(help="Of the random codes.")] = 1,
) -> None:
    """Search alone: ours against FAISS IndexBinaryFlat on the same codes, one thread each."""
    with _settings():
        from streams.index import bench

        report = bench.run(codes=codes, queries=queries, radius=radius, seed=seed, kind=kind)
        typer.echo(str(report))


def outcome_table(names: Mapping[str, str], ended: Mapping[str, "Ended"]) -> Table:
    """Give one line for each picture, by image id: what it matched, how far, and why."""
    from schemas.records import ImageMatched
    from streams.publish import name_of

    table = Table(box=None, header_style="bold", pad_edge=False, caption_justify="left")
    table.caption = "of 64, of 256: bits that differ between the closest codes and fine codes"
    # Names are what one looks for: they are folded where the screen ends, never cut.
    table.add_column("picture", overflow="fold", ratio=4)
    table.add_column("outcome", no_wrap=True)
    table.add_column("closest match", overflow="fold", ratio=4)
    table.add_column("of 64", justify="right", no_wrap=True)
    table.add_column("of 256", justify="right", no_wrap=True)
    table.add_column("why", ratio=3)
    for image_id, name in names.items():
        end = ended.get(image_id)
        if end is None:
            table.add_row(name, "no outcome", style="red")
        elif not isinstance(end, ImageMatched):
            table.add_row(name, "dead letter", "", "", "", end, style="yellow")
        elif end.closest_match is None:
            table.add_row(name, "no match", "", "", "", _why_none(end))
        else:
            closest = end.closest_match
            table.add_row(
                name,
                closest.tier.removesuffix("_sibling"),
                names.get(closest.image_id) or name_of(closest.image_id),
                str(closest.score),
                "" if closest.fine_distance is None else str(closest.fine_distance),
                why(closest),
                style="green" if closest.tier == "confirmed_sibling" else "cyan",
            )
    return table


def why(match: "Match") -> str:
    """Say in a few words what made two pictures a match."""
    relation = match.relation.replace("_", " ")
    ours, theirs = match.views
    return relation if ours == theirs else f"{relation}: {ours} = {theirs}"


def _why_none(outcome: "ImageMatched") -> str:
    if outcome.removed:
        return "removed earlier"
    return "too plain to compare" if outcome.low_information else ""


@contextlib.contextmanager
def _settings(*, logs: bool = False) -> Iterator[Settings]:
    """Read the settings; turn errors that have a name into one line and exit code 1."""
    try:
        settings = Settings.from_environment()
        logging.basicConfig(
            level=settings.log_level if logs else logging.ERROR,
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
            stream=sys.stderr,
        )
        for library in ("faust", "mode", "aiokafka", "streams.transport"):
            logging.getLogger(library).setLevel(max(logging.getLogger().level, logging.WARNING))
        yield settings
    except CheckDedupError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


def _fingerprint(file: Path, settings: Settings) -> "Fingerprint":
    from agents.decode import DecodeLimits
    from agents.fingerprint import fingerprint
    from schemas.reasons import REASONS, Rejection

    found = fingerprint(file.read_bytes(), DecodeLimits(pixels=settings.pixel_limit))
    if isinstance(found, Rejection):
        typer.echo(f"error: {file}: {found.reason}: {REASONS[found.reason]}", err=True)
        raise typer.Exit(1)
    return found


def main() -> None:
    """Run the command line."""
    app()
