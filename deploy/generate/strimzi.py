"""Strimzi's KafkaTopic for every declared topic, KafkaUser for every process, and their places.

Made by `make manifests` from `schemas.topics` and `streams.kafka.access`; a test holds the files
against the declarations. The counts are those of overlays/production.
"""

from typing import Final

import yaml

from schemas.topics import TOPICS, Topic
from streams.kafka.access import USERS, Access, User

# Where Strimzi's operators look, and whose cluster it is; an overlay may patch both.
NAMESPACE: Final = "kafka"
CLUSTER: Final = "kafka"
PARTITIONS: Final = 12
REPLICAS: Final = 3

WRITTEN: Final = "# Written by `make manifests`; change what it is made from.\n"


def topics() -> str:
    """Give all topics as one YAML file."""
    return WRITTEN + yaml.safe_dump_all(map(_topic, TOPICS.values()), sort_keys=False)


def users() -> str:
    """Give all users, each with no more than its process needs, as one YAML file."""
    return WRITTEN + yaml.safe_dump_all(map(_user, USERS), sort_keys=False)


def user_name(process: str) -> str:
    """Name the user of a process, and the Secret that Strimzi makes for it."""
    return f"check-dedup-{process}"


def _user(declared: User) -> dict[str, object]:
    return {
        "apiVersion": "kafka.strimzi.io/v1",
        "kind": "KafkaUser",
        "metadata": {
            "name": user_name(declared.name),
            "namespace": NAMESPACE,
            "labels": {"strimzi.io/cluster": CLUSTER},
        },
        "spec": {
            "authentication": {"type": "tls"},
            "authorization": {
                "type": "simple",
                "acls": [_acl(access) for access in declared.access()],
            },
        },
    }


def _acl(access: Access) -> dict[str, object]:
    resource: dict[str, object] = {"type": access.resource}
    if access.resource != "cluster":
        resource |= {"name": access.name, "patternType": "literal"}
    return {"resource": resource, "operations": list(access.operations)}


def _topic(declared: Topic) -> dict[str, object]:
    return {
        "apiVersion": "kafka.strimzi.io/v1",
        "kind": "KafkaTopic",
        "metadata": {
            "name": declared.name,
            "namespace": NAMESPACE,
            "labels": {"strimzi.io/cluster": CLUSTER},
        },
        "spec": {
            "partitions": PARTITIONS,
            "replicas": REPLICAS,
            "config": declared.config(),
        },
    }
