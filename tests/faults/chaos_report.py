"""The report of `make chaos`: its records, and how a person reads them."""

from pathlib import Path
from typing import Final

import msgspec

from tests.faults.measurements import Growth, Window

RESULT_FILE: Final = "report.json"

_MET: Final = {True: "yes", False: "NO", None: "not judged"}


class Goal(msgspec.Struct, frozen=True):
    """A figure, and what it is held against; `met` is None where there was nothing to judge."""

    what: str
    found: str
    wanted: str
    met: bool | None


class RestartRow(msgspec.Struct, frozen=True):
    """A fault and what came after it. Seconds; None: not measured, or not in time."""

    at_seconds: float
    what: str
    lasted_seconds: float
    prompt_after_seconds: float | None
    judged: bool
    result_after_restart_seconds: float | None
    result_after_fault_seconds: float | None


class GrowthRow(msgspec.Struct, frozen=True):
    """A process's memory (MB) or open files; `growth` of those who lived through the run."""

    process: str
    what: str
    mean: float
    most: float
    growth: Growth | None


class Report(msgspec.Struct, frozen=True):
    """All that one run tells."""

    command: str
    day: str
    machine: str
    began: float
    held: bool
    judged: bool
    problems: list[str]
    published: int
    pictures: int
    outcomes: int
    copies: int
    dead_letters: int
    violations: dict[str, int]
    faults: int
    kills: int
    restarts: list[RestartRow]
    windows: list[Window]
    growths: list[GrowthRow]
    goals: list[Goal]

    @property
    def summary(self) -> str:
        """One line, for the table of promises."""
        verdict = "passed" if self.held else "FAILED"
        return (
            f"{verdict}, {self.pictures} pictures, {self.faults} faults ({self.kills} kill -9), "
            f"{self.violations['lost']} lost, {self.violations['conflict']} conflicting, {self.day}"
        )


def latest(folder: Path) -> Report | None:
    """Read the report of the last run; None where there is none."""
    found = sorted(folder.glob(f"*/{RESULT_FILE}"), key=lambda path: path.stat().st_mtime)
    return msgspec.json.decode(found[-1].read_bytes(), type=Report) if found else None


def markdown(report: Report) -> str:
    """Give it for a person."""
    verdict = "every promise was kept" if report.held else "BROKEN"
    if not report.judged:
        verdict = "NOT JUDGED"
    lines = [
        f"# Chaos: {verdict}",
        "",
        f"`{report.command}`, {report.day}, {report.machine}.",
        "",
        (
            f"{report.published} events published, {report.pictures} pictures, "
            f"{report.outcomes} outcomes (and {report.copies} copies), "
            f"{report.dead_letters} dead letters; {report.faults} faults, of these "
            f"{report.kills} kill -9 of a process. Violations: "
            + ", ".join(f"{kind} {count}" for kind, count in report.violations.items())
            + "."
        ),
        "",
        *(f"- {problem}" for problem in report.problems),
        *([""] if report.problems else []),
        "| goal | found | wanted | met |",
        "|---|---|---|---|",
        *(
            f"| {goal.what} | {goal.found} | {goal.wanted} | {_MET[goal.met]} |"
            for goal in report.goals
        ),
        "",
        "## Faults",
        "",
        "`prompt after`: from the heal until p99 from ingestion to outcome stays under 1 s, up to",
        "the next fault; `-` is not before that. `result`: the first one of what the process that",
        "was ended works on, from its restart and from its end.",
        "",
        "| at | fault | lasted | prompt after | result after restart | after its end |",
        "|---:|---|---:|---:|---:|---:|",
        *(
            f"| {row.at_seconds:.0f} s | {row.what} | {row.lasted_seconds:.1f} s | "
            f"{_seconds(row.prompt_after_seconds) if row.judged else 'not judged'} | "
            f"{_seconds(row.result_after_restart_seconds)} | "
            f"{_seconds(row.result_after_fault_seconds)} |"
            for row in report.restarts
        ),
        "",
        "## From ingestion to outcome",
        "",
        "By the time of publication; what a fault delayed is in it.",
        "",
        "| at | pictures | p50 | p99 |",
        "|---:|---:|---:|---:|",
        *(
            f"| {each.at - report.began:.0f} s | {each.pictures} | {each.p50_seconds:.2f} s | "
            f"{each.p99_seconds:.2f} s |"
            for each in report.windows
        ),
        "",
        "## Memory (MB) and open files, children included",
        "",
        "Judged are those who were not ended during mixed faults, for as long as those lasted: a",
        "line through the medians of twelve blocks after the first third; flat where its 95 %",
        "lower bound per hour is not above what is allowed, which for a matcher is also what an",
        "index keeps of each picture.",
        "Its RocksDB's block cache and memtables and the codes that are not in band files yet are",
        "left out: they are bounded, and fill; and so are the files of its index, of which there",
        "are more and fewer as it grows and is merged.",
        "",
        "| process | what | mean | most | slope per hour | +- | allowed | judgement |",
        "|---|---|---:|---:|---:|---:|---:|---|",
        *(_growth_row(row) for row in report.growths),
        "",
        "The medians, oldest first:",
        "",
        *(
            f"- {row.process}, {row.what}: {' '.join(f'{each:.0f}' for each in row.growth.medians)}"
            for row in report.growths
            if row.growth is not None
        ),
        "",
    ]
    return "\n".join(lines)


def _growth_row(row: GrowthRow) -> str:
    found = row.growth
    told = "| | | not judged |"
    if found is not None:
        judgement = "flat" if found.is_flat else "NOT FLAT"
        told = f"{found.slope:+.1f} | {found.error:.1f} | {found.allowed:.1f} | {judgement} |"
    return f"| {row.process} | {row.what} | {row.mean:.0f} | {row.most:.0f} | {told}"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"
