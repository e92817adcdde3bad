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
CLIENTS = 16
SUSTAINED_SECONDS = 20
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


async def _measure(pictures: list[bytes], key: str) -> None:
    async with aiohttp.ClientSession() as session:
        await _ready(session)
        warm = Client(session, pictures, key)
        for _ in range(PICTURES):  # so that each later one has a copy before it
            await warm.send()
        steady = Client(session, pictures, key)
        tasks = []
        for _ in range(STEADY_RATE * STEADY_SECONDS):
            tasks.append(asyncio.create_task(steady.send()))
            await asyncio.sleep(1 / STEADY_RATE)
        await asyncio.gather(*tasks)
        milliseconds = 1000 * np.array(steady.seconds)
        figure(f"p50 at {STEADY_RATE} requests/s", float(np.median(milliseconds)), "ms", "<= 40")
        figure("p99", float(np.percentile(milliseconds, 99)), "ms", "<= 150")
        for part, found in steady.parts.items():
            figure(f"  of it {part}, p50", float(np.median(found)), "ms")
        print(f"  statuses: {dict(steady.statuses)}")
        sustained = Client(session, pictures, key)
        began = time.monotonic()

        async def client() -> None:
            while time.monotonic() < began + SUSTAINED_SECONDS:
                await sustained.send()

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        rate = sustained.statuses[_OK] / (time.monotonic() - began)
        figure(f"answered, {CLIENTS} clients without a pause", rate, "requests/s", ">= 80")
        print(f"  statuses: {dict(sustained.statuses)}")


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
