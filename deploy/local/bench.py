"""`make bench`: what the whole loop does on this machine, on a real broker, with a peer beside it.

Starts a broker of its own and the real processes. Prints each figure with the goal that it is held
against; says on what it was measured. Not a test: a busy machine gives other figures.
"""

import os
import platform
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
from confluent_kafka import Producer
from PIL import Image
from rich.progress import track

from agents.decode import DecodeLimits
from agents.fingerprint import fingerprint
from deploy.local.bench_telemetry import metrics_cost, seconds_of
from deploy.local.broker import Broker
from deploy.local.stack import COMMAND
from schemas.codec import encode_json, encode_log
from schemas.records import Hashed, ImageIngested
from schemas.topics import IMAGE_INGESTED, IMAGE_MATCHED, INDEX_LOG
from streams.evaluation.cost import bare_pool
from streams.evaluation.matching_rate import PHOTOGRAPH, TWO_VIEWS, Made, made_fingerprint
from streams.kafka.client import committed_offset, producer
from streams.kafka.log import LogReader
from streams.kafka.partitioner import partition_of
from streams.kafka.topics import HASHER_GROUP, MATCHER_GROUP
from streams.settings import Settings

SEED = 1
PARTITIONS = 4
BASE_PICTURES = 100_000
MORE_PICTURES = 20_000
COPIES_SHARE = 0.3
WORKSPACES = 32
HASHED_PICTURES = 1_500
PICTURE_PIXELS = (1152, 864)
DECODE_PROCESSES = 2
DEADLINE_SECONDS = 600.0
SIZES_A_DAY = (10_000, 100_000, 1_000_000)
PEAK = 5


def main() -> int:
    """Measure, and print."""
    processor = next(
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    print(f"{processor}, {os.cpu_count()} cores, Python {platform.python_version()}")
    chosen = {
        "CHECK_DEDUP_DECODE_PROCESSES": str(DECODE_PROCESSES),
        "CHECK_DEDUP_INSTANCE_ID": "bench",
    }
    _metrics()
    with prepared(chosen) as (settings, environment):
        _cold_start(settings, environment)
        hashed = _hasher(settings, environment)
        _matcher(settings, environment, TWO_VIEWS)
        _recovery(settings, environment)
    with prepared(chosen) as (settings, environment):
        matched, stored = _matcher(settings, environment, PHOTOGRAPH)
    _sizing(hashed / DECODE_PROCESSES, matched, stored)
    return 0


@contextmanager
def prepared(chosen: dict[str, str]) -> Iterator[tuple[Settings, dict[str, str]]]:
    """Start a broker with our topics; give the settings, and the environment that makes them."""
    with tempfile.TemporaryDirectory(dir=_build_folder()) as directory:
        folder = Path(directory)
        with Broker(folder / "kafka") as broker:
            environment = chosen | {
                "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap,
                "CHECK_DEDUP_PARTITIONS": str(PARTITIONS),
                "CHECK_DEDUP_DATA_DIRECTORY": str(folder / "data"),
                "CHECK_DEDUP_KEYS_FILE": str(folder / "keys.json"),
            }
            subprocess.run(
                [COMMAND, "topics", "create"],
                env=os.environ | environment,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            yield Settings.from_environment(environment), environment


def _metrics() -> None:
    """What the metrics of a picture cost, against what the picture does."""
    content = jpeg(np.random.default_rng(SEED))
    made = made_fingerprint(0, SEED, copy=0, made=TWO_VIEWS)
    cost, picture = metrics_cost(made), seconds_of(lambda: _bare(content))
    figure("metrics of one picture alone in its group, in the hasher", 1e6 * cost.hasher, "us")
    figure("  in the matcher", 1e6 * cost.matcher, "us")
    figure("  share of decoding and hashing it", 100 * sum(cost) / picture, "%", "< 2")


def _cold_start(settings: Settings, environment: dict[str, str]) -> None:
    outcomes = LogReader(settings, IMAGE_MATCHED)
    started = time.monotonic()
    with running("hasher", environment), running("matcher", environment):
        _publish(settings, [jpeg(np.random.default_rng(SEED))])
        wait(lambda: _records(outcomes) >= 1)
        figure("cold start of both to the first outcome", time.monotonic() - started, "s", "< 10")


def _hasher(settings: Settings, environment: dict[str, str]) -> float:
    """Events a second through the hasher, against a bare pool doing the same decode and hash."""
    rng = np.random.default_rng(SEED)
    pictures = [jpeg(rng) for _ in range(50)] * (HASHED_PICTURES // 50)
    with bare_pool(DECODE_PROCESSES) as pool:
        pool.map(_bare, pictures[:50])  # imports done
        started = time.monotonic()
        pool.map(_bare, pictures, chunksize=1)
        bare = len(pictures) / (time.monotonic() - started)
    log = LogReader(settings, INDEX_LOG)
    before = _records(log)
    with running("hasher", environment) as process:
        # The first pictures wait for the group to form; they are not counted.
        _publish(settings, pictures[:50])
        wait(lambda: _records(log) >= before + 50)
        _publish(settings, pictures)
        start, started = _records(log), time.monotonic()
        wait(lambda: _records(log) >= before + 50 + len(pictures))
        rate = (_records(log) - start) / (time.monotonic() - started)
        kilobytes = sum(map(len, pictures)) / len(pictures) / 1024
        what = f"{PICTURE_PIXELS[0]} x {PICTURE_PIXELS[1]} JPEG of {kilobytes:.0f} KB"
        figure(f"hasher, {what}, {DECODE_PROCESSES} processes", rate, "pictures/s")
        figure("  a bare process pool, the same work", bare, "pictures/s")
        figure("  share of the bare pool", 100 * rate / bare, "%", "> 60")
        figure("  memory of the hasher's parent", memory_mb(process), "MB", "< 250")
    wait(lambda: committed(settings, HASHER_GROUP, IMAGE_INGESTED) >= len(pictures) + 51)
    return rate


def _matcher(settings: Settings, environment: dict[str, str], made: Made) -> tuple[float, float]:
    """Records a second of one matcher on one core, and how fast it rebuilds a lost index.

    The goals are those of pictures with two views; what all the views of a photograph cost is told.
    """
    has_goals = made == TWO_VIEWS
    log = LogReader(settings, INDEX_LOG)
    append(settings, BASE_PICTURES + MORE_PICTURES, made)
    total = _records(log)
    with running("matcher", environment, core=0) as process:
        base = total - MORE_PICTURES
        wait(lambda: committed(settings, MATCHER_GROUP, INDEX_LOG) >= base)
        start, started = committed(settings, MATCHER_GROUP, INDEX_LOG), time.monotonic()
        busy_before = sum(process.cpu_times()[:2])
        wait(lambda: committed(settings, MATCHER_GROUP, INDEX_LOG) >= total)
        rate = (total - start) / (time.monotonic() - started)
        busy = (total - start) / (sum(process.cpu_times()[:2]) - busy_before)
        what = f"matcher at {BASE_PICTURES:,} pictures, {made}"
        figure(what, rate, "records/s", "> 1000" if has_goals else "")
        figure("  for each second of processor time that it got", busy, "records/s")
        figure("  memory of the matcher", memory_mb(process), "MB", "< 400" if has_goals else "")
    files = (file for file in settings.data_directory.rglob("*") if file.is_file())
    stored = sum(file.stat().st_size for file in files) / total
    figure("  disk of the index, each picture", stored, "bytes")
    shutil.rmtree(settings.data_directory)
    with running("matcher", environment) as process:
        rebuilt = [
            float(line.rsplit(" in ", 1)[1].split()[0])
            for line in _lines(process, "rebuilt 0 to", PARTITIONS)
        ]
        goal = "> 20000" if has_goals else ""
        figure("rebuild of the index from the log", total / sum(rebuilt), "records/s", goal)
    return rate, stored


def _recovery(settings: Settings, environment: dict[str, str]) -> None:
    """From a kill -9 of a matcher until all partitions give outcomes again; its index is there."""
    pictures = _records(LogReader(settings, INDEX_LOG))
    with running("matcher", environment) as killed:
        _until_told(settings)
        killed.kill()
        with running("matcher", environment):
            seconds = _until_told(settings)
    what = f"kill -9 of a matcher that is started again, at {pictures:,} pictures"
    figure(what, seconds, "s", "< 10")
    folder = settings.data_directory / "other"
    other = {"CHECK_DEDUP_INSTANCE_ID": "other", "CHECK_DEDUP_DATA_DIRECTORY": str(folder)}
    with running("matcher", environment) as killed:
        _until_told(settings)
        with running("matcher", environment | other):
            wait(lambda: len(list(folder.glob("*"))) >= PARTITIONS // 2)
            _until_told(settings)
            killed.kill()
            seconds = _until_told(settings)
    figure("  where another takes its half over: session timeout and rebuild", seconds, "s")
    figure("  the session timeout", settings.session_timeout_seconds, "s")


def _until_told(settings: Settings) -> float:
    """Append some pictures of each partition; give the seconds until all have their outcomes."""
    started = time.monotonic()
    append(settings, 10 * WORKSPACES, TWO_VIEWS, first=_records(LogReader(settings, INDEX_LOG)))
    total = _records(LogReader(settings, INDEX_LOG))
    wait(lambda: committed(settings, MATCHER_GROUP, INDEX_LOG) >= total)
    return time.monotonic() - started


def _sizing(hashed: float, matched: float, stored: float) -> None:
    """Print what these figures mean for a year: a peak hour is taken as five times the mean."""
    print("\npictures a day   a second at peak   hasher cores   matcher cores   GB after a year")
    for day in SIZES_A_DAY:
        peak = PEAK * day / 86_400
        print(
            f"{day:14,} {peak:18.1f} {peak / hashed:14.2f} {peak / matched:15.3f}"
            f" {365 * day * stored / 1e9:17,.1f}"
        )


def _bare(content: bytes) -> None:
    fingerprint(content, DecodeLimits(pixels=100_000_000))


def jpeg(rng: np.random.Generator) -> bytes:
    """Smooth noise of several scales: compresses about as a photograph does."""
    picture = Image.new("L", PICTURE_PIXELS)
    for cells in (4, 16, 64, 256):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells), np.uint8))
        picture = Image.blend(picture, noise.resize(PICTURE_PIXELS, Image.Resampling.BICUBIC), 0.4)
    file = BytesIO()
    Image.merge("RGB", [picture, picture.rotate(180), picture]).save(file, "JPEG", quality=92)
    return file.getvalue()


def _publish(settings: Settings, pictures: list[bytes]) -> None:
    client = producer(settings)
    for content in pictures:
        event = ImageIngested("bench", uuid.uuid4().hex, content=content)
        _produce(client, IMAGE_INGESTED, event.image_id.encode(), encode_json(event))
    client.flush()


def append(settings: Settings, pictures: int, made: Made = PHOTOGRAPH, *, first: int = 0) -> None:
    """Append hashed pictures to the log, numbered from `first`; some are near-copies of others."""
    rng = np.random.default_rng(SEED)
    client = producer(settings)
    origins: list[int] = []
    for number in track(range(first, first + pictures), "filling the log", transient=True):
        copied = bool(origins) and rng.random() < COPIES_SHARE
        origin = origins[int(rng.integers(len(origins)))] if copied else number
        origins.append(origin)
        workspace = f"bench-{origin % WORKSPACES}"
        found = made_fingerprint(origin, SEED, copy=number - origin, made=made)
        record = encode_log(Hashed(1, workspace, f"bench-{number}", "event", found, 0))
        place = partition_of(workspace, PARTITIONS)
        _produce(client, INDEX_LOG, uuid.uuid4().bytes, record, place)
    client.flush()


def _produce(
    client: Producer, topic: str, key: bytes, value: bytes, partition: int | None = None
) -> None:
    while True:
        try:
            client.produce(topic, value, key, -1 if partition is None else partition)
        except BufferError:
            client.poll(0.1)
        else:
            return


@contextmanager
def running(
    command: str, environment: dict[str, str], *, core: int | None = None
) -> Iterator[psutil.Popen]:
    """Run a command of the product for as long as the context."""
    process = psutil.Popen(
        [COMMAND, command], env=os.environ | environment, stderr=subprocess.PIPE, text=True
    )
    try:
        if core is not None:
            process.cpu_affinity([core])
        yield process
    finally:
        with suppress(psutil.NoSuchProcess):  # it was killed
            process.terminate()
        process.wait(30)


def _lines(process: psutil.Popen, wanted: str, count: int) -> list[str]:
    found: list[str] = []
    for line in process.stderr:
        if wanted in line:
            found.append(line)
            if len(found) == count:
                return found
    raise RuntimeError(f"the process ended without saying {wanted!r} {count} times")


def _records(log: LogReader) -> int:
    return sum(log.watermarks(partition)[1] for partition in range(PARTITIONS))


def committed(settings: Settings, group: str, topic: str) -> int:
    """Count what a group has committed of a topic."""
    return sum(
        committed_offset(settings, group, topic, partition) or 0 for partition in range(PARTITIONS)
    )


def wait(condition: Callable[[], bool]) -> None:
    """Wait for a condition.

    Raises:
        TimeoutError: it did not come.
    """
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not done in {DEADLINE_SECONDS:g} s")
        time.sleep(0.1)


def memory_mb(process: psutil.Popen) -> float:
    """Give a process's resident memory."""
    return float(process.memory_info().rss) / 1e6


def figure(what: str, value: float, unit: str, goal: str = "") -> None:
    """Print a figure and its goal."""
    print(f"{what:75} {value:10,.1f} {unit:10} {f'goal {goal}' if goal else ''}", flush=True)


def _build_folder() -> Path:
    """Give where what is made goes."""
    folder = Path("build")
    folder.mkdir(exist_ok=True)
    return folder


if __name__ == "__main__":
    raise SystemExit(main())
