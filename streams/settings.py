"""Every setting, declared once: environment variable, type, unit, default, meaning.

Read by each command at start; wrong values are refused with the setting's name. Nothing here
changes a match outcome: what does is the settings record in `index-log`
(`schemas.records.MatchSettings`), written by `topics create`.
"""

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

from schemas.topics import MEBIBYTE
from streams.errors import MisconfiguredError

LogFormat = Literal["json", "text"]

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


_LARGEST_PORT = 65_535
_SERVER: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+):(\d{1,5})", re.ASCII)
_INSTANCE: Final = re.compile(r"[\w.-]{1,150}", re.ASCII)


def _setting(
    variable: str,
    default: object,
    meaning: str,
    *,
    unit: str = "",
    least: float | None = None,
    most: float = math.inf,
    check: Callable[[str], str] = str,
    secret: bool = False,
) -> Any:  # noqa: ANN401 - as dataclasses.field, which it wraps
    metadata = {
        "variable": variable,
        "meaning": meaning,
        "unit": unit,
        "least": least,
        "most": most,
        "check": check,
        "secret": secret,
    }
    return field(default=default, metadata=metadata, repr=not secret)


def _one_of(*allowed: str) -> Callable[[str], str]:
    spelt = {name.upper(): name for name in allowed}

    def check(text: str) -> str:
        if text.upper() in spelt:
            return spelt[text.upper()]
        message = f"{', '.join(allowed[:-1])} or {allowed[-1]} is wanted"
        raise ValueError(message)

    return check


def _readable(text: str) -> str:
    """Take the path of a file that is there, and not empty."""
    try:
        with Path(text).open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        message = f"the file cannot be read: {error.strerror}"
        raise ValueError(message) from error
    if empty:
        message = "the file is empty"
        raise ValueError(message)
    return text


def _servers(text: str) -> str:
    for server in text.split(","):
        found = _SERVER.fullmatch(server.strip())
        if found is None or not 0 < int(found[2]) <= _LARGEST_PORT:
            message = f"host:port, comma separated, is wanted; {server.strip()!r} is not"
            raise ValueError(message)
    return text


def _instance(text: str) -> str:
    if _INSTANCE.fullmatch(text) is None:
        message = "up to 150 letters, digits, dots, dashes and underscores are wanted"
        raise ValueError(message)
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one process."""

    bootstrap_servers: str = _setting(
        "KAFKA_BOOTSTRAP_SERVERS",
        "127.0.0.1:9092",
        "Kafka brokers, comma separated.",
        check=_servers,
    )
    security_protocol: str = _setting(
        "KAFKA_SECURITY_PROTOCOL",
        "PLAINTEXT",
        "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.",
        check=_one_of("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
    )
    sasl_mechanism: str = _setting(
        "KAFKA_SASL_MECHANISM",
        "SCRAM-SHA-512",
        "SCRAM-SHA-512, SCRAM-SHA-256 or PLAIN.",
        check=_one_of("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"),
    )
    sasl_username: str = _setting("KAFKA_SASL_USERNAME", "", "Who we are, with SASL.")
    sasl_password: str = _setting(
        "KAFKA_SASL_PASSWORD", "", "Never shown. A file is safer than the environment.", secret=True
    )
    sasl_password_file: str = _setting(
        "KAFKA_SASL_PASSWORD_FILE",
        "",
        "File with the password, read at start; a line break at its end does not count.",
        check=_readable,
    )
    ssl_ca_location: str = _setting(
        "KAFKA_SSL_CA_LOCATION",
        "",
        "PEM file of the authorities that sign brokers' certificates. Empty: the system's.",
        check=_readable,
    )
    ssl_certificate_location: str = _setting(
        "KAFKA_SSL_CERTIFICATE_LOCATION",
        "",
        "PEM file of our own certificate, for brokers that ask for one.",
        check=_readable,
    )
    ssl_key_location: str = _setting(
        "KAFKA_SSL_KEY_LOCATION",
        "",
        "PEM file of that certificate's key, not encrypted.",
        check=_readable,
    )
    partitions: int = _setting(
        "CHECK_DEDUP_PARTITIONS",
        4,
        "Partitions of every topic that `topics create` makes. Cannot be changed later.",
        least=1,
    )
    replication_factor: int = _setting(
        "CHECK_DEDUP_REPLICATION_FACTOR", 1, "Replicas of every topic made.", least=1
    )
    instance_id: str = _setting(
        "CHECK_DEDUP_INSTANCE_ID",
        "",
        "Stable name of this replica (the pod's name): a static group member, which is back in "
        "milliseconds after a restart. Empty: a dynamic member.",
        check=_instance,
    )
    session_timeout_seconds: int = _setting(
        "CHECK_DEDUP_SESSION_TIMEOUT_SECONDS",
        30,
        "A replica silent for this long loses its partitions to the others.",
        unit="seconds",
        least=1,
    )
    delivery_timeout_seconds: int = _setting(
        "CHECK_DEDUP_DELIVERY_TIMEOUT_SECONDS",
        120,
        "A record not delivered for this long stops a hasher or matcher; the API goes on.",
        unit="seconds",
        least=1,
    )
    stall_timeout_seconds: int = _setting(
        "CHECK_DEDUP_STALL_TIMEOUT_SECONDS",
        300,
        "A process whose work stands still for this long, while the broker answers and has more, "
        "ends with exit code 5. More than one event may take in all.",
        unit="seconds",
        least=1,
    )
    data_directory: Path = _setting(
        "CHECK_DEDUP_DATA_DIRECTORY",
        Path("build/data"),
        "Where the matcher keeps its index; one folder per partition. Can be lost: it is rebuilt.",
    )
    group_size: int = _setting(
        "CHECK_DEDUP_GROUP_SIZE", 256, "Most log records in one group commit.", least=1
    )
    decode_processes: int = _setting(
        "CHECK_DEDUP_DECODE_PROCESSES",
        2,
        "Processes that decode and hash pictures.",
        least=1,
    )
    window_size: int = _setting(
        "CHECK_DEDUP_WINDOW_SIZE",
        4096,
        "Most events of one partition that a hasher holds before the oldest is finished. Only "
        "beyond them does a host that does not answer hold up others, until it is given up: 35 s.",
        least=1,
    )
    unreadable_limit: int = _setting(
        "CHECK_DEDUP_UNREADABLE_LIMIT",
        100,
        "So many events of a partition in turn that are not as the contract says: before the next "
        "such one the hasher stops, with exit code 4. 0: never.",
        least=0,
    )
    fetches_at_once: int = _setting(
        "CHECK_DEDUP_FETCHES_AT_ONCE", 64, "Pictures fetched at the same time.", least=1
    )
    fetch_share_percent: int = _setting(
        "CHECK_DEDUP_FETCH_SHARE_PERCENT",
        50,
        "Most of those that one host, or one workspace, may hold; and most of a hasher's window "
        "for its pictures that are to be fetched.",
        unit="percent",
        least=1,
    )
    fetch_timeout_seconds: float = _setting(
        "CHECK_DEDUP_FETCH_TIMEOUT_SECONDS",
        30.0,
        "For one event's fetching in all, retries included.",
        unit="seconds",
        least=0.1,
    )
    connect_timeout_seconds: float = _setting(
        "CHECK_DEDUP_CONNECT_TIMEOUT_SECONDS",
        5.0,
        "For one connection to a picture's host.",
        unit="seconds",
        least=0.1,
    )
    read_timeout_seconds: float = _setting(
        "CHECK_DEDUP_READ_TIMEOUT_SECONDS",
        10.0,
        "Between two pieces of a picture.",
        unit="seconds",
        least=0.1,
    )
    picture_limit_bytes: int = _setting(
        "CHECK_DEDUP_PICTURE_LIMIT_BYTES",
        32 * MEBIBYTE,
        "Largest picture file.",
        unit="bytes",
        least=1,
    )
    pixel_limit: int = _setting(
        "CHECK_DEDUP_PIXEL_LIMIT",
        100_000_000,
        "Largest picture, width times height, all of what is decoded.",
        unit="pixels",
        least=1,
    )
    decode_memory_bytes: int = _setting(
        "CHECK_DEDUP_DECODE_MEMORY_BYTES",
        512 * MEBIBYTE,
        "Most that one process that decodes may take; pictures that would not fit are refused.",
        unit="bytes",
        least=256 * MEBIBYTE,
    )
    decode_timeout_seconds: float = _setting(
        "CHECK_DEDUP_DECODE_TIMEOUT_SECONDS",
        5.0,
        "For decoding and hashing one picture.",
        unit="seconds",
        least=0.1,
    )
    allow_private_addresses: bool = _setting(
        "CHECK_DEDUP_ALLOW_PRIVATE_ADDRESSES",
        False,  # noqa: FBT003 - a default, not a flag argument
        "Fetch pictures from private and loopback addresses too; never from link-local ones.",
    )
    api_host: str = _setting(
        "CHECK_DEDUP_API_HOST", "127.0.0.1", "Address that the API listens on; 0.0.0.0 for all."
    )
    api_port: int = _setting(
        "CHECK_DEDUP_API_PORT", 8080, "Port of the API.", least=0, most=_LARGEST_PORT
    )
    keys_file: Path = _setting(
        "CHECK_DEDUP_KEYS_FILE",
        Path("build/data/keys.json"),
        "Salted hashes of the API keys, written by `keys create` and `keys revoke`.",
    )
    request_timeout_seconds: float = _setting(
        "CHECK_DEDUP_REQUEST_TIMEOUT_SECONDS",
        15.0,
        "For one API request in all, upload and fetching included.",
        unit="seconds",
        least=0.1,
    )
    requests_at_once: int = _setting(
        "CHECK_DEDUP_REQUESTS_AT_ONCE", 64, "API requests under way in one replica.", least=1
    )
    uploads_limit_bytes: int = _setting(
        "CHECK_DEDUP_UPLOADS_LIMIT_BYTES",
        64 * MEBIBYTE,
        "Bodies of all API requests under way in one replica.",
        unit="bytes",
        least=1,
    )
    rate_per_second: float = _setting(
        "CHECK_DEDUP_RATE_PER_SECOND",
        100.0,
        "Requests that one API key may send to one replica, on average.",
        unit="requests per second",
        least=0.001,
    )
    rate_burst: int = _setting(
        "CHECK_DEDUP_RATE_BURST",
        200,
        "Requests that one API key may send to one replica at once.",
        least=1,
    )
    answer_age_limit_seconds: float = _setting(
        "CHECK_DEDUP_ANSWER_AGE_LIMIT_SECONDS",
        10.0,
        "The API refuses requests for a partition whose latest answered question is older.",
        unit="seconds",
        least=0.1,
    )
    metrics_host: str = _setting(
        "CHECK_DEDUP_METRICS_HOST",
        "127.0.0.1",
        "Address of `/metrics`, `/livez` and `/readyz`; 0.0.0.0 for all.",
    )
    metrics_port: int = _setting(
        "CHECK_DEDUP_METRICS_PORT",
        0,
        "Port of those; 0: they are not served.",
        least=0,
        most=_LARGEST_PORT,
    )
    canary_workspace: str = _setting(
        "CHECK_DEDUP_CANARY_WORKSPACE", "check-dedup-canary", "Workspace of the canary's pictures."
    )
    # 210,000 pictures a year, 6 % of 10,000 a day: removed ones keep their rows.
    canary_interval_seconds: float = _setting(
        "CHECK_DEDUP_CANARY_INTERVAL_SECONDS",
        300.0,
        "From one of the canary's rounds to the next; each adds two pictures.",
        unit="seconds",
        least=1.0,
    )
    canary_timeout_seconds: float = _setting(
        "CHECK_DEDUP_CANARY_TIMEOUT_SECONDS",
        60.0,
        "A picture of the canary's without an outcome for so long is lost.",
        unit="seconds",
        least=0.1,
    )
    log_level: str = _setting(
        "CHECK_DEDUP_LOG_LEVEL",
        "INFO",
        "DEBUG, INFO, WARNING or ERROR.",
        check=_one_of("DEBUG", "INFO", "WARNING", "ERROR"),
    )
    log_format: LogFormat = _setting(
        "CHECK_DEDUP_LOG_FORMAT",
        "json",
        "Lines on standard error: json or text.",
        check=_one_of(*get_args(LogFormat)),
    )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Read the settings.

        Raises:
            MisconfiguredError: a value is of the wrong type or out of range; all are named.
        """
        values: dict[str, object] = {}
        wrong: list[str] = []
        for declared in declarations():
            text = environment.get(declared.variable)
            if text is None or text == "":
                continue
            try:
                values[declared.name] = declared.parse(text)
            except ValueError as error:
                shown = "" if declared.secret else f"={text!r}"
                wrong.append(f"{declared.variable}{shown}: {error}")
        known = {declared.variable for declared in declarations()}
        wrong.extend(
            f"{name}: no such setting"
            for name in environment
            if name.startswith("CHECK_DEDUP_") and name not in known
        )
        settings = cls(**cast("dict[str, Any]", {} if wrong else values))
        wrong.extend(_contradictions(settings))
        if wrong:
            raise MisconfiguredError("\n".join(wrong))
        return settings


@dataclass(frozen=True, slots=True)
class Declaration:
    """One setting as declared."""

    name: str
    variable: str
    default: object
    unit: str
    meaning: str
    least: float | None
    most: float
    check: Callable[[str], str]
    secret: bool

    def shown(self, settings: Settings) -> str:
        """Give its value for a person: a secret's never."""
        value = str(getattr(settings, self.name))
        return "(not shown)" if self.secret and value else value

    def parse(self, text: str) -> object:
        """Turn the environment's text into a value of the default's type.

        Raises:
            ValueError: it is none, or not one of those allowed.
        """
        if isinstance(self.default, bool):
            return _boolean(text)
        if isinstance(self.default, Path):
            return Path(text)
        if isinstance(self.default, str):
            return self.check(text)
        kind: type[int | float] = type(self.default)  # type: ignore[assignment]
        wanted = "a whole number" if kind is int else "a number"
        try:
            number = kind(text)
        except ValueError as error:
            message = f"{wanted} is wanted"
            raise ValueError(message) from error
        if self.least is not None and not number >= self.least:
            message = f"at least {self.least:g} is wanted"
            raise ValueError(message)
        if not number <= self.most or not math.isfinite(number):
            message = f"at most {self.most:g} is wanted"
            raise ValueError(message)
        return number


def declarations() -> tuple[Declaration, ...]:
    """Give all settings in declared order."""
    return tuple(
        Declaration(
            name=declared.name,
            variable=declared.metadata["variable"],
            default=declared.default,
            unit=declared.metadata["unit"],
            meaning=declared.metadata["meaning"],
            least=declared.metadata["least"],
            most=declared.metadata["most"],
            check=declared.metadata["check"],
            secret=declared.metadata["secret"],
        )
        for declared in fields(Settings)
    )


def _boolean(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    message = "true or false is wanted"
    raise ValueError(message)


def _contradictions(settings: Settings) -> list[str]:
    """Name settings that are well-formed, and together say nothing, or something else."""
    one_event_seconds = (
        settings.fetch_timeout_seconds
        + settings.decode_timeout_seconds
        + settings.delivery_timeout_seconds
    )
    found = _half_security(settings)
    if settings.stall_timeout_seconds <= one_event_seconds:
        found.append(
            f"CHECK_DEDUP_STALL_TIMEOUT_SECONDS={settings.stall_timeout_seconds}: one event may "
            f"take {one_event_seconds:g} s: the timeouts for fetching, decoding and delivery"
        )
    return found


def _half_security(settings: Settings) -> list[str]:
    protocol = settings.security_protocol
    found = []
    given = {
        declared.name: declared.variable
        for declared in declarations()
        if declared.name.startswith(("sasl_", "ssl_"))
        and getattr(settings, declared.name) != declared.default
    }
    # Half a configuration of security must never end in a connection without any.
    used = {"sasl_": protocol.startswith("SASL"), "ssl_": protocol.endswith("SSL")}
    for prefix, is_used in used.items():
        if not is_used:
            found += [
                f"{variable}: KAFKA_SECURITY_PROTOCOL={protocol} does not use it"
                for name, variable in given.items()
                if name.startswith(prefix)
            ]
    if protocol.startswith("SASL"):
        if "sasl_username" not in given:
            found.append(f"KAFKA_SASL_USERNAME: KAFKA_SECURITY_PROTOCOL={protocol} needs it")
        if ("sasl_password" in given) == ("sasl_password_file" in given):
            found.append(
                "KAFKA_SASL_PASSWORD_FILE, KAFKA_SASL_PASSWORD: exactly one of them is needed for "
                f"KAFKA_SECURITY_PROTOCOL={protocol}"
            )
    if ("ssl_certificate_location" in given) != ("ssl_key_location" in given):
        found.append(
            "KAFKA_SSL_CERTIFICATE_LOCATION, KAFKA_SSL_KEY_LOCATION: one without the other"
        )
    return found
