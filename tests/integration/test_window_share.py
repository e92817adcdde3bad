"""Neither a workspace with many slow pictures nor a slow host holds up anybody else."""

import os
import time
import uuid
from collections.abc import Iterator

import pytest

from deploy.local.broker import Broker
from deploy.local.client import Client
from deploy.local.stack import Stack, without_settings
from schemas.records import ImageIngested
from streams.telemetry.scrape import Scrape
from tests.integration.picture_host import serving
from tests.integration.pictures import photograph_file

WAIT_SECONDS = 120.0
PICTURE = photograph_file(8_100)
# Far more than the window has room for, let alone a share of it; of several hosts or workspaces.
FLOOD = 120
SEVERAL = 100
SLOW_SECONDS = 3.0
NEIGHBOURS = 60
# They take 1 s. Behind the flood they would take 12 s: 32 of its pictures are fetched at a time.
NEIGHBOURS_SECONDS = 6.0
SETTINGS = {
    "CHECK_DEDUP_PARTITIONS": "1",
    "CHECK_DEDUP_DECODE_PROCESSES": "1",
    "CHECK_DEDUP_WINDOW_SIZE": "64",
}


def slow(path: str) -> float:
    """Those below /slow take their time."""
    return SLOW_SECONDS if path.startswith("/slow") else 0.0


@pytest.fixture
def port() -> Iterator[int]:
    """Run the hosts, all addresses of this machine; give their port."""
    with serving(PICTURE, "0.0.0.0", delay_seconds=slow) as running:  # noqa: S104 - many hosts
        yield running


@pytest.mark.parametrize("full", ["workspace 'flood-0'", "host '127.0.1.0'"])
def test_a_flood_of_slow_pictures_holds_up_nobody_else(
    own_broker: Broker,
    tmp_path_factory: pytest.TempPathFactory,
    port: int,
    capsys: pytest.CaptureFixture[str],
    full: str,
) -> None:
    """The others are done long before it is; then it is done too, each picture once."""
    workspaces, hosts = (1, SEVERAL) if full.startswith("workspace") else (SEVERAL, 1)
    flood = [
        ImageIngested(
            f"flood-{number % workspaces}",
            uuid.uuid4().hex,
            url=f"http://127.0.1.{number % hosts}:{port}/slow/{number}",
        )
        for number in range(FLOOD)
    ]
    neighbours = [
        ImageIngested("other", uuid.uuid4().hex, url=f"http://127.0.0.1:{port}/{number}")
        for number in range(NEIGHBOURS)
    ]
    with (
        Stack(
            tmp_path_factory.mktemp("stack"),
            broker=own_broker,
            settings=SETTINGS,
            environment=without_settings(os.environ),
        ) as stack,
    ):
        stack.await_ready()
        with Client(stack.settings) as client:
            client.ingest(*flood)
            began = time.monotonic()
            client.ingest(*neighbours)
            assert client.wait(
                lambda: all(client.outcomes(event.image_id) for event in neighbours),
                WAIT_SECONDS,
                meanwhile=stack.require_alive,
            )
            took_seconds = time.monotonic() - began
            waiting = sum(not client.ended(event.image_id) for event in flood)
            hasher = stack.members[0]
            parked = Scrape.of(hasher.metrics_url).total("check_dedup_parked_events")
            assert client.wait(
                lambda: all(client.ended(event.image_id) for event in flood),
                WAIT_SECONDS,
                meanwhile=stack.require_alive,
            )
            flood_seconds = time.monotonic() - began
            assert all(len(client.outcomes(event.image_id)) == 1 for event in flood + neighbours)
            left = Scrape.of(hasher.metrics_url).total("check_dedup_parked_events")
    with capsys.disabled():
        print(  # noqa: T201 - a figure that a decision states
            f"\n{NEIGHBOURS} neighbours of {FLOOD} slow events of {full}: "
            f"{took_seconds:.1f} s; those are done after {flood_seconds:.1f} s"
        )
    assert took_seconds < NEIGHBOURS_SECONDS
    assert f"{full} has its share" in hasher.log.read_text()
    assert waiting > FLOOD / 3
    assert parked > 0
    assert left == 0
