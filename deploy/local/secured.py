"""What makes a local broker one that trusts nobody: TLS, mutual TLS, SCRAM and an authorizer.

Given to `deploy.local.broker.Broker` by the tests of our transport settings and access lists. Its
certificates are of an authority made on the spot and are worth nothing elsewhere. Whoever comes by
the plain listener, on loopback, is the administrator; by the others, one is who one proves to be.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trustme
from confluent_kafka.admin import (  # type: ignore[attr-defined] # its stubs export less
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives import serialization

from streams.kafka.access import Operation, Resource, User

SASL_SSL: Final = "SASL_SSL"
SSL: Final = "SSL"
_RESOURCES: Final[dict[Resource, ResourceType]] = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "cluster": ResourceType.BROKER,
}
OPERATIONS: Final[dict[Operation, str]] = {
    "Alter": "ALTER",
    "Create": "CREATE",
    "Delete": "DELETE",
    "Describe": "DESCRIBE",
    "DescribeConfigs": "DESCRIBE_CONFIGS",
    "Read": "READ",
    "Write": "WRITE",
}
_ITERATIONS: Final = 4096
_ANSWER_SECONDS: Final = 10.0

_PROPERTIES: Final = """\
# --- secured
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
# The broker itself, and who administrates it, come by the plain listener.
super.users=User:ANONYMOUS
allow.everyone.if.no.acl.found=false
sasl.enabled.mechanisms=SCRAM-SHA-512,SCRAM-SHA-256
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.type=PEM
ssl.keystore.location={server}
ssl.truststore.type=PEM
ssl.truststore.location={authority}
listener.name.ssl.ssl.client.auth=required
ssl.principal.mapping.rules=RULE:^.*CN=([^,]+).*$/$1/
"""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, in PEM files."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority in `directory`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._authority = trustme.CA()
        self.certificate = directory / "authority.pem"
        self._authority.cert_pem.write_to_path(self.certificate)

    def issue(self, name: str) -> Certificate:
        """Sign a certificate of 127.0.0.1 whose holder is called so."""
        issued = self._authority.issue_cert("127.0.0.1", common_name=name)
        key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), password=None)
        made = Certificate(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        made.certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        made.key.write_bytes(
            # The one form that Kafka reads.
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return made

    def properties(self) -> str:
        """Give the broker's configuration, with a certificate of its own."""
        issued = self.issue("broker")
        server = self._directory / "broker-both.pem"
        server.write_bytes(issued.key.read_bytes() + issued.certificate.read_bytes())
        return _PROPERTIES.format(server=server, authority=self.certificate)


def add_user(admin: AdminClient, name: str, password: str, mechanism: str) -> None:
    """Let `name` in by SCRAM with this password."""
    kind = ScramMechanism[mechanism.replace("-", "_")]
    wanted = UserScramCredentialUpsertion(
        name, ScramCredentialInfo(kind, _ITERATIONS), password.encode()
    )
    for done in admin.alter_user_scram_credentials([wanted]).values():
        done.result(_ANSWER_SECONDS)


def grant(admin: AdminClient, user: User) -> None:
    """Allow a user what is declared for it, and nothing else."""
    wanted = [
        AclBinding(
            _RESOURCES[access.resource],
            access.name,
            ResourcePatternType.LITERAL,
            f"User:{user.name}",
            "*",
            AclOperation[OPERATIONS[operation]],
            AclPermissionType.ALLOW,
        )
        for access in user.access()
        for operation in access.operations
    ]
    for done in admin.create_acls(wanted).values():
        done.result(_ANSWER_SECONDS)
