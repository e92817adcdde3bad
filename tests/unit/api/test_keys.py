"""API keys: only a hash on disk, changes seen at once, nothing of a key told."""

import json
import logging
import stat
import threading
from pathlib import Path

import pytest

from streams.api import keys
from streams.api.keys import Key, Keyring
from streams.errors import MisconfiguredError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give where the file will be."""
    return tmp_path / "folder" / "keys.json"


def create(path: Path, *rights: str, workspace: str = "w") -> str:
    """Make a key."""
    return keys.create(path, workspace, rights or ("match",), now_ms=1000)


def damage(path: Path) -> None:
    """Cut the file short, as an editor or a full disk may."""
    path.write_text("{")


def found(keyring: Keyring, text: str) -> Key:
    """Give a key that is there."""
    key = keyring.find(text)
    assert key is not None
    return key


def test_a_key_is_found_with_its_workspace_and_rights(path: Path) -> None:
    """And has no others."""
    text = create(path, "read", "match", "match", workspace="newsroom")
    key = found(Keyring(path), text)
    assert (key.workspace, key.rights) == ("newsroom", ("match", "read"))
    assert key.may("match")
    assert not key.may("admin")


def test_admin_may_everything(path: Path) -> None:
    """It is the one right that has the others."""
    key = found(Keyring(path), create(path, "admin"))
    assert key.may("match")
    assert key.may("read")


def test_the_file_holds_no_key_and_is_its_owners(path: Path) -> None:
    """Neither the secret nor an unsalted hash of it; nobody else may read."""
    texts = [create(path), create(path)]
    content = path.read_text()
    for text in texts:
        assert text.split("_")[2] not in content
    hashes = [key["hash"] for key in json.loads(content)["keys"]]
    assert len(set(hashes)) == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_is_no_key(path: Path) -> None:
    """Of another id, another secret, another form."""
    text = create(path)
    prefix, identifier, secret = text.split("_")
    keyring = Keyring(path)
    for wrong in (
        "",
        "_",
        "cd__",
        text + "0",
        text[:-1],
        f"{prefix}_{'0' * 12}_{secret}",
        f"xx_{identifier}_{secret}",
        f"{prefix}_{identifier}_",
        f"{prefix}_{identifier}_\udcff",
        "cd_" + "x" * 10_000,
    ):
        assert keyring.find(wrong) is None, wrong
    assert keyring.find(text) is not None


def test_changes_are_seen_at_the_next_request(path: Path) -> None:
    """Made, used, revoked, without a restart; also one that was used a moment ago."""
    keyring = Keyring(path)
    assert keyring.find("cd_x_y") is None
    first = create(path)
    key = found(keyring, first)
    second = create(path)
    assert keyring.find(second) is not None
    assert keyring.find(first) is not None
    assert keys.revoke(path, key.id)
    assert keyring.find(first) is None
    assert keyring.find(second) is not None
    assert not keys.revoke(path, key.id)


def test_an_unknown_id_costs_what_a_wrong_secret_does(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time does not tell which ids there are."""
    text = create(path)
    hashed: list[str] = []

    def counted(secret: str, salt: bytes) -> bytes:
        hashed.append(secret)
        return bytes(len(salt) * 2)

    monkeypatch.setattr(keys, "_hash", counted)
    keyring = Keyring(path)
    for wrong in (text[:-1] + "g", "cd_unknown_secret"):
        assert keyring.find(wrong) is None
    assert len(hashed) == 2


def test_a_damaged_file_is_an_error_and_not_an_empty_one(path: Path) -> None:
    """Also where it was good before: what was revoked in it is not known."""
    text = create(path)
    keyring = Keyring(path)
    assert keyring.find(text) is not None
    damage(path)
    for _ in range(2):
        with pytest.raises(MisconfiguredError):
            keyring.find(text)


@pytest.mark.parametrize(("workspace", "right"), [("", "match"), ("w\n", "match"), ("w", "all")])
def test_wrong_words_are_refused(path: Path, workspace: str, right: str) -> None:
    """Nothing is written."""
    with pytest.raises(MisconfiguredError):
        create(path, right, workspace=workspace)
    assert not path.exists()


def test_two_at_once_lose_nothing(path: Path) -> None:
    """Each change is made on top of the other."""
    threads = [threading.Thread(target=create, args=(path,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys.read(path)) == 8


def test_nothing_of_a_key_is_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither of a good one nor of a wrong one."""
    caplog.set_level(logging.DEBUG)
    text = create(path)
    keyring = Keyring(path)
    keyring.find(text)
    keyring.find(text + "x")
    assert text.split("_")[2] not in caplog.text
