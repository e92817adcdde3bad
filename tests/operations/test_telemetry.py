"""Every query of every dashboard and alert, on a real Prometheus that scrapes the real processes.

Pictures of every kind come in, with poison, redeliveries, slow hosts and one that fails; a matcher
is killed. Then each query has to parse and to give data, and the numbers of the promise have to be
those of what was sent. The panels are drawn into build/dashboards.
"""

import io
import math
import os
import signal
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from itertools import islice
from typing import Final

import promql_parser
import pytest
from PIL import Image

from deploy.generate.dashboards import DASHBOARDS, Dashboard
from deploy.local.client import Client, Record
from deploy.local.prometheus import Prometheus, PrometheusError, Series
from deploy.local.stack import COMMAND, Member, Stack, stop_members, without_settings
from schemas.codec import encode_json
from schemas.reasons import Reason
from schemas.records import ImageIngested
from schemas.topics import IMAGE_INGESTED, IMAGE_MATCHED
from tests.faults.harness import PictureHost
from tests.faults.traffic import Event, traffic
from tests.operations.drawing import draw
from tests.operations.tools import ROOT, tool
from tests.oracle import Picture
from tests.waiting import wait_until

SEED: Final = 7
EVENTS: Final = 400
MORE_EVENTS: Final = 100
DONE_SECONDS: Final = 240.0
AGREED_SECONDS: Final = 30.0
SCRAPE_SECONDS: Final = 1
# Grafana's: four scrapes at least; more, since a busy machine misses some.
RATE_INTERVAL: Final = "20s"

# Panels that are empty while all is well: what to evaluate instead, and why.
EMPTY_IN_PEACE: Final = {
    "min(check_dedup_disk_free_bytes / (-deriv(check_dedup_disk_free_bytes[1d]) > 0)) / 86400": (
        "deriv(check_dedup_disk_free_bytes[1d])",
        "the disk may be getting emptier at the moment",
    ),
    "(0.1 - check_dedup:search_seconds:avg) / "
    "(deriv(check_dedup:search_seconds:avg[1d]) > 0) / 86400": (
        "deriv(check_dedup:search_seconds:avg[1d])",
        "searches may be getting faster at the moment",
    ),
}
# Series that these minutes do not have, and why.
NOT_HERE: Final = {
    'check_dedup_http_requests_total{endpoint="match",status=~"5.."}': "no request fails here",
}


@dataclass(frozen=True, slots=True)
class Run:
    """The product under load, watched."""

    stack: Stack
    canary: Member
    client: Client
    watcher: Prometheus
    events: Iterator[Event]
    sent: list[Event]
    started: float

    def wait(self, what: str, condition: Callable[[], bool], seconds: float) -> None:
        """Wait for a condition, or fail by saying what did not come."""
        wait_until(condition, seconds, told=lambda: what, meanwhile=self.stack.require_alive)

    @property
    def pictures(self) -> set[Picture]:
        """All that have to get an outcome."""
        return {event.picture for event in self.sent if event.picture is not None}

    @property
    def reasons(self) -> Counter[str]:
        """All dead letters that have to be."""
        return Counter(event.reason for event in self.sent if event.reason is not None)

    def publish(self, events: list[Event]) -> None:
        """Publish events; wait for nothing."""
        self.client.send(*((e.topic, e.key, e.value, e.headers) for e in events))
        self.sent.extend(events)

    def await_ended(self) -> None:
        """Wait until all that was sent has ended, and Prometheus has seen it."""
        events = sum(event.topic == IMAGE_INGESTED for event in self.sent)
        finished = panel("Events finished")

        def ended() -> bool:
            self.client.wait(lambda: False, 0.2)
            told = {(o.workspace, o.image_id) for o in map(Record.outcome, self._outcomes())}
            return self.pictures <= told and self.watcher.number(finished) >= events

        self.wait("outcomes", ended, DONE_SECONDS)

    def _outcomes(self) -> list[Record]:
        return self.client.records(IMAGE_MATCHED)


def panel(title: str) -> str:
    """Give the expression of a panel with one query."""
    (found,) = (
        query.expr
        for dashboard in DASHBOARDS
        for one in dashboard.panels
        for query in one.queries
        if one.title == title
    )
    return found.replace("$__rate_interval", RATE_INTERVAL)


def in_particular() -> Iterator[Event]:
    """What the traffic of the fault tests has not: a plain picture, and a host that hangs up."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (90, 200, 40)).save(file, "PNG")
    content = file.getvalue()
    yield _event(Picture("newsroom a", "plain"), content=content)
    # A port that nobody listens on.
    yield _event(Picture("newsroom a", "away"), url="http://127.0.0.1:1/away.jpg")


def _event(picture: Picture, *, url: str | None = None, content: bytes | None = None) -> Event:
    event = ImageIngested(*picture, url=url, content=content)
    reason: Reason | None = None if url is None else "fetch_failed"
    return Event(
        IMAGE_INGESTED,
        picture.image_id.encode(),
        encode_json(event),
        picture=picture if url is None else None,
        content=content or b"",
        reason=reason,
    )


def served_by(host: PictureHost, events: Iterator[Event]) -> Iterator[Event]:
    """Pass events on; their pictures are there to be fetched before."""
    for event in events:
        host.pictures[sha256(event.content).hexdigest()] = event.content
        yield event


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Start it all, and give it the first load; the second comes with a fault."""
    host = PictureHost()
    settings = {
        "CHECK_DEDUP_DECODE_PROCESSES": "1",
        "CHECK_DEDUP_FETCH_TIMEOUT_SECONDS": "6",
        "CHECK_DEDUP_CANARY_INTERVAL_SECONDS": "5",
    }
    stack = Stack(
        tmp_path_factory.mktemp("telemetry"),
        matchers=2,
        apis=1,
        settings=settings,
        environment=without_settings(os.environ),
    )
    with stack:
        stack.await_ready()
        tool("prometheus")
        # It begins with the second load: its pictures are not among those that are counted.
        canary = stack.member("canary-1", [str(COMMAND), "canary"])
        watching = stack.prometheus(canary, every_seconds=SCRAPE_SECONDS)
        assert watching is not None
        try:
            watching.start()
            with Client(stack.settings) as client:
                watcher = Prometheus(stack.prometheus_url)
                served = served_by(host, traffic(SEED, host.origin))
                made = Run(stack, canary, client, watcher, served, [], time.time())
                made.wait("Prometheus", watcher.ready, AGREED_SECONDS)
                up = f"count(up == 1) == {len(stack.members)}"
                made.wait("targets", lambda: bool(watcher.ask(up)), AGREED_SECONDS)
                yield made
        finally:
            stop_members([watching, canary])
            host.shutdown()
            host.server_close()


def test_the_numbers_of_the_promise_are_those_of_what_was_sent(run: Run) -> None:
    """Outcomes, dead letters by reason, and nothing left, exactly as they were sent."""
    run.publish([*in_particular(), *islice(run.events, EVENTS)])
    run.await_ended()
    reasons = 'sum by (reason) (check_dedup_dead_letters_total{topic="image-ingested"}) > 0'

    def numbers() -> tuple[float, float, dict[str, float]]:
        letters = {
            series.labels["reason"]: series.points[0][1] for series in run.watcher.ask(reasons)
        }
        outcomes, waiting = panel("Outcomes"), panel("Inputs without an outcome")
        return run.watcher.number(outcomes), run.watcher.number(waiting), letters

    letters = {reason: float(count) for reason, count in run.reasons.items()}
    wanted = (float(len(run.pictures)), 0.0, letters)
    deadline = time.monotonic() + AGREED_SECONDS
    while (found := numbers()) != wanted and time.monotonic() < deadline:
        time.sleep(SCRAPE_SECONDS)
    assert found == wanted
    counted = "sum(check_dedup_ingest_to_outcome_seconds_count)"
    assert run.watcher.number(counted) == len(run.pictures)


def ask_the_api(run: Run) -> None:
    """Send one picture over HTTP."""
    key = run.stack.command("keys", "create", "--workspace", "newsroom a", "--right", "match")
    content = next(event.content for event in run.sent if event.content)
    request = urllib.request.Request(  # noqa: S310 - ours
        f"{run.stack.api_urls[0]}/v1/match/",
        data=content,
        headers={"X-Api-Key": key.strip(), "Content-Type": "application/octet-stream"},
    )

    def answered() -> bool:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - ours
                return bool(answer.status == HTTPStatus.OK)
        except urllib.error.HTTPError as error:
            return error.code not in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}

    run.wait("an answer", answered, DONE_SECONDS)


@pytest.fixture(scope="module")
def watched(run: Run) -> Run:
    """More load, with a matcher that dies and comes back, and requests to the API."""
    if not run.sent:
        run.publish(list(islice(run.events, EVENTS)))
    run.canary.start()
    ask_the_api(run)
    matcher = next(member for member in run.stack.members if member.role == "matcher")
    for number in range(5):
        run.publish(list(islice(run.events, MORE_EVENTS // 5)))
        if number == 1:
            matcher.signal(signal.SIGKILL)
            matcher.wait(10)
            time.sleep(3 * SCRAPE_SECONDS)  # it is missed
            matcher.start()
        time.sleep(2)
    run.await_ended()
    ask_the_api(run)
    succeeded = "check_dedup_canary_last_success_timestamp_seconds > 0"
    run.wait("a round of the canary", lambda: bool(run.watcher.ask(succeeded)), DONE_SECONDS)
    time.sleep(5 * SCRAPE_SECONDS)
    return run


def numbers_of(found: list[Series]) -> list[Series]:
    """Give the series with at least one number in them."""
    kept = []
    for series in found:
        points = tuple((at, value) for at, value in series.points if math.isfinite(value))
        if points:
            kept.append(Series(series.labels, points))
    return kept


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.name)
def test_every_panel_has_data(watched: Run, dashboard: Dashboard) -> None:
    """Each query gives numbers, but those that are named; the panels are drawn."""
    answers: dict[tuple[str, str], list[Series]] = {}
    empty = []
    for one in dashboard.panels:
        for query in one.queries:
            expr = query.expr
            found = ask(watched, expr)
            answers[one.title, expr] = found
            if not found and expr in EMPTY_IN_PEACE:
                found = ask(watched, EMPTY_IN_PEACE[expr][0])
            if not found and not set(selectors(expr)) & NOT_HERE.keys():
                empty.append(f"{one.title}: {expr}")
    draw(dashboard, answers, ROOT / "build" / "dashboards" / f"{dashboard.name}.png")
    assert empty == []


def ask(run: Run, expr: str) -> list[Series]:
    """Evaluate over all the time of the run."""
    asked = expr.replace("$__rate_interval", RATE_INTERVAL)
    return numbers_of(run.watcher.ask_range(asked, run.started, time.time(), 2 * SCRAPE_SECONDS))


def selectors(expr: str) -> list[str]:
    """Give what an expression selects, by name and labels; an offset reaches before the run."""
    found: list[str] = []

    def visit(node: object) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            selected = str(node).split("[")[0].split(" offset ")[0]
            found.append(selected.removesuffix("{}"))
        return True

    promql_parser.walk(promql_parser.parse(expr.replace("$__rate_interval", "1m")), visit)
    return found


def test_every_rule_is_evaluated_on_data(watched: Run) -> None:
    """Prometheus takes each rule, and each series that it looks at exists, but those named."""
    rules = watched.watcher.rules()
    assert {rule["health"] for rule in rules} == {"ok"}, [rule.get("lastError") for rule in rules]
    missing = [
        f"{rule['name']}: {selected}"
        for rule in rules
        for selected in selectors(rule["query"])
        if selected not in NOT_HERE and not ask(watched, selected)
    ]
    assert missing == []


def test_a_bad_query_is_an_error(run: Run) -> None:
    """What is no PromQL does not pass for an empty panel."""
    with pytest.raises(PrometheusError):
        run.watcher.ask("sum by (topic (check_dedup_lag_records)")
