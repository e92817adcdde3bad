"""What `make chaos` measures, on runs that are made up; and its report of them."""

import random

import msgspec
import pytest

from tests.faults.chaos import Options, Run, parsed
from tests.faults.chaos_report import Report, markdown
from tests.faults.measurements import (
    Fault,
    Latency,
    Sample,
    Window,
    growth,
    seconds_to_result,
    seconds_until_prompt,
    windows,
)
from tests.oracle import Report as Judgement
from tests.oracle import Violation

OPTIONS = Options(1, 10, 0, 50, 20)


def late_until(late: float, until: float) -> list[Latency]:
    """Give ten pictures a second; those before `late` wait for three seconds."""
    return [Latency(n / 10, 3.0 if n / 10 < late else 0.1) for n in range(int(10 * until))]


def test_prompt_at_once() -> None:
    """Nobody was late."""
    assert seconds_until_prompt(late_until(0, 40), 20, 40) == 0


def test_prompt_later() -> None:
    """The last who is late counts, also where some before it were not."""
    found = late_until(25, 40)
    assert seconds_until_prompt(found, 20, 40) == 5
    found[300:303] = [Latency(30 + n / 10, 3.0) for n in range(3)]
    assert seconds_until_prompt(found, 20, 40) == pytest.approx(10.25)


def test_not_prompt_before_the_next_fault() -> None:
    """That is told as such; as is a time without any pictures."""
    assert seconds_until_prompt(late_until(40, 40), 20, 40) is None
    assert seconds_until_prompt(late_until(0, 40), 20, 22.9) is None
    assert seconds_until_prompt([], 20, 40) is None


def test_what_the_next_fault_delays_is_not_this_ones() -> None:
    """Pictures of the last second before it do not count."""
    found = [*late_until(0, 39), *(Latency(39 + n / 10, 3.0) for n in range(10))]
    assert seconds_until_prompt(found, 20, 40) == 0


def test_windows() -> None:
    """By the time of publication."""
    found = windows(late_until(10, 20), 10.0)
    assert found == [Window(0, 100, 3.0, 3.0), Window(10, 100, 0.1, 0.1)]
    assert windows([], 10) == []


def test_the_first_result_is_of_what_the_process_works_on() -> None:
    """What the others do meanwhile is no sign of life of its own."""
    fault = Fault("kill", "kill", 10, 12, "matcher", (1, 3))
    results = {"matcher": [(9.0, 1), (11.0, 0), (12.5, 0), (13.5, 3)]}
    assert seconds_to_result(results, fault, fault.healed) == 1.5
    assert seconds_to_result(results, fault, fault.began) == 3.5
    assert seconds_to_result({"matcher": []}, fault, 10) is None
    assert seconds_to_result(results, Fault("cut", "cut", 10, 12), 10) is None


def samples(slope_per_hour: float) -> tuple[list[float], list[float]]:
    """Give an hour of samples that scatter, and rise at first."""
    chance = random.Random(1)
    times = [2.0 * n for n in range(1800)]
    start_up = [min(0.0, (at - 600) / 10) for at in times]
    return times, [
        100 + rise + slope_per_hour * at / 3600 + chance.gauss(0, 2)
        for at, rise in zip(times, start_up, strict=True)
    ]


def test_growth() -> None:
    """A leak is found; scattering, and what start-up takes, are none."""
    flat, leak = (growth(*samples(slope), allowed=10) for slope in (0, 30))
    assert flat is not None
    assert leak is not None
    assert flat.is_flat
    assert abs(flat.slope) < 3
    assert not leak.is_flat
    assert leak.slope == pytest.approx(30, abs=3)
    assert growth([1, 2, 3], [1, 2, 3], allowed=10) is None


def reported(run: Run) -> Report:
    """Write and read a report."""
    return msgspec.json.decode(msgspec.json.encode(run.report()), type=Report)


def test_a_run_that_was_not_judged_did_not_hold() -> None:
    """No oracle, no promise."""
    report = reported(Run(OPTIONS, problems=["TimeOverError: not done in 840 s"]))
    assert not report.held
    assert report.summary.startswith("FAILED")
    assert "NOT JUDGED" in markdown(report)
    assert "not done in 840 s" in markdown(report)
    assert not any(goal.met for goal in report.goals)


def test_a_run_with_a_loss_did_not_hold() -> None:
    """One is enough, and it is told."""
    judgement = Judgement(pictures=5, violations=[Violation("lost", "this one")])
    report = reported(Run(OPTIONS, judgement=judgement))
    assert not report.held
    assert "this one" in markdown(report)
    assert report.violations["lost"] == 1


def test_a_run_that_held() -> None:
    """Every figure is in the report."""
    latencies = late_until(125, 400)
    run = Run(
        OPTIONS,
        began=0,
        ended=400,
        faults=[
            Fault("kill -9 matcher-0", "kill", 100, 120, "matcher", (2,)),
            Fault("cut", "cut", 150, 152),
        ],
        samples={"matcher-1": [Sample(2.0 * n, 100_000_000, 40) for n in range(200)]},
        judgement=Judgement(pictures=4000),
        latencies=latencies,
        results={"matcher": [(121.5, 2)]},
    )
    report = reported(run)
    assert report.held
    assert report.kills == 1
    assert report.restarts[0].prompt_after_seconds == 4.75  # one in a hundred may be late
    assert report.restarts[0].result_after_restart_seconds == 1.5
    assert report.restarts[1].prompt_after_seconds == 0
    assert [goal.met for goal in report.goals] == [True, True, True, True]
    assert "| 100 s | kill -9 matcher-0 | 20.0 s | 4.8 s | 1.5 s | 21.5 s |" in markdown(report)
    assert "| matcher-1 | memory without files | 100 | 100 | +0.0 | 0.0 | 16.1 | flat |" in (
        markdown(report)
    )
    assert report.summary.startswith("passed, 4000 pictures, 2 faults (1 kill -9), 0 lost")


def test_kills_hide_no_leak() -> None:
    """What a restart gives back is not taken for what mixed faults left alone."""
    leaking = [Sample(2.0 * n, (100 + n) * 1_000_000, 40) for n in range(200)]
    restarted = [Sample(400 + 2.0 * n, 50_000_000, 40) for n in range(400)]
    run = Run(OPTIONS, kills_began=400, samples={"matcher-1": leaking + restarted})
    memory, files = reported(run).growths
    assert memory.growth is not None
    assert not memory.growth.is_flat
    assert files.growth is not None
    assert files.growth.is_flat


def test_after_kills_alone_neither_heals_nor_memory_are_judged() -> None:
    """Nobody was spared, and no time was left to become prompt: that is told, and is no miss."""
    run = Run(
        OPTIONS,
        began=0,
        kills_began=15,
        ended=400,
        faults=[Fault("kill -9 matcher-1", "kill", 100, 101, "matcher", (2,))],
        samples={"matcher-1": [Sample(2.0 * n, 100_000_000, 40) for n in range(200)]},
        judgement=Judgement(pictures=4000),
        latencies=late_until(0, 400),
    )
    report = reported(run)
    assert [goal.met for goal in report.goals] == [True, True, None, None]
    assert "| 0 of 0 | all | not judged |" in markdown(report)


def test_options() -> None:
    """Kills alone take no minutes of other faults; all is in what is printed to do it again."""
    assert parsed(["--seed", "3"]).minutes == 10
    kills = parsed(["--kills", "100", "--seed", "3"])
    assert (kills.minutes, kills.kills) == (0, 100)
    assert str(kills) == "make chaos MINUTES=0 KILLS=100 RATE=50 EVERY=20 SEED=3"
    assert parsed(["--minutes", "30"]).limit_seconds == 49 * 60
