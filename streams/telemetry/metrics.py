"""Every metric, declared once: name as exposed, kind, unit, labels, help, buckets, who feeds it.

Dashboards, alerts and the README are held against these declarations; `streams.telemetry.registry`
makes what a process feeds. Names are in base units and never change their meaning: a metric that
means something else gets another name. No label holds a workspace, an image id or a host, but the
one that is bounded (`check_dedup_top_workspace_pictures`).
"""

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]
Unit = Literal["", "seconds", "bytes", "ratio"]
Process = Literal["hasher", "matcher", "api", "canary"]

EVERY: Final[tuple[Process, ...]] = ("hasher", "matcher", "api", "canary")
WORKERS: Final[tuple[Process, ...]] = ("hasher", "matcher")

# From ingestion to outcome. Measured on two busy cores: 25 to 50 ms for a picture alone, 0.1
# to 0.8 s for a hundred at once. The promise is judged at 15 s; what waits behind a fault takes
# minutes and, after a night without a matcher, hours. Edges stand where goals are: 0.5, 5 and 15 s.
OUTCOME_BUCKETS: Final = (
    *(0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5),
    *(0.8, 1.2, 2.0, 3.0, 5.0, 8.0, 15.0, 30.0, 60.0),
    *(300.0, 900.0, 3600.0, 14400.0),
)
# Parts of the work, by steps of about two. Measured: 0.1 ms to apply a group, 0.5 ms to search or
# to decode a small picture, 4 to 20 ms to hash one; the limits: decoding 10 s, fetching 30 s.
STEP_BUCKETS: Final = (
    *(0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0),
)
# API requests. Measured: 40 ms alone, 0.2 s where many ask; the limit is 15 s by default.
REQUEST_BUCKETS: Final = (
    *(0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5),
    *(0.8, 1.2, 2.0, 3.0, 5.0, 8.0, 15.0, 30.0),
)
# 0: nothing near; 400 is the default bound of candidates that are decided.
COUNT_BUCKETS: Final = (0, 1, 2, 5, 10, 20, 50, 100, 200, 400)
# Of the search radius, bit by bit up to its default of 10.
SCORE_BUCKETS: Final = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 16)
RATIO_BUCKETS: Final = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 1.0)
# Powers of two up to the default size of a group commit.
GROUP_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric as declared; a histogram's series are `_bucket`, `_sum` and `_count`."""

    name: str
    kind: Kind
    help: str
    unit: Unit = ""
    labels: tuple[str, ...] = ()
    processes: tuple[Process, ...] = EVERY
    buckets: tuple[float, ...] = ()


# --- the promise ------------------------------------------------------------------------------

INGEST_TO_OUTCOME_SECONDS: Final = Metric(
    "check_dedup_ingest_to_outcome_seconds",
    "histogram",
    "From the event's own time (its record's timestamp in image-ingested; for the API, when the "
    "picture was hashed) to the broker's acknowledgement of its first outcome.",
    unit="seconds",
    labels=("origin",),
    processes=("matcher",),
    buckets=OUTCOME_BUCKETS,
)
OUTCOMES_TOTAL: Final = Metric(
    "check_dedup_outcomes_total",
    "counter",
    "First outcomes delivered, by the best match's relation and tier (none, none: no match).",
    labels=("origin", "relation", "tier"),
    processes=("matcher",),
)
OUTCOMES_REPEATED_TOTAL: Final = Metric(
    "check_dedup_outcomes_repeated_total",
    "counter",
    "Outcomes sent again. redelivered: the same picture came again, or was answered before a "
    "crash; id_reused: an image id came with other bytes, which is the producer's mistake.",
    labels=("cause",),
    processes=("matcher",),
)
DEAD_LETTERS_TOTAL: Final = Metric(
    "check_dedup_dead_letters_total",
    "counter",
    "Dead letters delivered, by the topic whose record it was and by reason code.",
    labels=("topic", "reason"),
    processes=WORKERS,
)
DEAD_LETTERS_UNDELIVERED: Final = Metric(
    "check_dedup_dead_letters_undelivered",
    "gauge",
    "Dead letters that the broker did not take, and that are tried again before the process ends.",
    processes=WORKERS,
)
EVENTS_TOTAL: Final = Metric(
    "check_dedup_events_total",
    "counter",
    "Records taken in, by topic; what is delivered again after a crash counts again.",
    labels=("topic",),
    processes=WORKERS,
)

# --- the flow ---------------------------------------------------------------------------------

LAG_RECORDS: Final = Metric(
    "check_dedup_lag_records",
    "gauge",
    "Records of an assigned partition without a result yet: waiting in Kafka or in work. Summed "
    "over image-ingested and index-log: inputs without an outcome.",
    labels=("topic", "partition"),
    processes=WORKERS,
)
LAG_SECONDS: Final = Metric(
    "check_dedup_lag_seconds",
    "gauge",
    "Age of the oldest record of an assigned partition without a result; 0 where there is none.",
    unit="seconds",
    labels=("topic", "partition"),
    processes=WORKERS,
)
WATERMARK_OFFSET: Final = Metric(
    "check_dedup_watermark_offset",
    "gauge",
    "Offset below which all of an assigned partition is delivered and applied.",
    labels=("topic", "partition"),
    processes=WORKERS,
)
END_OFFSET: Final = Metric(
    "check_dedup_end_offset",
    "gauge",
    "Offset after the last record of an assigned partition, as the broker said when last asked.",
    labels=("topic", "partition"),
    processes=WORKERS,
)
WATERMARK_AGE_SECONDS: Final = Metric(
    "check_dedup_watermark_age_seconds",
    "gauge",
    "Since the watermark of an assigned partition last moved while records waited; 0 where none "
    "does. Rising: the partition stands still.",
    unit="seconds",
    labels=("topic", "partition"),
    processes=WORKERS,
)
EVENT_LOOP_DELAY_SECONDS: Final = Metric(
    "check_dedup_event_loop_delay_seconds",
    "gauge",
    "By how much the event loop's last beat (one a second) was late, or the one that is due now "
    "is: told while the loop is blocked, too.",
    unit="seconds",
    processes=("hasher", "matcher", "api"),
)
LAG_SAMPLE_TIMESTAMP_SECONDS: Final = Metric(
    "check_dedup_lag_sample_timestamp_seconds",
    "gauge",
    "When the broker last told the ends of all assigned partitions; old: lag is not known.",
    unit="seconds",
    processes=WORKERS,
)
STEP_DURATION_SECONDS: Final = Metric(
    "check_dedup_step_duration_seconds",
    "histogram",
    "Where the time goes. hasher: fetch, queue (for a decode process), decode, hash, deliver; "
    "matcher: stage (rows into memory), search, decide, deliver, apply (one RocksDB batch), "
    "answer; api: fetch, queue, decode, hash, deliver. Hasher and API per picture, matcher per "
    "group of records.",
    unit="seconds",
    labels=("step",),
    processes=("hasher", "matcher", "api"),
    buckets=STEP_BUCKETS,
)
GROUP_RECORDS: Final = Metric(
    "check_dedup_group_records",
    "histogram",
    "Log records in one group commit of the matcher.",
    processes=("matcher",),
    buckets=GROUP_BUCKETS,
)
IN_WORK_EVENTS: Final = Metric(
    "check_dedup_in_work_events",
    "gauge",
    "Pictures that this hasher has taken in and not finished.",
    processes=("hasher",),
)
PARKED_EVENTS: Final = Metric(
    "check_dedup_parked_events",
    "gauge",
    "Pictures that wait outside of this hasher's window, because their workspace has its share.",
    processes=("hasher",),
)
DELIVERED_RECORDS_TOTAL: Final = Metric(
    "check_dedup_delivered_records_total",
    "counter",
    "Records that the broker acknowledged, by topic.",
    labels=("topic",),
    processes=("hasher", "matcher", "api"),
)

# --- the group --------------------------------------------------------------------------------

ASSIGNED_PARTITIONS: Final = Metric(
    "check_dedup_assigned_partitions",
    "gauge",
    "Partitions of a topic that this process owns now.",
    labels=("topic",),
    processes=WORKERS,
)
LOST_RANGES_TOTAL: Final = Metric(
    "check_dedup_lost_ranges_total",
    "counter",
    "Times that records of a partition were gone before they were read. expired: the log begins "
    "above them; made_anew: their topic was deleted and made anew. The process's log says which.",
    labels=("topic", "cause"),
    processes=WORKERS,
)
REBALANCES_TOTAL: Final = Metric(
    "check_dedup_rebalances_total",
    "counter",
    "Assignments of partitions that this process was given, the first one included.",
    processes=WORKERS,
)

# --- the index --------------------------------------------------------------------------------

INDEX_PICTURES: Final = Metric(
    "check_dedup_index_pictures",
    "gauge",
    "Pictures in the index of an owned partition, removed ones included.",
    labels=("partition",),
    processes=("matcher",),
)
INDEX_CODES: Final = Metric(
    "check_dedup_index_codes",
    "gauge",
    "Codes in the index of an owned partition.",
    labels=("partition",),
    processes=("matcher",),
)
INDEX_CANDIDATES: Final = Metric(
    "check_dedup_index_candidates",
    "histogram",
    "Candidates that the search found for one picture, before deciding and after the bound.",
    processes=("matcher",),
    buckets=COUNT_BUCKETS,
)
INDEX_REBUILT_RECORDS_TOTAL: Final = Metric(
    "check_dedup_index_rebuilt_records_total",
    "counter",
    "Log records applied without an outcome: after a lost disk, a moved partition or a hole.",
    processes=("matcher",),
)
INDEX_REBUILD_REMAINING_RECORDS: Final = Metric(
    "check_dedup_index_rebuild_remaining_records",
    "gauge",
    "Log records still to apply before an owned partition is served; 0 where it is.",
    labels=("partition",),
    processes=("matcher",),
)
INDEX_READY_SECONDS: Final = Metric(
    "check_dedup_index_ready_seconds",
    "gauge",
    "Until all owned partitions could answer. since: start, of the process; assignment, the last.",
    unit="seconds",
    labels=("since",),
    processes=("matcher",),
)
INDEX_READY_REBUILT_RECORDS: Final = Metric(
    "check_dedup_index_ready_rebuilt_records",
    "gauge",
    "Log records that were rebuilt for that after the last assignment.",
    processes=("matcher",),
)
INDEX_BAND_MERGES_TOTAL: Final = Metric(
    "check_dedup_index_band_merges_total",
    "counter",
    "Merges of an owned partition's band files that were taken into use since it was opened.",
    labels=("partition",),
    processes=("matcher",),
)
INDEX_BAND_FILES_BYTES: Final = Metric(
    "check_dedup_index_band_files_bytes",
    "gauge",
    "Band files of an owned partition in use; they are mapped into memory.",
    unit="bytes",
    labels=("partition",),
    processes=("matcher",),
)
INDEX_DELTA_BYTES: Final = Metric(
    "check_dedup_index_delta_bytes",
    "gauge",
    "Memory for the newest codes of an owned partition, which are not in band files yet.",
    unit="bytes",
    labels=("partition",),
    processes=("matcher",),
)
ROCKSDB_SIZE_BYTES: Final = Metric(
    "check_dedup_rocksdb_size_bytes",
    "gauge",
    "Of an owned partition's RocksDB. part: sst_live, sst_total (on disk); memtables, "
    "table_readers (in memory).",
    unit="bytes",
    labels=("partition", "part"),
    processes=("matcher",),
)
ROCKSDB_BLOCK_CACHE_BYTES: Final = Metric(
    "check_dedup_rocksdb_block_cache_bytes",
    "gauge",
    "In use of RocksDB's block cache, which all indexes of a process share.",
    unit="bytes",
    processes=("matcher",),
)
ROCKSDB_PENDING_COMPACTION_BYTES: Final = Metric(
    "check_dedup_rocksdb_pending_compaction_bytes",
    "gauge",
    "Bytes that compaction has yet to rewrite, as RocksDB estimates.",
    unit="bytes",
    labels=("partition",),
    processes=("matcher",),
)
ROCKSDB_WRITE_STALLS_TOTAL: Final = Metric(
    "check_dedup_rocksdb_write_stalls_total",
    "counter",
    "Times that RocksDB slowed writes down (delay) or stopped them (stop) since it was opened.",
    labels=("partition", "kind"),
    processes=("matcher",),
)
ROCKSDB_WRITE_STOPPED: Final = Metric(
    "check_dedup_rocksdb_write_stopped",
    "gauge",
    "1 while RocksDB accepts no writes.",
    labels=("partition",),
    processes=("matcher",),
)
DISK_FREE_BYTES: Final = Metric(
    "check_dedup_disk_free_bytes",
    "gauge",
    "Left for us on the file system of the data directory.",
    unit="bytes",
    processes=("matcher",),
)
DISK_SIZE_BYTES: Final = Metric(
    "check_dedup_disk_size_bytes",
    "gauge",
    "Size of the file system of the data directory.",
    unit="bytes",
    processes=("matcher",),
)

# --- quality ----------------------------------------------------------------------------------

MATCH_SCORE: Final = Metric(
    "check_dedup_match_score",
    "histogram",
    "Score (bits of 64 that differ) of the closest match of each first outcome that has one.",
    processes=("matcher",),
    buckets=SCORE_BUCKETS,
)
MATCH_WEIGHT_RATIO: Final = Metric(
    "check_dedup_match_weight_ratio",
    "histogram",
    "Weight (how sure we are, 0 to 1) of the closest match of each first outcome that has one.",
    unit="ratio",
    processes=("matcher",),
    buckets=RATIO_BUCKETS,
)
MATCHES: Final = Metric(
    "check_dedup_matches",
    "histogram",
    "Earlier pictures that each first outcome relates its picture to, before the list is cut.",
    processes=("matcher",),
    buckets=COUNT_BUCKETS,
)
PLAIN_PICTURES_TOTAL: Final = Metric(
    "check_dedup_plain_pictures_total",
    "counter",
    "First outcomes of pictures too flat or too small for hashes: they match equal bytes only.",
    processes=("matcher",),
)
TOP_WORKSPACE_PICTURES: Final = Metric(
    "check_dedup_top_workspace_pictures",
    "gauge",
    "First outcomes in the last full ten minutes, of the ten busiest workspaces of this process "
    "by name, and of all others together (workspace empty).",
    labels=("workspace",),
    processes=("matcher",),
)

# --- the API ----------------------------------------------------------------------------------

HTTP_REQUESTS_TOTAL: Final = Metric(
    "check_dedup_http_requests_total",
    "counter",
    "Requests answered, by endpoint (match, compare, images, page, docs, openapi, health, "
    "other) and status; status 499: the client was gone.",
    labels=("endpoint", "status"),
    processes=("api",),
)
HTTP_REQUEST_DURATION_SECONDS: Final = Metric(
    "check_dedup_http_request_duration_seconds",
    "histogram",
    "From a request's header to its answer, by endpoint; for match: the promise as clients see it.",
    unit="seconds",
    labels=("endpoint",),
    processes=("api",),
    buckets=REQUEST_BUCKETS,
)
HTTP_REQUESTS_IN_FLIGHT: Final = Metric(
    "check_dedup_http_requests_in_flight",
    "gauge",
    "Requests under way.",
    processes=("api",),
)
API_SILENT_PARTITIONS: Final = Metric(
    "check_dedup_api_silent_partitions",
    "gauge",
    "Partitions for which no matcher has answered this replica lately; their requests get 503.",
    processes=("api",),
)

# --- fetching and decoding --------------------------------------------------------------------

FETCHES_IN_FLIGHT: Final = Metric(
    "check_dedup_fetches_in_flight",
    "gauge",
    "Pictures being fetched now.",
    processes=("hasher", "api"),
)
FETCH_FAILING_HOSTS: Final = Metric(
    "check_dedup_fetch_failing_hosts",
    "gauge",
    "Hosts that failed repeatedly and are not asked for a while.",
    processes=("hasher", "api"),
)
FETCH_RETRIES_TOTAL: Final = Metric(
    "check_dedup_fetch_retries_total",
    "counter",
    "Fetches tried again, by the reason code of the attempt that failed.",
    labels=("reason",),
    processes=("hasher", "api"),
)
FETCH_PAUSE_SECONDS_TOTAL: Final = Metric(
    "check_dedup_fetch_pause_seconds_total",
    "counter",
    "Time that fetches waited before they were tried again, also as the host asked for.",
    unit="seconds",
    processes=("hasher", "api"),
)
DECODE_RESTARTS_TOTAL: Final = Metric(
    "check_dedup_decode_restarts_total",
    "counter",
    "Decode processes started anew: a picture killed one, took too long, or was given up.",
    processes=("hasher", "api"),
)

# --- the process ------------------------------------------------------------------------------

BUILD_INFO: Final = Metric(
    "check_dedup_build_info",
    "gauge",
    "Always 1; the labels say what runs. fingerprint and decision: their versions.",
    labels=("process", "version", "python", "fingerprint", "decision"),
)

# --- the canary -------------------------------------------------------------------------------

CANARY_LATENCY_SECONDS: Final = Metric(
    "check_dedup_canary_latency_seconds",
    "histogram",
    "From publishing a synthetic picture to reading its outcome from image-matched.",
    unit="seconds",
    processes=("canary",),
    buckets=OUTCOME_BUCKETS,
)
CANARY_ROUNDS_TOTAL: Final = Metric(
    "check_dedup_canary_rounds_total",
    "counter",
    "Rounds begun: one picture, its altered copy, their outcomes, their removal.",
    processes=("canary",),
)
CANARY_LOST_TOTAL: Final = Metric(
    "check_dedup_canary_lost_total",
    "counter",
    "Synthetic pictures without an outcome in time, or that could not be published.",
    processes=("canary",),
)
CANARY_WRONG_TOTAL: Final = Metric(
    "check_dedup_canary_wrong_total",
    "counter",
    "Rounds whose outcomes were not as they must be: the first picture new, the copy its match.",
    processes=("canary",),
)
CANARY_LAST_SUCCESS_TIMESTAMP_SECONDS: Final = Metric(
    "check_dedup_canary_last_success_timestamp_seconds",
    "gauge",
    "When a round last ended as it must; 0 before the first.",
    unit="seconds",
    processes=("canary",),
)

METRICS: Final[tuple[Metric, ...]] = tuple(
    declared for declared in globals().values() if isinstance(declared, Metric)
)
"""All of them, in declared order."""
