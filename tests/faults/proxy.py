"""A TCP proxy between the processes and their broker, that can be cut, stalled and slowed down.

It forwards bytes as they are. The broker tells clients of one of its listeners to connect to the
proxy's port, so that all their connections go through it.
"""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any, Final

_CHUNK_BYTES: Final = 64 * 1024
_CHUNKS_HELD: Final = 64
_ANSWER_SECONDS: Final = 10.0


class Proxy:
    """Forwards connections from `port` to `target_port`, both on loopback."""

    def __init__(self, port: int, target_port: int) -> None:
        """Begin to listen."""
        self.port = port
        self._target_port = target_port
        self._delay_seconds = 0.0
        self._cut = False
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server = self._ask(asyncio.start_server(self._connected, "localhost", port))

    def cut(self) -> None:
        """Close every connection, and each new one at once."""

        async def cut() -> None:
            self._cut = True
            for writer in self._writers:
                writer.transport.abort()

        self._ask(cut())

    def stall(self) -> None:
        """Keep every connection open, and let nothing through: half-open, to either side."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def slow_down(self, delay_seconds: float) -> None:
        """Let each byte arrive so much later, in both directions."""
        self._delay_seconds = delay_seconds

    def heal(self) -> None:
        """Forward as ever; what was held arrives now."""
        self._cut, self._delay_seconds = False, 0.0
        self._loop.call_soon_threadsafe(self._open.set)

    def close(self) -> None:
        """End all connections, and listen no longer."""
        self.cut()
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_ANSWER_SECONDS)

    def _ask(self, question: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - the coroutine's
        return asyncio.run_coroutine_threadsafe(question, self._loop).result(_ANSWER_SECONDS)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.transport.abort()
            return
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:  # the broker is down
            writer.transport.abort()
            return
        both = (writer, there[1])
        self._writers.update(both)
        try:
            await asyncio.gather(self._forward(reader, there[1]), self._forward(there[0], writer))
        finally:
            self._writers.difference_update(both)
            for each in both:
                each.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward until either side is gone."""
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_CHUNKS_HELD)
        writing = asyncio.create_task(self._write(held, writer))
        with contextlib.suppress(OSError):
            while chunk := await reader.read(_CHUNK_BYTES):
                await held.put((self._loop.time() + self._delay_seconds, chunk))
        await held.put((self._loop.time(), b""))
        await writing
        writer.transport.abort()

    async def _write(
        self, held: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter
    ) -> None:
        while True:
            due, chunk = await held.get()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            await self._open.wait()
            if not chunk:
                return
            if not writer.is_closing():
                writer.write(chunk)
                with contextlib.suppress(OSError):
                    await writer.drain()
