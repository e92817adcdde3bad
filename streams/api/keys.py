"""API keys: one workspace and a set of rights each, in one JSON file that holds no key.

A key is `cd_<id>_<secret>`; the file has the id, and a salted hash of the secret. Written by
`check-dedup keys`, read again by every replica of the API when it changes. A secret is 256 random
bits, which no thief of the file can guess, however fast the hash; a slow one (scrypt, 4 ms) let
a thousand wrong keys hold up a good one for seconds.
"""

import fcntl
import hmac
import os
import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from schemas.records import Workspace
from streams.errors import MisconfiguredError

Right = Literal["match", "read", "admin"]

_PREFIX: Final = "cd"
_ID_BYTES: Final = 6
_SECRET_BYTES: Final = 32
_SALT_BYTES: Final = 16
_KEY_LIMIT_CHARACTERS: Final = 200

Salt = Annotated[bytes, Meta(min_length=_SALT_BYTES, max_length=_SALT_BYTES)]
Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]


class Key(Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of a key."""

    id: str
    workspace: Workspace
    rights: tuple[Right, ...]
    created_at_ms: int
    salt: Salt
    hash: Hash

    def may(self, right: Right) -> bool:
        """Whether the key has a right; `admin` has them all."""
        return right in self.rights or "admin" in self.rights


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    keys: tuple[Key, ...] = ()


def create(
    path: Path,
    workspace: str,
    rights: Collection[str],
    *,
    now_ms: int,
    random: Callable[[int], bytes] = secrets.token_bytes,
) -> str:
    """Add a key to the file, and give it: this is the only time that it is seen.

    Raises:
        MisconfiguredError: the workspace or a right is none, or the file cannot be read or written.
    """
    try:
        msgspec.convert(workspace, Workspace)
        granted = msgspec.convert(sorted(set(rights)), tuple[Right, ...])
    except msgspec.ValidationError as error:
        raise MisconfiguredError(f"no such workspace or right: {error}") from error
    identifier, secret = random(_ID_BYTES).hex(), random(_SECRET_BYTES).hex()
    salt = random(_SALT_BYTES)
    key = Key(
        id=identifier,
        workspace=workspace,
        rights=granted,
        created_at_ms=now_ms,
        salt=salt,
        hash=_hash(secret, salt),
    )
    with _changing(path) as keys:
        keys.append(key)
    return f"{_PREFIX}_{identifier}_{secret}"


def revoke(path: Path, identifier: str) -> bool:
    """Take a key out of the file; False where it has none of this id."""
    with _changing(path) as keys:
        left = [key for key in keys if key.id != identifier]
        found = len(left) < len(keys)
        keys[:] = left
    return found


def read(path: Path) -> tuple[Key, ...]:
    """Read the file; one that is not there holds no keys.

    Raises:
        MisconfiguredError: it cannot be read, or is no key file.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File).keys
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.DecodeError) as error:
        raise MisconfiguredError(f"{path}: {error}") from error


class Keyring:
    """The keys as a server checks them."""

    def __init__(self, path: Path) -> None:
        """Read nothing yet."""
        self._path = path
        self._stamp: tuple[int, ...] | None = None
        self._keys: dict[str, Key] = {}
        # Checked in place of a key that does not exist, so that both take as long.
        self._nobody = Key("", "-", (), 0, bytes(_SALT_BYTES), bytes(32))

    def find(self, text: str) -> Key | None:
        """Give the key that this text is, None where it is none.

        Raises:
            MisconfiguredError: the file has become unreadable.
        """
        self._read_again()
        prefix, _, rest = text.partition("_")
        identifier, _, secret = rest.partition("_")
        if prefix != _PREFIX or len(text) > _KEY_LIMIT_CHARACTERS:
            return None
        key = self._keys.get(identifier, self._nobody)
        is_right = hmac.compare_digest(_hash(secret, key.salt), key.hash)
        return key if is_right and key is not self._nobody else None

    def _read_again(self) -> None:
        """Read the file where it has changed."""
        try:
            found = self._path.stat()
            stamp: tuple[int, ...] = (found.st_mtime_ns, found.st_ino, found.st_size)
        except OSError:
            stamp = ()
        if stamp != self._stamp:
            self._keys = {key.id: key for key in read(self._path)}
            self._stamp = stamp


def _hash(secret: str, salt: bytes) -> bytes:
    return hmac.digest(salt, secret.encode("utf-8", "surrogateescape"), "sha256")


@contextmanager
def _changing(path: Path) -> Iterator[list[Key]]:
    """Hold the file for one change; it is replaced whole, so that no reader sees half of it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = list(read(path))
            yield keys
            written = path.with_name(f"{path.name}.new")
            written.unlink(missing_ok=True)
            descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(_File(tuple(keys)))))
                file.flush()
                os.fsync(file.fileno())
            written.replace(path)
    except OSError as error:
        raise MisconfiguredError(f"{path}: {error}") from error
