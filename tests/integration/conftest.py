"""The broker that the integration tests share: a real one, or a failure."""

from collections.abc import Iterator

import pytest

from deploy.local.broker import Broker, ExternalBroker, broker_from_environment


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker | ExternalBroker]:
    """A running broker; KAFKA_BOOTSTRAP_SERVERS decides whose.

    Shared: a test makes topics and groups with names of its own. One that stops or kills a broker
    starts its own `Broker(tmp_path)`.
    """
    with broker_from_environment(tmp_path_factory.mktemp("kafka")) as running:
        yield running
