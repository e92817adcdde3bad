"""The broker that everything else is tested on keeps its own promises."""

import os
import socket
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from deploy.local.broker import Broker, BrokerError, ExternalBroker, free_port

ANSWER_SECONDS = 30.0


def make_topic(bootstrap: str, name: str) -> None:
    """One partition, one replica."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(name, 1, 1)])[name].result(ANSWER_SECONDS)


def send(bootstrap: str, topic: str, *values: bytes) -> None:
    """Send and wait for every delivery."""
    producer = Producer({"bootstrap.servers": bootstrap, "message.max.bytes": 4 * 1024 * 1024})
    failures: list[object] = []
    for value in values:
        producer.produce(
            topic, value, on_delivery=lambda error, _: failures.append(error) if error else None
        )
    assert producer.flush(ANSWER_SECONDS) == 0
    assert failures == []


def read(bootstrap: str, topic: str, count: int) -> list[bytes | None]:
    """The first `count` values of the topic."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": str(uuid.uuid4()),
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([topic])
    values: list[bytes | None] = []
    deadline = time.monotonic() + ANSWER_SECONDS
    while len(values) < count and time.monotonic() < deadline:
        message = consumer.poll(0.5)
        if message is not None:
            if message.error():
                raise KafkaException(message.error())
            values.append(message.value())
    consumer.close()
    return values


def jars_of(process: psutil.Process) -> Path:
    """The folder of the jars that a broker runs from."""
    words = process.cmdline()
    return Path(words[words.index("-cp") + 1]).parent


def test_what_is_sent_can_be_read(broker: Broker | ExternalBroker) -> None:
    """Records up to the size of the largest picture and its envelope come back unchanged."""
    topic = f"round-trip-{uuid.uuid4()}"
    make_topic(broker.bootstrap, topic)
    largest = os.urandom(2 * 1024 * 1024 + 64 * 1024)
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    assert topic in admin.list_topics(timeout=ANSWER_SECONDS).topics

    send(broker.bootstrap, topic, b"small", largest)

    assert read(broker.bootstrap, topic, 2) == [b"small", largest]


def test_brokers_run_side_by_side(tmp_path: Path) -> None:
    """Two that start at once are two clusters: a topic of one is unknown to the other."""
    one, two = Broker(tmp_path / "one"), Broker(tmp_path / "two")
    with ThreadPoolExecutor() as pool:
        started = [pool.submit(one.start), pool.submit(two.start)]
    try:
        for start in started:
            start.result()
        make_topic(one.bootstrap, "only-here")
        other = AdminClient({"bootstrap.servers": two.bootstrap})
        assert one.bootstrap != two.bootstrap
        assert "only-here" not in other.list_topics(timeout=ANSWER_SECONDS).topics
    finally:
        one.stop()
        two.stop()
    assert one.process() is None
    assert two.process() is None


def test_records_survive_kill_and_restart(tmp_path: Path) -> None:
    """After kill -9 the broker comes back on the same port with what it had acknowledged."""
    with Broker(tmp_path) as broker:
        make_topic(broker.bootstrap, "kept")
        send(broker.bootstrap, "kept", b"before")
        before = broker.bootstrap
        broker.kill()
        assert broker.process() is None

        broker.restart()

        assert broker.bootstrap == before
        send(broker.bootstrap, "kept", b"after")
        assert read(broker.bootstrap, "kept", 2) == [b"before", b"after"]


def test_a_paused_broker_does_not_answer_until_resumed(tmp_path: Path) -> None:
    """Pausing stops the answers, not the process; resuming brings them back."""
    with Broker(tmp_path) as broker:
        admin = AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 0})
        admin.list_topics(timeout=ANSWER_SECONDS)
        broker.pause()
        with pytest.raises(KafkaException):
            admin.list_topics(timeout=1)
        assert broker.process() is not None

        broker.resume()

        assert admin.list_topics(timeout=ANSWER_SECONDS).brokers


def test_only_its_own_process_is_signalled(tmp_path: Path) -> None:
    """A PID file that names a process of somebody else is not believed."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        broker = Broker(tmp_path)
        broker.pid_file.write_text(str(bystander.pid))

        broker.stop()
        broker.kill()

        assert psutil.pid_exists(bystander.pid)
        assert bystander.poll() is None
        bystander.communicate(b"\n", timeout=ANSWER_SECONDS)


def test_a_taken_port_is_named(tmp_path: Path, broker: Broker | ExternalBroker) -> None:
    """Asked for a port that someone uses, the start fails at once and says which."""
    port = int(broker.bootstrap.rsplit(":", 1)[1])
    with pytest.raises(BrokerError, match=f"port {port} .* is taken"):
        Broker(tmp_path, port=port).start()


def test_a_lost_race_for_a_port_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A port that someone takes after it was chosen costs another attempt, which is told."""
    with socket.create_server(("127.0.0.1", 0)) as someone:
        taken = someone.getsockname()[1]
        ports = iter([taken, free_port(), free_port(), free_port()])
        monkeypatch.setattr("deploy.local.broker.free_port", lambda: next(ports))
        with Broker(tmp_path) as broker:
            assert broker.bootstrap != f"127.0.0.1:{taken}"
    assert f"port {taken}" in capsys.readouterr().err


def test_a_broker_that_cannot_start_shows_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error carries the log's name and what Kafka said last; nothing is left running."""
    monkeypatch.setattr(
        "deploy.local.broker.SERVER_PROPERTIES",
        "process.roles=broker,controller\nnode.id=nonsense\n",
    )
    broker = Broker(tmp_path)
    with pytest.raises(BrokerError, match=r"(?s)kafka\.log ends with:.*nonsense"):
        broker.start()
    assert broker.process() is None


@pytest.mark.parametrize(
    ("tool", "package"), [("java", "openjdk-17-jre-headless"), ("mvn", "maven")]
)
def test_a_missing_tool_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str, package: str
) -> None:
    """Without Java, or without Maven and the jars, the error says what to install."""
    present = tmp_path / "bin"
    present.mkdir()
    for other in {"java", "mvn"} - {tool}:
        (present / other).write_text("#!/bin/sh\n")
        (present / other).chmod(0o755)
    monkeypatch.setenv("PATH", str(present))
    monkeypatch.setattr("deploy.local.broker.ROOT", tmp_path)  # nothing downloaded yet
    with pytest.raises(BrokerError, match=f"`{tool}` on the PATH.*apt-get install {package}"):
        Broker(tmp_path / "kafka").start()


def test_a_start_begins_with_what_java_has_kept(broker: Broker | ExternalBroker) -> None:
    """The classes are mapped from the archive that the first broker has left."""
    assert isinstance(broker, Broker)
    process = broker.process()
    assert process is not None
    archive = f"{jars_of(process)}.jsa"

    assert archive in {each.path for each in process.memory_maps()}


def test_where_java_keeps_nothing_a_broker_starts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broker: Broker | ExternalBroker,
) -> None:
    """A Java that knows no such option costs one message, and one attempt for all starts."""
    assert isinstance(broker, Broker)
    process = broker.process()
    assert process is not None
    jars = jars_of(process)
    (tmp_path / "build" / "kafka").mkdir(parents=True)
    (tmp_path / "build" / "kafka" / jars.name).symlink_to(jars)
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(
        '#!/bin/sh\ncase "$*" in *Archive*) echo Unrecognized option; exit 1;; esac\n'
        f'exec {process.exe()} "$@"\n'
    )
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{java.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("deploy.local.broker.ROOT", tmp_path)

    with Broker(tmp_path / "kafka") as other:
        other.restart()
        make_topic(other.bootstrap, "there")

    told = capsys.readouterr().err
    assert told.count("Brokers will start slowly") == 1
    assert "Unrecognized option" in told


def test_the_command_starts_finds_and_stops_it(tmp_path: Path) -> None:
    """`start` leaves it running for other processes to find; `stop` ends it."""
    environment = {k: v for k, v in os.environ.items() if k != "KAFKA_BOOTSTRAP_SERVERS"}

    def run(action: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deploy.local.broker", action, "--dir", str(tmp_path)]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=120
        )

    try:
        assert run("status").returncode == 3
        started = run("start")
        assert started.returncode == 0, started.stderr
        assert Broker(tmp_path).bootstrap in started.stdout
        assert run("status").returncode == 0
        assert "already" not in run("start").stdout
    finally:
        assert run("stop").returncode == 0
    assert run("status").returncode == 3
