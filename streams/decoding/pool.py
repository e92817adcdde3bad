"""Work on pictures in child processes, which may crash, hang or explode without harm to us.

Not pebble: of 50 times that a child was killed -9 with jobs in flight, 10 left its pool unusable
(the children share one pipe and its lock). Here each child has a pipe of its own.

Used by the hasher and the API. Promises: a job ends in its answer or in a rejection within twice
its limit once its turn has come; no job is blamed for another's death; cancelling the caller
kills the child, so that it is free for others as soon as it has started anew (0.5 s).

Measured with `fingerprint` on JPEGs of 250 KB, 2 children on 2 busy cores: 142-193 pictures/s
where a bare `multiprocessing.Pool` did 137-163 in turn; 0.4 ms of our own time per job.
"""

import asyncio
import io
import os
import pickle
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, Self, TypeVar, cast

from msgspec import Struct

from agents.decode import DecodeLimits
from schemas.reasons import Rejection
from schemas.topics import MEBIBYTE
from streams.decoding.pool_child import LENGTH_BYTES
from streams.errors import RetryableError
from streams.settings import Settings

T = TypeVar("T")

# Of a child's memory, what is not for a picture's pixels: the imports of `agents.fingerprint` take
# 100 MiB, and the file, of up to 32 MiB, is there twice at the start.
_MEMORY_BESIDE_PIXELS_BYTES: Final = 192 * MEBIBYTE
# A fingerprint is below 10 KB.
_ANSWER_LIMIT_BYTES: Final = MEBIBYTE
_START_ATTEMPTS: Final = 3
_START_SECONDS: Final = 60.0
# Running jobs may end within this time after `close`.
_CLOSE_SECONDS: Final = 2.0
# Where this process was stopped for longer than a job's limit, the answer is there but unread.
_UNREAD_ANSWER_SECONDS: Final = 0.05
# A child that a picture has taken over finds no secrets in its environment.
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
# There is a child per core: more threads in each would only wait for each other.
ONE_THREAD: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def decode_limits(settings: Settings) -> DecodeLimits:
    """What a picture may cost in a child of these settings, so that it is not killed by it."""
    return DecodeLimits(
        pixels=settings.pixel_limit,
        memory_bytes=settings.decode_memory_bytes - _MEMORY_BESIDE_PIXELS_BYTES,
    )


class DecodePool:
    """A fixed number of child processes, each doing one job at a time."""

    def __init__(
        self, settings: Settings, modules: Sequence[str] = ("streams.decoding.timed",)
    ) -> None:
        """Take the number of processes and their memory; `modules` are imported at their start."""
        self._size = settings.decode_processes
        self._arguments = (str(settings.decode_memory_bytes), *modules)
        self._children: list[_Child] = []
        self._idle: asyncio.Queue[_Child] = asyncio.Queue()
        # Held while waiting for children: callers get them in the order they came.
        self._turn = asyncio.Lock()
        self._closed = False

    @property
    def restarts(self) -> int:
        """Children started again so far; in any thread."""
        return sum(max(0, child.starts - 1) for child in self._children)

    async def start(self) -> None:
        """Start all children; they import while the caller goes on."""
        self._children = [_Child(self._arguments) for _ in range(self._size)]
        for child in self._children:
            self._idle.put_nowait(child)

    async def close(self) -> None:
        """End all children, at most some seconds from now; jobs that still run are retryable."""
        self._closed = True
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS), self._take(self._size):
                pass
        await asyncio.gather(*(child.stop() for child in self._children))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def run(
        self, function: Callable[..., T], *arguments: object, timeout_seconds: float
    ) -> T | Rejection:
        """Run `function(*arguments)` in a child. Both cross as pickles: name the function.

        The answer may be made of builtin types and `schemas`' records only. A job whose child
        dies is tried once more with no other running, as it may have been another's memory.
        Rejections: `decode_timeout`, `decoder_died` (a job that raises is a child that dies).

        Raises:
            RetryableError: no child starts, or the pool is closed.
        """
        job = (function, arguments)
        try:
            for children_taken in (1, self._size):
                async with self._take(children_taken) as child:
                    if self._closed:
                        break
                    with suppress(_DiedError):
                        return cast("T", await child.run(job, timeout_seconds))
        except TimeoutError:
            return Rejection("decode_timeout", f"not done after {timeout_seconds:g} s")
        if self._closed:
            raise RetryableError("the decode pool is closed")
        return Rejection("decoder_died", "twice, the second time alone")

    @asynccontextmanager
    async def _take(self, number: int) -> "AsyncIterator[_Child]":
        """So many children at once, for as long as the context; the first is for use."""
        taken: list[_Child] = []
        try:
            async with self._turn:
                while len(taken) < number:
                    taken.append(await self._idle.get())
            yield taken[0]
        finally:
            for child in taken:
                self._idle.put_nowait(child)


class _DiedError(Exception):
    """The child ended, or answered what is no answer."""


class _Child:
    """A process that is there for as long as the pool: whenever it dies it is started anew."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = arguments
        self._stopped = False
        self.starts = 0
        self._process: asyncio.subprocess.Process | None = None
        self._exchange: asyncio.Task[object] | None = None
        self._started = asyncio.create_task(self._start())

    async def run(self, job: object, timeout_seconds: float) -> object:
        """Run one job; the process is killed where this does not end in an answer.

        Raises:
            TimeoutError: no answer within the limit.
            _DiedError: the process died, or was stopped.
            RetryableError: it does not start.
        """
        # Whoever waits first may be cancelled: the start goes on for the next.
        await asyncio.wait({self._started})
        if self._stopped:
            raise _DiedError
        try:
            process = self._started.result()
            self._exchange = asyncio.create_task(_exchange(process, job))
            for seconds in (timeout_seconds, _UNREAD_ANSWER_SECONDS):
                if (await asyncio.wait({self._exchange}, timeout=seconds))[0]:
                    return self._exchange.result()
            raise TimeoutError  # noqa: TRY301 - ends as all other ways that are no answer
        except BaseException as error:
            if self._stopped:
                raise _DiedError from error
            if self._exchange is not None:
                self._exchange.cancel()
            self._started = asyncio.create_task(self._start())
            raise

    async def stop(self) -> None:
        """Kill the process and wait until it is gone."""
        self._stopped = True
        tasks = {self._started} if self._exchange is None else {self._started, self._exchange}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await self._end()

    async def _start(self) -> asyncio.subprocess.Process:
        kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        for _ in range(_START_ATTEMPTS):
            await self._end()
            self.starts += 1
            self._process = process = await asyncio.create_subprocess_exec(
                *(
                    sys.executable,
                    "-m",
                    "streams.decoding.pool_child",
                    str(os.getpid()),
                    *self._arguments,
                ),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=kept | ONE_THREAD,
                start_new_session=True,
            )
            with suppress(TimeoutError, _DiedError):
                async with asyncio.timeout(_START_SECONDS):
                    await _receive(process)
                    return process
        raise RetryableError("a decode process does not start; its standard error says why")

    async def _end(self) -> None:
        if self._process is None:
            return
        stdin, stdout = _pipes(self._process)
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                # Not `process.kill`, which reaps the child under asyncio's feet.
                os.kill(self._process.pid, signal.SIGKILL)
        stdin.close()
        await stdout.read()
        await self._process.wait()
        self._process = None


def _pipes(
    process: asyncio.subprocess.Process,
) -> tuple[asyncio.StreamWriter, asyncio.StreamReader]:
    assert process.stdin is not None  # noqa: S101 - for the type checker: both are pipes
    assert process.stdout is not None  # noqa: S101
    return process.stdin, process.stdout


async def _exchange(process: asyncio.subprocess.Process, job: object) -> object:
    stdin, _ = _pipes(process)
    stdin.write(pickle.dumps(job, pickle.HIGHEST_PROTOCOL))
    with suppress(OSError):  # reading says whether it died
        await stdin.drain()
    return await _receive(process)


async def _receive(process: asyncio.subprocess.Process) -> object:
    _, stdout = _pipes(process)
    try:
        length = int.from_bytes(await stdout.readexactly(LENGTH_BYTES))
        if length <= _ANSWER_LIMIT_BYTES:
            return _Records(io.BytesIO(await stdout.readexactly(length))).load()
    except Exception as error:
        raise _DiedError from error
    raise _DiedError


class _Records(pickle.Unpickler):
    """Reads records of `schemas` and nothing else: a hostile picture may own the child."""

    def find_class(self, module_name: str, global_name: str, /) -> object:
        if module_name in {"schemas.reasons", "schemas.records"} and "." not in global_name:
            found = super().find_class(module_name, global_name)
            if isinstance(found, type) and issubclass(found, Struct) and found is not Struct:
                return found
        raise pickle.UnpicklingError(f"{module_name}.{global_name} is no record")
