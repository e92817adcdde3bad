"""Pictures by hand: publish them, see their fingerprints, compare two, evaluate a collection."""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.table import Table

from streams.cli.session import out, session
from streams.settings import Settings

if TYPE_CHECKING:
    from schemas.records import Fingerprint, ImageMatched, Match
    from streams.publish import Ended


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(publish)
    app.command("fingerprint")(show_fingerprint)
    app.command()(compare)
    app.command()(evaluate)


def publish(
    paths: Annotated[list[str], typer.Argument(help="Picture files, folders of them, or URLs.")],
    workspace: Annotated[str, typer.Option(help="Whose pictures these are.")],
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the outcomes.")] = False,
    timeout_seconds: Annotated[float, typer.Option(help="How long to wait.")] = 60.0,
) -> None:
    """Publish pictures to image-ingested, as Check does; each under a fresh image id."""
    with session() as settings:
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


def show_fingerprint(
    file: Annotated[Path, typer.Argument(help="A picture.", exists=True, dir_okay=False)],
) -> None:
    """Print a picture's fingerprint as JSON."""
    with session() as settings:
        (found,) = _fingerprints([file], settings)
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
    with session() as settings:
        from agents.compare import compare as compare_pictures
        from agents.decide import default_match_settings
        from streams.evaluation import page

        earlier, picture = _fingerprints([first, second], settings)
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
    with session() as settings:
        from rich.progress import Progress

        from agents.decide import default_match_settings
        from streams.decoding.pool import decode_limits
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
                decode_limits(settings),
                advance=lambda: progress.advance(task),
            )
        for line in evaluation.summary(result):
            out.print(line, highlight=False, markup=False, soft_wrap=True)
        if json_file is not None:
            json_file.write_bytes(msgspec.json.format(msgspec.json.encode(result)))
        if page_file is not None:
            page_file.write_text(page.evaluation(images, result), encoding="utf-8")


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
    table.add_column("why", overflow="fold", ratio=3)
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


def _fingerprints(files: list[Path], settings: Settings) -> list["Fingerprint"]:
    """Fingerprint each; name every file that is no picture before giving up."""
    from agents.fingerprint import fingerprint
    from schemas.reasons import REASONS, Rejection
    from streams.decoding.pool import decode_limits

    found = []
    for file in files:
        made = fingerprint(file.read_bytes(), decode_limits(settings))
        if isinstance(made, Rejection):
            typer.echo(f"error: {file}: {made.reason}: {REASONS[made.reason]}", err=True)
        else:
            found.append(made)
    if len(found) < len(files):
        raise typer.Exit(1)
    return found
