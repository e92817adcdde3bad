"""What each process may do on the broker, and no more: declared once, from who reads and writes.

Printed by `check-dedup topics acls`, turned into the users of a cluster by `deploy/`, and proven on
a broker with an authorizer by tests/integration/test_secured.py, where each process works with
exactly these. Topics and their readers and writers are those of `schemas.topics`; groups are those
of `streams.kafka.topics`; what is added here is what starting asks, and what people run.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Final, Literal

from schemas.topics import (
    IMAGE_INGESTED,
    IMAGE_MATCHED,
    IMAGE_REMOVED,
    INDEX_LOG,
    TOPICS,
    dead_letter_topic_name,
)
from streams.kafka.client import DIRECT_GROUP
from streams.kafka.topics import GROUP_TOPICS, HASHER_GROUP, MATCHER_GROUP

Resource = Literal["topic", "group", "cluster"]
Operation = Literal["Alter", "Create", "Delete", "Describe", "DescribeConfigs", "Read", "Write"]

CLUSTER: Final = "kafka-cluster"
"""Kafka's own name of the one cluster that there is."""


@dataclass(frozen=True, slots=True, order=True)
class Access:
    """What one may do with one thing; names are literal."""

    resource: Resource
    name: str
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class User:
    """One who speaks to the broker."""

    name: str
    meaning: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    group: str | None = None
    """Of which it is a member."""
    operator: bool = False
    """Makes topics, and sets groups' offsets."""
    checks: bool = True
    """Starts only where all topics are as declared."""

    def access(self) -> tuple[Access, ...]:
        """Give all that it needs; each thing once, in order."""
        wanted: defaultdict[tuple[Resource, str], set[Operation]] = defaultdict(set)
        if self.checks:
            # Is everything as declared, and by which settings was the log written?
            for name in TOPICS:
                wanted["topic", name] = {"Describe", "DescribeConfigs"}
            wanted["topic", INDEX_LOG].add("Read")
            for group in GROUP_TOPICS:
                wanted["group", group] = {"Describe"}
        # Never joined: librdkafka asks who coordinates it, and takes a refusal for an error.
        wanted["group", DIRECT_GROUP] = {"Describe"}
        for name in self.reads:
            wanted["topic", name] |= {"Describe", "Read"}
        for name in self.writes:
            wanted["topic", name] |= {"Describe", "Write"}
        if self.group is not None:
            wanted["group", self.group].add("Read")
        if self.operator:
            wanted["cluster", CLUSTER] = {"Create"}
            for group in GROUP_TOPICS:
                wanted["group", group].add("Read")
        return tuple(
            Access(resource, name, tuple(sorted(operations)))
            for (resource, name), operations in sorted(wanted.items())
        )


def _reads(process: str) -> tuple[str, ...]:
    return tuple(name for name, topic in TOPICS.items() if process in topic.readers)


def _writes(process: str) -> tuple[str, ...]:
    return tuple(name for name, topic in TOPICS.items() if process in topic.writers)


# An operator looks at everything, and sends dead letters back to where they came from.
_SOURCES: Final = tuple(name for name in TOPICS if dead_letter_topic_name(name) in TOPICS)

USERS: Final[tuple[User, ...]] = (
    User(
        "hasher",
        "check-dedup hasher",
        _reads("hasher"),
        _writes("hasher"),
        HASHER_GROUP,
    ),
    User(
        "matcher",
        "check-dedup matcher",
        _reads("matcher"),
        _writes("matcher"),
        MATCHER_GROUP,
    ),
    User("api", "check-dedup api", _reads("api"), _writes("api")),
    User(
        "canary",
        "check-dedup canary: publishes as Check does, and hears what comes of it",
        (IMAGE_MATCHED,),
        (IMAGE_INGESTED, IMAGE_REMOVED),
        checks=False,
    ),
    User(
        "operator",
        "check-dedup topics, dlq, log, index and publish",
        tuple(TOPICS),
        (*_SOURCES, *_writes("topics create"), *_writes("dlq")),
        operator=True,
    ),
)


def user(name: str) -> User:
    """Give a user by name."""
    return next(one for one in USERS if one.name == name)
