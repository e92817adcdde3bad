"""One picture event, from the event to the picture's fingerprint.

Called by the hasher for each `image-ingested`. Free of Kafka and Faust: how bytes are fetched
and where they are hashed is passed in.
"""

from typing import Protocol

from schemas.reasons import Rejection
from schemas.records import Fingerprint, ImageIngested


class Fetch(Protocol):
    """Gets the bytes behind a URL on behalf of a workspace."""

    async def __call__(self, url: str, workspace: str, /) -> bytes | Rejection:
        """Give the bytes, or why there are none."""


class HashPicture(Protocol):
    """Decodes and hashes a picture's bytes, somewhere safe."""

    async def __call__(self, content: bytes, /) -> Fingerprint | Rejection:
        """Give the fingerprint, or why there is none."""


async def hash_image(
    event: ImageIngested, fetch: Fetch, hash_picture: HashPicture
) -> Fingerprint | Rejection:
    """Get the picture, inline or by its URL, and its fingerprint."""
    content: bytes | Rejection | None = event.content
    if content is None:
        if event.url is None:
            return Rejection("schema_violation", "neither url nor content")
        content = await fetch(event.url, event.workspace)
    if isinstance(content, Rejection):
        return content
    if not content:
        return Rejection("picture_empty")
    return await hash_picture(content)
