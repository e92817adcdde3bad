"""A broker that trusts nobody: TLS, mutual TLS, SCRAM, an authorizer. One for all tests here."""

import os
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined] # its stubs export less
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from deploy.local.broker import Broker
from deploy.local.client import Client
from deploy.local.secured import SASL_SSL, SSL, Authority, add_user
from deploy.local.stack import COMMAND, Stack, without_settings
from schemas.records import ImageIngested
from tests.integration.pictures import photograph_file

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
    """The broker, with the users `hasher` and `matcher`."""
    directory = tmp_path_factory.mktemp("secured")
    authority = Authority(directory / "authority")
    with Broker(
        directory / "kafka", listeners=(SASL_SSL, SSL), properties=authority.properties()
    ) as broker:
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        add_user(admin, "hasher", PASSWORD, "SCRAM-SHA-512")
        add_user(admin, "matcher", PASSWORD, "SCRAM-SHA-256")
        everything = [
            AclBinding(
                kind,
                name,
                ResourcePatternType.LITERAL,
                f"User:{user}",
                "*",
                AclOperation.ALL,
                AclPermissionType.ALLOW,
            )
            for user in ("hasher", "matcher")
            for kind, name in (
                (ResourceType.TOPIC, "*"),
                (ResourceType.GROUP, "*"),
                (ResourceType.BROKER, "kafka-cluster"),
            )
        ]
        for done in admin.create_acls(everything).values():
            done.result(ANSWER_SECONDS)
        yield Secured(broker, authority, Authority(directory / "strangers"), directory)


@pytest.fixture
def ready(secured: Secured, tmp_path: Path) -> Iterator[Stack]:
    """The topics, made by the administrator, and a stack that is not started."""
    found = Stack(tmp_path, broker=secured.broker, environment=without_settings(os.environ))
    found.command("topics", "create")
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


@pytest.mark.parametrize("way", ["password", "certificate"])
def test_a_picture_is_matched_over_tls(
    secured: Secured, ready: Stack, workspace: str, way: str
) -> None:
    """With SCRAM-SHA-512 and -256, or with certificates, both through librdkafka and Faust."""
    if way == "password":
        settings = {
            "hasher": secured.by_password("hasher"),
            "matcher": secured.by_password("matcher", "SCRAM-SHA-256"),
        }
    else:
        settings = {name: secured.by_certificate(name) for name in ("hasher", "matcher")}
    ready._members = [
        ready.member(f"{role}-1", [str(COMMAND), role], settings[role]) for role in settings
    ]
    ready.start()
    first, second = uuid.uuid4().hex, uuid.uuid4().hex
    with Client(ready.settings) as client:
        for name in (first, second):
            content = photograph_file(4_001)
            client.ingest(ImageIngested(workspace, name, content=content))
            assert client.wait(
                lambda name=name: client.ended(name),  # type: ignore[misc]
                WAIT_SECONDS,
                meanwhile=ready.require_alive,
            )
        (outcome,) = client.outcomes(second)
    closest = outcome.outcome().closest_match
    assert closest is not None
    assert closest.image_id == first
    assert PASSWORD not in "".join(file.read_text() for file in ready.logs.glob("*.log"))


@pytest.mark.parametrize("command", ["hasher", "matcher", "api"])
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
    assert "certificate" in ours.stderr.splitlines()[-1]
    assert "KAFKA_SECURITY_PROTOCOL=SSL" in ours.stderr.splitlines()[-1]
