"""Reports as one HTML file each, pictures included, readable without a network.

Called by the measuring commands.
"""

import base64
import html
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageOps

from schemas.records import Fingerprint
from streams.evaluation.alterations_report import AlterationsReport
from streams.evaluation.cost import Cost, Drift
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
        drawn_curve(result),
        table(("confidence", "same found", "false pairs"), curve(result)),
        f"<h2>Missed and false pairs ({len(wrong)})</h2>",
    ]
    for pair in wrong[:_SHOWN_PAIRS]:
        said = f"{pair.relation}, {pair.tier}" if pair.relation else "not found"
        parts.append(f'<div class="pair"><p>{pair.label}: {said}, score {pair.score}</p>')
        parts += [_shown(directory, pair.a), _shown(directory, pair.b), "</div>"]
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


def drawn_curve(result: Evaluation) -> str:
    """Recall against false pairs, a step for each confidence that a pair has."""
    same = [pair.confidence or 0.0 for pair in result.pairs if pair.label == "same"]
    false = [pair.confidence or 0.0 for pair in result.pairs if pair.label == "different"]
    levels = sorted({level for level in (*same, *false) if level}, reverse=True)
    points = [(0, 0.0)]
    for level in levels:
        found = sum(confidence >= level for confidence in same)
        wrong = sum(confidence >= level for confidence in false)
        points += [(wrong, points[-1][1]), (wrong, found / max(1, len(same)))]
    most = max(1, points[-1][0])
    left, top, width, height = 60, 20, 480, 240
    line = " ".join(
        f"{left + width * wrong / most:.1f},{top + height * (1 - recall):.1f}"
        for wrong, recall in points
    )
    ticks = "".join(
        f'<line x1="{left}" x2="{left + width}" y1="{y}" y2="{y}" stroke="#ddd"/>'
        f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{share} %</text>'
        for share in (0, 25, 50, 75, 100)
        for y in (top + height * (100 - share) / 100,)
    )
    return (
        f'<svg role="img" aria-label="Recall against false pairs" width="{left + width + 40}" '
        f'height="{top + height + 50}" font-size="12" fill="currentColor">{ticks}'
        f'<polyline points="{line}" fill="none" stroke="#06c" stroke-width="2"/>'
        f'<text x="{left}" y="{top + height + 18}">0</text>'
        f'<text x="{left + width}" y="{top + height + 18}" text-anchor="end">{most}</text>'
        f'<text x="{left + width / 2}" y="{top + height + 36}" text-anchor="middle">'
        "false pairs, as the least confidence falls; recall of pairs labelled same</text></svg>"
    )


def _shown(directory: Path, name: str) -> str:
    """The picture, or that it cannot be read: a listed pair may name such a one."""
    try:
        with Image.open(directory / name) as image:
            return figure(image, name)
    except Exception:  # noqa: BLE001 - whatever Pillow raises, the page goes on
        return f"<figure><figcaption>{html.escape(name)}: unreadable</figcaption></figure>"


def alterations(result: AlterationsReport, cost: Cost, drift: Drift) -> str:
    """The table of alterations, ours and the peers'."""
    peers = list(result.lines[0].peers) if result.lines else []
    rows = [
        (
            line.name,
            f"{100 * line.recall:.1f} %",
            line.confirmed,
            line.false,
            ", ".join(f"{name} {count}" for name, count in line.named.items()),
            *(f"{100 * line.peers[peer]:.1f} %" for peer in peers),
        )
        for line in result.lines
    ]
    parts = [
        table(("alteration", "found", "confirmed", "false", "named", *peers), rows),
        *(f"<p>{html.escape(told)}</p>" for told in findings(result, cost, drift)),
    ]
    return document("check-dedup: match quality", parts)


def findings(result: AlterationsReport, cost: Cost, drift: Drift) -> Iterator[str]:
    """What the table does not say, in lines of text."""
    yield f"{result.pictures} pictures never used for tuning, {result.seconds:.0f} s"
    false = result.false_pairs
    for tier, pairs in (("suggested", false.suggested), ("confirmed", false.confirmed)):
        bound = false.upper_bound(len(pairs))
        yield (
            f"{false.pairs:,} pairs of different pictures: {len(pairs)} {tier}, "
            f"the rate is below {bound:.1e} (95 %)"
        )
        yield from (f"  {one} and {other}" for one, other in pairs)
    alike = result.look_alikes
    if alike.pairs:
        yield (
            f"{alike.pairs:,} pairs of look-alikes, true duplicates among them: "
            f"{len(alike.suggested)} suggested, {len(alike.confirmed)} confirmed:"
        )
        yield from (f"  {one} and {other}" for one, other in alike.confirmed)
    pairs_of_texts, named, confirmed = result.other_text()
    yield (
        f"the same picture under another text: {named} of {pairs_of_texts} named so, "
        f"{confirmed} confirmed"
    )
    for what, sizes in (
        ("pictures as they are", result.sizes_of_originals),
        ("with all copies", result.sizes_of_all),
    ):
        yield (
            f"{what}: {sizes.views_mean:.1f} views (at most {sizes.views_most}), "
            f"{sizes.asked_mean:.1f} codes asked (at most {sizes.asked_most}); "
            f"{sizes.log_bytes / 1024:.1f} KB in the log, {sizes.index_bytes / 1024:.1f} KB in the "
            "index (goal: at most 7 each)"
        )
    yield (
        f"fingerprint of a JPEG, one core: 1 MP {cost.milliseconds_small:.1f} ms (goal 5; "
        f"imagehash.phash alone {cost.imagehash_milliseconds_small:.1f}), 8 MP "
        f"{cost.milliseconds_large:.1f} ms (goal 35), {cost.megabytes_large:.0f} MB (goal 60)"
    )
    yield (
        f"reduced decoding of {drift.pictures} JPEGs of 2.5 to 7.5 MP moves the code by "
        f"{drift.mean:.2f} bits, 95 %: {drift.percentile_95:.1f} (goal 2), worst {drift.worst}"
    )


def _is_wrong(pair: PairResult) -> bool:
    if pair.label == "same":
        return pair.relation is None
    if pair.label == "different":
        return pair.relation is not None
    return pair.relation != "other_text"
