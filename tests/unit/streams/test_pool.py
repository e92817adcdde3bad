"""Child processes that crash, hang or explode harm neither the worker nor each other's jobs."""

import asyncio
import fractions
import io
import operator
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from schemas import reasons
from schemas.reasons import Rejection
from streams.decoding.pool import DecodePool, _Records
from streams.errors import RetryableError
from streams.settings import Settings
from tests.waiting import until

SETTINGS = Settings(decode_processes=2, decode_memory_bytes=256 * 1024 * 1024)
LIMIT_SECONDS = 10.0


@pytest.fixture
async def pool() -> AsyncIterator[DecodePool]:
    """Two children, started."""
    async with DecodePool(SETTINGS, modules=()) as pool:
        await pids(pool)
        yield pool


async def pids(pool: DecodePool) -> list[int]:
    """Processes of all children, once they have started."""
    started = [child._started for child in pool._children]
    return [(await task).pid for task in started]


async def run_at(pool: DecodePool, function: Callable[..., object], *arguments: object) -> object:
    """Run a job that has time enough."""
    return await pool.run(function, *arguments, timeout_seconds=LIMIT_SECONDS)


def is_gone(pid: int) -> bool:
    """Whether a process runs no more."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_a_job_runs_in_a_child_and_its_answer_comes_back(pool: DecodePool) -> None:
    """Arguments and answers cross, records of `schemas` among them."""
    assert await run_at(pool, os.getpid) in await pids(pool)
    assert await run_at(pool, len, bytes(5_000_000)) == 5_000_000
    assert await run_at(pool, Rejection, "not_an_image", "x") == Rejection("not_an_image", "x")


async def test_jobs_run_side_by_side_in_all_children(pool: DecodePool) -> None:
    """Two children do two jobs at a time, not more and not fewer."""
    began = time.monotonic()
    await asyncio.gather(*(run_at(pool, time.sleep, 0.5) for _ in range(4)))
    assert 1.0 <= time.monotonic() - began < 1.9


async def test_what_a_picture_prints_does_not_disturb_the_answers(pool: DecodePool) -> None:
    """Standard output and input of a child are not its pipes."""
    assert await run_at(pool, os.write, 1, b"printed by a job\n") == 17
    assert await run_at(pool, os.read, 0, 10) == b""
    assert await run_at(pool, len, b"ab") == 2


async def test_a_job_that_hangs_is_killed_and_its_neighbour_is_not(pool: DecodePool) -> None:
    """The limit ends one job; another that began before it goes on."""
    before = await pids(pool)
    neighbour = asyncio.create_task(run_at(pool, time.sleep, 0.6))
    began = time.monotonic()
    hanging = await pool.run(time.sleep, 60, timeout_seconds=0.2)
    assert isinstance(hanging, Rejection)
    assert hanging.reason == "decode_timeout"
    assert time.monotonic() - began < 0.5
    assert await neighbour is None
    assert len(set(before) & set(await pids(pool))) == 1
    await until(lambda: sum(is_gone(pid) for pid in before) == 1)


async def test_an_answer_that_came_while_we_were_stopped_still_counts(pool: DecodePool) -> None:
    """A worker frozen for longer than the limit does not blame the picture."""
    job = asyncio.create_task(pool.run(time.sleep, 0.2, timeout_seconds=0.4))
    await until(lambda: pool._children[0].job)
    await asyncio.sleep(0.05)
    time.sleep(0.6)  # noqa: ASYNC251 - the loop is to stand still
    assert await job is None


async def test_killing_a_child_mid_job_harms_no_job(pool: DecodePool) -> None:
    """`kill -9` at any moment: the job is done again, neighbours notice nothing."""
    for _ in range(3):
        jobs = [asyncio.create_task(run_at(pool, len, bytes(200_000))) for _ in range(40)]
        await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
        os.kill((await pids(pool))[0], signal.SIGKILL)
        assert await asyncio.gather(*jobs) == [200_000] * 40


async def test_a_child_that_dies_idle_is_there_again(pool: DecodePool) -> None:
    """Nobody's job is blamed for it, and none waits until the death is noticed."""
    before = await pids(pool)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    await until(lambda: pool.restarts == 2)
    assert set(await pids(pool)).isdisjoint(before)
    assert await run_at(pool, len, b"ab") == 2
    assert pool.restarts == 2


@pytest.mark.parametrize("more", [b"\0\0\0\x04more", b"\xff\xff\xff\xff", b"\0"])
async def test_what_a_child_says_unasked_is_nobodys_answer(pool: DecodePool, more: bytes) -> None:
    """A picture that has taken a child over does not answer for the next one."""
    before = await pids(pool)
    code = f"import os\nfor fd in range(3, 9):\n try: os.write(fd, {more!r})\n except OSError: pass"
    done = await asyncio.gather(*(run_at(pool, exec, code) for _ in range(2)))
    assert all(answer is None or isinstance(answer, Rejection) for answer in done)
    answers = await asyncio.gather(*(run_at(pool, len, bytes(n)) for n in range(20)))
    assert answers == list(range(20))
    assert set(await pids(pool)).isdisjoint(before)


async def test_a_job_that_kills_its_child_twice_is_rejected(pool: DecodePool) -> None:
    """Neighbours in flight and in line are done all the same."""
    for kill in (
        run_at(pool, signal.raise_signal, signal.SIGKILL),
        run_at(pool, os._exit, 0),
        run_at(pool, os.abort),
        run_at(pool, fractions.Fraction, 1, 0),  # raises
    ):
        neighbours = [asyncio.create_task(run_at(pool, time.sleep, 0.02)) for _ in range(6)]
        died = await kill
        assert isinstance(died, Rejection)
        assert died.reason == "decoder_died"
        assert await asyncio.gather(*neighbours) == [None] * 6


async def test_the_second_attempt_runs_alone(pool: DecodePool, tmp_path: Path) -> None:
    """What died of its neighbours' memory is given the machine for itself."""
    code = (
        f"import os, time, pathlib as p; d = p.Path({str(tmp_path)!r}); f = d / 'died'\n"
        "if not f.exists(): f.touch(); os._exit(1)\n"
        "(d / 'alone').write_text(str(time.monotonic()))"
    )
    neighbour = asyncio.create_task(run_at(pool, time.sleep, 0.5))
    await until(lambda: pool._children[0].job)
    assert await run_at(pool, exec, code) is None
    ended = time.monotonic()
    assert neighbour.done()
    assert ended - float((tmp_path / "alone").read_text()) < 0.3


async def test_memory_is_limited(pool: DecodePool) -> None:
    """A job that takes more than the budget is rejected; one within it is done."""
    exploded = await run_at(pool, exec, "bytes(400_000_000)")
    assert isinstance(exploded, Rejection)
    assert exploded.reason == "decoder_died"
    assert await run_at(pool, exec, "bytes(100_000_000)") is None


async def test_an_answer_of_any_other_type_is_not_read(pool: DecodePool) -> None:
    """A child that a picture has taken over cannot make its parent run code."""
    for function in (fractions.Fraction, operator.attrgetter):
        answer = await run_at(pool, function, "1")
        assert isinstance(answer, Rejection)
        assert answer.reason == "decoder_died"


def test_only_records_are_read() -> None:
    """Neither functions of `schemas` nor what it has imported."""
    unpickler = _Records(io.BytesIO())
    assert unpickler.find_class("schemas.reasons", "Rejection") is reasons.Rejection
    for module, name in (
        ("os", "system"),
        ("schemas.topics", "Topic"),
        ("schemas.reasons", "get_args"),
        ("schemas.reasons", "Struct"),
        ("schemas.records", "Annotated"),
        ("schemas.codec", "msgspec.json.decode"),
        ("schemas.reasons", "Rejection.__init__"),
    ):
        with pytest.raises(Exception, match="is no record"):
            unpickler.find_class(module, name)


async def test_cancelling_the_caller_frees_the_child(pool: DecodePool) -> None:
    """A second after the cancellation, all children work again and the old process is gone."""
    jobs = [asyncio.create_task(run_at(pool, time.sleep, 60)) for _ in range(2)]
    before = await pids(pool)
    await until(lambda: all(child.job for child in pool._children))
    began = time.monotonic()
    for job in jobs:
        job.cancel()
    await asyncio.wait(jobs)
    assert all(job.cancelled() for job in jobs)
    assert time.monotonic() - began < 0.1
    await until(lambda: all(is_gone(pid) for pid in before))
    assert time.monotonic() - began < 1.0
    assert set(await asyncio.gather(*(run_at(pool, os.getpid) for _ in range(8)))).isdisjoint(
        before
    )


async def test_cancelling_while_children_start_leaves_none_over(pool: DecodePool) -> None:
    """A revocation cancels all jobs, also those whose child is just being started."""

    def living() -> set[int]:
        return {child.pid for child in psutil.Process().children() if not is_gone(child.pid)}

    others = living() - set(await pids(pool))
    for _ in range(8):
        # From the second time on, the children are still starting.
        jobs = [asyncio.create_task(run_at(pool, time.sleep, 60)) for _ in range(3)]
        await until(lambda: all(child.job for child in pool._children))
        for job in jobs:
            job.cancel()
        await asyncio.wait(jobs)
    ours = set(await pids(pool))
    await until(lambda: living() - others == ours)


async def test_cancelling_a_caller_in_line_loses_no_child(pool: DecodePool) -> None:
    """Cancelled while it waits its turn, also while it gathers all children."""
    running = asyncio.create_task(run_at(pool, time.sleep, 0.3))
    dying = asyncio.create_task(run_at(pool, os._exit, 1))
    await until(lambda: pool._waiting)
    waiting = asyncio.create_task(run_at(pool, os.getpid))
    await asyncio.sleep(0)
    for task in (dying, waiting):
        task.cancel()
    await asyncio.wait({dying, waiting})
    assert await running is None
    assert not pool._waiting
    assert not any(child.job for child in pool._children)


async def test_children_ignore_signals_meant_for_the_worker(pool: DecodePool) -> None:
    """SIGINT and SIGTERM of a whole process group must not look like a picture that kills."""
    job = asyncio.create_task(run_at(pool, time.sleep, 0.3))
    await until(lambda: pool._children[0].job)
    children = await pids(pool)
    for pid in children:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
        assert os.getsid(pid) != os.getsid(0)
    assert await job is None
    assert await pids(pool) == children
    assert not any(is_gone(pid) for pid in children)


async def test_a_child_has_one_thread_and_no_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """BLAS threads would fight for the same cores, and a picture may take the child over."""
    monkeypatch.setenv("KAFKA_PASSWORD", "secret")
    async with DecodePool(replace(SETTINGS, decode_processes=1), ("agents.fingerprint",)) as pool:
        environment = await run_at(pool, eval, "dict(__import__('os').environ)")
        assert isinstance(environment, dict)
        assert "KAFKA_PASSWORD" not in environment
        (pid,) = await pids(pool)
        assert psutil.Process(pid).num_threads() == 1
        adjustment = Path(f"/proc/{pid}/oom_score_adj")
        assert adjustment.read_text().strip() == "1000"  # noqa: ASYNC240


async def test_closing_lets_a_short_job_end_and_kills_a_long_one() -> None:
    """Bounded; what did not end may be tried again elsewhere and is no dead letter."""
    async with DecodePool(SETTINGS, modules=()) as pool:
        children = await pids(pool)
        short = asyncio.create_task(run_at(pool, time.sleep, 0.2))
        long = asyncio.create_task(run_at(pool, time.sleep, 60))
        await until(lambda: all(child.job for child in pool._children))
        late = asyncio.create_task(run_at(pool, os.getpid))
        began = time.monotonic()
    assert time.monotonic() - began < 4.0
    assert await short is None
    for job in (long, late, asyncio.create_task(run_at(pool, os.getpid))):
        with pytest.raises(RetryableError):
            await job
    assert all(is_gone(pid) for pid in children)


async def test_a_pool_that_cannot_start_says_so() -> None:
    """A module that cannot be imported is our error, never the picture's."""
    async with DecodePool(SETTINGS, modules=("no_such_module",)) as pool:
        with pytest.raises(RetryableError):
            await run_at(pool, os.getpid)


async def test_deaths_leak_no_files(pool: DecodePool) -> None:
    """As many open files after ten deaths as before."""
    await run_at(pool, os.getpid)
    us = psutil.Process()
    before = us.num_fds()
    for _ in range(5):
        await run_at(pool, os._exit, 1)
    await pids(pool)
    await until(lambda: us.num_fds() <= before)


@pytest.mark.parametrize("job", ["idle", "busy"])
async def test_children_die_with_their_parent(job: str, tmp_path: Path) -> None:
    """`kill -9` of the worker leaves nobody behind, neither idle nor in the midst of a job."""
    code = f"""
import asyncio, pathlib, time
from streams.decoding.pool import DecodePool, _Records
from streams.settings import Settings
async def main():
    async with DecodePool(Settings(), modules=()) as pool:
        pids = [str((await child._started).pid) for child in pool._children]
        pathlib.Path({str(tmp_path / "new")!r}).write_text(" ".join(pids))
        pathlib.Path({str(tmp_path / "new")!r}).rename({str(tmp_path / "pids")!r})
        if {job!r} == "busy":
            await pool.run(time.sleep, 60, timeout_seconds=60)
        await asyncio.sleep(60)
asyncio.run(main())
"""
    parent = subprocess.Popen([sys.executable, "-c", code])  # noqa: ASYNC220
    try:
        await until((tmp_path / "pids").exists)
        children = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert not any(is_gone(pid) for pid in children)
    finally:
        parent.kill()
        parent.wait()
    await until(lambda: all(is_gone(pid) for pid in children))
