"""Reports as one HTML file each, pictures included, readable without a network.

Called by the measuring commands.
"""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageOps

from schemas.records import Fingerprint
from streams.evaluation.alterations_report import AlterationsReport
from streams.evaluation.evaluate import Evaluation, PairResult

_STYLE: Final = (
    "body{font:15px system-ui,sans-serif;margin:2em auto;max-width:75em;padding:0 1em}"
    "table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .7em;text-align:right;"
    "border-bottom:1px solid #ccc}td:first-child,th:first-child{text-align:left}"
    "figure{display:inline-block;margin:.4em;vertical-align:top;max-width:24em}"
    "figcaption{font-size:85%;overflow-wrap:anywhere}img{max-width:24em;max-height:20em}"
    ".pair{border:1px solid #ccc;margin:.6em 0;padding:.4em}"
)
_SHOWN_PAIRS: Final = 60
_THUMBNAIL: Final = (320, 320)


def document(title: str, parts: Iterable[str]) -> str:
    """A page of these parts, which are HTML already."""
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>{''.join(parts)}</html>"
    )


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table; everything in it is escaped."""

    def line(cells: Sequence[object], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells)

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def figure(image: Image.Image, caption: str) -> str:
    """A small picture with a line under it."""
    small = image.convert("RGB")
    small.thumbnail(_THUMBNAIL)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    source = base64.b64encode(file.getvalue()).decode()
    return (
        f'<figure><img alt="" src="data:image/jpeg;base64,{source}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def views(path: Path, picture: Fingerprint) -> str:
    """A picture with the rectangle of each of its views."""
    with Image.open(path) as opened:
        shown = ImageOps.exif_transpose(opened).convert("RGB")
    shown = shown.resize((picture.decoded_width_pixels, picture.decoded_height_pixels))
    parts = [f"<h2>{html.escape(path.name)}</h2>"]
    for view in picture.views:
        framed = shown.copy()
        left, top, right, bottom = view.rectangle
        box = (left, top, right - 1, bottom - 1)
        ImageDraw.Draw(framed).rectangle(box, outline=(230, 30, 60), width=3)
        parts.append(figure(framed, f"{view.name}: {view.code.hex()}"))
    return "".join(parts)


def evaluation(directory: Path, result: Evaluation) -> str:
    """Recall and errors, the curve over the threshold, and the pairs that went wrong."""
    wrong = [pair for pair in result.pairs if _is_wrong(pair)]
    each = 1000 * result.seconds / max(result.pictures, 1)
    unreadable = len(result.unreadable)
    parts = [
        f"<p>{result.pictures} pictures, {unreadable} unreadable, {each:.1f} ms each.</p>",
        table(
            ("label", "found", "confirmed", "missed"),
            (
                (
                    label,
                    result.count(label, found=True),
                    result.count(label, found=True, tier="confirmed_sibling"),
                    result.count(label, found=False),
                )
                for label in ("same", "other_text", "different")
            ),
        ),
        "<h2>Recall against false pairs, by least confidence</h2>",
        table(("confidence", "same found", "false pairs"), curve(result)),
        f"<h2>Missed and false pairs ({len(wrong)})</h2>",
    ]
    for pair in wrong[:_SHOWN_PAIRS]:
        said = f"{pair.relation}, {pair.tier}" if pair.relation else "not found"
        parts.append(f'<div class="pair"><p>{pair.label}: {said}, score {pair.score}</p>')
        for name in (pair.a, pair.b):
            with Image.open(directory / name) as image:
                parts.append(figure(image, name))
        parts.append("</div>")
    return document("check-dedup evaluate", parts)


def curve(result: Evaluation) -> list[tuple[float, int, int]]:
    """Found pairs labelled same, and false ones, if only this confidence counted."""
    levels = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
    return [
        (
            level,
            sum(pair.label == "same" and (pair.confidence or 0) >= level for pair in result.pairs),
            sum(
                pair.label == "different" and (pair.confidence or 0) >= level
                for pair in result.pairs
            ),
        )
        for level in levels
    ]


def alterations(result: AlterationsReport) -> str:
    """The table of alterations, ours and the peers'."""
    peers = list(result.lines[0].peers) if result.lines else []
    rows = [
        (
            line.name,
            f"{100 * line.recall:.1f} %",
            line.confirmed,
            ", ".join(f"{name} {count}" for name, count in line.named.items()),
            *(f"{100 * line.peers[peer]:.1f} %" for peer in peers),
        )
        for line in result.lines
    ]
    false = result.false_pairs
    counts = [
        f"{len(pairs)} {tier} (rate below {false.upper_bound(len(pairs)):.1e})"
        for tier, pairs in (("suggested", false.suggested), ("confirmed", false.confirmed))
    ]
    told = f"{false.pairs} pairs of different pictures: {', '.join(counts)}; bounds at 95 %."
    measured = (
        f"{result.pictures} pictures never used for tuning; {result.views_mean:.1f} views each, "
        f"at most {result.views_most}; {result.seconds:.0f} s."
    )
    parts = [
        f"<p>{measured}</p>",
        table(("alteration", "found", "confirmed", "named", *peers), rows),
        f"<p>{told}</p>",
        table(("picture", "related to"), false.suggested + false.confirmed),
    ]
    return document("check-dedup: match quality", parts)


def _is_wrong(pair: PairResult) -> bool:
    if pair.label == "same":
        return pair.relation is None
    if pair.label == "different":
        return pair.relation is not None
    return pair.relation != "other_text"
