"""A cluster that has no controller for a moment, which no real broker can be told to be."""

from types import SimpleNamespace
from typing import cast

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from streams.errors import RetryableError
from streams.kafka import client


class Cluster:
    """Tells in turn who its controller is, -1 for nobody; says nothing at a None."""

    def __init__(self, *controllers: int | None) -> None:
        self.controllers = list(controllers)

    def list_topics(self, topic: str, timeout: float) -> SimpleNamespace:
        """Give the metadata of a topic."""
        assert topic == "a-topic"
        assert 0 < timeout <= 0.3
        controller = self.controllers.pop(0)
        if controller is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return SimpleNamespace(controller_id=controller)

    def awaited(self) -> float:
        """Wait for the controller as `topic_identity` does; give the seconds that are left."""
        return client._await_controller(cast("AdminClient", self), "a-topic", 0.3, "describing it")


def test_a_controller_that_is_there_is_not_waited_for() -> None:
    """One question, and nearly all of the time is left."""
    assert 0.2 < Cluster(1).awaited() <= 0.3


def test_a_cluster_without_a_controller_is_asked_until_there_is_one() -> None:
    """Alone, librdkafka would wait until its time is over."""
    cluster = Cluster(-1, -1, 1, -1)
    assert 0 < cluster.awaited() <= 0.3
    assert cluster.controllers == [-1]


def test_a_cluster_that_stays_without_a_controller_may_have_one_later() -> None:
    """Nor is it waited for longer than one is told to."""
    with pytest.raises(RetryableError, match=r"describing it: .* no controller for 0\.3 s"):
        Cluster(*[-1] * 100).awaited()


def test_a_cluster_that_does_not_answer_may_do_so_later() -> None:
    """Its error says what was asked."""
    with pytest.raises(RetryableError, match="describing it"):
        Cluster(-1, None).awaited()
