"""Strimzi's KafkaTopic for every declared topic.

Made by `make manifests` from `schemas.topics`; a test holds the files against the declarations.
The counts are those of overlays/production.
"""

from typing import Final

import yaml

from schemas.topics import TOPICS, Topic

# Where Strimzi's operators look, and whose cluster it is; an overlay may patch both.
NAMESPACE: Final = "kafka"
CLUSTER: Final = "kafka"
PARTITIONS: Final = 12
REPLICAS: Final = 3

WRITTEN: Final = "# Written by `make manifests`; change what it is made from.\n"


def topics() -> str:
    """Give all topics as one YAML file."""
    return WRITTEN + yaml.safe_dump_all(map(_topic, TOPICS.values()), sort_keys=False)


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
