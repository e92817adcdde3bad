"""`check-dedup evaluate`: a folder, all against all, against what somebody says of it.

The pictures go in the order of their names through the product's own fingerprint, index and
decision. Called by the CLI; prints nothing itself.
"""

import csv
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal, get_args

import msgspec

from agents.decode import DecodeLimits
from agents.fingerprint import fingerprint
from schemas.reasons import Rejection
from schemas.records import Fingerprint, Match, MatchSettings, Relation, Tier
from streams.errors import MisconfiguredError
from streams.evaluation.collection import Collection

Label = Literal["same", "other_text", "different"]

_COLUMNS: Final = ("a", "b", "label")


class PairResult(msgspec.Struct, frozen=True):
    """What the product says of two pictures; no relation: None throughout."""

    a: str
    b: str
    label: Label
    relation: Relation | None = None
    tier: Tier | None = None
    score: int | None = None
    confidence: float | None = None


class Evaluation(msgspec.Struct, frozen=True):
    """The result, as `--json` writes it."""

    pictures: int
    unreadable: dict[str, str]
    seconds: float
    pairs: list[PairResult]

    def count(self, label: Label, *, found: bool, tier: Tier | None = None) -> int:
        """How many pairs of this label were found (at this tier), or were not."""
        return sum(
            pair.label == label
            and (pair.relation is not None) == found
            and (tier is None or pair.tier == tier)
            for pair in self.pairs
        )

    def named_other_text(self) -> int:
        """How many pairs of another text were called that."""
        return sum(
            pair.label == "other_text" and pair.relation == "other_text" for pair in self.pairs
        )


def picture_names(directory: Path) -> list[str]:
    """All files below a folder, relative to it, in the order of their names."""
    return sorted(
        path.relative_to(directory).as_posix()
        for path in directory.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    )


def read_pairs(file: Path, names: list[str]) -> dict[tuple[str, str], Label]:
    """The labels of a CSV file with the columns a, b, label.

    Raises:
        MisconfiguredError: a column, name or label is wrong; the message names the line.
    """
    known = set(names)
    labels: dict[tuple[str, str], Label] = {}
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + error.object[: error.start].count(b"\n")
        raise MisconfiguredError(f"{file}, line {line}: not UTF-8") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if not set(_COLUMNS) <= set(reader.fieldnames or ()):
        raise MisconfiguredError(f"{file}, line 1: columns {', '.join(_COLUMNS)} are wanted")
    for row in reader:
        where = f"{file}, line {reader.line_num}"
        one, other, label = (row[column] or "" for column in _COLUMNS)
        for name in (one, other):
            if name not in known:
                raise MisconfiguredError(f"{where}: no file named {name!r} in the folder")
        if one == other:
            raise MisconfiguredError(f"{where}: {one!r} is paired with itself")
        said = labels.setdefault(_pair(one, other), _label(label, where))
        if said != label:
            raise MisconfiguredError(f"{where}: the same pair is {said!r} further above")
    return labels


def evaluate(
    directory: Path,
    names: list[str],
    labels: dict[tuple[str, str], Label],
    settings: MatchSettings,
    limits: DecodeLimits,
    *,
    advance: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Relate the pictures of a folder; each listed pair, and each other that relates."""
    begun = time.monotonic()
    readable: dict[str, Fingerprint] = {}
    unreadable: dict[str, str] = {}
    for name in names:
        made = _fingerprint(directory / name, limits)
        if isinstance(made, Fingerprint):
            readable[name] = made
        else:
            unreadable[name] = made
        advance()
    order = list(readable)
    with Collection(settings) as collection:
        matches = {
            _pair(order[related.picture], order[related.earlier]): related.match
            for related in collection.relate_all(list(readable.values()))
        }
    results = [_result(pair, label, matches.pop(pair, None)) for pair, label in labels.items()]
    results += [_result(pair, "different", match) for pair, match in matches.items()]
    return Evaluation(len(names), unreadable, time.monotonic() - begun, results)


def summary(result: Evaluation) -> Iterator[str]:
    """The result in lines of text."""
    each = 1000 * result.seconds / max(1, result.pictures)
    yield f"{result.pictures} pictures in {result.seconds:.1f} s, {each:.1f} ms each"
    for name, reason in result.unreadable.items():
        yield f"unreadable: {name}: {reason}"
    for label in get_args(Label):
        found = result.count(label, found=True)
        confirmed = result.count(label, found=True, tier="confirmed_sibling")
        missed = result.count(label, found=False)
        yield f"{label}: {found} found ({confirmed} confirmed), {missed} not"
    yield f"other_text named as such: {result.named_other_text()}"
    for pair in result.pairs:
        if pair.label != "same" or pair.relation is None:
            said = f"{pair.relation}, {pair.tier}" if pair.relation else "not found"
            yield f"  {pair.label}: {pair.a} and {pair.b}: {said}"


def _pair(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)


def _label(label: str, where: str) -> Label:
    for known in get_args(Label):
        if label == known:
            return known  # type: ignore[no-any-return]
    raise MisconfiguredError(f"{where}: label {label!r}; {', '.join(get_args(Label))} are known")


def _result(pair: tuple[str, str], label: Label, match: Match | None) -> PairResult:
    if match is None:
        return PairResult(*pair, label)
    return PairResult(*pair, label, match.relation, match.tier, match.score, match.weight)


def _fingerprint(file: Path, limits: DecodeLimits) -> Fingerprint | str:
    """Or why there is none."""
    try:
        content = file.read_bytes()
    except OSError as error:
        return f"not readable: {error.strerror}"
    made = fingerprint(content, limits)
    return made.reason if isinstance(made, Rejection) else made
