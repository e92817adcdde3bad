"""The whole product on this machine: Kafka, the topics, hashers, matchers and API servers.

Called by `make up` and `make down` (`python -m deploy.local.stack up|down|status`), by the demo
and by the integration tests. Each process is the real command, in a session of its own, with its
log and PID file in the stack's folder.

Promises: only a process that is provably this stack's is ever signalled; starting what runs
starts nothing; every wait is bounded, and its error shows the end of the log that tells why;
after `stop` nothing of the stack runs, the processes' own children included.
"""

import argparse
import contextlib
import json
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import psutil
from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined] # its stubs export less
    ConsumerGroupDescription,
)
from rich.console import Console
from rich.table import Table

from deploy.local import prometheus
from deploy.local.broker import (
    BOOTSTRAP_VARIABLE,
    ROOT,
    Broker,
    BrokerError,
    ExternalBroker,
    free_port,
)
from streams.api import keys
from streams.errors import CheckDedupError
from streams.kafka.client import admin_client
from streams.kafka.topics import GROUP_TOPICS
from streams.settings import Settings

COMMAND: Final = Path(sys.executable).with_name("check-dedup")
DEFAULT_PORT: Final = 9092
PORT_VARIABLE: Final = "KAFKA_PORT"

# A process joins its group 3 s after its start on two idle cores.
READY_SECONDS: Final = 90.0
COMMAND_SECONDS: Final = 90.0
ANSWER_SECONDS: Final = 30.0
# The processes bound their own stop with 20 s.
STOP_SECONDS: Final = 25.0
_POLL_SECONDS: Final = 0.1
_PROBE_SECONDS: Final = 5.0

_API: Final = "api"
_API_PORT_VARIABLE: Final = "CHECK_DEDUP_API_PORT"
_KEYS_VARIABLE: Final = "CHECK_DEDUP_KEYS_FILE"
# Of the key that the first `make up` makes.
_TRIAL_WORKSPACE: Final = "demo"

# Where `check-dedup status` looks when it is told nothing.
METRICS_PORT: Final = 9101
_METRICS_PORT: Final = "CHECK_DEDUP_METRICS_PORT"
# Below the ports that systems give to outgoing connections, one of which would be in the way.
_FREE_PORTS: Final = range(20_000, 32_000)

_PROMETHEUS: Final = "prometheus"
_SCRAPE_EVERY_SECONDS: Final = 5

# In a process's environment: the PID file that stands for it.
_MARK: Final = "CHECK_STACK_PID_FILE"
_LOG_LINES: Final = 15


class StackError(RuntimeError):
    """A process did not start, or did not stay; the message shows why."""


class Member:
    """One process of the stack."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], directory: Path
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = directory / "logs" / f"{name}.log"
        self.pid_file = directory / "processes" / f"{name}.pid"
        self.environment = {**environment, _MARK: str(self.pid_file)}
        self._child: subprocess.Popen[bytes] | None = None

    def process(self) -> psutil.Process | None:
        """The running process, or None; never another one that got its number."""
        if self._child is not None:
            # Ours to reap, so its number cannot be another's yet.
            return psutil.Process(self._child.pid) if self._child.poll() is None else None
        try:
            process = psutil.Process(int(self.pid_file.read_text()))
            ours = process.cmdline()[
                -len(self.command) :
            ] == self.command and process.environ().get(_MARK) == str(self.pid_file)
        except (FileNotFoundError, ValueError, psutil.Error):
            return None
        return process if ours else None

    @property
    def metrics_url(self) -> str:
        """Where the process tells its metrics."""
        return f"http://127.0.0.1:{self.environment[_METRICS_PORT]}/metrics"

    @property
    def exit_code(self) -> int | None:
        """The exit code of the last run, where that was started by this object and is over."""
        return None if self._child is None else self._child.poll()

    def start(self) -> None:
        """Start; does nothing where it runs."""
        if self.process() is not None:
            return
        for file in (self.log, self.pid_file):
            file.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C in the terminal is for the one who started it.
            self._child = subprocess.Popen(
                self.command,
                env=self.environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pid_file.write_text(str(self._child.pid))

    @property
    def role(self) -> str:
        """The command that it runs: `hasher`, `matcher` or `api`."""
        return self.command[-1]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal. Raises StackError where nothing runs."""
        process = self.process()
        if process is None:
            raise StackError(f"{self.name} does not run; {self.log_tail()}")
        process.send_signal(number)

    def wait(self, timeout_seconds: float) -> int | None:
        """Wait for the end of what this object started; give its exit code, None while it runs."""
        if self._child is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._child.wait(timeout_seconds)
        return None

    def log_tail(self) -> str:
        """The log's last lines, for an error's message."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        lines = "\n".join(text.splitlines()[-_LOG_LINES:]) or "(nothing)"
        return f"{self.log} ends with:\n{lines}"


class Stack:
    """Kafka, so many hashers, matchers and API servers, with all that is theirs in `directory`.

    `broker` is one that someone else starts and stops; without it, it is the one that
    KAFKA_BOOTSTRAP_SERVERS in `environment` names, or one of our own on `port` (or a free one).
    `settings` are environment variables of the product on top of `environment`. The processes tell
    their metrics on ports from `metrics_port` on, or on any that are free.
    """

    def __init__(
        self,
        directory: Path,
        *,
        hashers: int = 1,
        matchers: int = 1,
        apis: int = 0,
        port: int | None = None,
        broker: Broker | ExternalBroker | None = None,
        settings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] = os.environ,
        metrics_port: int | None = None,
    ) -> None:
        self.directory = directory.resolve()
        self._metrics_port = metrics_port
        external = environment.get(BOOTSTRAP_VARIABLE)
        self._owned: Broker | None = None
        if broker is None and external:
            broker = ExternalBroker(external)
        elif broker is None:
            broker = self._owned = Broker(self.directory / "kafka", port=port)
        self._broker = broker
        self._sizes = {"hasher": hashers, "matcher": matchers, _API: apis}
        self._environment = {
            **environment,
            # The pictures of the demo and of most trials are served on this machine.
            "CHECK_DEDUP_ALLOW_PRIVATE_ADDRESSES": "true",
            _KEYS_VARIABLE: str(self.directory / "data" / "keys.json"),
            **(settings or {}),
        }
        self._members: list[Member] | None = None
        self._gone: set[str] = set()

    @property
    def logs(self) -> Path:
        """Folder of the processes' logs."""
        return self.directory / "logs"

    @property
    def bootstrap(self) -> str:
        """`host:port` of Kafka. Raises BrokerError before the first start."""
        return self._broker.bootstrap

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which the product's commands speak to this stack."""
        return {**self._environment, BOOTSTRAP_VARIABLE: self.bootstrap}

    @property
    def settings(self) -> Settings:
        """The settings of that environment."""
        return Settings.from_environment(self.environment)

    @property
    def members(self) -> list[Member]:
        """The processes, hashers first. Raises BrokerError before the first start."""
        if self._members is None:
            self._members = [
                self.member(name, [str(COMMAND), role], self._addresses(role, name))
                for role, size in self._sizes.items()
                for name in (f"{role}-{number}" for number in range(1, size + 1))
            ]
        return self._members

    @property
    def api_urls(self) -> list[str]:
        """Where the API servers listen; without a slash at the end."""
        return [
            f"http://127.0.0.1:{member.environment[_API_PORT_VARIABLE]}"
            for member in self.members
            if member.role == _API
        ]

    def _addresses(self, role: str, name: str) -> dict[str, str]:
        """Give an API server a port, the same at each start as long as it is free."""
        if role != _API:
            return {}
        file = self.directory / "processes" / f"{name}.port"
        running = self.member(name, [str(COMMAND), role]).process() is not None
        known = int(file.read_text()) if file.exists() else self.settings.api_port
        if not running and _answers(known):
            known = free_port()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(known))
        return {_API_PORT_VARIABLE: str(known)}

    def member(
        self, name: str, command: Sequence[str], settings: Mapping[str, str] | None = None
    ) -> Member:
        """Give a process of this stack's environment, not started; a matcher's index is its own.

        Each is a static member of its group, so that one that is started again is back at once.
        """
        own = {
            "CHECK_DEDUP_DATA_DIRECTORY": str(self.directory / "data" / name),
            "CHECK_DEDUP_INSTANCE_ID": name,
            _METRICS_PORT: str(self._port_of(name)),
        }
        environment = {**self.environment, **own, **(settings or {})}
        return Member(name, command, environment, self.directory)

    def _port_of(self, name: str) -> int:
        """Give a process a port for its metrics; the one it has, where it runs."""
        directory = self.directory / "processes"
        file = directory / f"{name}.metrics-port"
        if file.exists() and (directory / f"{name}.pid").exists():
            return int(file.read_text())
        others = {
            int(other.read_text()) for other in directory.glob("*.metrics-port") if other != file
        }
        first = self._metrics_port or random.choice(_FREE_PORTS)  # noqa: S311 - no secret
        wanted = (port for port in range(first, 65_536) if port not in others)
        port = next(port for port in wanted if not _answers(port))
        directory.mkdir(parents=True, exist_ok=True)
        file.write_text(str(port))
        return port

    def start(self, say: Callable[[str], None] = lambda _: None) -> Self:
        """Start what does not run, and return once Kafka has the topics and all processes are up.

        They are not waited for to have joined their groups: what is published before is kept.

        Raises:
            BrokerError: Kafka did not start.
            StackError: the topics could not be made.
        """
        if self._owned is not None and self._owned.process() is None:
            say("starting Kafka")
            self._owned.start()
        say("making the topics")
        self.command("topics", "create")
        say("starting the processes")
        starting = [member for member in self.members if member.process() is None]
        # A static member that was stopped stays listed until its session is over.
        instances = {member.environment["CHECK_DEDUP_INSTANCE_ID"] for member in starting} - {""}
        self._gone = {
            listed.member_id
            for group in self._groups()
            for listed in group.members
            if (listed.group_instance_id or "").removeprefix(f"{group.group_id}-") in instances
        }
        for member in starting:
            member.start()
        return self

    def command(self, *arguments: str) -> str:
        """Run a `check-dedup` command against this stack; give what it prints.

        Raises:
            StackError: its exit code is not 0.
        """
        done = self.try_command(*arguments)
        if done.returncode != 0:
            words = shlex.join(["check-dedup", *arguments])
            raise StackError(f"`{words}` ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def try_command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a `check-dedup` command against this stack, whatever its exit code."""
        return subprocess.run(
            [str(COMMAND), *arguments],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_SECONDS,
        )

    def require_alive(self) -> None:
        """Raise StackError, with the end of its log, where a process is gone."""
        for member in self.members:
            if member.process() is None:
                code = member.exit_code
                ended = "does not run" if code is None else f"ended with exit code {code}"
                raise StackError(f"{member.name} {ended}; {member.log_tail()}")

    def await_ready(self, timeout_seconds: float = READY_SECONDS) -> None:
        """Wait until the groups have all their members, each partition is one's, the API answers.

        Raises:
            StackError: a process ended, or the time is over.
        """
        wanted = sum(member.role != _API for member in self.members)
        deadline = time.monotonic() + timeout_seconds
        while True:
            self.require_alive()
            groups = self._groups()
            listed = [member for group in groups for member in group.members]
            present = [member for member in listed if member.member_id not in self._gone]
            owned = sum((len(member.assignment.topic_partitions) for member in present), 0)
            stable = {str(group.state.name) for group in groups} == {"STABLE"}
            everything = self.settings.partitions * sum(map(len, GROUP_TOPICS.values()))
            formed = stable and len(present) >= wanted and owned == everything
            if formed and all(map(_is_ready, self.api_urls)):
                return
            if time.monotonic() > deadline:
                tails = "\n".join(member.log_tail() for member in self.members)
                raise StackError(f"not ready within {timeout_seconds:g} s; {tails}")
            time.sleep(_POLL_SECONDS)

    def _groups(self) -> list[ConsumerGroupDescription]:
        admin = admin_client(self.settings)  # kept: one without a name is gone before the answer
        asked = admin.describe_consumer_groups(list(GROUP_TOPICS), request_timeout=ANSWER_SECONDS)
        try:
            return [future.result(ANSWER_SECONDS) for future in asked.values()]
        except KafkaException as error:
            raise StackError(f"the groups cannot be described: {error.args[0]}") from error

    def stop(self) -> list[str]:
        """Stop all that runs, Kafka last; give the names of what was stopped."""
        stopped = stop_members(self._all_members())
        if self._owned is not None and self._owned.process() is not None:
            self._owned.stop()
            stopped.append("Kafka")
        self._members = None  # started again, they may find Kafka on another port
        return stopped

    def prometheus(
        self, *more: Member, every_seconds: int = _SCRAPE_EVERY_SECONDS
    ) -> Member | None:
        """Give a Prometheus that watches the processes, not started; None where it is missing."""
        watched = (*self.members, *more)
        targets = {member.name: urlsplit(member.metrics_url).netloc for member in watched}
        command = prometheus.command(
            self.directory / "prometheus",
            self._port_of(_PROMETHEUS),
            targets,
            every_seconds=every_seconds,
        )
        return None if command is None else Member(_PROMETHEUS, command, {}, self.directory)

    @property
    def prometheus_url(self) -> str:
        """Where that Prometheus answers, once it was asked for."""
        return f"http://127.0.0.1:{self._port_of(_PROMETHEUS)}"

    def running_beside(self) -> list[Member]:
        """What else of ours runs than the processes that there are to be."""
        expected = {member.name for member in self.members}
        others = (member for member in self._all_members() if member.name not in expected)
        return [member for member in others if member.process() is not None]

    def _all_members(self) -> Iterator[Member]:
        """The processes that this object or an earlier one, perhaps a larger one, has started."""
        try:
            members = self.members
        except BrokerError:  # there never was a Kafka, so nothing of ours runs on it
            return
        yield from members
        known = {member.name for member in members} | {_PROMETHEUS}
        if (self.directory / "processes" / f"{_PROMETHEUS}.pid").exists():
            watcher = self.prometheus()
            if watcher is not None:
                yield watcher
        for file in sorted((self.directory / "processes").glob("*.pid")):
            role = file.stem.rpartition("-")[0]
            if file.stem not in known:
                yield self.member(file.stem, [str(COMMAND), role])

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _alive_after(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait for processes to end; give those that have not."""
    for _ in processes:
        try:
            return psutil.wait_procs(processes, seconds)[1]
        except FileNotFoundError:  # psutil does not expect one to end at this very moment
            processes = [process for process in processes if process.is_running()]
    return processes


def stop_members(members: Iterator[Member] | Sequence[Member]) -> list[str]:
    """TERM all at once, KILL what is left after STOP_SECONDS; give the names of what ran."""
    running = [(member, process) for member in members if (process := member.process()) is not None]
    family: list[psutil.Process] = []
    for _, process in running:
        with contextlib.suppress(psutil.NoSuchProcess):
            family += [process, *process.children(recursive=True)]
            process.terminate()
            process.resume()  # a paused process would keep the signal for later
    psutil.wait_procs([process for _, process in running], STOP_SECONDS)
    # What is left: a process that did not stop, and children of one that could not end them.
    alive = _alive_after(family, 1.0)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, STOP_SECONDS)
    for member, _ in running:
        member.wait(STOP_SECONDS)
        member.pid_file.unlink(missing_ok=True)
    return [member.name for member, _ in running]


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without settings of the product, for runs that must not depend on them."""
    return {
        name: value for name, value in environment.items() if not name.startswith("CHECK_DEDUP_")
    }


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Let a second Ctrl-C wait until what was begun is cleaned up (which is bounded)."""
    before = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _up_stack(arguments: argparse.Namespace) -> Stack:
    kafka = Broker(arguments.dir / "kafka")
    port = os.environ.get(PORT_VARIABLE)
    wanted = int(port) if port else None
    if wanted is None and kafka.process() is None and not _answers(DEFAULT_PORT):
        wanted = DEFAULT_PORT
    # The file that the commands use by hand.
    keys_file = os.environ.get(_KEYS_VARIABLE) or str(ROOT / Settings().keys_file)
    return Stack(
        arguments.dir,
        hashers=arguments.hashers,
        matchers=arguments.matchers,
        apis=arguments.apis,
        port=wanted,
        settings={_KEYS_VARIABLE: keys_file},
        metrics_port=METRICS_PORT,
    )


def _is_ready(url: str) -> bool:
    """Whether an API server says that each partition is answered for."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=_PROBE_SECONDS) as response:  # noqa: S310 - ours
            return bool(json.load(response).get("status") == "ok")
    except (OSError, ValueError):
        return False


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _up(stack: Stack, out: Console) -> None:
    started = time.monotonic()
    with out.status("starting") as status:
        try:
            stack.start(status.update)
            status.update("waiting for the processes to join their groups")
            stack.await_ready()
            watched = _watch(stack)
        except BaseException:
            with interrupts_held():
                stack.stop()
            raise
    _show(stack, out)
    out.print(f"Up in {time.monotonic() - started:.1f} s. Try it:\n", highlight=False)
    prefix = ""
    if stack.bootstrap != Settings().bootstrap_servers and BOOTSTRAP_VARIABLE not in os.environ:
        prefix = f"export {BOOTSTRAP_VARIABLE}={stack.bootstrap}\n  "
    command = _relative(COMMAND)
    (url,) = stack.api_urls[:1] or [""]
    out.print(
        f"  {prefix}{command} publish PICTURE --workspace {_TRIAL_WORKSPACE} --wait\n\n"
        "PICTURE: a file, a folder or a URL. Over HTTP, or with the page at "
        f"{url}/ :\n\n{_trial_key(stack)}"
        f"  curl -H \"X-Api-Key: $KEY\" -F image=@PICTURE '{url}/v1/match/?detail=true'\n\n"
        f"{watched}\n"
        "`make down` stops everything; the data stays.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _watch(stack: Stack) -> str:
    """Start Prometheus with our alert rules, where it is installed; say where to look.

    With a canary, since an alert misses it where there is none.
    """
    canary = stack.member("canary-1", [str(COMMAND), "canary"])
    watcher = stack.prometheus(canary)
    if watcher is None:
        return "Alerts: install Prometheus (apt-get install prometheus) to see them."
    canary.start()
    if watcher.process() is None:
        watcher.start()
    else:
        watcher.signal(signal.SIGHUP)  # there may be other processes to look at
    return f"Alerts and graphs: {stack.prometheus_url}/alerts"


def _trial_key(stack: Stack) -> str:
    """Make a key for the first trial and print it, this once; later, say how to make another."""
    create = ["keys", "create", "--workspace", _TRIAL_WORKSPACE, "--right", "admin"]
    if any(key.workspace == _TRIAL_WORKSPACE for key in keys.read(stack.settings.keys_file)):
        words = shlex.join([_relative(COMMAND), *create])
        return f"  KEY=...    # from the first `make up`, or another: {words}\n"
    return f"  KEY={stack.command(*create).strip()}\n"


def _show(stack: Stack, out: Console) -> bool:
    """Print what runs where; give whether all of it does."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("what", "process", "log, and data if it keeps any"):
        table.add_column(title, no_wrap=title != "log, and data if it keeps any")
    complete = True
    kafka = stack._owned  # noqa: SLF001 - of this file
    if kafka is not None:
        process = kafka.process()
        complete = process is not None
        name = f"Kafka {kafka.bootstrap}" if complete else "Kafka"
        table.add_row(name, _pid(process), f"{_relative(kafka.log)}, {_relative(kafka.data)}/")
    elif stack.bootstrap:
        table.add_row(f"Kafka {stack.bootstrap}", "not ours", f"{BOOTSTRAP_VARIABLE} names it")
    for member in (*stack.members, *stack.running_beside()):
        process = member.process()
        complete = complete and process is not None
        place = _relative(member.log)
        name = member.name
        if member.role == "matcher":
            place += f", {_relative(stack.directory / 'data' / member.name)}/"
        elif member.role == _API:
            name += f" 127.0.0.1:{member.environment[_API_PORT_VARIABLE]}"
            place += f", {_relative(stack.settings.keys_file)}"
        elif member.name == _PROMETHEUS:
            name += f" {urlsplit(stack.prometheus_url).netloc}"
        table.add_row(name, _pid(process), place)
    out.print(table)
    return complete


def _pid(process: psutil.Process | None) -> str:
    return "not running" if process is None else str(process.pid)


def _relative(path: Path) -> str:
    return os.path.relpath(path, Path.cwd())


def main() -> int:
    """Start, stop or show the product on this machine; exit status 1 for an error."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.stack", description=main.__doc__)
    parser.add_argument("action", choices=("up", "down", "status"))
    parser.add_argument("--dir", type=Path, default=ROOT / "build" / "up", help="where it lives")
    parser.add_argument("--hashers", type=int, default=1)
    parser.add_argument("--matchers", type=int, default=1)
    parser.add_argument("--apis", type=int, default=1)
    arguments = parser.parse_args()
    out = Console(highlight=False)
    try:
        stack = _up_stack(arguments)
        match arguments.action:
            case "up":
                _up(stack, out)
            case "down":
                stopped = stack.stop()
                if stopped:
                    out.print(f"Stopped: {', '.join(stopped)}.")
                    out.print(f"The data stays in {_relative(stack.directory)}.")
                else:
                    out.print("Nothing was running.")
            case _:
                return 0 if _show(stack, out) else 1
    except (BrokerError, StackError, CheckDedupError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing is left running", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    # A TERM is cleaned up after like a Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
