"""`make bench-api`: how long a request takes, and how many a second are answered, on this machine.

Starts a broker of its own and the real processes, fills the log with 100,000 pictures and sends
JPEGs from this process, which takes its share of the cores. Prints each figure with its goal, and
what part was hashing, waiting for the log, and matching. Not a test: a busy machine gives others.
"""

import asyncio
import re
import time
from collections import Counter, defaultdict
from itertools import cycle

import aiohttp
import numpy as np

from deploy.local.bench import (
    BASE_PICTURES,
    SEED,
    append,
    committed,
    figure,
    jpeg,
    memory_mb,
    prepared,
    running,
    wait,
)
from schemas.topics import INDEX_LOG
from streams.api import keys
from streams.kafka.topics import MATCHER_GROUP

PICTURES = 200
STEADY_RATE = 20
STEADY_SECONDS = 30
# One after the other, until a request is refused.
RATES = range(40, 401, 20)
RATE_SECONDS = 10
PORT = 18_080
READY_SECONDS = 60
_OK = 200


def main() -> int:
    """Measure, and print."""
    chosen = {
        "CHECK_DEDUP_API_PORT": str(PORT),
        "CHECK_DEDUP_RATE_PER_SECOND": "1000",
        "CHECK_DEDUP_RATE_BURST": "1000",
    }
    with prepared(chosen) as (settings, environment):
        append(settings, BASE_PICTURES)
        with running("matcher", environment), running("api", environment) as api:
            wait(lambda: committed(settings, MATCHER_GROUP, INDEX_LOG) >= BASE_PICTURES)
            key = keys.create(settings.keys_file, "bench-0", ["match"], now_ms=0)
            rng = np.random.default_rng(SEED)
            pictures = [jpeg(rng) for _ in range(PICTURES)]
            kilobytes = sum(map(len, pictures)) / len(pictures) / 1024
            print(f"{BASE_PICTURES:,} pictures in the index, JPEGs of {kilobytes:.0f} KB")
            asyncio.run(_measure(pictures, key))
            figure("memory of the API, its pool not counted", memory_mb(api), "MB", "< 300")
    return 0


class Client:
    """Sends pictures, and keeps how long each took and what it was told of its parts."""

    def __init__(self, session: aiohttp.ClientSession, pictures: list[bytes], key: str) -> None:
        self._session = session
        self._pictures = cycle(pictures)
        self._headers = {"X-Api-Key": key, "Content-Type": "image/jpeg"}
        self.seconds: list[float] = []
        self.parts: defaultdict[str, list[float]] = defaultdict(list)
        self.statuses: Counter[int] = Counter()

    async def send(self) -> None:
        """Send the next picture."""
        began = time.monotonic()
        url = f"http://127.0.0.1:{PORT}/v1/match/"
        body = next(self._pictures)
        async with self._session.post(url, data=body, headers=self._headers) as response:
            await response.read()
        self.seconds.append(time.monotonic() - began)
        self.statuses[response.status] += 1
        for part, milliseconds in re.findall(
            r"(\w+);dur=([0-9.]+)", response.headers.get("Server-Timing", "")
        ):
            self.parts[part].append(float(milliseconds))

    async def send_at(self, rate: int, seconds: int) -> None:
        """Send so many a second, whether or not earlier ones are answered."""
        async with asyncio.TaskGroup() as group:
            began = time.monotonic()
            for number in range(rate * seconds):
                group.create_task(self.send())
                await asyncio.sleep(max(0.0, began + (number + 1) / rate - time.monotonic()))


async def _measure(pictures: list[bytes], key: str) -> None:
    async with aiohttp.ClientSession() as session:
        await _ready(session)
        warm = Client(session, pictures, key)
        for _ in range(PICTURES):  # so that each later one has a copy before it
            await warm.send()
        steady = Client(session, pictures, key)
        await steady.send_at(STEADY_RATE, STEADY_SECONDS)
        milliseconds = 1000 * np.array(steady.seconds)
        figure(f"p50 at {STEADY_RATE} requests/s", float(np.median(milliseconds)), "ms", "<= 40")
        figure("p99", float(np.percentile(milliseconds, 99)), "ms", "<= 150")
        for part, found in steady.parts.items():
            figure(f"  of it {part}, p50", float(np.median(found)), "ms")
        print(f"  statuses: {dict(steady.statuses)}")
        sustained = 0
        for rate in RATES:
            client = Client(session, pictures, key)
            await client.send_at(rate, RATE_SECONDS)
            milliseconds = 1000 * np.array(client.seconds)
            p99 = float(np.percentile(milliseconds, 99))
            print(f"  {rate} requests/s: p99 {p99:.0f} ms, statuses {dict(client.statuses)}")
            if set(client.statuses) != {_OK}:
                break
            sustained = rate
        figure("sustained before the first refusal", sustained, "requests/s", ">= 80")


async def _ready(session: aiohttp.ClientSession) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        try:
            async with session.get(f"http://127.0.0.1:{PORT}/readyz") as response:
                if (await response.json())["status"] == "ok":
                    return
        except aiohttp.ClientConnectionError:
            pass
        await asyncio.sleep(0.2)
    raise TimeoutError("the API is not ready")


if __name__ == "__main__":
    raise SystemExit(main())
