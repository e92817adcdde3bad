"""The bodies of the HTTP API, and the closed list of its errors.

`/openapi.json` is generated from these types. A field that has its default is not in a body:
without `detail`, an answer has no other fields than `success`, `match` and `closest_match`.
"""

from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct

from schemas.reasons import REASONS, Reason
from schemas.records import (
    CheckIds,
    Fraction,
    ImageId,
    KnownImage,
    Match,
    NearMiss,
    Relation,
    Sha256Hex,
    Tier,
)

Yes = Annotated[bool, Meta(extra_json_schema={"const": True})]
No = Annotated[bool, Meta(extra_json_schema={"const": False})]

Code = Literal[
    "request_invalid",
    "parameter_invalid",
    "threshold_invalid",
    "body_invalid",
    "body_too_slow",
    "image_missing",
    "pair_missing",
    "key_wrong",
    "right_missing",
    "not_found",
    "method_not_allowed",
    "body_too_large",
    "type_unsupported",
    "id_reused",
    "rate_exceeded",
    "busy",
    "not_answering",
    "keys_unreadable",
    "stopping",
    "failed",
    "answer_late",
]

# Status and meaning; a request that may simply be sent again has a Retry-After as well.
CODES: dict[Code, tuple[int, str]] = {
    "request_invalid": (400, "This is no HTTP request, or its header is longer than we read."),
    "parameter_invalid": (400, "A parameter is not as documented."),
    "threshold_invalid": (400, "The threshold is not a whole number of the allowed range."),
    "body_invalid": (400, "The body is not what its Content-Type says."),
    "body_too_slow": (400, "The body did not arrive within the time of a request."),
    "image_missing": (400, "The request carries no image and no url, or more than one of them."),
    "pair_missing": (400, "The request carries not exactly one part `first` and one `second`."),
    "key_wrong": (401, "No API key, or one that is not valid."),
    "right_missing": (403, "The API key does not have the right that this takes."),
    "not_found": (404, "There is nothing here for this workspace."),
    "method_not_allowed": (405, "This path does not take this method."),
    "body_too_large": (413, "The body is larger than the limit."),
    "type_unsupported": (415, "Neither an image, nor a form, nor JSON; or an encoded body."),
    "id_reused": (422, "This id, or Idempotency-Key, was used for another picture."),
    "rate_exceeded": (429, "More requests than this API key may send."),
    "busy": (503, "Too much is under way here. Nothing was stored."),
    "not_answering": (503, "Nobody can answer for this workspace now. Nothing was stored."),
    "keys_unreadable": (503, "API keys cannot be checked now. Nothing was stored."),
    "stopping": (503, "This replica is about to stop. Nothing was stored."),
    "failed": (500, "A defect of ours. It is logged; the request may or may not have been stored."),
    "answer_late": (
        504,
        "No answer in time; the picture may have been stored. Retry with this Idempotency-Key.",
    ),
}

_UNPROCESSABLE = 422
# Of pictures that are no good; 422 for all other reasons.
_REASON_STATUSES: dict[Reason, int] = {
    "url_refused": 400,
    "address_refused": 400,
    "picture_empty": 400,
    "picture_too_large": 413,
}

PROBLEMS: dict[str, tuple[int, str]] = {
    **{str(code): found for code, found in CODES.items()},
    **{
        reason: (_REASON_STATUSES.get(reason, _UNPROCESSABLE), text)
        for reason, text in REASONS.items()
    },
}
"""Status and meaning of every `code` of an error."""

if set(CODES) != set(get_args(Code)):
    message = "each code has a status and a meaning, and no other"
    raise AssertionError(message)


class ClosestMatch(Struct, frozen=True):
    """The best match within the threshold."""

    sha256: Sha256Hex
    score: Annotated[int, Meta(ge=0, le=64, description="Hamming distance of 64; 0 is best.")]


class MatchResponse(Struct, frozen=True, omit_defaults=True):
    """Whether the picture was seen before. The fields after `closest_match` take `detail=true`."""

    success: Yes
    match: bool
    closest_match: ClosestMatch | None = None
    image_id: Annotated[ImageId | None, Meta(description="Under which the picture was stored.")] = (
        None
    )
    hash_version: int | None = None
    matches: Annotated[
        tuple[Match, ...] | None, Meta(description="Within the threshold, best first.")
    ] = None
    nearest_miss: NearMiss | None = None


class ComparedView(Struct, frozen=True):
    """One way to look at a picture that was compared."""

    name: str
    box: Annotated[
        tuple[float, float, float, float],
        Meta(description="Left, top, right, bottom as shares of the picture, as displayed."),
    ]


class ComparedPicture(Struct, frozen=True):
    """One of two pictures that were compared."""

    sha256: Sha256Hex
    width_pixels: int
    height_pixels: int
    low_information: bool
    views: tuple[ComparedView, ...]


class CompareResponse(Struct, frozen=True):
    """How `second`, had it come later, relates to `first`; null where it does not."""

    success: Yes
    related: bool
    relation: Relation | None
    tier: Tier | None
    score: Annotated[int | None, Meta(description="Smallest distance of 64-bit codes that met.")]
    fine_distance: Annotated[
        int | None, Meta(description="Smallest distance of 256-bit codes of views that met.")
    ]
    weight: Annotated[Fraction | None, Meta(description="How sure we are.")]
    views: Annotated[
        tuple[str, str] | None, Meta(description="The views that decided: of second, of first.")
    ]
    explanation: Annotated[str, Meta(description="The decision in one sentence.")]
    first: ComparedPicture
    second: ComparedPicture


class ImagesResponse(Struct, frozen=True):
    """What is known of the pictures with these bytes, oldest first."""

    success: Yes
    images: tuple[KnownImage, ...]


class Health(Struct, frozen=True):
    """How this replica is."""

    status: Literal["ok", "degraded", "stopping"]
    late_partitions: Annotated[
        tuple[int, ...], Meta(description="For which nobody answered a recent question.")
    ] = ()


class Error(Struct, frozen=True):
    """What went wrong: a code for programs and a message for people."""

    code: Annotated[str, Meta(extra_json_schema={"enum": [*PROBLEMS]})]
    message: str


class ErrorResponse(Struct, frozen=True):
    """The body of every answer that is not a success."""

    success: No
    error: Error


class UrlRequest(Struct, frozen=True):
    """A request by URL; the other fields may be given as query parameters as well."""

    url: Annotated[str, Meta(min_length=1, max_length=4096)]
    image_id: ImageId | None = None
    check: CheckIds | None = None
