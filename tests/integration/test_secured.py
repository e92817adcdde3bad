"""A broker that trusts nobody: TLS, mutual TLS, SCRAM, an authorizer. One for all tests here."""

import asyncio
import http.client
import json
import os
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import TopicCollection
from confluent_kafka.admin import AdminClient

from deploy.local.broker import Broker, free_port
from deploy.local.client import Client
from deploy.local.secured import OPERATIONS, SASL_SSL, SSL, Authority, add_user, grant
from deploy.local.stack import COMMAND, Member, Stack, without_settings
from schemas.records import ImageIngested
from schemas.topics import INDEX_LOG, TOPICS
from streams.api import keys
from streams.delivery import Outgoing
from streams.errors import MisconfiguredError
from streams.kafka.access import USERS, User
from streams.kafka.client import admin_client
from streams.kafka.producer import DeliveringProducer
from streams.settings import Settings
from tests.integration.pictures import photograph_file
from tests.waiting import wait_until

WAIT_SECONDS = 60.0
ANSWER_SECONDS = 10.0
# Nothing waits for ever: the bound on reaching a broker is 10 s, an interpreter starts in 2.
REFUSED_SECONDS = 45.0
PASSWORD = f"secret-{uuid.uuid4().hex}"


@dataclass(frozen=True, slots=True)
class Secured:
    """The broker, and what one needs to come in."""

    broker: Broker
    authority: Authority
    strangers: Authority
    directory: Path

    def by_password(self, name: str, mechanism: str = "SCRAM-SHA-512") -> dict[str, str]:
        """Give the settings of one who shows a password."""
        file = self.directory / "password"
        file.write_text(f"{PASSWORD}\n")
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.broker.bootstrap_of(SASL_SSL),
            "KAFKA_SECURITY_PROTOCOL": SASL_SSL,
            "KAFKA_SASL_MECHANISM": mechanism,
            "KAFKA_SASL_USERNAME": name,
            "KAFKA_SASL_PASSWORD_FILE": str(file),
            "KAFKA_SSL_CA_LOCATION": str(self.authority.certificate),
        }

    def by_certificate(self, name: str, authority: Authority | None = None) -> dict[str, str]:
        """Give the settings of one who shows a certificate."""
        issued = (authority or self.authority).issue(name)
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.broker.bootstrap_of(SSL),
            "KAFKA_SECURITY_PROTOCOL": SSL,
            "KAFKA_SSL_CA_LOCATION": str(self.authority.certificate),
            "KAFKA_SSL_CERTIFICATE_LOCATION": str(issued.certificate),
            "KAFKA_SSL_KEY_LOCATION": str(issued.key),
        }


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """The broker, our users, each with the rights declared for it, and topics that one made."""
    directory = tmp_path_factory.mktemp("secured")
    authority = Authority(directory / "authority")
    with Broker(
        directory / "kafka", listeners=(SASL_SSL, SSL), properties=authority.properties()
    ) as broker:
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        add_user(admin, "hasher", PASSWORD, "SCRAM-SHA-512")
        add_user(admin, "matcher", PASSWORD, "SCRAM-SHA-256")
        for user in USERS:
            grant(admin, user)
        found = Secured(broker, authority, Authority(directory / "strangers"), directory)
        made = run(found.by_certificate("operator"), "topics", "create")
        assert made.returncode == 0, made.stderr
        yield found


@pytest.fixture
def ready(secured: Secured, tmp_path: Path) -> Iterator[Stack]:
    """A stack that is not started."""
    found = Stack(tmp_path, broker=secured.broker, environment=without_settings(os.environ))
    try:
        yield found
    finally:
        found.stop()


def run(settings: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command that must end by itself."""
    return subprocess.run(
        [str(COMMAND), *arguments],
        env={**without_settings(os.environ), **settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=REFUSED_SECONDS,
    )


def settle(ready: Stack, members: list[Member], settings: Settings, *events: ImageIngested) -> None:
    """Start the members; publish each event when the one before it has ended."""
    ready._members = members
    for member in members:
        member.start()
    with Client(settings) as client:
        for event in events:
            client.ingest(event)
            assert client.wait(
                lambda event=event: client.ended(event.image_id),  # type: ignore[misc]
                WAIT_SECONDS,
                meanwhile=ready.require_alive,
            )
        (outcome,) = client.outcomes(events[-1].image_id)
    closest = outcome.outcome().closest_match
    assert closest is not None
    assert closest.image_id == events[0].image_id


def test_a_picture_is_matched_with_passwords(
    secured: Secured, ready: Stack, workspace: str
) -> None:
    """SCRAM-SHA-512 and -256 over TLS, through librdkafka and Faust; logs tell no password."""
    members = [
        ready.member("hasher-1", [str(COMMAND), "hasher"], secured.by_password("hasher")),
        ready.member(
            "matcher-1", [str(COMMAND), "matcher"], secured.by_password("matcher", "SCRAM-SHA-256")
        ),
    ]
    content = photograph_file(4_001)
    events = [ImageIngested(workspace, uuid.uuid4().hex, content=content) for _ in range(2)]
    settle(ready, members, ready.settings, *events)
    assert PASSWORD not in "".join(file.read_text() for file in ready.logs.glob("*.log"))


def test_each_process_works_with_certificates_and_with_its_rights(
    secured: Secured, ready: Stack, workspace: str
) -> None:
    """Hasher, matcher, API, canary and an operator, all at work; nobody has more rights."""
    port = free_port()
    keys_file = ready.directory / "keys.json"
    more = {"CHECK_DEDUP_API_PORT": str(port), "CHECK_DEDUP_KEYS_FILE": str(keys_file)}
    members = [
        ready.member(f"{role}-1", [str(COMMAND), role], secured.by_certificate(role) | more)
        for role in ("hasher", "matcher", "api", "canary")
    ]
    content = photograph_file(4_002)
    events = [ImageIngested(workspace, uuid.uuid4().hex, content=content) for _ in range(2)]
    settle(ready, members, ready.settings, *events)
    key = keys.create(keys_file, workspace, ["match"], now_ms=0)
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/match/",
        content,
        {"Authorization": f"Bearer {key}", "Content-Type": "image/jpeg"},
    )
    answer = json.loads(answered(request, ready))
    assert (answer["match"], answer["closest_match"]["score"]) == (True, 0)
    matcher = members[-1]
    wait_until(
        lambda: "as it must be" in matcher.log.read_text(),
        WAIT_SECONDS,
        told=matcher.log_tail,
        meanwhile=ready.require_alive,
    )
    checked = run(secured.by_certificate("operator"), "topics", "check")
    assert (checked.returncode, checked.stdout) == (0, "all topics are as declared\n")
    listed = run(secured.by_certificate("operator"), "dlq", "list")
    assert listed.returncode == 0, listed.stderr


def answered(request: urllib.request.Request, ready: Stack) -> str:
    """Ask the API until it answers: it refuses until the matcher answered its first question."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        ready.require_alive()
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as response:  # noqa: S310 - ours
                return str(response.read().decode())
        except (OSError, http.client.HTTPException):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@pytest.mark.parametrize("user", USERS, ids=[user.name for user in USERS])
def test_the_broker_grants_what_is_declared(secured: Secured, user: User) -> None:
    """Asked by the user itself, the broker lists for each topic these operations and no other."""
    settings = Settings.from_environment(secured.by_certificate(user.name))
    admin = admin_client(settings)
    visible = admin.list_topics(timeout=ANSWER_SECONDS).topics.keys() & TOPICS.keys()
    asked = admin.describe_topics(
        TopicCollection(sorted(visible)), include_authorized_operations=True
    )
    granted = {
        name: {operation.name for operation in future.result(ANSWER_SECONDS).authorized_operations}
        for name, future in asked.items()
    }
    declared = {
        access.name: {OPERATIONS[operation] for operation in access.operations}
        for access in user.access()
        if access.resource == "topic"
    }
    assert granted == declared


def test_what_is_not_granted_is_refused_by_name(secured: Secured) -> None:
    """A canary that would append to the log is told so, and that no waiting repairs it."""
    settings = Settings.from_environment(secured.by_certificate("canary"))

    async def append() -> None:
        deliver = DeliveringProducer(settings)
        try:
            await deliver([Outgoing(INDEX_LOG, b"key", b"value", (), 0)])
        finally:
            deliver.close(0.0)

    with pytest.raises(MisconfiguredError, match=r"index-log was not delivered.*authorization"):
        asyncio.run(append())


@pytest.mark.parametrize("command", ["hasher", "api"])
def test_a_wrong_password_ends_the_process(secured: Secured, command: str) -> None:
    """With exit code 1, a line that says so, and without the password."""
    settings = secured.by_password("hasher")
    del settings["KAFKA_SASL_PASSWORD_FILE"]
    wrong = f"{PASSWORD}-wrong"
    began = time.monotonic()
    ended = run(settings | {"KAFKA_SASL_PASSWORD": wrong}, command)
    assert time.monotonic() - began < REFUSED_SECONDS
    assert ended.returncode == 1
    (error,) = (line for line in ended.stderr.splitlines() if line.startswith("error: "))
    assert "SASL authentication error" in error
    assert "KAFKA_SECURITY_PROTOCOL=SASL_SSL" in error
    assert wrong not in ended.stderr + ended.stdout


def test_an_unknown_authority_ends_the_process(secured: Secured) -> None:
    """Whether it is the broker's certificate that we do not trust, or ours that it does not."""
    strangers = str(secured.strangers.certificate)
    theirs = run(secured.by_password("hasher") | {"KAFKA_SSL_CA_LOCATION": strangers}, "hasher")
    ours = run(secured.by_certificate("hasher", secured.strangers), "matcher")
    assert (theirs.returncode, ours.returncode) == (1, 1)
    assert "certificate verify failed" in theirs.stderr
    assert "KAFKA_SSL_CERTIFICATE_LOCATION" not in theirs.stderr
    (error,) = (line for line in ours.stderr.splitlines() if line.startswith("error: "))
    assert "certificate" in error
    assert "KAFKA_SECURITY_PROTOCOL=SSL" in error
