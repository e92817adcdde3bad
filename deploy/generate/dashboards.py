"""The five dashboards, as code: what each panel asks, and what to do about what it shows.

Called by `make manifests`, which writes them as JSON into deploy/k8s/components/dashboards, and by
the tests that hold every query against the declared metrics and against a real Prometheus.

`$__rate_interval` is Grafana's; every rate uses it. Panels without a value in times of peace say
so by `no_value`.
"""

from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.common import ReduceDataOptions
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import VizOrientation
from grafana_foundation_sdk.models.dashboard import DataSourceRef
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
# 24 columns are Grafana's width.
_WIDTH: Final = 12
_HEIGHT: Final = 8
_GOAL_SECONDS: Final = 15


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression, and how Grafana names each of its series."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `description` says what it shows and what to do; `unit` is one of Grafana's."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    """timeseries, stat (one number) or heatmap (of a histogram's buckets)."""


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard; `name` is its file, `title` what people see."""

    name: str
    title: str
    description: str
    panels: tuple[Panel, ...]


def _quantiles(metric: str, by: str = "", where: str = "") -> tuple[Query, ...]:
    labels = f"le, {by}" if by else "le"
    legend = f"{{{{{by}}}}} " if by else ""
    rate = f"sum by ({labels}) (rate({metric}_bucket{where}[$__rate_interval]))"
    return tuple(
        Query(f"histogram_quantile({share}, {rate})", f"{legend}p{share * 100:g}")
        for share in (0.5, 0.99)
    )


PROMISE: Final = Dashboard(
    "promise",
    "check-dedup: Promise",
    "Does every picture get its outcome, and in time? For Check's people and for on-call.",
    (
        Panel(
            "Within 15 s",
            "Share of outcomes that came within 15 s of the picture's event. The goal is 99 %. "
            "Below it: look at Flow for what is slow.",
            "percentunit",
            (
                Query(
                    "sum(rate(check_dedup_ingest_to_outcome_seconds_bucket"
                    f'{{le="{_GOAL_SECONDS}.0"}}[$__rate_interval])) / '
                    "sum(rate(check_dedup_ingest_to_outcome_seconds_count[$__rate_interval]))"
                ),
            ),
            kind="stat",
        ),
        Panel(
            "Inputs without an outcome",
            "Records taken by no process yet or still in work, of all topics. Rising for minutes: "
            "look at Flow. It counts every partition that some process owns.",
            "short",
            (Query("sum(check_dedup_lag_records)"),),
            kind="stat",
        ),
        Panel(
            "Events finished",
            "Of image-ingested, since the topic was made: in index-log, or a dead letter. Compare "
            "with what Check says it has published.",
            "short",
            (
                Query(
                    "sum(max by (topic, partition) "
                    '(check_dedup_watermark_offset{topic="image-ingested"}))'
                ),
            ),
            kind="stat",
        ),
        Panel(
            "Outcomes",
            "First outcomes since the matchers of now were started. With dead letters it makes up "
            "what was finished meanwhile.",
            "short",
            (Query("sum(check_dedup_outcomes_total)"),),
            kind="stat",
        ),
        Panel(
            "Dead letters",
            "Since the processes of now were started. Reasons are below; the dead-letter topics "
            "hold them for 30 days.",
            "short",
            (Query("sum(check_dedup_dead_letters_total)"),),
            kind="stat",
        ),
        Panel(
            "From event to outcome",
            "Measured from the event's own time to the broker's acknowledgement of its outcome. "
            "p99 above 15 s breaks the promise: Flow says which step.",
            "s",
            _quantiles("check_dedup_ingest_to_outcome_seconds", by="origin"),
        ),
        Panel(
            "Oldest record that waits",
            "Age of the oldest record without a result. The alerts on time lag look at this: above "
            "15 s for long, somebody is called.",
            "s",
            (Query("max by (topic) (check_dedup_lag_seconds)", "{{topic}}"),),
        ),
        Panel(
            "Outcomes, by relation and tier",
            "What became of the pictures. All of them `none`, or none of them: compare with "
            "Quality before calling it a fault.",
            "cps",
            (
                Query(
                    "sum by (relation, tier) (rate(check_dedup_outcomes_total[$__rate_interval]))",
                    "{{relation}}, {{tier}}",
                ),
            ),
        ),
        Panel(
            "Dead letters, by reason",
            "The README lists what each reason means. fetch_*, http_status: somebody's host; "
            "schema_violation, key_*: a producer's mistake; not_an_image: what people send.",
            "cps",
            (
                Query(
                    "sum by (reason) (rate(check_dedup_dead_letters_total[$__rate_interval]))",
                    "{{reason}}",
                ),
            ),
        ),
        Panel(
            "Dead letters that Kafka does not take",
            "Above 0: a process tries them for 30 s, then it ends in front of them. `check-dedup "
            "topics check` names the topic; else its log says what the broker answered.",
            "short",
            (
                Query(
                    "sum by (process) (check_dedup_dead_letters_undelivered"
                    " * on (instance) group_left (process) check_dedup_build_info)",
                    "{{process}}",
                ),
            ),
        ),
        Panel(
            "Canary",
            "A synthetic picture through the whole path, as Check would see it. Slow here and fast "
            "above: the time is lost between Kafka and its readers.",
            "s",
            _quantiles("check_dedup_canary_latency_seconds"),
        ),
        Panel(
            "Canary: time since it last came through",
            "Above ten minutes the alert CheckDedupCanaryMissing fires: its runbook begins with "
            "whether the canary itself runs.",
            "s",
            (Query("time() - (max(check_dedup_canary_last_success_timestamp_seconds) > 0)"),),
        ),
        Panel(
            "Canary: lost and wrong",
            "Each one lost is a broken promise to nobody; two in a row would be one to somebody. "
            "Wrong: stop and look at what was released last.",
            "short",
            (
                Query("sum(increase(check_dedup_canary_lost_total[$__rate_interval]))", "lost"),
                Query("sum(increase(check_dedup_canary_wrong_total[$__rate_interval]))", "wrong"),
                Query("sum(increase(check_dedup_canary_rounds_total[$__rate_interval]))", "rounds"),
            ),
        ),
        Panel(
            "API: requests, by status",
            "429: a client asks too much; 503: no matcher answers (look at Flow); 504: it was too "
            "slow; 499: the client gave up.",
            "reqps",
            (
                Query(
                    "sum by (status) (rate(check_dedup_http_requests_total"
                    '{endpoint="match"}[$__rate_interval]))',
                    "{{status}}",
                ),
            ),
        ),
        Panel(
            "API: time to answer",
            "POST /v1/match/, from the request's header to its answer; the limit is 15 s.",
            "s",
            _quantiles("check_dedup_http_request_duration_seconds", where='{endpoint="match"}'),
        ),
    ),
)

FLOW: Final = Dashboard(
    "flow",
    "check-dedup: Flow",
    "Where records wait, where the time goes, and who owns what.",
    (
        Panel(
            "In",
            "Records taken in, by topic. Flat at 0 while lag grows: the processes do not read; "
            "look at Partitions owned.",
            "cps",
            (
                Query(
                    "sum by (topic) (rate(check_dedup_events_total[$__rate_interval]))",
                    "{{topic}}",
                ),
            ),
        ),
        Panel(
            "Out",
            "Records that the broker acknowledged. 0 while In is not: deliveries hang; look at "
            "Kafka.",
            "cps",
            (
                Query(
                    "sum by (topic) (rate(check_dedup_delivered_records_total[$__rate_interval]))",
                    "{{topic}}",
                ),
            ),
        ),
        Panel(
            "Lag in records",
            "One partition far above the others: one workspace sends most, or that partition "
            "stands still. All of them: too few hashers (image-ingested) or matchers (index-log).",
            "short",
            (
                Query(
                    "sum by (topic, partition) (check_dedup_lag_records)",
                    "{{topic}} {{partition}}",
                ),
            ),
        ),
        Panel(
            "Lag in seconds",
            "Age of the oldest record without a result: what the promise feels of the lag.",
            "s",
            (
                Query(
                    "max by (topic, partition) (check_dedup_lag_seconds)",
                    "{{topic}} {{partition}}",
                ),
            ),
        ),
        Panel(
            "Arrives, and is done",
            "How fast the ends of topics move, and our watermarks. Apart for long: the lag grows "
            "by the difference.",
            "cps",
            (
                Query(
                    "sum by (topic) (rate(check_dedup_end_offset[$__rate_interval]))",
                    "{{topic}} arrives",
                ),
                Query(
                    "sum by (topic) (rate(check_dedup_watermark_offset[$__rate_interval]))",
                    "{{topic}} is done",
                ),
            ),
        ),
        Panel(
            "Time until the lag is gone",
            "At the pace of now: records that wait, by the rate at which watermarks move. Hours: "
            "add hashers or matchers, up to one for each partition.",
            "s",
            (
                Query(
                    "sum by (topic) (check_dedup_lag_records) / (sum by (topic) "
                    "(rate(check_dedup_watermark_offset[$__rate_interval])) > 0)",
                    "{{topic}}",
                ),
            ),
        ),
        Panel(
            "Stands still for",
            "Since a partition's watermark moved while records waited. Above two minutes somebody "
            "is called: the runbook of CheckDedupPartitionStalled.",
            "s",
            (
                Query(
                    "max by (topic, partition) (check_dedup_watermark_age_seconds)",
                    "{{topic}} {{partition}}",
                ),
            ),
        ),
        Panel(
            "Event loop late by",
            "A process that answers late to everything. Above a second for minutes: it has too "
            "little of a processor (look at its limit), or code blocks the loop; the watchdog ends "
            "one that stands still.",
            "s",
            (
                Query(
                    "max by (job, instance) (check_dedup_event_loop_delay_seconds)",
                    "{{job}} {{instance}}",
                ),
            ),
        ),
        Panel(
            "Where the time goes",
            "How many pictures or groups are in each step, on average. fetch waits for others' "
            "hosts; queue: more decode processes or hashers; apply, search: disk and index.",
            "short",
            (
                Query(
                    "sum by (step) (rate(check_dedup_step_duration_seconds_sum[$__rate_interval]))",
                    "{{step}}",
                ),
            ),
        ),
        Panel(
            "Slowest steps, p99",
            "One step above a second: what the description of Where the time goes says of it.",
            "s",
            (
                Query(
                    "histogram_quantile(0.99, sum by (le, step) "
                    "(rate(check_dedup_step_duration_seconds_bucket[$__rate_interval])))",
                    "{{step}}",
                ),
            ),
        ),
        Panel(
            "In work",
            "Pictures taken in and not finished, those being fetched, and those that wait because "
            "their workspace has its share. At its bound all the time: hosts are slow, or decoding "
            "is.",
            "short",
            (
                Query("sum(check_dedup_in_work_events)", "in work"),
                Query("sum(check_dedup_fetches_in_flight)", "being fetched"),
                Query("sum(check_dedup_parked_events)", "waiting for their share"),
            ),
        ),
        Panel(
            "Fetching: tried again, by reason",
            "Other people's hosts. Many: their pictures are late, and nobody else's should be.",
            "cps",
            (
                Query(
                    "sum by (reason) (rate(check_dedup_fetch_retries_total[$__rate_interval]))",
                    "{{reason}}",
                ),
            ),
        ),
        Panel(
            "Fetching: pauses",
            "Fetches that wait before they are tried again, at a time. Many: a host asks for "
            "patience, or is down; others' pictures are not held up by it.",
            "short",
            (
                Query(
                    "sum(rate(check_dedup_fetch_pause_seconds_total[$__rate_interval]))", "fetches"
                ),
            ),
        ),
        Panel(
            "Hosts that fail",
            "Hosts that are not asked for a while. More than a few at once: our own way out of the "
            "cluster may be what fails.",
            "short",
            (Query("sum(check_dedup_fetch_failing_hosts)", "hosts"),),
        ),
        Panel(
            "Partitions owned",
            "By process. The sum has to be the number of partitions; a process with none is idle "
            "or has just started.",
            "short",
            (
                Query(
                    "sum by (topic, instance) (check_dedup_assigned_partitions)",
                    "{{topic}} {{instance}}",
                ),
            ),
        ),
        Panel(
            "Rebalances",
            "Assignments per process. A few with each release; all the time: the runbook of "
            "CheckDedupRebalanceStorm.",
            "short",
            (
                Query(
                    "sum by (instance) (increase(check_dedup_rebalances_total[$__rate_interval]))",
                    "{{instance}}",
                ),
            ),
        ),
        Panel(
            "Decode processes started anew",
            "Pictures that kill or stall a decoder become dead letters after two tries. Rising: "
            "somebody sends hostile pictures, or memory is short.",
            "short",
            (
                Query(
                    "sum by (instance) "
                    "(increase(check_dedup_decode_restarts_total[$__rate_interval]))",
                    "{{instance}}",
                ),
            ),
        ),
        Panel(
            "API: under way",
            "Requests under way, and partitions that no matcher answers for: their requests get "
            "503 until one does.",
            "short",
            (
                Query("sum(check_dedup_http_requests_in_flight)", "requests"),
                Query("max(check_dedup_api_silent_partitions)", "silent partitions"),
            ),
        ),
    ),
)

INDEX: Final = Dashboard(
    "index-and-storage",
    "check-dedup: Index and storage",
    "What the matchers hold, how they search it, and the disk below.",
    (
        Panel(
            "Pictures",
            "In the index, by partition. Falls only where a partition moves.",
            "short",
            (Query("sum by (partition) (check_dedup_index_pictures)", "partition {{partition}}"),),
        ),
        Panel(
            "Codes",
            "What is searched; about as many for each picture as it has views.",
            "short",
            (Query("sum by (partition) (check_dedup_index_codes)", "partition {{partition}}"),),
        ),
        Panel(
            "Candidates of one search",
            "Found before deciding. The median rising over weeks: common pictures; searches get "
            "slower with it.",
            "short",
            _quantiles("check_dedup_index_candidates"),
        ),
        Panel(
            "Search, decide and apply",
            "For a group of records. Search grows with the index, apply with the disk's trouble.",
            "s",
            (
                Query(
                    "histogram_quantile(0.99, sum by (le, step) "
                    "(rate(check_dedup_step_duration_seconds_bucket"
                    '{step=~"search|decide|apply"}[$__rate_interval])))',
                    "{{step}} p99",
                ),
            ),
        ),
        Panel(
            "Records in one group commit",
            "1: the matcher waits for work. 256: it has all it can take at once; look at lag.",
            "short",
            _quantiles("check_dedup_group_records"),
        ),
        Panel(
            "Rebuild: records remaining",
            "Above 0: the partition is not served yet. `make bench` says how fast it should fall: "
            "tens of thousands a second.",
            "short",
            (
                Query(
                    "sum by (partition) (check_dedup_index_rebuild_remaining_records)",
                    "partition {{partition}}",
                ),
            ),
        ),
        Panel(
            "Rebuild: records applied",
            "Without an outcome: after a lost disk, a moved partition, or a hole in delivery.",
            "cps",
            (
                Query(
                    "sum(rate(check_dedup_index_rebuilt_records_total[$__rate_interval]))",
                    "records",
                ),
            ),
        ),
        Panel(
            "Until a matcher could answer",
            "From its process's start, and from its last assignment of partitions, which another "
            "matcher's end brings after the session timeout. Grows with what is to be rebuilt.",
            "s",
            (
                Query(
                    "max by (since) (check_dedup_index_ready_seconds)",
                    "since its {{since}}",
                ),
            ),
        ),
        Panel(
            "Rebuilt at the last assignment",
            "Records of the log. 0: the index was on the disk.",
            "short",
            (Query("max(check_dedup_index_ready_rebuilt_records)", "records"),),
        ),
        Panel(
            "Band files",
            "Mapped into memory; larger than the memory that is left, searches read from disk.",
            "bytes",
            (
                Query(
                    "sum by (partition) (check_dedup_index_band_files_bytes)",
                    "partition {{partition}}",
                ),
            ),
        ),
        Panel(
            "Codes that are not in band files yet",
            "In memory; falls with each merge. A partition that rises beyond the others: its "
            "merges do not keep up.",
            "bytes",
            (
                Query(
                    "sum by (partition) (check_dedup_index_delta_bytes)",
                    "partition {{partition}}",
                ),
            ),
        ),
        Panel(
            "Merges of band files",
            "As the newest codes outgrow memory. Many an hour: a workspace grows fast; see "
            "Quality.",
            "short",
            (
                Query(
                    "sum(increase(check_dedup_index_band_merges_total[$__rate_interval]))",
                    "merges",
                ),
            ),
        ),
        Panel(
            "RocksDB: sizes",
            "sst_* on disk; memtables, table_readers, block cache (one a process) in memory.",
            "bytes",
            (
                Query("sum by (part) (check_dedup_rocksdb_size_bytes)", "{{part}}"),
                Query("sum(check_dedup_rocksdb_block_cache_bytes)", "block cache"),
            ),
        ),
        Panel(
            "RocksDB: compaction to do",
            "Rising for hours: the disk is too slow for what is written.",
            "bytes",
            (
                Query(
                    "sum by (partition) (check_dedup_rocksdb_pending_compaction_bytes)",
                    "partition {{partition}}",
                ),
            ),
        ),
        Panel(
            "RocksDB: writes slowed down or stopped",
            "Any stop: the runbook of CheckDedupWriteStall.",
            "short",
            (
                Query(
                    "sum by (kind) "
                    "(increase(check_dedup_rocksdb_write_stalls_total[$__rate_interval]))",
                    "{{kind}}",
                ),
                Query("max(check_dedup_rocksdb_write_stopped)", "stopped now"),
            ),
        ),
        Panel(
            "Disk left",
            "By matcher. The alert CheckDedupDiskFillsIn24h looks ahead; Capacity looks further.",
            "bytes",
            (Query("min by (instance) (check_dedup_disk_free_bytes)", "{{instance}}"),),
        ),
    ),
)

QUALITY: Final = Dashboard(
    "quality",
    "check-dedup: Quality",
    "What is found, over time. A change that nobody released or caused is worth a look.",
    (
        Panel(
            "Share that matched",
            "Of first outcomes. Falls to 0 with traffic as usual: the index is empty or not asked.",
            "percentunit",
            (
                Query(
                    'sum(rate(check_dedup_outcomes_total{tier!="none"}[$__rate_interval])) / '
                    "sum(rate(check_dedup_outcomes_total[$__rate_interval]))",
                    "matched",
                ),
            ),
        ),
        Panel(
            "Relations",
            "Of those that matched. `make evaluate` says what to expect of a collection.",
            "percentunit",
            (
                Query(
                    "sum by (relation) "
                    '(rate(check_dedup_outcomes_total{relation!="none"}[$__rate_interval])) / '
                    "ignoring (relation) group_left () sum "
                    '(rate(check_dedup_outcomes_total{relation!="none"}[$__rate_interval]))',
                    "{{relation}}",
                ),
            ),
        ),
        Panel(
            "Tiers",
            "Confirmed relations need nobody; suggested ones are analysts' work. Many suggested: "
            "look at Scores before touching a threshold.",
            "cps",
            (
                Query(
                    "sum by (tier) "
                    '(rate(check_dedup_outcomes_total{tier!="none"}[$__rate_interval]))',
                    "{{tier}}",
                ),
            ),
        ),
        Panel(
            "Scores of the closest match",
            "Bits of 64 that differ. Most should be near 0; a hump near the radius is doubtful "
            "matches.",
            "short",
            (
                Query(
                    "sum by (le) (increase(check_dedup_match_score_bucket[$__rate_interval]))",
                    "{{le}}",
                ),
            ),
            kind="heatmap",
        ),
        Panel(
            "How sure",
            "Weight of the closest match, 0 to 1; the median should stay where it was last week.",
            "percentunit",
            (
                Query(
                    "histogram_quantile(0.5, sum by (le) "
                    "(rate(check_dedup_match_weight_ratio_bucket[$__rate_interval])))",
                    "median",
                ),
                Query(
                    "histogram_quantile(0.1, sum by (le) "
                    "(rate(check_dedup_match_weight_ratio_bucket[$__rate_interval])))",
                    "lowest tenth",
                ),
            ),
        ),
        Panel(
            "Matches of one picture",
            "Earlier pictures that it relates to. p99 in the hundreds: a very common picture, or a "
            "template that too much looks like.",
            "short",
            _quantiles("check_dedup_matches"),
        ),
        Panel(
            "Plain pictures",
            "Too flat or too small for hashes: they match equal bytes only. A jump: a producer "
            "sends placeholders.",
            "cps",
            (Query("sum(rate(check_dedup_plain_pictures_total[$__rate_interval]))", "plain"),),
        ),
        Panel(
            "Sent again",
            "id_reused: a producer gives one id to different pictures; tell them. redelivered: "
            "harmless.",
            "cps",
            (
                Query(
                    "sum by (cause) (rate(check_dedup_outcomes_repeated_total[$__rate_interval]))",
                    "{{cause}}",
                ),
            ),
        ),
        Panel(
            "Busiest workspaces",
            "Outcomes in ten minutes. One that has become ten times as busy: a campaign, or a loop "
            "in somebody's bot.",
            "short",
            (Query("sum by (workspace) (check_dedup_top_workspace_pictures)", "{{workspace}}"),),
        ),
    ),
)

CAPACITY: Final = Dashboard(
    "capacity",
    "check-dedup: Capacity",
    "How long what there is lasts. deploy/k8s/guides/capacity.md says what to do then.",
    (
        Panel(
            "Pictures a day",
            "At the pace of the last six hours. The guide's sizing table goes by it.",
            "short",
            (Query("sum(rate(check_dedup_outcomes_total[6h])) * 86400"),),
            kind="stat",
        ),
        Panel(
            "Pictures in the index",
            "In all partitions; the sizing table of the guide goes by this.",
            "short",
            (Query("sum(check_dedup_index_pictures)"),),
            kind="stat",
        ),
        Panel(
            "Days until a disk is full",
            "The first one, at the pace of the last day. Under 14: order disk. Nothing is shown "
            "while the disk does not fill.",
            "d",
            (
                Query(
                    "min(check_dedup_disk_free_bytes / "
                    "(-deriv(check_dedup_disk_free_bytes[1d]) > 0)) / 86400"
                ),
            ),
            kind="stat",
        ),
        Panel(
            "Days until a search takes 100 ms",
            "Per group of records, at the growth of the last day: what leaves the latency goal "
            "unmet first. Nothing is shown while searches do not get slower.",
            "d",
            (
                Query(
                    "(0.1 - check_dedup:search_seconds:avg) / "
                    "(deriv(check_dedup:search_seconds:avg[1d]) > 0) / 86400"
                ),
            ),
            kind="stat",
        ),
        Panel(
            "Busy share of the hashers",
            "Decode and hash, of the decode processes' time: at 70 % add a hasher.",
            "percentunit",
            (
                Query(
                    "sum by (instance) (rate(check_dedup_step_duration_seconds_sum"
                    '{step=~"decode|hash"}[$__rate_interval]))',
                    "{{instance}}",
                ),
            ),
        ),
        Panel(
            "Busy share of the matchers",
            "Of the one thread that works on records, without waiting for deliveries: at 70 % add "
            "a matcher, up to one for each partition.",
            "percentunit",
            (
                Query(
                    "sum by (instance) (rate(check_dedup_step_duration_seconds_sum"
                    '{step=~"stage|search|decide|apply"}[$__rate_interval]))',
                    "{{instance}}",
                ),
            ),
        ),
        Panel(
            "Bytes on disk for each picture",
            "Row, codes and outcome. It falls as RocksDB compacts; times pictures a day it is the "
            "disk that a day needs.",
            "bytes",
            (
                Query(
                    '(sum(check_dedup_rocksdb_size_bytes{part="sst_total"}) + '
                    "sum(check_dedup_index_band_files_bytes)) / sum(check_dedup_index_pictures)",
                    "bytes",
                ),
            ),
        ),
        Panel(
            "Disk used",
            "By matcher. Above 60 %: order disk, or let there be more matchers.",
            "percentunit",
            (
                Query(
                    "1 - check_dedup_disk_free_bytes / check_dedup_disk_size_bytes",
                    "{{instance}}",
                ),
            ),
        ),
        Panel(
            "Memory",
            "Of each process, without its decode processes. The limits are in deploy/k8s/base.",
            "bytes",
            (Query('process_resident_memory_bytes{job="check-dedup"}', "{{instance}}"),),
        ),
        Panel(
            "CPU",
            "Cores in use by each process, without its decode processes. One for long: it is the "
            "bottleneck; add another.",
            "short",
            (
                Query(
                    'rate(process_cpu_seconds_total{job="check-dedup"}[$__rate_interval])',
                    "{{instance}}",
                ),
            ),
        ),
        Panel(
            "What runs",
            "More than one version for long: a release that did not end.",
            "short",
            (
                Query(
                    "count by (process, version, fingerprint, decision) (check_dedup_build_info)",
                    "{{process}} {{version}}, fingerprint {{fingerprint}}, decision {{decision}}",
                ),
            ),
        ),
    ),
)

DASHBOARDS: Final = (PROMISE, FLOW, INDEX, QUALITY, CAPACITY)


def to_json(declared: Dashboard) -> str:
    """Give a dashboard as Grafana reads it."""
    built = (
        dashboard.Dashboard(declared.title)
        .uid(f"check-dedup-{declared.name}")
        .description(declared.description)
        .tags(["check-dedup"])
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("browser")
        .readonly()
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
        )
    )
    for panel in declared.panels:
        built = built.with_panel(_panel(panel))
    encoder = JSONEncoder(sort_keys=True, indent=1)
    return encoder.encode(built.build()) + "\n"


def _panel(panel: Panel) -> timeseries.Panel | stat.Panel | heatmap.Panel:
    built: timeseries.Panel | stat.Panel | heatmap.Panel
    if panel.kind == "stat":
        latest = ReduceDataOptions().calcs(["lastNotNull"])
        built = (
            stat.Panel().orientation(VizOrientation.AUTO).reduce_options(latest).no_value("none")
        )
    elif panel.kind == "heatmap":
        built = heatmap.Panel()
    else:
        built = timeseries.Panel().min(0).no_value("none")
    built = (
        built.title(panel.title)
        .description(panel.description)
        .unit(panel.unit)
        .datasource(DATASOURCE)
        .span(6 if panel.kind == "stat" else _WIDTH)
        .height(4 if panel.kind == "stat" else _HEIGHT)
    )
    for number, query in enumerate(panel.queries):
        target = (
            prometheus.Dataquery()
            .expr(query.expr)
            .datasource(DATASOURCE)
            .ref_id(chr(ord("A") + number))
        )
        target = target.legend_format(query.legend or "__auto")
        if panel.kind == "stat":
            target = target.instant()
        elif panel.kind == "heatmap":
            target = target.format(PromQueryFormat.HEATMAP).range()
        else:
            target = target.range()
        built = built.with_target(target)
    return built
