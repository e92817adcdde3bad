"""Work on pictures in child processes, which may crash, hang or explode without harm to us.

Not pebble: of 50 times that a child was killed -9 with jobs in flight, 10 left its pool unusable
(the children share one pipe and its lock). Here each child has a pipe of its own.

Used by the hasher and the API. Promises: a job ends in its answer or in a rejection within twice
its limit once its turn has come; no job is blamed for another's death; cancelling the caller
kills the child, so that it is free for others as soon as it has started anew (0.5 s); a child that
dies between jobs is started at once, and no job is blamed.

Measured with `fingerprint` on JPEGs of 250 KB, 2 children on 2 busy cores: 263-294 pictures/s
where a bare `multiprocessing.Pool` did 259-267 in turn; 0.3 ms of our own time per job.
"""

import asyncio
import fcntl
import io
import os
import pickle
import signal
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
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
# Linux gives no more to others than root.
_PIPE_BYTES: Final = MEBIBYTE
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
        self._waiting: deque[_Job] = deque()
        self._closed = False

    @property
    def restarts(self) -> int:
        """Children started again so far; in any thread."""
        return sum(max(0, child.starts - 1) for child in self._children)

    async def start(self) -> None:
        """Start all children; they import while the caller goes on."""
        self._children = [_Child(self._arguments, self._hand_out) for _ in range(self._size)]

    async def close(self) -> None:
        """End all children, at most some seconds from now; jobs that are left are retryable."""
        self._closed = True
        while self._waiting:
            self._waiting.popleft().end(_closed())
        if running := {child.job.answer for child in self._children if child.job is not None}:
            await asyncio.wait(running, timeout=_CLOSE_SECONDS)
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
        for alone in (False, True):
            if self._closed:
                raise _closed()
            job = _Job((function, arguments), timeout_seconds, alone=alone)
            self._waiting.append(job)
            self._hand_out()
            try:
                return cast("T", await job.answer)
            except TimeoutError:
                return Rejection("decode_timeout", f"not done after {timeout_seconds:g} s")
            except _DiedError:
                continue
            except asyncio.CancelledError:
                self._withdraw(job)
                raise
        return Rejection("decoder_died", "twice, the second time alone")

    def _hand_out(self) -> None:
        """Give jobs to idle children, in the order they came."""
        while self._waiting:
            job = self._waiting[0]
            busy = [child.job for child in self._children if child.job is not None]
            if len(busy) == self._size or (busy and (job.alone or busy[0].alone)):
                return
            idle = (child for child in self._children if child.job is None)
            min(idle, key=lambda child: child.is_starting).begin(self._waiting.popleft())

    def _withdraw(self, job: "_Job") -> None:
        """Free the child that a job is in whose caller is gone; or take it out of the line."""
        for child in self._children:
            if child.job is job:
                child.restart(_DiedError())
        with suppress(ValueError):
            self._waiting.remove(job)
        self._hand_out()


def _closed() -> RetryableError:
    return RetryableError("the decode pool is closed")


class _DiedError(Exception):
    """The child ended, or answered what is no answer."""


class _Job:
    """A call, and the answer that its caller waits for."""

    def __init__(self, call: object, timeout_seconds: float, *, alone: bool) -> None:
        self.call = call
        self.timeout_seconds = timeout_seconds
        self.alone = alone
        self.answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    def end(self, answer: object) -> None:
        """Tell the caller, where it still waits, an answer or an error."""
        if self.answer.done():
            return
        if isinstance(answer, BaseException):
            self.answer.set_exception(answer)
        else:
            self.answer.set_result(answer)


class _Child:
    """A process that is there for as long as the pool: whenever it dies it is started anew.

    What lies between an answer and the next job is one callback: with tasks in between, the
    process stood idle for several rounds of a busy loop.
    """

    def __init__(self, arguments: Sequence[str], hand_out: Callable[[], None]) -> None:
        """`hand_out` is called whenever there is room for a job."""
        self._arguments = arguments
        self._hand_out = hand_out
        self.job: _Job | None = None
        self.starts = 0
        self._process: _Process | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._stopped = False
        self._start()

    @property
    def is_starting(self) -> bool:
        """Whether a job would have to wait for the process."""
        return not self._started.done()

    def begin(self, job: _Job) -> None:
        """Take a job; it goes to the process as soon as there is one."""
        self.job = job
        if not self.is_starting:
            self._send()

    def restart(self, error: BaseException) -> None:
        """Start anew; the job that was in the process, if any, ends with this error."""
        # One that starts has seen nothing of a job: another beside it would be nobody's.
        if not self.is_starting:
            self._start()
        self._leave(error)
        self._hand_out()

    async def stop(self) -> None:
        """Kill the process and wait until it is gone."""
        self._stopped = True
        self._leave(_closed())
        self._started.cancel()
        await asyncio.wait({self._started})
        await self._end()

    def _start(self) -> None:
        self._started = asyncio.create_task(self._new_process())
        self._started.add_done_callback(self._is_started)

    def _is_started(self, started: "asyncio.Task[_Process]") -> None:
        if started is self._started and self.job is not None:
            self._send()

    def _send(self) -> None:
        assert self.job is not None  # noqa: S101 - for the type checker: both callers looked
        if (error := self._started.exception()) is not None:
            self.restart(error)
            return
        self._started.result().send(self.job.call)
        self._limit = asyncio.get_running_loop().call_later(self.job.timeout_seconds, self._late)

    def _late(self) -> None:
        self._limit = asyncio.get_running_loop().call_later(
            _UNREAD_ANSWER_SECONDS, self.restart, TimeoutError()
        )

    def _heard(self, process: "_Process", answer: object) -> None:
        if process is not self._process or self.is_starting or self._stopped:
            return
        if isinstance(answer, _DiedError) or self.job is None:
            self.restart(_DiedError())
            return
        self._leave(answer)
        self._hand_out()

    def _leave(self, answer: object) -> None:
        """End the job, if there is one, with an answer or an error."""
        if self._limit is not None:
            self._limit.cancel()
        job, self.job = self.job, None
        if job is not None:
            job.end(answer)

    async def _new_process(self) -> "_Process":
        for _ in range(_START_ATTEMPTS):
            await self._end()
            self.starts += 1
            self._process = _Process(self._heard)
            with suppress(TimeoutError, _DiedError):
                async with asyncio.timeout(_START_SECONDS):
                    await self._process.start(self._arguments)
                    return self._process
        raise RetryableError("a decode process does not start; its standard error says why")

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.end()


class _Process(asyncio.Protocol):
    """A process and its two pipes."""

    def __init__(self, heard: "Callable[[_Process, object], None]") -> None:
        """`heard` is called with each answer, or `_DiedError` where no more will come."""
        self._heard = heard
        self._greeted: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._received = bytearray()
        self._pipes: list[asyncio.ReadTransport | asyncio.WriteTransport] = []
        self._process: asyncio.subprocess.Process | None = None
        self._is_gone = False

    @property
    def pid(self) -> int:
        """Of the process, once it has started."""
        assert self._process is not None  # noqa: S101 - for the type checker
        return self._process.pid

    async def start(self, arguments: Sequence[str]) -> None:
        """Start it, and wait until it can take a job.

        Raises:
            _DiedError: it ended before that.
        """
        loop = asyncio.get_running_loop()
        kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        with ExitStack() as theirs:
            jobs, to_child = _pipe()
            theirs.callback(jobs.close)
            # A picture that fits is written at once, and not in turns with the child's reading.
            with suppress(OSError):
                fcntl.fcntl(to_child, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            self._jobs, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, to_child)
            self._pipes.append(self._jobs)
            from_child, answers = _pipe()
            theirs.callback(answers.close)
            transport, _ = await loop.connect_read_pipe(lambda: self, from_child)
            self._pipes.append(transport)
            module = "streams.decoding.pool_child"
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", module, str(os.getpid()), *arguments),
                stdin=jobs,
                stdout=answers,
                env=kept | ONE_THREAD,
                start_new_session=True,
            )
        answer = await self._greeted
        if answer is not None:
            raise _DiedError

    def send(self, call: object) -> None:
        """Send a call; the answer will be heard."""
        if self._is_gone:  # between its greeting and now
            asyncio.get_running_loop().call_soon(self._heard, self, _DiedError())
        else:
            self._jobs.write(pickle.dumps(call, pickle.HIGHEST_PROTOCOL))

    async def end(self) -> None:
        """Kill it, and wait until it is gone."""
        for pipe in self._pipes:
            pipe.close()
        if self._process is not None:
            if self._process.returncode is None:
                with suppress(ProcessLookupError):
                    # Not `process.kill`, which reaps the child under asyncio's feet.
                    os.kill(self._process.pid, signal.SIGKILL)
            await self._process.wait()

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer."""
        self._received += data
        if len(self._received) < LENGTH_BYTES:
            return
        end = LENGTH_BYTES + int.from_bytes(self._received[:LENGTH_BYTES])
        if end <= _ANSWER_LIMIT_BYTES and len(self._received) < end:
            return
        content, self._received = self._received[LENGTH_BYTES:], bytearray()
        answer: object = _DiedError()
        # What is longer than it said, or than an answer can be, is none.
        if end == LENGTH_BYTES + len(content):
            with suppress(Exception):
                answer = _Records(io.BytesIO(content)).load()
        self._hear(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Say that no answer will come."""
        del exc
        self._is_gone = True
        self._hear(_DiedError())

    def _hear(self, answer: object) -> None:
        if self._greeted.done():
            self._heard(self, answer)
        else:
            self._greeted.set_result(answer)


def _pipe() -> tuple[io.FileIO, io.FileIO]:
    reading, writing = os.pipe()
    return io.FileIO(reading, "rb"), io.FileIO(writing, "wb")


class _Records(pickle.Unpickler):
    """Reads records of `schemas` and nothing else: a hostile picture may own the child."""

    def find_class(self, module_name: str, global_name: str, /) -> object:
        if module_name in {"schemas.reasons", "schemas.records"} and "." not in global_name:
            found = super().find_class(module_name, global_name)
            if isinstance(found, type) and issubclass(found, Struct) and found is not Struct:
                return found
        raise pickle.UnpicklingError(f"{module_name}.{global_name} is no record")
