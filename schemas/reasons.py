"""Why an event was dead-lettered: the closed list of reason codes, and the rejection record.

A reason code is all that a dead letter says: nothing in it varies between attempts.
"""

from typing import Literal, get_args

from msgspec import Struct

Reason = Literal[
    # the event
    "key_missing",
    "key_invalid",
    "key_mismatch",
    "value_missing",
    "not_json",
    "schema_violation",
    "workspace_missing",
    "workspace_invalid",
    # the way to the picture
    "url_refused",
    "address_refused",
    "fetch_failed",
    "fetch_timeout",
    "http_status",
    "too_many_redirects",
    "body_length_wrong",
    "host_failing",
    # the picture
    "picture_empty",
    "picture_too_large",
    "not_an_image",
    "picture_truncated",
    "picture_undecodable",
    "too_many_pixels",
    "decode_timeout",
    "decoder_died",
]

REASONS: dict[Reason, str] = {
    "key_missing": "The record has no key, or an empty one.",
    "key_invalid": "The key is not UTF-8, too long, or has control characters.",
    "key_mismatch": "The key is not what the contract says (image id or workspace of the value).",
    "value_missing": "The value is null or empty.",
    "not_json": "The value is not a JSON object in UTF-8.",
    "schema_violation": "The value is JSON, but not as the topic's schema says.",
    "workspace_missing": "The value names no workspace.",
    "workspace_invalid": "The workspace is not a string, too long, or has control characters.",
    "url_refused": "Not http or https, malformed, or with credentials in it.",
    "address_refused": "The host, or a redirect, is a private, loopback or link-local address.",
    "fetch_failed": "The host's name does not resolve, or it refused or broke the connection.",
    "fetch_timeout": "The picture did not arrive within the time limit.",
    "http_status": "The host answered with an error status.",
    "too_many_redirects": "The host redirects more often than we follow.",
    "body_length_wrong": "The body is longer or shorter than its announced length.",
    "host_failing": "The host has failed repeatedly; refused at once for a while.",
    "picture_empty": "Zero bytes.",
    "picture_too_large": "More bytes than the stated limit.",
    "not_an_image": "The bytes are no picture in a format that we read.",
    "picture_truncated": "The picture ends early.",
    "picture_undecodable": "The bytes begin as a picture, but decoding them fails.",
    "too_many_pixels": "More pixels than the stated limits allow (a decompression bomb, perhaps).",
    "decode_timeout": "Decoding took longer than the stated limit.",
    "decoder_died": "The decoding process died of this picture, twice.",
}

if set(REASONS) != set(get_args(Reason)):
    message = "each reason has a description, and no other"
    raise AssertionError(message)


class Rejection(Struct, frozen=True):
    """What decoding, fetching or hashing returns instead of a record.

    `detail` is for logs only: it may vary between attempts and never leaves the process.
    """

    reason: Reason
    detail: str = ""
