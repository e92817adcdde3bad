"""`make chaos`: mixed faults under load for as long as asked, one oracle, and a report.

Starts a broker and the processes (the harness of the fault tests), publishes pictures at a steady
rate, deals faults in an order that the seed decides, and asks the oracle at the end. Writes
build/chaos/<seed>-<time>/report.md and report.json, and the table of promises anew.

Promises: ends within the minutes asked for, half as many again for judging, and five more,
whatever hangs; leaves no process behind; exit status 0 only where the oracle was asked and every
promise was kept. Figures are held against their goals in the report, and decide nothing: a busy
machine is slower.
"""

import argparse
import faulthandler
import math
import os
import platform
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Never, get_args

import msgspec
import psutil

from streams.telemetry.scrape import Scrape
from tests.faults.chaos_report import (
    RESULT_FILE,
    Goal,
    GrowthRow,
    Report,
    RestartRow,
    markdown,
)
from tests.faults.harness import ROOT, SEED_VARIABLE, System, seed_from_environment
from tests.faults.measurements import (
    LATE_SECONDS,
    Fault,
    Latency,
    Sample,
    first_results,
    growth,
    latencies,
    seconds_to_result,
    seconds_until_prompt,
    windows,
)
from tests.faults.promises import write_table
from tests.faults.schedule import Fault as Dealt
from tests.faults.schedule import dealt_faults, hit
from tests.faults.traffic import long_traffic
from tests.oracle import History, Kind
from tests.oracle import Report as Judgement

# Of the traffic: the rest are removals, events that are no good, and the like.
PICTURES_SHARE: Final = 0.89
# They live through the whole run, so that what leaks has time to show.
SPARED: Final = ("hasher-1", "matcher-1")
PROMPT_WITHIN_SECONDS: Final = 15.0
# From a heal to the next fault: what is to be prompt by then, and enough pictures to see it.
AFTER_HEAL_SECONDS: Final = PROMPT_WITHIN_SECONDS + 4.0
WARM_UP_SECONDS: Final = 15.0
WINDOW_SECONDS: Final = 30.0
SAMPLE_SECONDS: Final = 2.0

KILL_DOWN_SECONDS: Final = (0.5, 2.0)
BETWEEN_KILLS_SECONDS: Final = (0.5, 9.5)
SECONDS_PER_KILL: Final = 8.0

# Of the five minutes: the last one is for stopping everything, and for the report. The oracle
# decides every pair that the matchers decided, on all cores.
JUDGING_SECONDS: Final = 240
JUDGING_SHARE: Final = 0.5
STOPPING_SECONDS: Final = 45

MEGABYTE: Final = 1e6
# In an hour. A leak of so much fills the memory that deploy/k8s gives in a week, not in a day.
ALLOWED_SHARE: Final = 0.1
ALLOWED_FILES: Final = 5.0
# What an index keeps in memory of each picture for good: 20 bytes of columns, in arrays with room
# for a quarter more, and what RocksDB keeps of its tables, measured: 9.
PICTURE_BYTES: Final = 34
MEMORY: Final = "memory without files"


class TimeOverError(Exception):
    """The run did not end by itself in its time."""


@dataclass(slots=True)
class Options:
    """What was asked for."""

    seed: int
    minutes: float
    kills: int
    pictures_per_second: float
    seconds_between_faults: float

    @property
    def limit_seconds(self) -> float:
        """When everything has to have ended."""
        running = 60 * self.minutes + SECONDS_PER_KILL * self.kills
        return running * (1 + JUDGING_SHARE) + JUDGING_SECONDS

    def __str__(self) -> str:
        """As a command that does it again."""
        return (
            f"make chaos MINUTES={self.minutes:g} KILLS={self.kills} "
            f"RATE={self.pictures_per_second:g} EVERY={self.seconds_between_faults:g} "
            f"SEED={self.seed}"
        )


class Sampler(threading.Thread):
    """Looks at every process every two seconds."""

    def __init__(self, system: System) -> None:
        """Look at nothing yet."""
        super().__init__(name="sampler", daemon=True)
        self._system = system
        self._stopping = threading.Event()
        self.samples: dict[str, list[Sample]] = {name: [] for name in system.workers}

    def run(self) -> None:
        """Look, until told to stop."""
        while not self._stopping.wait(SAMPLE_SECONDS):
            for name, worker in list(self._system.workers.items()):
                running = worker.process
                if running is None:
                    continue
                with suppress(psutil.Error):
                    process = psutil.Process(running.pid)
                    family = [process, *process.children(recursive=True)]
                    memory = [each.memory_info() for each in family]
                    # Without files: those of the index grow with it, and are the kernel's to drop.
                    own = float(sum(each.rss - each.shared for each in memory))
                    files = sum(each.num_fds() for each in family)
                    if worker.role == "matcher" and name in SPARED:
                        own -= bounded_memory(f"{worker.url}/metrics")
                        files -= index_files(process, self._system.data_of(name))
                    self.samples[name].append(Sample(time.time(), own, files))

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        self.join()


def bounded_memory(metrics: str) -> float:
    """Ask a matcher for what its block cache, its memtables and its newest codes take, in bytes.

    They are bounded, fill, and are emptied within the hour: what leaks must be seen beside them.
    Not a number where it does not answer, as while it is stopped.
    """
    told = Scrape.of(metrics)
    cache = told.values("check_dedup_rocksdb_block_cache_bytes")
    memtables = told.total("check_dedup_rocksdb_size_bytes", part="memtables")
    delta = told.total("check_dedup_index_delta_bytes")
    return cache[0] + memtables + delta if cache else math.nan


def index_files(process: psutil.Process, directory: Path) -> int:
    """Count the files of its index that a matcher has open: as many as there are.

    Those that were deleted meanwhile are not in it: to keep them open is a leak.
    """
    return sum(Path(each.path).is_relative_to(directory) for each in process.open_files())


@dataclass(slots=True)
class Run:
    """One run: what was done, what was seen, what came out."""

    options: Options
    began: float = field(default_factory=time.time)
    faults: list[Fault] = field(default_factory=list)
    kills_began: float = math.inf
    ended: float = math.inf
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    published: int = 0
    judgement: Judgement | None = None
    latencies: list[Latency] = field(default_factory=list)
    results: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def load(self, system: System) -> None:
        """Publish, and deal faults meanwhile."""
        options = self.options
        sampler = Sampler(system)
        system.await_members()
        sampler.start()
        events = long_traffic(options.seed, system.pictures.origin)
        try:
            with system.publishing(
                events, events_per_second=options.pictures_per_second / PICTURES_SHARE
            ) as publisher:
                system.pause(WARM_UP_SECONDS)
                self._mixed(system)
                self.kills_began = time.time()
                for _ in range(options.kills):
                    worker = system.chance.choice(list(system.workers.values()))
                    down = system.chance.uniform(*KILL_DOWN_SECONDS)
                    self._inflict(system, partial(system.kill, worker, down))
                    system.pause(system.chance.uniform(*BETWEEN_KILLS_SECONDS))
                self.ended = time.time()
        finally:
            self.ended = min(self.ended, time.time())
            sampler.stop()
            self.samples = sampler.samples
        self.published = len(publisher.sent)

    def _mixed(self, system: System) -> None:
        end = time.monotonic() + 60 * self.options.minutes - WARM_UP_SECONDS
        for dealt in dealt_faults(system, SPARED):
            if time.monotonic() >= end - AFTER_HEAL_SECONDS:
                break
            began = time.monotonic()
            self._inflict(system, dealt)
            following = max(
                began + self.options.seconds_between_faults, time.monotonic() + AFTER_HEAL_SECONDS
            )
            system.pause(min(end, following) - time.monotonic())

    def _inflict(self, system: System, dealt: Dealt) -> None:
        worker = hit(dealt)
        partitions = () if worker is None else system.partitions_of(worker)
        told, began = len(system.timeline.entries), time.time()
        try:
            dealt()
        except AssertionError as error:
            system.complaints.append(str(error))
            if worker is not None and worker.process is None:
                worker.start()
        self.faults.append(
            Fault(
                what=system.timeline.entries[told][1],
                kind=dealt.func.__name__,
                began=began,
                healed=time.time(),
                restarted=None if worker is None else worker.role,
                partitions=partitions,
            )
        )

    def judge(self, system: System) -> None:
        """Ask the oracle; then stop everything as one should."""
        history, self.judgement = system.examine()
        self._measure(history, system)
        system.stop_workers()
        system.sound = not self.judgement.violations

    def _measure(self, history: History, system: System) -> None:
        self.latencies = latencies(history, system.sent)
        self.results = first_results(history)

    @property
    def held(self) -> bool:
        """Whether the oracle was asked, and every promise was kept."""
        return self.judgement is not None and not self.judgement.violations and not self.problems

    def report(self) -> Report:
        """Give all of it."""
        judgement = self.judgement or Judgement()
        found = Counter(violation.kind for violation in judgement.violations)
        restarts = self._restarts()
        growths = self._growths()
        return Report(
            command=str(self.options),
            began=self.began,
            day=time.strftime("%Y-%m-%d", time.gmtime(self.began)),
            machine=(
                f"{os.cpu_count()} cores, Python {platform.python_version()}, "
                f"load {os.getloadavg()[1]:.1f} at the end"
            ),
            held=self.held,
            judged=self.judgement is not None,
            problems=[*self.problems, *(str(each) for each in judgement.violations[:20])],
            published=self.published,
            pictures=judgement.pictures,
            outcomes=len(judgement.outcomes),
            copies=judgement.copies,
            dead_letters=len(judgement.dead_letters),
            violations={kind: found[kind] for kind in get_args(Kind)},
            faults=len(self.faults),
            kills=sum(fault.kind in {"kill", "wipe"} for fault in self.faults),
            restarts=restarts,
            windows=windows(self.latencies, WINDOW_SECONDS),
            growths=growths,
            goals=self._goals(restarts, growths),
        )

    def _restarts(self) -> list[RestartRow]:
        rows = []
        for number, fault in enumerate(self.faults):
            judged = fault.began < self.kills_began and bool(self.latencies)
            following = [each.began for each in self.faults[number + 1 : number + 2]]
            until = min([*following, self.kills_began, self.ended])
            prompt = seconds_until_prompt(self.latencies, fault.healed, until) if judged else None
            rows.append(
                RestartRow(
                    at_seconds=fault.began - self.began,
                    what=fault.what,
                    lasted_seconds=fault.healed - fault.began,
                    prompt_after_seconds=prompt,
                    judged=judged,
                    result_after_restart_seconds=self._first_result(fault, fault.healed),
                    result_after_fault_seconds=self._first_result(fault, fault.began),
                )
            )
        return rows

    def _first_result(self, fault: Fault, since: float) -> float | None:
        return seconds_to_result(self.results, fault, since) if self.results else None

    def _growths(self) -> list[GrowthRow]:
        rows = []
        for name, taken in sorted(self.samples.items()):
            samples = [each for each in taken if not math.isnan(each.own_bytes)]
            # In the kills that follow mixed faults nobody is spared.
            lived = [each.at for each in samples if each.at < self.kills_began]
            for what, values, unit in (
                (MEMORY, [each.own_bytes for each in samples], MEGABYTE),
                ("open files", [float(each.open_files) for each in samples], 1.0),
            ):
                scaled = [value / unit for value in values]
                if not scaled:
                    continue
                mean = sum(scaled) / len(scaled)
                allowed = ALLOWED_FILES if unit == 1.0 else ALLOWED_SHARE * mean
                if what == MEMORY and name.startswith("matcher"):
                    hourly = 3600 * self.options.pictures_per_second
                    allowed += hourly * PICTURE_BYTES / MEGABYTE
                found = None
                if name in SPARED:
                    found = growth(lived, scaled[: len(lived)], allowed=allowed)
                rows.append(GrowthRow(name, what, mean, max(scaled), found))
        return rows

    def _goals(self, restarts: list[RestartRow], growths: list[GrowthRow]) -> list[Goal]:
        found = None
        if self.judgement is not None:
            found = Counter(violation.kind for violation in self.judgement.violations)
        prompt = [
            row.prompt_after_seconds is not None
            and row.prompt_after_seconds <= PROMPT_WITHIN_SECONDS
            for row in restarts
            if row.judged
        ]
        flat = [row.growth.is_flat for row in growths if row.growth is not None]
        return [
            _none_of("lost", None if found is None else found["lost"]),
            _none_of("conflicting", None if found is None else found["conflict"]),
            _all_of(
                f"heals after which p99 is under {LATE_SECONDS:g} s within "
                f"{PROMPT_WITHIN_SECONDS:g} s",
                prompt,
            ),
            _all_of("memory and open files of those who live through it are flat", flat),
        ]


def _none_of(what: str, found: int | None) -> Goal:
    if found is None:
        return Goal(what, "-", "0", None)
    return Goal(what, str(found), "0", found == 0)


def _all_of(what: str, found: Sequence[bool]) -> Goal:
    """Hold against all of them; where there are none, nothing is judged."""
    return Goal(what, f"{sum(found)} of {len(found)}", "all", all(found) if found else None)


def run(options: Options, directory: Path) -> Run:
    """Run; whatever happens, give what is known, and leave nothing running."""
    this = Run(options)
    _end_within(options.limit_seconds)
    try:
        with System(directory, options.seed) as system:
            system.begin("chaos")
            try:
                this.load(system)
                this.judge(system)
            finally:
                this.problems += system.complaints
    except (TimeOverError, AssertionError, OSError, RuntimeError) as error:
        this.problems.append(f"{type(error).__name__}: {error}")
    return this


def _end_within(seconds: float) -> None:
    """Interrupt the main thread then; soon after, end the process whatever it does."""

    def over(*_: object) -> Never:
        # Not from Python: that needs the main thread to come out of whatever it hangs in.
        faulthandler.dump_traceback_later(STOPPING_SECONDS, exit=True)
        raise TimeOverError(f"not done in {seconds:.0f} s")

    signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def parsed(arguments: Sequence[str] | None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, help="of mixed faults; 10, or 0 with --kills")
    parser.add_argument("--kills", type=int, default=0, help="kill -9 of any process, after that")
    parser.add_argument("--rate", type=float, default=50.0, help="pictures a second")
    parser.add_argument("--every", type=float, default=20.0, help="seconds between two faults")
    parser.add_argument("--seed", type=int, help=f"to replay; also {SEED_VARIABLE}")
    given = parser.parse_args(arguments)
    minutes = given.minutes if given.minutes is not None else (0.0 if given.kills else 10.0)
    seed = given.seed if given.seed is not None else seed_from_environment()
    return Options(seed, minutes, given.kills, given.rate, given.every)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, report; 0 where every promise was kept."""
    options = parsed(arguments)
    directory = ROOT / "build" / "chaos" / f"{options.seed}-{time.time_ns()}"
    directory.mkdir(parents=True)
    faulthandler.register(signal.SIGUSR1)
    sys.stdout.write(f"{options}\n")
    this = run(options, directory)
    report = this.report()
    (directory / RESULT_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    (directory / "report.md").write_text(markdown(report))
    write_table()
    sys.stdout.write(f"\n{markdown(report)}\nreport: {directory.relative_to(ROOT)}/report.md\n")
    return 0 if report.held else 1


if __name__ == "__main__":
    # A TERM is cleaned up after like a Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
