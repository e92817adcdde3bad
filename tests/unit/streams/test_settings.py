"""Settings: each wrong value is refused at once, by its name; secrets are shown to nobody."""

import os
import subprocess
from pathlib import Path

import pytest

from deploy.local.stack import COMMAND, without_settings
from streams.errors import MisconfiguredError
from streams.kafka.security import faust_credentials, librdkafka_security
from streams.settings import Settings, declarations

SECRET = "s3cret-and-nobodys"  # noqa: S105 - of nothing
SASL = {
    "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "KAFKA_SASL_USERNAME": "hasher",
    "KAFKA_SASL_PASSWORD": SECRET,
}
# Those that any text is right for: a path that is made, a name, a password.
FREE = {
    "KAFKA_SASL_USERNAME",
    "KAFKA_SASL_PASSWORD",
    "CHECK_DEDUP_DATA_DIRECTORY",
    "CHECK_DEDUP_CANARY_WORKSPACE",
    "CHECK_DEDUP_KEYS_FILE",
    "CHECK_DEDUP_API_HOST",
    "CHECK_DEDUP_METRICS_HOST",
}
NONSENSE = "no such thing, anywhere"


@pytest.mark.parametrize(
    "variable", [one.variable for one in declarations() if one.variable not in FREE]
)
@pytest.mark.parametrize("value", [NONSENSE, "-1", "nan", "inf"])
def test_a_wrong_value_is_refused_by_its_name(variable: str, value: str) -> None:
    """Whichever setting it is; what is no number, below the least, or no finite one."""
    kind = type(next(one.default for one in declarations() if one.variable == variable))
    if kind is str and value != NONSENSE:
        return
    with pytest.raises(MisconfiguredError, match=rf"^{variable}="):
        Settings.from_environment({variable: value})


@pytest.mark.parametrize("variable", ["CHECK_DEDUP_API_PORT", "CHECK_DEDUP_METRICS_PORT"])
def test_a_port_beyond_the_last_is_refused(variable: str) -> None:
    """65535 is the last one."""
    Settings.from_environment({variable: "65535"})
    with pytest.raises(MisconfiguredError, match=f"{variable}='65536': at most 65535 is wanted"):
        Settings.from_environment({variable: "65536"})


@pytest.mark.parametrize(
    "servers", ["kafka", "kafka:", "kafka:0", "kafka:65536", "a:1,,b:2", "a:x"]
)
def test_brokers_are_hosts_with_ports(servers: str) -> None:
    """Otherwise a client would take another port, or wait for one that cannot be."""
    with pytest.raises(MisconfiguredError, match="KAFKA_BOOTSTRAP_SERVERS"):
        Settings.from_environment({"KAFKA_BOOTSTRAP_SERVERS": servers})
    for right in ("a:9092", "a-1.example:9092, b_2:9093", "[::1]:9092", "127.0.0.1:1"):
        Settings.from_environment({"KAFKA_BOOTSTRAP_SERVERS": right})


def test_all_wrong_settings_are_named_together() -> None:
    """One start says everything."""
    with pytest.raises(MisconfiguredError) as refused:
        Settings.from_environment(
            {"CHECK_DEDUP_GROUP_SIZE": "0", "CHECK_DEDUP_PARTITIONS": "x", "CHECK_DEDUP_TYPO": "1"}
        )
    assert [
        line.partition("=")[0].partition(":")[0] for line in str(refused.value).splitlines()
    ] == [
        "CHECK_DEDUP_PARTITIONS",
        "CHECK_DEDUP_GROUP_SIZE",
        "CHECK_DEDUP_TYPO",
    ]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"KAFKA_SECURITY_PROTOCOL": "PLAINTEXT"}, "KAFKA_SASL_USERNAME"),
        ({"KAFKA_SECURITY_PROTOCOL": "SSL"}, "KAFKA_SASL_PASSWORD"),
        ({"KAFKA_SECURITY_PROTOCOL": ""}, "KAFKA_SASL_PASSWORD"),
        ({"KAFKA_SASL_USERNAME": ""}, "KAFKA_SASL_USERNAME"),
        ({"KAFKA_SASL_PASSWORD": ""}, "KAFKA_SASL_PASSWORD_FILE"),
        ({"KAFKA_SASL_PASSWORD_FILE": __file__}, "exactly one of them"),
        ({"KAFKA_SASL_PASSWORD_FILE": "/no/such/file"}, "KAFKA_SASL_PASSWORD_FILE"),
        ({"KAFKA_SASL_PASSWORD_FILE": os.devnull}, "the file is empty"),
        ({"KAFKA_SASL_MECHANISM": "GSSAPI"}, "KAFKA_SASL_MECHANISM"),
        ({"KAFKA_SSL_KEY_LOCATION": __file__}, "KAFKA_SSL_CERTIFICATE_LOCATION"),
        ({"KAFKA_SSL_CA_LOCATION": "/no/such/file"}, "KAFKA_SSL_CA_LOCATION"),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA_SSL_CA_LOCATION": __file__},
            "KAFKA_SSL_CA_LOCATION",
        ),
    ],
)
def test_half_a_configuration_of_security_is_refused(changed: dict[str, str], named: str) -> None:
    """It never ends in a connection with less security than one meant."""
    Settings.from_environment(SASL)
    with pytest.raises(MisconfiguredError, match=named) as refused:
        Settings.from_environment(SASL | changed)
    assert SECRET not in str(refused.value)


def test_files_that_are_no_certificates_are_named_by_their_setting(tmp_path: Path) -> None:
    """Before anything connects, and with the file."""
    nonsense = tmp_path / "authority.pem"
    nonsense.write_text("nonsense")
    tls = {"KAFKA_SECURITY_PROTOCOL": "SSL"}
    settings = Settings.from_environment(tls | {"KAFKA_SSL_CA_LOCATION": str(nonsense)})
    with pytest.raises(MisconfiguredError, match=r"KAFKA_SSL_CA_LOCATION: .*authority\.pem"):
        faust_credentials(settings)
    settings = Settings.from_environment(
        tls
        | {
            "KAFKA_SSL_CERTIFICATE_LOCATION": str(nonsense),
            "KAFKA_SSL_KEY_LOCATION": str(nonsense),
        }
    )
    with pytest.raises(MisconfiguredError, match="KAFKA_SSL_CERTIFICATE_LOCATION"):
        faust_credentials(settings)


def test_a_password_of_a_file_ends_at_its_line_break(tmp_path: Path) -> None:
    """As an editor, or a mounted secret, leaves it; and nothing quotes a file that is no text."""
    file = tmp_path / "password"
    environment = {**SASL, "KAFKA_SASL_PASSWORD": "", "KAFKA_SASL_PASSWORD_FILE": str(file)}
    for written in (SECRET, f"{SECRET}\n", f"{SECRET}\r\n"):
        file.write_text(written)
        assert (
            librdkafka_security(Settings.from_environment(environment))["sasl.password"] == SECRET
        )
    for useless in (SECRET.encode() + b"\xff", b"\n"):
        file.write_bytes(useless)
        with pytest.raises(MisconfiguredError, match="KAFKA_SASL_PASSWORD_FILE") as refused:
            librdkafka_security(Settings.from_environment(environment))
        assert SECRET not in repr(refused.value)
        assert refused.value.__cause__ is None


def test_a_secret_is_shown_to_nobody() -> None:
    """Neither by `check-dedup settings`, nor in what Python prints of the settings."""
    settings = Settings.from_environment(SASL)
    assert SECRET not in repr(settings)
    assert SECRET not in repr(faust_credentials(settings))
    shown = subprocess.run(
        [str(COMMAND), "settings"],
        env={**without_settings(os.environ), **SASL},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "KAFKA_SASL_PASSWORD = (not shown)" in shown.stdout
    assert "KAFKA_SASL_USERNAME = hasher" in shown.stdout
    assert SECRET not in shown.stdout + shown.stderr
