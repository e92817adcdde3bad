"""The measuring commands: labels, unreadable files, counts, the page."""

import re
from pathlib import Path

import msgspec
import pytest
from PIL import Image

from agents.decide import default_match_settings
from agents.decode import DecodeLimits
from streams.errors import MisconfiguredError
from streams.evaluation import page
from streams.evaluation.alterations import Alteration, alterations, overlaid
from streams.evaluation.alterations_report import Line, halves, report
from streams.evaluation.cost import cost, drift
from streams.evaluation.evaluate import (
    Evaluation,
    PairResult,
    evaluate,
    picture_names,
    read_pairs,
    summary,
)
from tests.unit.agents.pictures import shipped, written

SETTINGS = default_match_settings(partitions=1)
LIMITS = DecodeLimits(pixels=10_000_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A few pictures, copies of them, and a file that is none."""
    coffee, cat = (shipped(name).convert("RGB") for name in ("coffee", "cat"))
    pictures = {
        "coffee.png": coffee,
        "small.png": coffee.resize((300, 200)),
        "claim.png": overlaid(coffee, "the minister resigns", 0.75, 0.95),
        "other claim.png": overlaid(coffee, "free water for all", 0.75, 0.95),
        "below/cat.png": cat,
        "flat.png": Image.new("RGB", (100, 100), "red"),
        "flat too.png": Image.new("RGB", (100, 100), "blue"),
    }
    for name, image in pictures.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(written(image))
    (tmp_path / "note.jpg").write_text("no picture")
    return tmp_path


def labelled(folder: Path, text: str) -> Path:
    """A pairs file beside the folder."""
    file = folder.with_suffix(".csv")
    file.write_text(text)
    return file


def evaluated(folder: Path, text: str = "a,b,label\n") -> Evaluation:
    """The folder against these labels."""
    names = picture_names(folder)
    return evaluate(folder, names, read_pairs(labelled(folder, text), names), SETTINGS, LIMITS)


def test_every_listed_pair_has_a_line_and_each_other_that_relates(folder: Path) -> None:
    """Found or not; unlisted pairs count as different."""
    result = evaluated(
        folder,
        "a,b,label\nsmall.png,coffee.png,same\nother claim.png,claim.png,other_text\n"
        "coffee.png,below/cat.png,same\n",
    )
    by_names = {(pair.a, pair.b): pair for pair in result.pairs}
    assert by_names["coffee.png", "small.png"].tier == "confirmed_sibling"
    assert by_names["claim.png", "other claim.png"].relation == "other_text"
    assert by_names["claim.png", "other claim.png"].tier == "suggested_sibling"
    assert by_names["below/cat.png", "coffee.png"].relation is None
    assert by_names["claim.png", "coffee.png"].label == "different"
    assert ("flat too.png", "flat.png") not in by_names
    assert result.named_other_text() == 1
    assert any("not found" in line or "1 not" in line for line in summary(result))


def test_unreadable_files_are_named_and_passed_over(folder: Path) -> None:
    """The rest is evaluated."""
    result = evaluated(folder)
    assert result.unreadable == {"note.jpg": "not_an_image"}
    assert result.pictures == 8


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("missing.png,coffee.png,same", "line 3: no file named 'missing.png'"),
        ("small.png,coffee.png,alike", "line 3: label 'alike'"),
        ("coffee.png,coffee.png,same", "line 3: 'coffee.png' is paired with itself"),
        ("coffee.png,small.png,different", "line 3: the same pair is 'same' further above"),
        ("coffee.png", "line 3: no file named ''"),
    ],
)
def test_wrong_pairs_file_is_told_with_its_line(folder: Path, row: str, told: str) -> None:
    """Before any work is done."""
    file = labelled(folder, f"a,b,label\nsmall.png,coffee.png,same\n{row}\n")
    with pytest.raises(MisconfiguredError, match=told):
        read_pairs(file, picture_names(folder))


def test_pairs_file_without_its_columns_is_told(folder: Path) -> None:
    """The first line is wrong."""
    with pytest.raises(MisconfiguredError, match="line 1: columns a, b, label"):
        read_pairs(labelled(folder, "one,two\n"), picture_names(folder))


def test_pairs_file_of_other_bytes_is_told_with_its_line(folder: Path) -> None:
    """Not a traceback of the decoder."""
    file = folder.with_suffix(".csv")
    file.write_bytes(b"a,b,label\nsmall.png,coffee.png,same\ncaf\xe9.png,coffee.png,same\n")
    with pytest.raises(MisconfiguredError, match="line 3: not UTF-8"):
        read_pairs(file, picture_names(folder))


def test_page_and_json_hold_the_result(folder: Path) -> None:
    """The missed pair is shown with both pictures."""
    result = evaluated(folder, "a,b,label\ncoffee.png,below/cat.png,same\n")
    shown = page.evaluation(folder, result)
    assert shown.count("data:image/jpeg") >= 2
    assert "below/cat.png" in shown
    assert "<polyline" in shown
    assert "ms each" in shown
    assert "http" not in shown, "a report is read without a network"
    assert msgspec.json.decode(msgspec.json.encode(result), type=Evaluation) == result


def test_page_goes_on_past_a_listed_picture_that_is_unreadable(folder: Path) -> None:
    """It is named where it would be shown."""
    result = evaluated(folder, "a,b,label\ncoffee.png,note.jpg,same\n")
    assert "note.jpg: unreadable" in page.evaluation(folder, result)


def test_curve_rises_with_each_found_pair_and_moves_right_with_each_false_one() -> None:
    """From the surest to the least sure."""
    pairs = [
        PairResult("a", "b", "same", "reframed", "suggested_sibling", 2, 0.9),
        PairResult("a", "c", "different", "reframed", "suggested_sibling", 8, 0.6),
        PairResult("a", "d", "same", "reframed", "suggested_sibling", 8, 0.55),
        PairResult("a", "e", "same"),
    ]
    drawn = page.drawn_curve(Evaluation(5, {}, 1.0, pairs))
    points = re.search(r'polyline points="([^"]*)"', drawn)
    assert points is not None
    steps = [tuple(map(float, point.split(","))) for point in points[1].split()]
    assert [round(x) for x, _ in steps] == [60, 60, 60, 540, 540, 540, 540]
    assert [round(y) for _, y in steps] == [260, 260, 180, 180, 180, 180, 100]


def test_split_is_fixed_and_disjoint() -> None:
    """Whatever the order of the folder."""
    files = [Path(f"{number}.jpg") for number in range(20)]
    tuning, reported = halves(files)
    assert halves(files[::-1]) == (tuning, reported)
    assert sorted(tuning + reported) == sorted(files)


def test_every_alteration_makes_a_readable_copy(tmp_path: Path) -> None:
    """And the report counts it, for us and a peer."""
    for name in ("coffee", "cat"):
        (tmp_path / f"{name}.png").write_bytes(written(shipped(name)))
    result = report(sorted(tmp_path.iterdir()), [], SETTINGS, peers=())
    assert [line.name for line in result.lines] == [each.name for each in alterations()]
    assert all(line.pairs == 2 for line in result.lines)
    assert sum(line.found for line in result.lines) >= 0.95 * 2 * len(result.lines)
    assert not any(line.confirmed for line in result.lines if line.label == "other_text")
    assert result.false_pairs.suggested == result.false_pairs.confirmed == []
    assert 0 < result.false_pairs.upper_bound(0) <= 1
    assert not any(line.false for line in result.lines)
    assert 9 <= result.sizes_of_originals.views_mean <= result.sizes_of_all.views_most <= 16
    assert 2 * 1024 < result.sizes_of_all.log_bytes < 7 * 1024
    assert 2 * 1024 < result.sizes_of_all.index_bytes < 7 * 1024
    pictures = sorted(tmp_path.iterdir())
    spent = cost(pictures, small=40_000, large=160_000, timed=1)
    assert min(spent.milliseconds_small, spent.milliseconds_large) > 0
    moved = drift(pictures, mosaics=1)
    assert moved.worst <= 4
    shown = page.alterations(result, spent, moved)
    assert "0 confirmed, the rate is below" in shown
    assert "other text, lower 20 %" in shown
    assert isinstance(result.lines[0], Line)
    assert isinstance(alterations()[0], Alteration)
