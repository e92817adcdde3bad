"""How we show Kafka who we are, and make sure who it is: the same for librdkafka and for Faust.

Read from the settings by `streams.kafka.client` and by Faust's apps. The password is read here and
goes nowhere else: into no message, no log and no `repr`.
"""

import ssl
from pathlib import Path
from typing import Final

import faust
from faust.types.auth import CredentialsT

from streams.errors import MisconfiguredError
from streams.settings import Settings

# librdkafka's properties, by our settings.
_PROPERTIES: Final = {
    "ssl.ca.location": "ssl_ca_location",
    "ssl.certificate.location": "ssl_certificate_location",
    "ssl.key.location": "ssl_key_location",
}


def librdkafka_security(settings: Settings) -> dict[str, str | int | float | bool]:
    """Give what a librdkafka client needs.

    Raises:
        MisconfiguredError: the password's file cannot be used.
    """
    protocol = settings.security_protocol
    config: dict[str, str | int | float | bool] = {"security.protocol": protocol}
    if protocol.startswith("SASL"):
        config |= {
            "sasl.mechanism": settings.sasl_mechanism,
            "sasl.username": settings.sasl_username,
            "sasl.password": _password(settings),
        }
    if protocol.endswith("SSL"):
        for name, setting in _PROPERTIES.items():
            if value := getattr(settings, setting):
                config[name] = value
    return config


def faust_credentials(settings: Settings) -> CredentialsT | None:
    """Give what a Faust app needs; None where nothing is asked.

    Raises:
        MisconfiguredError: a file cannot be used; its setting is named.
    """
    protocol = settings.security_protocol
    context = tls_context(settings) if protocol.endswith("SSL") else None
    if protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=settings.sasl_username,
            password=_password(settings),
            mechanism=settings.sasl_mechanism,
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)


def tls_context(settings: Settings) -> ssl.SSLContext:
    """Give a context that checks the broker's certificate and name, and may show our own.

    Raises:
        MisconfiguredError: a file cannot be used; its setting is named.
    """
    try:
        context = ssl.create_default_context(cafile=settings.ssl_ca_location or None)
    except (OSError, ssl.SSLError) as error:
        message = f"KAFKA_SSL_CA_LOCATION: {settings.ssl_ca_location}: {error}"
        raise MisconfiguredError(message) from error
    if settings.ssl_certificate_location:
        try:
            context.load_cert_chain(
                settings.ssl_certificate_location,
                settings.ssl_key_location,
                # Without this, an encrypted key would be asked for on the terminal.
                password="",
            )
        except (OSError, ssl.SSLError) as error:
            message = (
                f"KAFKA_SSL_CERTIFICATE_LOCATION, KAFKA_SSL_KEY_LOCATION: "
                f"{settings.ssl_certificate_location} and {settings.ssl_key_location}: {error}"
            )
            raise MisconfiguredError(message) from error
    return context


def _password(settings: Settings) -> str:
    if not settings.sasl_password_file:
        return settings.sasl_password
    try:
        text = Path(settings.sasl_password_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        # What the file holds must not come along: a decoding error quotes it.
        message = f"KAFKA_SASL_PASSWORD_FILE: {settings.sasl_password_file}: {type(error).__name__}"
        raise MisconfiguredError(message) from None
    password = text.removesuffix("\n").removesuffix("\r")
    if not password:
        raise MisconfiguredError(
            f"KAFKA_SASL_PASSWORD_FILE: {settings.sasl_password_file}: no password in it"
        )
    return password
