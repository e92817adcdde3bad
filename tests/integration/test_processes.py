"""The processes as such: how they start, stop, and whom they talk to. On a broker of their own."""

import json
import os
import signal
import socketserver
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from deploy.local.broker import Broker
from deploy.local.client import Client
from deploy.local.stack import COMMAND, Member, Stack, without_settings
from schemas.records import ImageIngested
from tests.integration.pictures import photograph_file
from tests.waiting import wait_until

WAIT_SECONDS = 60.0
# The processes bound their stop with 20 s.
STOP_SECONDS = 22.0


@pytest.fixture
def ready(own_broker: Broker, tmp_path: Path) -> Iterator[Stack]:
    """A stack that is not started, on a broker with our topics."""
    found = Stack(tmp_path, broker=own_broker, environment=without_settings(os.environ))
    found.command("topics", "create")
    try:
        yield found
    finally:
        found.stop()


def test_publish_shows_names_and_reasons(ready: Stack, tmp_path: Path) -> None:
    """What was published earlier is named by its file; equal names are told apart."""
    for folder, content in (("a", photograph_file(3_001)), ("b", b"text")):
        (tmp_path / "sent" / folder).mkdir(parents=True)
        (tmp_path / "sent" / folder / "picture.jpg").write_bytes(content)
    sent = tmp_path / "sent"
    arguments = ("--workspace", "w", "--wait", "--timeout-seconds", "60")
    ready.start()
    first = ready.command("publish", str(sent), *arguments)
    assert "a/picture.jpg" in first
    assert "b/picture.jpg" in first
    assert "no match" in first
    assert "not_an_image" in first
    later = tmp_path / "again.png"
    later.write_bytes((sent / "a" / "picture.jpg").read_bytes())
    (row,) = (
        line
        for line in ready.command("publish", str(later), *arguments).splitlines()
        if line.startswith("again.png")
    )
    assert row.split() == ["again.png", "confirmed", "picture.jpg", "0", "0", "identical"]


def unready(member: Member) -> object:
    """What a process that answers says of why it is not ready."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        try:
            with urlopen(member.metrics_url.replace("metrics", "readyz"), timeout=5) as response:  # noqa: S310 - ours
                return json.load(response)["failing"]
        except HTTPError as error:
            return json.load(error)["failing"]
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"{member.name} does not answer; {member.log_tail()}")


def test_nobody_is_ready_before_it_has_started(ready: Stack, own_broker: Broker) -> None:
    """A rolling update would go on to the next process while this one waits for its broker."""
    own_broker.pause()
    try:
        for member in ready.members:
            member.start()
        reasons = [unready(member) for member in ready.members]
    finally:
        own_broker.resume()
    assert reasons == [{"start": "it has not started yet"}] * 2
    wait_until(lambda: not any(map(unready, ready.members)), WAIT_SECONDS)


def test_a_terminated_process_exits_cleanly(ready: Stack) -> None:
    """SIGTERM ends hashers and matchers with exit code 0, within their bound."""
    ready.start()
    ready.await_ready()
    began = time.monotonic()
    for member in ready.members:
        member.signal(signal.SIGTERM)
    assert [member.wait(STOP_SECONDS) for member in ready.members] == [0, 0]
    assert time.monotonic() - began < STOP_SECONDS


def test_stopping_leaves_nothing_and_starting_again_changes_nothing(ready: Stack) -> None:
    """A second start starts nothing; `stop` names what it stopped, children included."""
    ready.start()
    ready.await_ready()
    processes = [member.process() for member in ready.members]
    family = [child for process in processes if process for child in process.children()]
    ready.start()
    assert [member.process() for member in ready.members] == processes
    other = Stack(ready.directory, broker=ready._broker, environment=os.environ)
    assert [member.process() for member in other.members] == processes
    assert other.stop() == ["hasher-1", "matcher-1"]
    assert not any(process.is_running() for process in (*filter(None, processes), *family))
    assert other.stop() == []


# On this machine 127.0.0.2 plays a host of the Internet; all other addresses are what they are.
PUBLIC = "127.0.0.2"
WITH_A_PUBLIC_HOST = f"""
from streams.fetching import fetch
from streams.cli.main import main

is_public = fetch.is_public
fetch.is_public = lambda address: address == {PUBLIC!r} or is_public(address)
main()
"""


class Redirects(BaseHTTPRequestHandler):
    """Sends a picture, or to where the path says; `asked` is who was reached."""

    asked: list[tuple[str, str]] = []  # noqa: RUF012 - one list for all requests

    def do_GET(self) -> None:
        """Answer."""
        self.asked.append((self.request.getsockname()[0], self.path))
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", "http://" + self.path.removeprefix("/to/"))
            self.end_headers()
            return
        content = photograph_file(3_003)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def match_by_url(stack: Stack, key: str, url: str) -> str:
    """Send a URL to the API; give what the answer is in a word or two."""
    request = Request(  # noqa: S310 - our own server
        f"{stack.api_urls[0]}/v1/match/",
        json.dumps({"url": url}).encode(),
        {"Content-Type": "application/json", "X-Api-Key": key},
    )
    try:
        with urlopen(request, timeout=WAIT_SECONDS) as response:  # noqa: S310 - the same
            return "matched" if json.load(response)["match"] else "not matched"
    except HTTPError as error:
        return f"{error.code} {json.load(error)['error']['code']}"


def test_no_address_inside_is_reached(ready: Stack, workspace: str) -> None:
    """By an event or a request, directly or redirected, with the default; a public host is."""
    by_default = {"CHECK_DEDUP_ALLOW_PRIVATE_ADDRESSES": ""} | ready._addresses("api", "api-1")
    ready._members = [
        ready.member("matcher-1", [str(COMMAND), "matcher"]),
        *(
            ready.member(f"{role}-1", [sys.executable, "-c", WITH_A_PUBLIC_HOST, role], by_default)
            for role in ("hasher", "api")
        ),
    ]
    ready.start()
    ready.await_ready()
    key = ready.command("keys", "create", "--workspace", workspace, "--right", "match").strip()
    with (
        socketserver.ThreadingTCPServer(("0.0.0.0", 0), Redirects) as server,  # noqa: S104 - both addresses
        Client(ready.settings) as client,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        public = f"http://{PUBLIC}:{port}"
        refused = [
            f"http://127.0.0.1:{port}/direct.jpg",
            f"http://localhost:{port}/direct.jpg",
            *(
                f"{public}/to/{place}"
                for place in (
                    f"127.0.0.1:{port}/redirected.jpg",
                    f"2130706433:{port}/redirected.jpg",
                    f"[::ffff:127.0.0.1]:{port}/redirected.jpg",
                    "169.254.169.254/latest/meta-data",
                    "10.0.0.1/redirected.jpg",
                    f"{PUBLIC}:{port}/to/127.0.0.1:{port}/redirected-twice.jpg",
                )
            ),
        ]
        ids = [uuid.uuid4().hex for _ in refused]
        good = uuid.uuid4().hex
        urls = dict(zip(ids, refused, strict=True)) | {good: f"{public}/good.jpg"}
        client.ingest(*(ImageIngested(workspace, name, url=url) for name, url in urls.items()))
        assert client.wait(
            lambda: all(map(client.ended, urls)), WAIT_SECONDS, meanwhile=ready.require_alive
        )
        reasons = [letter.header("dlq-reason") for i in ids for letter in client.dead_letters(i)]
        codes = [match_by_url(ready, key, url) for url in refused]
        good_by_request = match_by_url(ready, key, urls[good])
        server.shutdown()
    assert reasons == ["address_refused"] * len(refused)
    assert codes == ["400 address_refused"] * len(refused)
    assert len(client.outcomes(good)) == 1
    assert good_by_request == "matched"
    assert {address for address, _ in Redirects.asked} == {PUBLIC}


def test_two_hashers_without_names_share_the_work(tmp_path: Path) -> None:
    """Replicas without an instance id are dynamic members: each gets its partitions."""
    with Broker(tmp_path / "kafka") as broker:
        stack = Stack(tmp_path, broker=broker, environment=without_settings(os.environ))
        unnamed = {"CHECK_DEDUP_INSTANCE_ID": ""}
        stack._members = [
            stack.member(f"hasher-{number}", [str(COMMAND), "hasher"], unnamed) for number in (1, 2)
        ] + [stack.member("matcher-1", [str(COMMAND), "matcher"])]
        try:
            stack.start()
            stack.await_ready(25.0)
        finally:
            stack.stop()
