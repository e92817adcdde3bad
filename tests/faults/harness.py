"""A whole system on this machine that may be hurt: broker, hashers, matchers, traffic, oracle.

Real processes, started as a user starts them. What dies uncalled-for is started again, as
Kubernetes would, and counted. Everything that goes wrong ends in an assertion that names the
seed and the folder with the logs. Every fault test publishes, hurts, and calls
`System.judge`, which waits until all is done and asks the one oracle.
"""

import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Final, Literal, Self, cast
from urllib.request import urlopen

import psutil
from confluent_kafka import ConsumerGroupState, KafkaError, KafkaException, Message
from confluent_kafka.admin import (  # type: ignore[attr-defined] # its stubs export less
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from deploy.local.broker import Broker, free_port
from schemas.topics import IMAGE_INGESTED, INDEX_LOG
from streams.entry import LogEntry
from streams.errors import CorruptStateError, RetryableError
from streams.kafka.client import admin_client, committed_offset, producer, topic_id
from streams.kafka.log import LogReader
from streams.kafka.topics import GROUP_TOPICS, HASHER_GROUP, MATCHER_GROUP
from streams.settings import Settings
from tests.faults.proxy import Proxy
from tests.faults.traffic import Event, traffic
from tests.oracle import (
    GroupPartition,
    History,
    Picture,
    Place,
    Report,
    Violation,
    read_history,
    verify,
    verify_index,
)
from tests.waiting import wait_until

ROOT: Final = Path(__file__).resolve().parents[2]
COMMAND: Final = ROOT / ".venv" / "bin" / "check-dedup"
SEED_VARIABLE: Final = "FAULT_SEED"

PARTITIONS: Final = 4
# One half of the processes reaches the broker by the one, the other half by the other.
PROXIED: Final = ("PROXIED_A", "PROXIED_B")
SESSION_TIMEOUT_SECONDS: Final = 6
# A clean stop is bounded by the product itself; on a busy machine it is given twice that.
STOP_SECONDS: Final = 40.0
SETTLE_SECONDS: Final = 180.0
MEMBERS_SECONDS: Final = 120.0
LOG_TAIL_LINES: Final = 15
ANSWER_SECONDS: Final = 5.0
CHILD: Final = "streams.decoding.pool_child"
# A process that starts while the broker is away may say so and end; one that is asked to stop this
# early may not have heard it.
STARTING_SECONDS: Final = 15.0
# The names that librdkafka gives its own errors begin with an underscore.
_TO_SEND_AGAIN: Final = {
    KafkaError._MSG_TIMED_OUT,
    KafkaError._PURGE_QUEUE,
    KafkaError._PURGE_INFLIGHT,
}

Role = Literal["hasher", "matcher"]
ROLES: Final[Mapping[str, Role]] = {HASHER_GROUP: "hasher", MATCHER_GROUP: "matcher"}
MAIN_TOPICS: Final[Mapping[Role, tuple[str, str]]] = {
    "hasher": (HASHER_GROUP, IMAGE_INGESTED),
    "matcher": (MATCHER_GROUP, INDEX_LOG),
}


def seed_from_environment() -> int:
    """Give the seed to replay, or a new one."""
    given = os.environ.get(SEED_VARIABLE)
    return int(given) if given else random.SystemRandom().randrange(2**31)


class Worker:
    """One process of ours: a hasher or a matcher, started again as often as it takes."""

    def __init__(
        self, role: Role, name: str, environment: Mapping[str, str], log: Path, *, port: int
    ) -> None:
        """Start nothing yet; it will answer at `port` how it does."""
        self.role = role
        self.name = name
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {**environment, "CHECK_DEDUP_METRICS_PORT": str(port)}
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self.pids: set[int] = set()
        self.unasked_exits: list[int] = []
        self.started_at = 0.0
        self.read_from = 0

    def start(self) -> None:
        """Start, in a session of its own: what is meant for the test's own group passes it by."""
        self.started_at = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [COMMAND, self.role],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pids.add(self.process.pid)

    def running(self) -> subprocess.Popen[bytes]:
        """Give the process; started again first if it has ended by itself."""
        self.revive()
        assert self.process is not None
        return self.process

    def revive(self) -> None:
        """Start it again if it has ended by itself."""
        if self.process is not None and (code := self.process.poll()) is not None:
            self.unasked_exits.append(code)
            self.start()

    def kill(self) -> None:
        """Kill -9 the process itself; its children have to find out."""
        process = self.running()
        self.process = None
        process.kill()
        process.wait(STOP_SECONDS)

    def terminate(self) -> int:
        """Ask it to stop and give its exit code."""
        process = self.running()
        self.process = None
        process.terminate()
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)
            raise AssertionError(f"{self.name} did not stop in {STOP_SECONDS:g} s") from None

    def freeze(self) -> None:
        """SIGSTOP: it keeps its connections and says nothing, as on a machine that hangs."""
        self.running().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def is_ready(self) -> bool:
        """Ask it whether it does its work, as Kubernetes asks."""
        try:
            with urlopen(f"{self.url}/readyz", timeout=ANSWER_SECONDS) as answer:  # noqa: S310 - ours
                return bool(answer.status == HTTPStatus.OK)
        except OSError:
            return False

    def said(self) -> str:
        """Give what it logged since `forget`."""
        with self.log.open(errors="replace") as log:
            log.seek(self.read_from)
            return log.read()

    def forget(self) -> None:
        """Let what it logged and how it ended up to now be another test's."""
        self.unasked_exits.clear()
        self.read_from = self.log.stat().st_size if self.log.exists() else 0

    def tail(self) -> str:
        """Give the end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(f"    {line}" for line in text.splitlines()[-LOG_TAIL_LINES:])


class PictureHost(ThreadingHTTPServer):
    """Serves pictures by their digest, each as late as its path says."""

    daemon_threads = True
    # A hasher asks for 64 at once; a connection beyond the queue waits a second to be tried again.
    request_queue_size = 128

    def __init__(self) -> None:
        """Take a free port."""
        super().__init__(("127.0.0.1", 0), _PictureHandler)
        self.pictures: dict[str, bytes] = {}
        self.origin = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, name="picture-host", daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that are killed hang up."""


class _PictureHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Wait, then serve."""
        _, delay, digest = self.path.split("/")
        time.sleep(float(delay))
        host = cast("PictureHost", self.server)
        content = host.pictures[digest]
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class Publisher(threading.Thread):
    """Sends traffic at a steady rate until told to stop.

    As patient as Check has to be: what timed out is sent again, by another producer, since one may
    never send again after a broker's restart (librdkafka 2.16, issue 5430).
    """

    def __init__(
        self,
        settings: Settings,
        events: Iterator[Event],
        host: PictureHost,
        events_per_second: float,
    ) -> None:
        """Take what to send, one after the other."""
        super().__init__(name="publisher", daemon=True)
        self._settings = settings
        self._producer = producer(settings)
        self._host = host
        self._events = events
        self._seconds_per_event = 1 / events_per_second
        self._stopping = threading.Event()
        self.sent: list[Event] = []
        self.times: list[float] = []
        self.failures: list[str] = []
        self._again: list[Event] = []

    def run(self) -> None:
        """Send; every event is acknowledged by the broker before the end."""
        due = time.monotonic()
        while not self._stopping.is_set():
            event = next(self._events, None)
            if event is None:
                return
            self._host.pictures[sha256(event.content).hexdigest()] = event.content
            self._send(event)
            self.sent.append(event)
            self.times.append(time.time())
            due += self._seconds_per_event
            while (left := due - time.monotonic()) > 0:
                self._producer.poll(left)
            if self._again:
                self._send_again()

    def stop(self) -> None:
        """Send no more."""
        self._stopping.set()
        self.join()

    def finish(self) -> None:
        """Stop, and wait until everything has arrived."""
        self.stop()
        deadline = time.monotonic() + SETTLE_SECONDS
        waiting = self._producer.flush(SETTLE_SECONDS)
        while self._again:
            self._send_again()
            waiting = self._producer.flush(max(0.0, deadline - time.monotonic()))
        assert waiting == 0, f"{waiting} events were not delivered to the broker"
        assert not self.failures, self.failures[:3]

    def _send(self, event: Event) -> None:
        self._producer.produce(
            event.topic,
            event.value,
            event.key,
            headers=list(event.headers),
            on_delivery=partial(self._delivered, event),
        )

    def _send_again(self) -> None:
        self._producer.purge()
        self._producer.flush()
        self._producer = producer(self._settings)
        again, self._again = self._again, []
        for event in again:
            self._send(event)

    def _delivered(self, event: Event, error: KafkaError | None, _: Message) -> None:
        if error is None:
            return
        if error.code() in _TO_SEND_AGAIN:
            self._again.append(event)
        else:
            self.failures.append(str(error))


@dataclass(slots=True)
class Timeline:
    """What was done to whom, and when."""

    started: float = field(default_factory=time.time)
    entries: list[tuple[float, str]] = field(default_factory=list)

    def add(self, what: str) -> None:
        """Note it, and say it to whoever runs the test with -s."""
        self.entries.append((time.time(), what))
        sys.stdout.write(f"{self.lines()[-1]}\n")
        sys.stdout.flush()

    def lines(self) -> list[str]:
        """Give it for a person."""
        return [f"{at - self.started:6.1f} s  {what}" for at, what in self.entries]


class System:
    """A broker with topics, and the processes around it."""

    def __init__(self, directory: Path, seed: int, *, hashers: int = 2, matchers: int = 2) -> None:
        """Make the folders; start nothing yet."""
        self.directory = directory
        self.seed = seed
        self.test = ""
        self.chance = random.Random(seed)
        self.timeline = Timeline()
        self._ports: set[int] = set()
        port, *proxy_ports = (self.unused_port() for _ in range(1 + len(PROXIED)))
        self._proxied = dict(zip(PROXIED, proxy_ports, strict=True))
        # A client that comes by one of these listeners is told to go through its proxy. By name,
        # because the broker reads back the addresses that it listens on.
        told = ",".join(f"{name}://localhost:{port}" for name, port in self._proxied.items())
        protocols = ",".join(f"{name}:PLAINTEXT" for name in ("CONTROLLER", "PLAINTEXT", *PROXIED))
        self.broker = Broker(
            directory / "kafka",
            port=port,
            listeners=PROXIED,
            properties=(
                f"advertised.listeners=PLAINTEXT://127.0.0.1:{port},{told}\n"
                f"listener.security.protocol.map={protocols}\n"
            ),
        )
        self.proxies: list[Proxy] = []
        self.pictures = PictureHost()
        self.data = directory / "data"
        self._counts: dict[Role, int] = {"hasher": hashers, "matcher": matchers}
        self.workers: dict[str, Worker] = {}
        self.settings = Settings()
        self.complaints: list[str] = []
        self.sent: list[Event] = []
        self.events = traffic(seed, self.pictures.origin)
        self.sound = True
        self._expected: set[str] = set()
        self._broker_killed_at = -math.inf

    def __enter__(self) -> Self:
        """Start everything, or leave nothing running."""
        try:
            self._start()
        except BaseException:
            self._kill_all()
            raise
        return self

    def _start(self) -> None:
        self.broker.start()
        for name, port in self._proxied.items():
            target = self.broker.bootstrap_of(name).rpartition(":")[2]
            self.proxies.append(Proxy(port, int(target)))
        self.settings = Settings(
            bootstrap_servers=self.broker.bootstrap,
            partitions=PARTITIONS,
            session_timeout_seconds=SESSION_TIMEOUT_SECONDS,
        )
        self.command("topics", "create")
        for role, count in self._counts.items():
            for number in range(count):
                self._add(role, number)

    def command(self, *words: str) -> str:
        """Run a command of ours to its end; give what it printed."""
        done = subprocess.run(
            [COMMAND, *words],
            env=self._environment("command"),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def configure_topic(self, topic: str, name: str, value: str) -> None:
        """Give a topic's configuration another value, as an operator would."""
        self.timeline.add(f"{topic} has {name}={value}")
        entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        admin = admin_client(self.settings)
        (answer,) = admin.incremental_alter_configs([resource]).values()
        answer.result(4 * ANSWER_SECONDS)

    def _add(self, role: Role, number: int) -> Worker:
        name = f"{role}-{number}"
        proxy = self.proxies[number % len(self.proxies)]
        environment = self._environment(name) | {
            "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{proxy.port}"
        }
        return self.start(role, name, environment)

    def start(self, role: Role, name: str, environment: Mapping[str, str]) -> Worker:
        """Start a process, which is looked after from now on."""
        log = self.directory / f"{name}.log"
        worker = Worker(role, name, environment, log, port=self.unused_port())
        self.workers[name] = worker
        worker.start()
        return worker

    def unused_port(self) -> int:
        """Give a port that nobody has, nor will have who is not there yet."""
        while (port := free_port()) in self._ports:
            pass
        self._ports.add(port)
        return port

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave no process behind, and the data only where it was not found to be sound."""
        self._kill_all()
        if self.sound:
            shutil.rmtree(self.broker.directory)
            shutil.rmtree(self.data, ignore_errors=True)

    def _kill_all(self) -> None:
        for worker in self.workers.values():
            if worker.process is not None:
                worker.process.kill()
                worker.process.wait(STOP_SECONDS)
        for proxy in self.proxies:
            proxy.close()
        self.broker.stop()
        self.pictures.shutdown()
        self.pictures.server_close()

    def data_of(self, worker: str) -> Path:
        """Give a worker's folder for its index."""
        return self.data / worker

    def of(self, role: Role) -> list[Worker]:
        """Give the workers of a role."""
        return [worker for worker in self.workers.values() if worker.role == role]

    def _environment(self, name: str) -> dict[str, str]:
        inherited = {key: text for key, text in os.environ.items() if "CHECK_DEDUP" not in key}
        return inherited | {
            "KAFKA_BOOTSTRAP_SERVERS": self.broker.bootstrap,
            "CHECK_DEDUP_PARTITIONS": str(PARTITIONS),
            "CHECK_DEDUP_INSTANCE_ID": name,
            "CHECK_DEDUP_SESSION_TIMEOUT_SECONDS": str(SESSION_TIMEOUT_SECONDS),
            "CHECK_DEDUP_DATA_DIRECTORY": str(self.data_of(name)),
            "CHECK_DEDUP_DECODE_PROCESSES": "1",
            "CHECK_DEDUP_ALLOW_PRIVATE_ADDRESSES": "true",
        }

    # --- tests --------------------------------------------------------------------------------

    def begin(self, test: str) -> None:
        """Begin a test: the seed and its name decide its schedule; it is sound when judged."""
        self.test = test
        self.chance = random.Random(f"{self.seed} {test}")
        self.timeline = Timeline()
        self.timeline.add(f"{test}, seed {self.seed}; logs in {self.directory}")
        self.sound = False
        for worker in self.workers.values():
            worker.forget()
        self.await_members()

    @contextmanager
    def publishing(
        self, events: Iterator[Event] | None = None, *, events_per_second: float = 25.0
    ) -> Iterator[Publisher]:
        """Send traffic meanwhile; all of it has arrived at the end."""
        publisher = Publisher(
            self.settings, events or self.events, self.pictures, events_per_second
        )
        publisher.start()
        try:
            yield publisher
        finally:
            publisher.stop()
        publisher.finish()
        self.sent += publisher.sent
        self.timeline.add(f"{len(publisher.sent)} events published")

    def publish(
        self, *events: Event, partition: int | None = None, timestamp_ms: int = 0
    ) -> list[Place]:
        """Send these and give their places; `timestamp_ms` 0: of now."""
        places: list[Place] = []

        def delivered(error: object, message: Message) -> None:
            assert error is None, error
            place = (message.topic(), message.partition(), message.offset())
            places.append(Place(*cast("tuple[str, int, int]", place)))

        sender = producer(self.settings)
        for event in events:
            self.pictures.pictures[sha256(event.content).hexdigest()] = event.content
            sender.produce(
                event.topic,
                event.value,
                event.key,
                partition=-1 if partition is None else partition,
                headers=list(event.headers),
                on_delivery=delivered,
                timestamp=timestamp_ms,
            )
        assert sender.flush(SETTLE_SECONDS) == 0
        assert len(places) == len(events)
        self.sent += events
        return sorted(places)

    @contextmanager
    def expecting_ends(self, *workers: Worker) -> Iterator[None]:
        """Let these end by themselves; they are started again, and nobody complains."""
        self._expected |= {worker.name for worker in workers}
        try:
            yield
        finally:
            self._expected -= {worker.name for worker in workers}

    def restart(self, worker: Worker, **environment: str | None) -> None:
        """Stop a process, and start it with other variables; None takes one away."""
        self.timeline.add(f"restart {worker.name} with {environment}")
        if worker.process is not None:
            self._stop(worker)
        for name, value in environment.items():
            worker.environment.pop(name, None)
            if value is not None:
                worker.environment[name] = value
        worker.start()

    def add(self, role: Role) -> Worker:
        """Start one more process."""
        number = self._counts[role]
        self._counts[role] += 1
        self.timeline.add(f"one more {role}")
        return self._add(role, number)

    def take_away(self, worker: Worker) -> None:
        """Stop a process for good; its index stays and is judged."""
        self.timeline.add(f"{worker.name} goes")
        self._stop(worker)
        self._counts[worker.role] -= 1

    def bring_back(self, worker: Worker) -> None:
        """Start a process that was taken away."""
        self.timeline.add(f"{worker.name} is back")
        self._counts[worker.role] += 1
        worker.start()

    def await_true(self, what: str, holds: Callable[[], bool], seconds: float = 120.0) -> None:
        """Wait for a condition, looking after everybody."""
        wait_until(holds, seconds, told=lambda: self.describe(what), meanwhile=self.look_after)

    # --- faults -------------------------------------------------------------------------------

    def kill(self, worker: Worker, down_seconds: float) -> None:
        """Kill -9 one process and start it again."""
        self.timeline.add(f"kill -9 {worker.name}, down {down_seconds:.1f} s")
        worker.kill()
        self.pause(down_seconds)
        worker.start()

    def terminate(self, worker: Worker, down_seconds: float) -> None:
        """Ask one process to stop, and start it again; it has to end with 0."""
        self.timeline.add(f"TERM {worker.name}, down {down_seconds:.1f} s")
        self._stop(worker)
        self.pause(down_seconds)
        worker.start()

    def restart_broker(self, down_seconds: float) -> None:
        """Stop the broker as an operator does, and start it again."""
        self.timeline.add(f"broker stops, down {down_seconds:.1f} s")
        self._broker_killed_at = time.monotonic()
        self.broker.stop()
        self.pause(down_seconds)
        self.broker.start()
        self.timeline.add("broker is back")

    def cut(self, proxies: Sequence[Proxy], seconds: float) -> None:
        """Cut connections, and refuse new ones."""
        self.timeline.add(f"cut {len(proxies)} of {len(self.proxies)} networks {seconds:.1f} s")
        self._broken_network(proxies, Proxy.cut, seconds)

    def stall(self, proxies: Sequence[Proxy], seconds: float) -> None:
        """Keep connections open, and let nothing through."""
        self.timeline.add(f"stall {len(proxies)} of {len(self.proxies)} networks {seconds:.1f} s")
        self._broken_network(proxies, Proxy.stall, seconds)

    def slow_down(self, round_trip_seconds: float, seconds: float) -> None:
        """Let every round trip take so long."""
        self.timeline.add(f"round trips of {round_trip_seconds:g} s for {seconds:.1f} s")
        self._broken_network(
            self.proxies, lambda each: each.slow_down(round_trip_seconds / 2), seconds
        )

    def _broken_network(
        self, proxies: Sequence[Proxy], fault: Callable[[Proxy], None], seconds: float
    ) -> None:
        for proxy in proxies:
            fault(proxy)
        try:
            self.pause(seconds)
        finally:
            for proxy in proxies:
                proxy.heal()
        self.timeline.add("healed")

    def _stop(self, worker: Worker) -> None:
        """Ask a process to stop: it ends with 0, or of the signal before it can handle one."""
        starting = time.monotonic() - worker.started_at < STARTING_SECONDS
        code = worker.terminate()
        if code != 0 and not (starting and code == -signal.SIGTERM):
            raise AssertionError(self.describe(f"{worker.name} ended with {code}"))

    def freeze(self, worker: Worker, seconds: float) -> None:
        """Freeze one process for longer than its session lasts: it wakes up as a zombie."""
        self.timeline.add(f"SIGSTOP {worker.name} for {seconds:.1f} s")
        worker.freeze()
        self.pause(seconds)
        worker.thaw()

    def kill_broker(self, down_seconds: float) -> None:
        """Kill -9 the broker and start it again."""
        self.timeline.add(f"kill -9 broker, down {down_seconds:.1f} s")
        self._broker_killed_at = time.monotonic()
        self.broker.kill()
        self.pause(down_seconds)
        self.broker.start()
        self.timeline.add("broker is back")

    def wipe(self, worker: Worker, down_seconds: float) -> None:
        """Kill -9 a matcher and take its disk away."""
        self.timeline.add(f"kill -9 and wipe {worker.name}, down {down_seconds:.1f} s")
        worker.kill()
        shutil.rmtree(self.data_of(worker.name), ignore_errors=True)  # it may not have begun one
        self.pause(down_seconds)
        worker.start()

    def pause(self, seconds: float) -> None:
        """Let time pass, looking after whoever ends by itself."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.look_after()
            time.sleep(min(left, 0.2))

    def look_after(self) -> None:
        """Start again what has ended by itself: which nothing may, but what finds no broker."""
        for worker in self.workers.values():
            before, started_at = len(worker.unasked_exits), worker.started_at
            worker.revive()
            for code in worker.unasked_exits[before:]:
                ended = f"{worker.name} ended by itself with {code}; started again"
                self.timeline.add(ended)
                near_broker_end = abs(started_at - self._broker_killed_at) <= STARTING_SECONDS
                if worker.name not in self._expected and not near_broker_end:
                    self.complaints.append(f"{ended}\n{worker.tail()}")

    # --- waiting ------------------------------------------------------------------------------

    def await_members(self, seconds: float = MEMBERS_SECONDS) -> None:
        """Wait until every process is ready, in its group, and no rebalance is under way.

        The group alone does not tell: to the broker one that was stopped a moment ago is a member.
        """
        deadline = time.monotonic() + seconds
        wanted = {group: self._counts[role] for group, role in ROLES.items()}
        while (late := self._unready()) or (found := self._members()) != wanted:
            assert time.monotonic() < deadline, self.describe(
                f"not ready: {late}" if late else f"members: {found}, not {wanted}"
            )
            self.pause(0.2)

    def _unready(self) -> list[str]:
        running = [worker for worker in self.workers.values() if worker.process is not None]
        return [worker.name for worker in running if not worker.is_ready()]

    def _members(self) -> dict[str, int]:
        """Give each group's number of members; 0 while it rebalances."""
        # A client of its own: one that lived through the broker's kill -9 was seen to answer every
        # question about groups with a time-out, for ever.
        admin = admin_client(self.settings)
        described = admin.describe_consumer_groups(list(ROLES), request_timeout=10)
        members = dict.fromkeys(ROLES, 0)
        for group, future in described.items():
            with suppress(KafkaException):
                found = future.result()
                if found.state == ConsumerGroupState.STABLE:
                    members[group] = len(found.members)
        return members

    def partitions_of(self, worker: Worker) -> tuple[int, ...]:
        """Give the partitions of its main topic that a process owns; none in a rebalance."""
        group, topic = MAIN_TOPICS[worker.role]
        admin = admin_client(self.settings)  # kept: one without a name is gone before the answer
        described = admin.describe_consumer_groups([group], request_timeout=ANSWER_SECONDS)
        with suppress(KafkaException, TimeoutError):
            for member in described[group].result(2 * ANSWER_SECONDS).members:
                if member.group_instance_id == f"{group}-{worker.name}":
                    owned = member.assignment.topic_partitions
                    return tuple(sorted(each.partition for each in owned if each.topic == topic))
        return ()

    def await_settled(self, seconds: float = SETTLE_SECONDS) -> None:
        """Wait until every group has committed the end of every topic of its own, twice in turn."""
        deadline = time.monotonic() + seconds
        quiet = 0
        while quiet < 2:
            behind = self.behind()
            quiet = 0 if behind else quiet + 1
            if time.monotonic() > deadline:
                raise AssertionError(self.describe(f"not settled in {seconds:g} s", behind))
            self.pause(0.5)

    def behind(self) -> dict[GroupPartition, str]:
        """Give what is committed and where it should be, where the two differ."""
        try:
            return {
                at: f"{committed} of {end}"
                for at, committed, end in self._offsets()
                if committed != end
            }
        except RetryableError as error:
            return {GroupPartition("no answer", str(error), 0): ""}

    def _offsets(self) -> Iterable[tuple[GroupPartition, int | None, int]]:
        for group, topics in GROUP_TOPICS.items():
            for topic in topics:
                with closing(LogReader(self.settings, topic)) as reader:
                    for partition in range(PARTITIONS):
                        committed = committed_offset(self.settings, group, topic, partition)
                        _, end = reader.watermarks(partition)
                        yield GroupPartition(group, topic, partition), committed, end

    # --- judging ------------------------------------------------------------------------------

    def stop_workers(self) -> None:
        """Ask all to stop; each has to end with 0, and no child may be left."""
        for worker in self.workers.values():
            self._stop(worker)
        left = _children_of({pid for worker in self.workers.values() for pid in worker.pids})
        assert not left, f"left behind: {left}"

    def judge(self) -> Report:
        """Wait until all is done; ask the oracle about the broker and a copy of every index."""
        _, report = self.examine()
        assert not report.violations, self.describe(str(report))
        assert not self.complaints, self.describe("\n".join(self.complaints))
        self.sound = True
        return report

    def examine(self) -> tuple[History, Report]:
        """Wait until all is done; give what the broker holds, and what the oracle says of it."""
        self.await_members()
        self.await_settled()
        self.timeline.add("settled")
        history = read_history(self.settings)
        report = verify(history)
        report.violations += _unexpected(report, history, self.sent)
        identity = topic_id(self.settings, INDEX_LOG)
        for worker in self.of("matcher"):
            for directory in sorted(self.data_of(worker.name).glob("partition-*")):
                partition = int(directory.name.removeprefix("partition-"))
                entries = history.records[INDEX_LOG][partition]
                report.violations += [
                    Violation("index", f"{worker.name}: {violation.what}")
                    for violation in _of_copy(directory, identity, partition, entries, report)
                ]
        self.timeline.add(str(report))
        return history, report

    def describe(self, what: str, behind: Mapping[GroupPartition, str] | None = None) -> str:
        """Say what is wrong, with all that one needs to look into it."""
        lines = [
            what,
            f"replay {self.test} with {SEED_VARIABLE}={self.seed}; logs in {self.directory}",
        ]
        lines += [f"  {at}: committed {offsets}" for at, offsets in (behind or {}).items()]
        lines += self.timeline.lines()
        for worker in self.workers.values():
            lines.append(f"  {worker.name}, ended by itself with {worker.unasked_exits}:")
            lines.append(worker.tail())
        return "\n".join(lines)


def _of_copy(
    directory: Path, identity: str, partition: int, entries: Iterable[LogEntry], report: Report
) -> list[Violation]:
    """Verify a copy of an index whose matcher has nothing to do, and runs."""
    entries = list(entries)
    for left in (2, 1, 0):
        with TemporaryDirectory() as scratch, suppress(*([] if left == 0 else _RESTLESS)):
            copy = Path(scratch) / "index"
            shutil.copytree(directory, copy)
            return verify_index(copy, identity, partition, entries, report)
        time.sleep(1)
    raise AssertionError


# RocksDB may just be tidying up its files.
_RESTLESS: Final = (CorruptStateError, OSError, shutil.Error)


def _children_of(pids: set[int]) -> list[str]:
    """Give the decoding processes that outlived these parents; they name theirs when started."""
    parents = {str(pid) for pid in pids}
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = process.cmdline()
            if CHILD in command and parents & set(command):
                found.append(f"{process.pid} {command}")
    return found


def _unexpected(report: Report, history: History, sent: Iterable[Event]) -> list[Violation]:
    """Find good pictures without an outcome, and poison without the reason that it has."""
    events = list(sent)
    arrived = Counter(
        (place.topic, entry.key, entry.value)
        for topic in {event.topic for event in events}
        for place, entry in history.of(topic)
    )
    published = Counter((event.topic, event.key, event.value) for event in events)
    found = [
        Violation("lost", f"the broker does not have {event[1]!r}")
        for event in (published - arrived)
    ]
    found += [
        Violation("unknown", f"the broker has {event[1]!r} too often")
        for event in (arrived - published)
    ]
    good: dict[Picture, set[str]] = {}
    for event in events:
        if event.picture is not None:
            good.setdefault(event.picture, set()).add(sha256(event.content).hexdigest())
    found += [
        Violation("lost", f"{picture} is good, and has no outcome")
        for picture in sorted(good.keys() - report.outcomes.keys())
    ]
    found += [
        Violation("wrong", f"{picture} is the outcome of other bytes")
        for picture, outcome in report.outcomes.items()
        if outcome.sha256 not in good.get(picture, ())
    ]
    reasons = Counter(event.reason for event in events if event.reason is not None)
    found += [
        Violation("wrong", f"{count} dead letters too few of {reason}")
        for reason, count in (reasons - Counter(report.dead_letters.values())).items()
    ]
    found += [
        Violation("wrong", f"{count} dead letters too many of {reason}")
        for reason, count in (Counter(report.dead_letters.values()) - reasons).items()
    ]
    return found
