"""The metrics of the running product agree with what was sent, exactly."""

import socket
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import pytest
from PIL import Image
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from deploy.local.client import Client
from deploy.local.demo import served
from deploy.local.stack import COMMAND, Member, Stack, stop_members
from schemas.records import ImageIngested
from schemas.topics import (
    IMAGE_INGESTED,
    IMAGE_MATCHED,
    IMAGE_REMOVED,
    INDEX_LOG,
    dead_letter_topic_name,
)
from streams.api import keys
from streams.telemetry.metrics import METRICS
from streams.telemetry.scrape import OPENMETRICS, Scrape, read
from tests.integration.pictures import copy_file, photograph_file, written
from tests.waiting import wait_until

WAIT_SECONDS = 90.0
TOPICS = (IMAGE_INGESTED, IMAGE_REMOVED, INDEX_LOG)
SILENT = "check_dedup_api_silent_partitions"
COPY = {"relation": "near_identical", "tier": "confirmed_sibling"}
NONE = {"relation": "none", "tier": "none"}
# Not in a run without faults, or only after ten minutes; their numbers are held by unit tests.
QUIET = {
    "check_dedup_dead_letters_undelivered",
    "check_dedup_decode_restarts_total",
    "check_dedup_fetch_failing_hosts",
    "check_dedup_lost_ranges_total",
    "check_dedup_parked_events",
    "check_dedup_index_band_merges_total",
    "check_dedup_index_band_files_bytes",
    "check_dedup_index_rebuild_remaining_records",
    "check_dedup_index_rebuilt_records_total",
    "check_dedup_index_ready_rebuilt_records",
    "check_dedup_rocksdb_pending_compaction_bytes",
    "check_dedup_rocksdb_write_stalls_total",
    "check_dedup_rocksdb_write_stopped",
    "check_dedup_top_workspace_pictures",
    "check_dedup_api_silent_partitions",
    # Gauges of what is under way; one test looks while something is.
    "check_dedup_lag_records",
    "check_dedup_lag_seconds",
    "check_dedup_watermark_age_seconds",
    "check_dedup_in_work_events",
    "check_dedup_fetches_in_flight",
    "check_dedup_http_requests_in_flight",
}


@pytest.fixture(scope="module")
def api(stack: Stack) -> Member:
    """The API of the stack, with somebody who answers for each partition."""
    (member,) = (member for member in stack.members if member.role == "api")
    wait_until(lambda: Scrape.of(member.metrics_url).values(SILENT) == [0], WAIT_SECONDS)
    return member


def scraped(stack: Stack) -> Scrape:
    """What all processes tell now; each must answer."""
    texts = [read(member.metrics_url) for member in stack.members]
    assert None not in texts
    return Scrape(text for text in texts if text is not None)


class Change:
    """What a while has changed in all numbers."""

    def __init__(self, before: Scrape, after: Scrape) -> None:
        self._before, self._after = before, after

    def __call__(self, name: str, **labels: str) -> float:
        """By how much a number rose."""
        name = f"check_dedup_{name}"
        return self._after.total(name, **labels) - self._before.total(name, **labels)


def settled(stack: Stack) -> Scrape:
    """What all processes tell once nothing waits, as asked of the broker after now."""
    began = time.time()

    def all_quiet() -> bool:
        found = scraped(stack)
        sampled = found.values("check_dedup_lag_sample_timestamp_seconds")
        # The API asks questions all the time.
        lags = (found.total("check_dedup_lag_records", topic=topic) for topic in TOPICS)
        return min(sampled) > began and not any(lags)

    wait_until(all_quiet, WAIT_SECONDS)
    return scraped(stack)


def post(member: Member, key: str, picture: bytes) -> int:
    """Send a picture to the API; give the status."""
    port = member.environment["CHECK_DEDUP_API_PORT"]
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/match/",
        data=picture,
        headers={"X-Api-Key": key, "Content-Type": "image/jpeg"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - our own
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture(scope="module")
def change(stack: Stack, client: Client, api: Member) -> Change:
    """Send some of everything; give what that changed.

    15 events: 6 new pictures (one by URL), 4 copies, one again, one id with other bytes, 3 that
    are no good. 2 removals, one no good. 4 requests: a copy, a plain one, a wrong key, no picture.
    """
    workspace = f"workspace-{uuid.uuid4().hex}"
    before = settled(stack)

    def picture(content: bytes, image_id: str = "") -> ImageIngested:
        return ImageIngested(workspace, image_id or uuid.uuid4().hex, content=content)

    def ended(*events: ImageIngested) -> bool:
        return client.wait(lambda: all(client.ended(e.image_id) for e in events), WAIT_SECONDS)

    originals = [picture(photograph_file(seed)) for seed in range(9000, 9005)]
    client.ingest(*originals)
    assert ended(*originals)
    again = [originals[0], picture(photograph_file(9999), originals[1].image_id)]
    with served({"there.jpg": photograph_file(9100)}) as url:
        new = [
            *(picture(copy_file(seed)) for seed in range(9000, 9004)),
            ImageIngested(workspace, uuid.uuid4().hex, url=url + "there.jpg"),
            ImageIngested(workspace, uuid.uuid4().hex, url=url + "gone.jpg"),
            picture(b"no picture"),
            picture(b"none either"),
        ]
        client.ingest(*new, *again)
        assert ended(*new)
    repeated = originals[:2]
    assert client.wait(
        lambda: all(len(client.outcomes(e.image_id)) == 2 for e in repeated), WAIT_SECONDS
    )
    client.remove(workspace, originals[4].image_id)
    client.send((IMAGE_REMOVED, workspace.encode(), b"{}", ()))
    file = Path(api.environment["CHECK_DEDUP_KEYS_FILE"])
    key = keys.create(file, workspace, ["match"], now_ms=0)
    assert post(api, key, copy_file(9000)) == 200
    assert post(api, key, written(Image.new("RGB", (300, 200), "white"))) == 200
    assert post(api, "wrong", photograph_file(9200)) == 401
    assert post(api, key, b"no picture") == 422
    removals = dead_letter_topic_name(IMAGE_REMOVED)
    assert client.wait(lambda: bool(client.records(removals, workspace)), WAIT_SECONDS)
    return Change(before, settled(stack))


def test_events(change: Change) -> None:
    """Each that was sent, by topic."""
    assert change("events_total", topic=IMAGE_INGESTED) == 15
    assert change("events_total", topic=IMAGE_REMOVED) == 2


def test_outcomes(change: Change) -> None:
    """First ones by origin, relation and tier; those that came again, by why."""
    name = "outcomes_total"
    assert change(name, origin="event", **NONE) == 6
    assert change(name, origin="event", **COPY) == 4
    assert change(name, origin="api", **NONE) == 1
    assert change(name, origin="api", relation="identical") == 1
    assert change(name) == 12
    assert change("outcomes_repeated_total", cause="redelivered") == 1
    assert change("outcomes_repeated_total", cause="id_reused") == 1


def test_dead_letters(change: Change) -> None:
    """By topic and reason."""
    name = "dead_letters_total"
    assert change(name, topic=IMAGE_INGESTED, reason="not_an_image") == 2
    assert change(name, topic=IMAGE_INGESTED, reason="http_status") == 1
    assert change(name, topic=IMAGE_REMOVED, reason="workspace_missing") == 1
    assert change(name) == 4


def test_every_event_has_its_end(change: Change) -> None:
    """In an outcome, a dead letter, or an outcome that was sent again."""
    ends = (
        change("outcomes_total", origin="event"),
        change("dead_letters_total", topic=IMAGE_INGESTED),
        change("outcomes_repeated_total"),
    )
    assert change("events_total", topic=IMAGE_INGESTED) == sum(ends)


def test_latency(change: Change) -> None:
    """One for each first outcome, from its own time."""
    assert change("ingest_to_outcome_seconds_count", origin="event") == 10
    assert change("ingest_to_outcome_seconds_count", origin="api") == 2
    assert 0 < change("ingest_to_outcome_seconds_sum") < 12 * WAIT_SECONDS


def test_deliveries(change: Change) -> None:
    """By topic."""
    name = "delivered_records_total"
    assert change(name, topic=INDEX_LOG) == 12 + 1 + 2  # pictures, a removal, requests
    assert change(name, topic=IMAGE_MATCHED) == 14
    assert change(name, topic=dead_letter_topic_name(IMAGE_INGESTED)) == 3


def test_steps(change: Change) -> None:
    """Each part of the work as often as there was some."""
    name = "step_duration_seconds_count"
    assert change(name, step="fetch") == 2
    assert change(name, step="decode") == 14 + 3
    assert change(name, step="hash") == 12 + 2
    for step in ("stage", "search", "decide", "apply"):
        assert change(name, step=step) == change("group_records_count") > 0
    assert change("group_records_sum") == change("events_total", topic=INDEX_LOG) == 15


def test_index_and_quality(change: Change) -> None:
    """What was added, found and decided."""
    assert change("index_pictures") == 12
    assert change("index_codes") >= 12
    assert change("index_candidates_count") == 12
    assert change("match_score_count") == change("match_weight_ratio_count") == 5
    assert change("matches_count") == 12
    assert change("matches_sum") == 4 + 2
    assert change("plain_pictures_total") == 1


def test_requests(change: Change) -> None:
    """By endpoint and status."""
    name = "http_requests_total"
    assert change(name, endpoint="match", status="200") == 2
    assert change(name, endpoint="match", status="401") == 1
    assert change(name, endpoint="match", status="422") == 1
    assert change(name) == 4
    assert change("http_request_duration_seconds_count", endpoint="match") == 4


def test_what_waits_is_told(stack: Stack, client: Client, workspace: str) -> None:
    """A picture whose host says nothing: in work, being fetched, and the age of the lag rises."""
    before = settled(stack)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/picture.jpg"
        event = ImageIngested(workspace, uuid.uuid4().hex, url=url)
        client.ingest(event)

        def told() -> bool:
            found = scraped(stack)
            lag = found.total("check_dedup_lag_records", topic=IMAGE_INGESTED)
            ages = found.values("check_dedup_lag_seconds", topic=IMAGE_INGESTED)
            in_work = found.total("check_dedup_in_work_events")
            return lag == 1 == in_work and 0 < max(ages) < WAIT_SECONDS

        wait_until(told, WAIT_SECONDS)
        assert client.wait(lambda: bool(client.dead_letters(event.image_id)), WAIT_SECONDS)
    change = Change(before, settled(stack))
    assert change("in_work_events") == change("fetches_in_flight") == 0
    assert change("fetch_retries_total", reason="fetch_timeout") >= 1
    assert change("fetch_pause_seconds_total") > 0


@pytest.mark.usefixtures("change")
def test_every_declared_metric_is_fed(stack: Stack) -> None:
    """With its help and unit, by each process that it is declared for; and none is undeclared."""
    declared = {metric.name.removesuffix("_total"): metric for metric in METRICS}
    for member in stack.members:
        text = read(member.metrics_url, OPENMETRICS)
        families = {
            family.name: family
            for family in text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
            if family.name.startswith("check_dedup_")
        }
        wanted = {name for name, metric in declared.items() if member.role in metric.processes}
        assert set(families) == wanted
        for name, family in families.items():
            metric = declared[name]
            kind, unit, words = family.type, family.unit, family.documentation
            assert (kind, unit, words) == (metric.kind, metric.unit, metric.help)
            assert family.samples, name
            for sample in family.samples:
                assert set(sample.labels) - {"le"} == set(metric.labels)
    everything = scraped(stack)
    series = {name: sum(everything.values(name)) for name, _, _ in everything.samples}
    for metric in METRICS:
        if set(metric.processes) == {"canary"} or metric.name in QUIET:
            continue
        name = f"{metric.name}_count" if metric.kind == "histogram" else metric.name
        assert series[name] > 0, f"{name} was never fed"


def test_the_gauges_of_the_index(stack: Stack) -> None:
    """Sizes are those of files that are there, and the disk is a disk."""
    found = scraped(stack)
    partitions = {str(number) for number in range(stack.settings.partitions)}
    for name in ("index_pictures", "rocksdb_write_stopped", "index_rebuild_remaining_records"):
        assert {label for (label,) in found.by(f"check_dedup_{name}", "partition")} == partitions
    sizes = found.by("check_dedup_rocksdb_size_bytes", "part")
    assert sizes[("memtables",)] > 0
    assert sizes[("sst_live",)] <= sizes[("sst_total",)]
    free, size = (found.total(f"check_dedup_disk_{name}_bytes") for name in ("free", "size"))
    assert 0 < free < size
    assert found.total("check_dedup_assigned_partitions") == 4 * stack.settings.partitions


def test_a_slow_outcome_can_be_found(stack: Stack, client: Client, workspace: str) -> None:
    """The exemplars of its latency name the outcome by the id that its record has."""
    event = ImageIngested(workspace, uuid.uuid4().hex, content=photograph_file(9300))
    client.ingest(event)
    assert client.wait(lambda: bool(client.outcomes(event.image_id)), WAIT_SECONDS)
    wanted = client.outcomes(event.image_id)[0].header("ce_id")

    def named() -> bool:
        (matcher,) = (member for member in stack.members if member.role == "matcher")
        return f'event_id="{wanted}"' in (read(matcher.metrics_url, OPENMETRICS) or "")

    wait_until(named, WAIT_SECONDS)


def test_the_canary(stack: Stack) -> None:
    """Its pictures go the whole way, round after round, and it tells all that it should."""
    settings = {
        "CHECK_DEDUP_CANARY_INTERVAL_SECONDS": "1",
        "CHECK_DEDUP_CANARY_WORKSPACE": f"canary-{uuid.uuid4().hex}",
    }
    member = stack.member("canary-1", [str(COMMAND), "canary"], settings)
    began = time.time()
    member.start()
    try:
        rounds = "check_dedup_canary_rounds_total"
        wait_until(lambda: Scrape.of(member.metrics_url).total(rounds) >= 3, WAIT_SECONDS)
        found = Scrape.of(member.metrics_url)
    finally:
        assert stop_members([member]) == ["canary-1"]
    assert member.exit_code == 0
    assert found.total("check_dedup_canary_lost_total") == 0
    assert found.total("check_dedup_canary_wrong_total") == 0
    assert found.total("check_dedup_canary_latency_seconds_count") >= 4
    last = found.total("check_dedup_canary_last_success_timestamp_seconds")
    assert began < last <= time.time()
    names = {name for name, _, _ in found.samples}
    for metric in METRICS:
        if "canary" in metric.processes:
            name = f"{metric.name}_count" if metric.kind == "histogram" else metric.name
            assert name in names


def test_the_probes_of_the_running_product(stack: Stack) -> None:
    """Live and ready, with the checks that mean it."""
    for member in stack.members:
        for probe in ("livez", "readyz"):
            url = member.metrics_url.replace("metrics", probe)
            wait_until(lambda url=url: read(url) is not None, WAIT_SECONDS)  # type: ignore[misc]
