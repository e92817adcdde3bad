"""Every record that crosses a topic, as a frozen type.

The JSON Schemas in `schemas/json/` are generated from these types. Records that we consume
ignore fields they do not know (a producer may be newer than we are); records that we produce,
and those of `index-log`, forbid them. `index-log` is MessagePack of the same declarations.
Bytes are base64 in JSON and binary in MessagePack.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

# A lookahead instead of `$`, which in Python also matches before a trailing newline.
WITHOUT_CONTROL_CHARACTERS = r"^[^\u0000-\u001f\u007f-\u009f]+(?![\s\S])"

Workspace = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=100,
        pattern=WITHOUT_CONTROL_CHARACTERS,
        description="Whose picture this is; nothing is ever matched across workspaces.",
    ),
]
ImageId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        pattern=WITHOUT_CONTROL_CHARACTERS,
        description="The producer's id of one picture, unique within its workspace, never reused.",
    ),
]
RequestId = Annotated[str, Meta(min_length=1, max_length=100, pattern=WITHOUT_CONTROL_CHARACTERS)]
Sha256Hex = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}(?![\s\S])")]
Sha256 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Code = Annotated[bytes, Meta(min_length=8, max_length=8)]
FineCode = Annotated[bytes, Meta(min_length=32, max_length=32)]
Offset = Annotated[int, Meta(ge=0)]
PartitionNumber = Annotated[int, Meta(ge=0)]
MillisecondsSinceEpoch = Annotated[int, Meta(ge=0)]
DatabaseId = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Distance = Annotated[int, Meta(ge=0, le=256)]
Fraction = Annotated[float, Meta(ge=0, le=1)]

Origin = Literal["event", "api"]
Relation = Literal["identical", "near_identical", "reframed", "mirrored", "other_text"]
Tier = Literal["confirmed_sibling", "suggested_sibling"]
Verdict = Literal["confirmed", "dissociated"]


class CheckIds(Struct, frozen=True, omit_defaults=True):
    """Check's own ids of a picture, handed back with every match it takes part in."""

    team_id: DatabaseId | None = None
    project_media_id: DatabaseId | None = None


# --- from Check -------------------------------------------------------------------------------


class ImageIngested(Struct, frozen=True, omit_defaults=True):
    """Here is a picture: `url` or `content`, exactly one of the two."""

    workspace: Workspace
    image_id: ImageId
    url: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    content: Annotated[bytes, Meta(description="The picture's bytes, base64.")] | None = None
    check: CheckIds | None = None


class MatchReviewed(Struct, frozen=True, omit_defaults=True):
    """An analyst confirmed or dissociated a pair of pictures."""

    workspace: Workspace
    image_id: ImageId
    other_image_id: ImageId
    verdict: Verdict


class ImageRemoved(Struct, frozen=True, omit_defaults=True):
    """Forget this picture, now and whenever it is delivered again."""

    workspace: Workspace
    image_id: ImageId


# --- index-log --------------------------------------------------------------------------------


class Source(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a log record comes from: the event's topic, partition and offset."""

    topic: Annotated[str, Meta(min_length=1, max_length=249)]
    partition: PartitionNumber
    offset: Offset


class View(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One way to look at a picture: a rectangle of it and the two hashes of that rectangle.

    `rectangle` is left, top, right, bottom in pixels of the decoded picture, right and bottom
    exclusive. `code` (64 bits) finds, `fine` (256 bits) decides; both in imagehash's bit order,
    row by row, most significant bit first.
    """

    name: Annotated[str, Meta(min_length=1, max_length=40)]
    rectangle: tuple[int, int, int, int]
    code: Code
    fine: FineCode


class Fingerprint(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All that is kept of a picture. Equal `version`s are comparable, others are not."""

    version: Annotated[int, Meta(ge=1)]
    sha256: Sha256
    format: Annotated[str, Meta(min_length=1, max_length=20)]
    width_pixels: Annotated[int, Meta(ge=1, description="As displayed, after orientation.")]
    height_pixels: Annotated[int, Meta(ge=1)]
    decoded_width_pixels: Annotated[int, Meta(ge=1, description="Of the reduced luma picture.")]
    decoded_height_pixels: Annotated[int, Meta(ge=1)]
    views: Annotated[
        tuple[View, ...], Meta(max_length=16, description="What the index holds of the picture.")
    ]
    animated: Annotated[bool, Meta(description="Only the first frame was hashed.")] = False
    low_information: Annotated[
        bool, Meta(description="Too flat or too small to tell pictures apart by a hash.")
    ] = False
    frame: Annotated[
        tuple[int, int, int, int], Meta(description="The rectangle that the windows are cut from.")
    ] = (0, 0, 0, 0)
    asked: Annotated[
        bytes,
        Meta(
            max_length=8 * 96,
            description="Codes of further windows, 8 bytes each, in the version's fixed order: "
            "the picture asks with them too, the index does not hold them.",
        ),
    ] = b""
    sketch: Annotated[bytes, Meta(max_length=2560, description="Grey levels, row by row.")] = b""

    @property
    def is_blank(self) -> bool:
        """Whether this is a removed picture's, kept without its hashes."""
        return not self.views and not self.low_information


class ReplyAddress(Struct, frozen=True, forbid_unknown_fields=True):
    """Who waits for the answer, and the threshold that counts for that answer only."""

    request_id: RequestId
    threshold: Annotated[int, Meta(ge=0, le=16)]


class Hashed(
    Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="type",
    tag="hashed",
):
    """A picture was hashed."""

    record_version: Literal[1]
    workspace: Workspace
    image_id: ImageId
    origin: Origin
    fingerprint: Fingerprint
    ingested_at_ms: MillisecondsSinceEpoch
    source: Source | None = None
    check: CheckIds | None = None
    reply: ReplyAddress | None = None


class Removed(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="removed"):
    """A picture was removed, for good."""

    record_version: Literal[1]
    workspace: Workspace
    image_id: ImageId
    source: Source


class Reviewed(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="reviewed"):
    """A pair was confirmed or dissociated."""

    record_version: Literal[1]
    workspace: Workspace
    image_id: ImageId
    other_image_id: ImageId
    verdict: Verdict
    source: Source


class MatchSettings(
    Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="settings"
):
    """All that changes an outcome and is not in a picture; in force from its offset on.

    `topics create` writes the first one into each partition of `index-log`.
    """

    record_version: Literal[1]
    partitions: Annotated[int, Meta(ge=1, description="Partition count of index-log.")]
    decision_version: Annotated[int, Meta(ge=1)]
    radius: Annotated[int, Meta(ge=0, le=16, description="Search radius, bits of 64.")]
    standard_threshold: Annotated[int, Meta(ge=0, le=16, description="Score, inclusive.")]
    suggested_confidence: Annotated[Fraction, Meta(description="From here on a pair relates.")]
    confirmed_confidence: Annotated[Fraction, Meta(description="From here on, one condition met.")]
    least_agreement: Annotated[
        float, Meta(ge=-1, le=1, description="Sketches that correlate less show other things.")
    ]
    confirmed_fine_distance: Annotated[int, Meta(ge=0, le=256, description="Inclusive.")]
    changed_correlation: Annotated[
        float, Meta(ge=-1, le=1, description="A window of the sketches below it was changed.")
    ]
    changed_grey_levels: Annotated[
        float, Meta(ge=0, description="A window of the sketches that differs by more was changed.")
    ]
    unexplained_share: Annotated[
        Fraction, Meta(description="Of a picture, beside the other; up to here, it is nothing.")
    ]
    candidates_bound: Annotated[
        int, Meta(ge=1, description="Candidates decided per picture, nearest and oldest first.")
    ]
    matches_bound: Annotated[int, Meta(ge=1, le=400, description="Matches listed per outcome.")]
    least_view_confidence: Annotated[
        Fraction, Meta(description="Views that met are compared from here on; decision 3 has none.")
    ] = 0.0


LogRecord = Hashed | Removed | Reviewed | MatchSettings


# --- to Check and subscribers -----------------------------------------------------------------


class Position(Struct, frozen=True, forbid_unknown_fields=True):
    """A place in `index-log`; within a workspace, positions are the order of things."""

    partition: PartitionNumber
    offset: Offset


class Match(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An earlier picture that this one relates to."""

    sha256: Sha256Hex
    image_id: ImageId
    score: Annotated[int, Meta(ge=0, le=64, description="Smallest distance of 64-bit codes.")]
    fine_distance: Annotated[
        Distance | None,
        Meta(description="Smallest distance of 256-bit codes of views that met, if any did."),
    ]
    relation: Relation
    tier: Tier
    weight: Annotated[Fraction, Meta(description="For the Relationship row; 1 is certain.")]
    views: Annotated[
        tuple[str, str], Meta(description="The closest views: of this picture, of the earlier.")
    ]
    origin: Origin
    check: CheckIds | None = None


class ImageMatched(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The outcome for one picture, exactly one per (workspace, image id)."""

    workspace: Workspace
    image_id: ImageId
    sha256: Sha256Hex
    position: Position
    match: bool
    closest_match: Match | None
    matches: Annotated[tuple[Match, ...], Meta(max_length=400, description="Best first.")]
    matches_total: Annotated[
        int, Meta(ge=0, description="Before the list was cut to the settings' bound.")
    ]
    model: Annotated[str, Meta(description="For the Relationship row: the deciding algorithm.")]
    hash_version: Annotated[int, Meta(ge=1)]
    origin: Origin
    check: CheckIds | None = None
    low_information: bool = False
    removed: Annotated[bool, Meta(description="Removed before it arrived; never indexed.")] = False


class MatchRetracted(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A relation told earlier no longer holds."""

    workspace: Workspace
    image_id: ImageId
    other_image_id: ImageId
    reason: Literal["dissociated", "removed"]
    position: Position


# --- questions and answers --------------------------------------------------------------------


class AskMatch(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="match"):
    """A question: what this picture matches, without storing it."""

    request_id: RequestId
    workspace: Workspace
    fingerprint: Fingerprint
    threshold: Annotated[int, Meta(ge=0, le=16)]


class AskImage(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="image"):
    """A question: what is known about the pictures with these bytes."""

    request_id: RequestId
    workspace: Workspace
    sha256: Sha256


class AskExplain(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="explain"):
    """A question: why these two pictures are, or are not, related."""

    request_id: RequestId
    workspace: Workspace
    image_id: ImageId
    other_image_id: ImageId


class AskCanary(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="canary"):
    """A question: whether anybody answers for this workspace's partition."""

    request_id: RequestId
    workspace: Workspace


Question = AskMatch | AskImage | AskExplain | AskCanary


class NearMiss(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The closest earlier picture that does not count as a match, and why it does not."""

    sha256: Sha256Hex
    image_id: ImageId
    score: Annotated[int, Meta(ge=0, le=64, description="Smallest distance of 64-bit codes.")]
    fine_distance: Distance | None
    views: Annotated[
        tuple[str, str], Meta(description="The closest views: of this picture, of the earlier.")
    ]
    reason: Annotated[
        Literal["threshold", "confidence", "other_text"],
        Meta(description="Its score, the evidence as a whole, or the text in it, is not enough."),
    ]
    origin: Origin
    check: CheckIds | None = None


class KnownImage(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One picture of the index, as told to a client of its workspace."""

    sha256: Sha256Hex
    image_id: ImageId
    ingested_at_ms: MillisecondsSinceEpoch
    position: Position
    origin: Origin
    matches: Annotated[
        tuple[Match, ...], Meta(max_length=10, description="The best that are still there.")
    ] = ()
    check: CheckIds | None = None


class MatchAnswered(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The answer to one question or one picture sent by the API.

    `outcome` is what `image-matched` says of a picture that was sent; the threshold of the request
    counts for the closest match, the matches and the nearest miss.
    """

    request_id: RequestId
    workspace: Workspace
    position: Annotated[Position, Meta(description="The index as of this place in the log.")]
    settings: Annotated[
        MatchSettings | None, Meta(description="In force at that place; told to a canary.")
    ] = None
    outcome: ImageMatched | None = None
    closest_match: Annotated[
        Match | None, Meta(description="Of the same item (not with another text) only.")
    ] = None
    matches: Annotated[tuple[Match, ...], Meta(max_length=100, description="Best first.")] = ()
    nearest_miss: Annotated[
        NearMiss | None, Meta(description="Where there is no closest match.")
    ] = None
    images: Annotated[tuple[KnownImage, ...], Meta(max_length=10, description="Oldest first.")] = ()


# --- among operators --------------------------------------------------------------------------


class DeadLetterHandled(Struct, frozen=True, forbid_unknown_fields=True):
    """A dead letter needs no more attention: it was replayed, or it was dropped."""

    letter_id: Annotated[
        str, Meta(pattern=r"^[0-9a-f]{32}(?![\s\S])", description="Its header `dlq-id`.")
    ]
    topic: Annotated[str, Meta(min_length=1, max_length=249, description="Of dead letters.")]
    partition: PartitionNumber
    upto: Annotated[
        Offset, Meta(description="Its deliveries below this offset are handled, later ones not.")
    ]
    action: Literal["replayed", "dropped"]
