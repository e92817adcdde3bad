"""Hosts that do not answer: one dead host holds up nobody, and an outage of ours rejects nobody."""

import re
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from deploy.local.client import Client
from deploy.local.stack import Stack
from schemas.codec import Headers, encode_json
from schemas.records import ImageIngested
from schemas.topics import IMAGE_INGESTED
from tests.integration.picture_host import serving
from tests.integration.pictures import photograph_file

WAIT_SECONDS = 90.0
PICTURE = photograph_file(1_100)
DEAD_EVENTS = 500
NEIGHBOURS = 60
# They take 3 s. Held up in a window of 256, they took 25: the host is given up after 20 s.
NEIGHBOURS_SECONDS = 15.0
HOSTS = 16
PICTURES_PER_HOST = 4


def by_url(url: str) -> tuple[str, tuple[str, bytes, bytes, Headers]]:
    """Give a picture's id and its event."""
    event = ImageIngested("hosts", f"host-{uuid.uuid4().hex}", url=url)
    return event.image_id, (IMAGE_INGESTED, event.image_id.encode(), encode_json(event), ())


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A host that takes connections and never says anything."""
    with socket.create_server(("127.0.0.2", 0), backlog=2_000) as listening:
        yield listening.getsockname()[1]


def test_a_dead_host_holds_up_no_neighbour(
    client: Client, stack: Stack, silent_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """500 events of it stand before and between good ones, all on one partition.

    The good ones have their outcomes long before it is given up, and then all of its have ended.
    """
    dead = [by_url(f"http://127.0.0.2:{silent_port}/{n}") for n in range(DEAD_EVENTS)]
    with serving(PICTURE) as port:
        good = [by_url(f"http://127.0.0.1:{port}/{n}") for n in range(NEIGHBOURS)]
        began = time.monotonic()
        half = DEAD_EVENTS - NEIGHBOURS
        mixed = [each for pair in zip(dead[half:], good, strict=True) for each in pair]
        client.send(*(record for _, record in (*dead[:half], *mixed)), partition=0)
        assert client.wait(
            lambda: all(client.outcomes(image_id) for image_id, _ in good),
            WAIT_SECONDS,
            meanwhile=stack.require_alive,
        )
        took_seconds = time.monotonic() - began
        still_waiting = sum(not client.ended(image_id) for image_id, _ in dead)
    assert client.wait(
        lambda: all(client.ended(image_id) for image_id, _ in dead),
        WAIT_SECONDS,
        meanwhile=stack.require_alive,
    )
    given_up_seconds = time.monotonic() - began
    with capsys.disabled():
        print(  # noqa: T201 - a figure that the README states
            f"\n{NEIGHBOURS} neighbours of {DEAD_EVENTS} events of a dead host: "
            f"{took_seconds:.1f} s; the host given up after {given_up_seconds:.1f} s"
        )
    assert took_seconds < NEIGHBOURS_SECONDS
    assert still_waiting > DEAD_EVENTS // 2
    reasons = {
        letter.header("dlq-reason")
        for image_id, _ in dead
        for letter in client.dead_letters(image_id)
    }
    assert reasons <= {"fetch_timeout", "host_failing"}
    assert all(client.dead_letters(image_id) for image_id, _ in dead)


def _said(stack: Stack, what: str) -> int:
    """Count the lines of the hashers' logs that begin to say so."""
    logs = (file.read_text(errors="replace") for file in stack.logs.glob("hasher-*.log"))
    return sum(len(re.findall(what, text)) for text in logs)


def test_an_outage_of_ours_rejects_nobody(client: Client, stack: Stack) -> None:
    """No host answers: the hashers wait, and say so once each; the hosts are back: all end well."""
    begun, over = _said(stack, "no network"), _said(stack, "answers again")
    with ExitStack() as hosts:
        places = []
        for number in range(HOSTS):
            with socket.socket() as probe:
                probe.bind((f"127.0.0.{100 + number}", 0))
                places.append(probe.getsockname())
        pictures = [
            by_url(f"http://{address}:{port}/{n}")
            for n in range(PICTURES_PER_HOST)
            for address, port in places
        ]
        client.send(*(record for _, record in pictures))
        assert client.wait(
            lambda: _said(stack, "no network") > begun, WAIT_SECONDS, meanwhile=stack.require_alive
        )
        # Longer than any attempt would last: four seconds are what one event's fetching gets.
        assert not client.wait(
            lambda: any(client.ended(image_id) for image_id, _ in pictures),
            8.0,
            meanwhile=stack.require_alive,
        )
        for address, port in places:
            hosts.enter_context(serving(PICTURE, address, port))
        assert client.wait(
            lambda: all(client.ended(image_id) for image_id, _ in pictures),
            WAIT_SECONDS,
            meanwhile=stack.require_alive,
        )
    for image_id, _ in pictures:
        assert client.dead_letters(image_id) == []
        assert len(client.outcomes(image_id)) == 1
    assert _said(stack, "no network") - begun <= 2
    assert _said(stack, "answers again") - over == _said(stack, "no network") - begun
