"""One real Kafka broker on this machine: a KRaft node on loopback, from Maven Central.

Owns the downloaded jars and what Java makes of them (build/kafka), and for each broker a directory
with its configuration, data, log and PID file. Called by the tests' `broker` fixture, by the demo
and by `make up`.

Promises: a started broker has answered a metadata request itself (its cluster id is compared, so an
answer from someone else's broker on that port does not count); every wait is bounded and its error
names the log; only a process that is provably this directory's broker is ever signalled. Brokers in
different directories do not disturb each other, nor do two starters that both need the download.
"""

import argparse
import base64
import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Final, Self

import psutil
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

ROOT: Final = Path(__file__).resolve().parents[2]
SOURCES: Final = Path(__file__).resolve().parent / "kafka"
BOOTSTRAP_VARIABLE: Final = "KAFKA_BOOTSTRAP_SERVERS"

DOWNLOAD_SECONDS: Final = 300.0
FORMAT_SECONDS: Final = 60.0
# A start takes 3 s on two idle cores; a loaded continuous-integration machine needs room.
START_SECONDS: Final = 60.0
ARCHIVE_SECONDS: Final = 60.0
# How Java ends where SIGTERM ends it: cleanly.
TERMINATED: Final = 128 + signal.SIGTERM
# A clean stop takes 1 s. After this the process is killed: no test waits on a broker that hangs.
STOP_SECONDS: Final = 15.0
START_ATTEMPTS: Final = 3

# Below the ports that Linux and macOS hand out to outgoing connections. From that range, a client
# that keeps reconnecting while its broker is down can be given the broker's own port, connect to
# itself, and so keep the broker from ever coming back.
FIRST_PORT: Final = 20_000
PORTS: Final = 10_000

# Topics carry pictures of up to 2 MiB with 64 KiB of envelope; twice that leaves room for batching.
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024

JAVA_OPTIONS: Final = (
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
)

SERVER_PROPERTIES: Final = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}{more_listeners}
listener.security.protocol.map=\
CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL
log.dirs={data}
auto.create.topics.enable=false
message.max.bytes={max_message_bytes}
replica.fetch.max.bytes={max_message_bytes}
# One node holds the only replica of everything.
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# The defaults of 50 cost seconds at the first join.
offsets.topic.num.partitions=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.num.partitions=1
# A group starts at once, and a test may use a session timeout of a second.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
# After kill -9 the controller waits this long before the broker may come back: with the default of
# 9 s a restart took 11.6 s, with this one 4.
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
# The default of 128 MiB does not fit into a small heap.
log.cleaner.dedupe.buffer.size=2097152
num.network.threads=1
num.io.threads=2
"""


class BrokerError(RuntimeError):
    """The broker could not be downloaded, started or found; the message says what to do."""


@dataclass(frozen=True, slots=True)
class ExternalBroker:
    """A Kafka that somebody else runs: `bootstrap` is all there is to it."""

    bootstrap: str

    def __enter__(self) -> Self:
        """Nothing to start."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to stop."""


class Broker:
    """A broker that lives in `directory`; starting it again there finds its data again.

    `port` is the one for clients; without it a free one is chosen at the first start and kept. As a
    context manager it starts on entry and stops on exit. `listeners` are further ones, by their
    security protocol, and `properties` what they need (see `deploy.local.secured`).
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        listeners: Sequence[str] = (),
        properties: str = "",
    ) -> None:
        self.directory = directory.resolve()
        self._wanted_port = port
        self._listeners = listeners
        self._more_properties = properties
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def properties(self) -> Path:
        """Kafka's configuration. Its absolute path on a command line identifies the process."""
        return self.directory / "server.properties"

    @property
    def data(self) -> Path:
        """Kafka's log directory."""
        return self.directory / "data"

    @property
    def meta_properties(self) -> Path:
        """Written by formatting: holds the cluster id."""
        return self.data / "meta.properties"

    @property
    def log(self) -> Path:
        """What the broker printed."""
        return self.directory / "kafka.log"

    @property
    def pid_file(self) -> Path:
        """The process id of the last start."""
        return self.directory / "kafka.pid"

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients. Raises BrokerError before the first start."""
        ports = self._recorded_ports()
        if ports is None:
            raise BrokerError(f"no broker has been started in {self.directory}")
        return f"127.0.0.1:{ports[0]}"

    def bootstrap_of(self, protocol: str) -> str:
        """`host:port` of the further listener with this security protocol."""
        found = self._recorded_listeners().get(protocol)
        if found is None:
            raise BrokerError(f"no broker with a {protocol} listener was started here")
        return f"127.0.0.1:{found}"

    def process(self) -> psutil.Process | None:
        """The running process of this directory, or None. Never another one with a reused PID."""
        if self._child is not None:
            # Ours to reap, so its PID cannot be another's yet. Its command line says nothing: it
            # reads as empty for a moment after the start, a third of the time on a busy machine.
            if self._child.poll() is None:
                return psutil.Process(self._child.pid)
            self._child = None
        try:
            process = psutil.Process(int(self.pid_file.read_text()))
            ours = str(self.properties) in process.cmdline()
        except (FileNotFoundError, ValueError, psutil.Error):
            return None
        return process if ours else None

    def start(self, *, archive_to: Path | None = None) -> Self:
        """Start, and return once it has answered. Raises BrokerError.

        `archive_to`: at its end Java is to write there what it has loaded, instead of beginning
        with what is written already.
        """
        if self.process() is not None:
            raise BrokerError(f"a broker is already running in {self.directory}: {self.bootstrap}")
        java = _tool("java", "Java 17 or newer", "openjdk-17-jre-headless")
        jars = _downloaded_jars()
        command = _java(java, jars, _class_archive(jars) if archive_to is None else None)
        archiving = [] if archive_to is None else [f"-XX:ArchiveClassesAtExit={archive_to}"]
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log.unlink(missing_ok=True)
        # Between the choice of a free port and its use someone else may take it. Ports that are
        # asked for, or that the data was made with, are not ours to change.
        fixed = (
            self._wanted_port is not None
            or self._recorded_ports() is not None
            or self.meta_properties.exists()
        )
        attempts = 1 if fixed else START_ATTEMPTS
        for attempt in range(1, attempts + 1):
            try:
                ports = self._choose_ports()
                self._format(command, ports)
                self._launch([*command, *archiving])
                self._await_metadata()
            except BrokerError as error:
                self.kill()
                if attempt == attempts:
                    raise
                print(f"Trying other ports, because {error}", file=sys.stderr)
                shutil.rmtree(self.data, ignore_errors=True)  # holds the refused ports, no records
                self.properties.unlink(missing_ok=True)
            except BaseException:
                self.kill()
                raise
            else:
                break
        return self

    def stop(self) -> None:
        """Stop cleanly, or kill it after STOP_SECONDS. Does nothing where nothing runs."""
        process = self.process()
        if process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
            process.resume()  # a paused process would keep the signal for later
            try:
                process.wait(STOP_SECONDS)
            except psutil.TimeoutExpired:
                process.kill()
                process.wait(STOP_SECONDS)
        self._forget()

    def kill(self) -> None:
        """Kill -9: nothing is flushed or said good-bye to."""
        process = self.process()
        if process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
            process.wait(STOP_SECONDS)
        self._forget()

    def restart(self) -> None:
        """Start again on the same ports and data; stops it cleanly first if it runs."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers, as in a long pause or a partition."""
        self._running().suspend()

    def resume(self) -> None:
        """SIGCONT."""
        self._running().resume()

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    def _running(self) -> psutil.Process:
        process = self.process()
        if process is None:
            raise BrokerError(f"no broker is running in {self.directory}")
        return process

    def _forget(self) -> None:
        if self._child is not None:
            self._child.wait(STOP_SECONDS)
            self._child = None
        self.pid_file.unlink(missing_ok=True)

    def _recorded_ports(self) -> tuple[int, int] | None:
        found = self._recorded_listeners()
        ports = found.get("PLAINTEXT"), found.get("CONTROLLER")
        return None if ports[0] is None or ports[1] is None else (ports[0], ports[1])

    def _recorded_listeners(self) -> dict[str, int]:
        try:
            text = self.properties.read_text()
        except FileNotFoundError:
            return {}
        found = re.findall(r"([A-Z_]+)://127\.0\.0\.1:(\d+)", text)
        return {name: int(port) for name, port in found}

    def _choose_ports(self) -> tuple[int, int]:
        """Ports for clients and for the controller; the latter is part of the formatted data."""
        recorded = self._recorded_ports()
        port, controller_port = recorded or (free_port(), free_port())
        if self._wanted_port is not None:
            port = self._wanted_port
        for fixed in (port, controller_port):
            if not _is_free(fixed):
                raise BrokerError(
                    f"port {fixed} on 127.0.0.1, for the broker in {self.directory}, is taken by "
                    "another process"
                )
        return port, controller_port

    def _format(self, java: Sequence[str], ports: tuple[int, int]) -> None:
        """Write the configuration; format the data directory unless it is a broker's already."""
        recorded = self._recorded_listeners()
        more = {name: recorded.get(name) or free_port() for name in self._listeners}
        self.properties.write_text(
            SERVER_PROPERTIES.format(
                port=ports[0],
                controller_port=ports[1],
                more_listeners="".join(f",{name}://127.0.0.1:{more[name]}" for name in more),
                data=self.data,
                max_message_bytes=MAX_MESSAGE_BYTES,
            )
            + self._more_properties
        )
        if self.meta_properties.exists():
            return
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # Kafka's tools take an id that starts with a dash for an option.
        cluster_id = cluster_id.replace("-", "_")
        tool = ["kafka.tools.StorageTool", "format", "--standalone", "-t", cluster_id]
        done = self._run_to_end([*java, *tool, "-c", str(self.properties)])
        if done != 0:
            raise BrokerError(f"the broker's data could not be formatted; {self._log_tail()}")

    def _run_to_end(self, command: list[str]) -> int:
        with self.log.open("ab") as log:
            try:
                return subprocess.run(
                    command, stdout=log, stderr=log, check=False, timeout=FORMAT_SECONDS
                ).returncode
            except subprocess.TimeoutExpired:
                return -1

    def _launch(self, java: Sequence[str]) -> None:
        command = [*java, "kafka.Kafka", str(self.properties)]
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C in the terminal, or a test's process group being killed,
            # does not reach the broker.
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,
            )
        self.pid_file.write_text(str(self._child.pid))

    def _await_metadata(self) -> None:
        cluster_id = self._cluster_id()
        deadline = time.monotonic() + START_SECONDS
        admin = AdminClient(
            {
                "bootstrap.servers": self.bootstrap,
                "log_level": 0,  # refused connections are expected until it is up
                "reconnect.backoff.ms": 50,
                "reconnect.backoff.max.ms": 100,
            }
        )
        while time.monotonic() < deadline:
            if self.process() is None:
                raise BrokerError(f"the broker stopped while starting; {self._log_tail()}")
            with contextlib.suppress(KafkaException):
                ours = admin.cluster_id(timeout=0.5) == cluster_id
                if ours and admin.list_topics(timeout=0.5).brokers:
                    return
            time.sleep(0.02)
        raise BrokerError(
            f"the broker did not answer on {self.bootstrap} within {START_SECONDS:.0f} s; "
            + self._log_tail()
        )

    def _cluster_id(self) -> str:
        found = re.search(r"^cluster\.id=(.+)$", self.meta_properties.read_text(), re.MULTILINE)
        if found is None:
            raise BrokerError(f"{self.meta_properties} names no cluster: remove {self.data}")
        return found[1]

    def _log_tail(self) -> str:
        return f"{self.log} ends with:\n{_tail(self.log)}"


def broker_from_environment(
    directory: Path, environment: Mapping[str, str] = os.environ
) -> Broker | ExternalBroker:
    """The broker that KAFKA_BOOTSTRAP_SERVERS names; without it, one of our own in `directory`."""
    bootstrap = environment.get(BOOTSTRAP_VARIABLE)
    return ExternalBroker(bootstrap) if bootstrap else Broker(directory)


def _java(java: str, jars: Path, archive: Path | None) -> list[str]:
    logging = f"-Dlog4j2.configurationFile={SOURCES / 'log4j2.xml'}"
    shared = [f"-XX:SharedArchiveFile={archive}"] if archive else []
    return [java, *JAVA_OPTIONS, *shared, logging, "-cp", f"{jars}/*"]


def _tool(name: str, what: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise BrokerError(
            f"{what} is needed to run Kafka, and there is no `{name}` on the PATH "
            f"(Debian, Ubuntu: apt-get install {package}). Or set {BOOTSTRAP_VARIABLE} to use a "
            "Kafka that runs elsewhere."
        )
    return path


def _downloaded_jars() -> Path:
    """Folder of Kafka's jars. The first caller downloads them, others wait for that."""
    pom = SOURCES / "pom.xml"
    text = pom.read_bytes()
    version = re.search(rb"<kafka\.version>([^<]+)</kafka\.version>", text)
    if version is None:
        raise BrokerError(f"{pom} names no kafka.version")
    # The digest makes a new log4j a new folder, too.
    name = f"{version[1].decode()}-{hashlib.sha256(text).hexdigest()[:8]}"
    jars = ROOT / "build" / "kafka" / name
    if jars.exists():
        return jars
    mvn = _tool("mvn", "Maven", "maven")
    jars.parent.mkdir(parents=True, exist_ok=True)
    with _alone(jars.parent):
        if not jars.exists():
            partial = jars.with_name(f"{name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            _download(mvn, pom, partial)
            partial.rename(jars)
    return jars


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let no other process make anything in the folder meanwhile."""
    with (folder / "making.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the process ends, however it ends
        yield


def _class_archive(jars: Path) -> Path | None:
    """What Java has loaded where a broker runs (class data sharing); None where it kept nothing.

    On two idle cores the first start takes 2.9 s with it instead of 4.4, a later one 2.0 instead of
    3.0. The first caller runs a broker for it. Another Java ignores it, and says so in the log.
    """
    archive = jars.with_name(f"{jars.name}.jsa")
    if not archive.exists():
        with _alone(jars.parent):
            if not archive.exists():
                _archive_classes(archive)
    return archive if archive.stat().st_size else None


def _archive_classes(archive: Path) -> None:
    print("Running Kafka once, so that Java starts it faster from now on ...", file=sys.stderr)
    partial = archive.with_name(f"{archive.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        _run_once(partial)
    except (BrokerError, psutil.Error) as error:
        print(f"Brokers will start slowly, because {error}", file=sys.stderr)
        partial.unlink(missing_ok=True)
        partial.touch()  # a broker is not run for it again
    partial.rename(archive)


def _run_once(archive_to: Path) -> None:
    ended = None
    with TemporaryDirectory(dir=archive_to.parent) as folder:
        broker = Broker(Path(folder))
        try:
            process = broker.start(archive_to=archive_to).process()
            if process is not None:
                process.terminate()
                ended = process.wait(ARCHIVE_SECONDS)
        finally:
            broker.kill()
    if ended != TERMINATED or not archive_to.exists():
        raise BrokerError(f"Java has kept nothing; the broker ended with {ended}")


def _download(mvn: str, pom: Path, destination: Path) -> None:
    print(f"Downloading Kafka into {destination.parent} ...", file=sys.stderr)
    log_path = destination.parent / "download.log"
    command = [mvn, "--batch-mode", "--quiet", "--strict-checksums", "--file", str(pom)]
    command += ["dependency:copy-dependencies", "-DincludeScope=runtime"]
    command += [f"-DoutputDirectory={destination}"]
    with log_path.open("wb") as log:
        try:
            status = subprocess.run(
                command, stdout=log, stderr=log, check=False, timeout=DOWNLOAD_SECONDS
            ).returncode
        except subprocess.TimeoutExpired:
            raise BrokerError(
                f"Maven did not finish downloading Kafka in {DOWNLOAD_SECONDS:.0f} s; "
                f"{log_path} ends with:\n{_tail(log_path)}"
            ) from None
    if status != 0:
        raise BrokerError(
            f"Maven could not download Kafka; {log_path} ends with:\n{_tail(log_path)}"
        )


def _tail(path: Path, lines: int = 20) -> str:
    text = path.read_text(errors="replace") if path.exists() else ""
    return "\n".join(text.splitlines()[-lines:]) or "(nothing)"


def free_port() -> int:
    """Give a port of this machine that nobody listens on, below those that clients get.

    Raises:
        BrokerError: none of a hundred tried is free.
    """
    for _ in range(100):
        port = FIRST_PORT + secrets.randbelow(PORTS)
        if _is_free(port):
            return port
    raise BrokerError(f"no free port between {FIRST_PORT} and {FIRST_PORT + PORTS}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As Java binds: the leftovers of closed connections do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def main(arguments: list[str] | None = None) -> int:
    """`start`, `stop` or `status`; exit status 0, 1 for an error, 3 for `status` of none."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.broker", description=main.__doc__)
    parser.add_argument("action", choices=("start", "stop", "status"))
    parser.add_argument("--dir", type=Path, required=True, help="where the broker lives")
    parser.add_argument("--port", type=int, help="for clients; without it a free one is chosen")
    options = parser.parse_args(arguments)
    external = os.environ.get(BOOTSTRAP_VARIABLE)
    if external and options.action != "stop":
        print(f"{BOOTSTRAP_VARIABLE} names {external}: that one is used, there is none of ours.")
        return 0
    broker = Broker(options.dir, port=options.port)
    try:
        return _act(options.action, broker)
    except BrokerError as error:
        print(error, file=sys.stderr)
        return 1


def _act(action: str, broker: Broker) -> int:
    running = broker.process()
    match action, running:
        case "start", None:
            started = time.monotonic()
            broker.start()
            print(f"Kafka answers on {broker.bootstrap} ({time.monotonic() - started:.1f} s).")
        case "stop", psutil.Process():
            broker.stop()
            print(f"Kafka stopped; its data stays in {broker.directory}.")
        case "start" | "status", psutil.Process(pid=pid):
            print(f"Kafka runs on {broker.bootstrap}, process {pid}, log {broker.log}.")
        case _:
            print(f"No Kafka is running in {broker.directory}.")
            return 3 if action == "status" else 0
    return 0


if __name__ == "__main__":
    # An interrupted start still takes its half-started broker down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
