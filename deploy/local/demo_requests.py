"""The end of `make demo`: the three requests of the HTTP API, by curl, as a client would send them.

Called by `deploy.local.demo` when the events have their outcomes: what came as an event is found
by a request.
"""

import io
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from PIL import Image

from deploy.local.stack import Stack, StackError

_CURL_SECONDS: Final = 30.0
_WIDEST_THRESHOLD: Final = 10


class Answered(NamedTuple):
    """One request: the command as one would type it, what came back, and what is wrong with it."""

    command: str
    body: dict[str, Any]
    wrong: list[str]


def requests(
    stack: Stack, workspace: str, pictures: Mapping[str, bytes], name: str
) -> Iterator[Answered]:
    """Send a picture that nobody sent, a copy of the event `name`, and a crop of it.

    Raises:
        StackError: curl is missing, or a request has no answer in JSON.
    """
    if shutil.which("curl") is None:
        raise StackError("curl is missing. Debian, Ubuntu: apt-get install curl")
    key = stack.command("keys", "create", "--workspace", workspace, "--right", "match").strip()
    folder = stack.directory / "requests"
    folder.mkdir(parents=True, exist_ok=True)
    original = Image.open(io.BytesIO(pictures[name])).convert("RGB")
    width, height = original.size
    new = folder / "nobody-sent-this.jpg"
    Image.effect_mandelbrot((400, 300), (-2.0, -1.0, 0.7, 1.0), 100).save(new)
    copy = folder / f"copy-of-{Path(name).stem}.jpg"
    original.resize((width * 3 // 5, height * 3 // 5)).save(copy, quality=50)
    crop = folder / f"crop-of-{Path(name).stem}.jpg"
    original.crop((width // 20, height // 20, width, height)).save(crop, quality=70)

    command, body = _curl(stack, key, new, "")
    yield Answered(command, body, _differs(body, {"success": True, "match": False}))
    for file, query in ((copy, ""), (crop, f"?threshold={_WIDEST_THRESHOLD}")):
        command, body = _curl(stack, key, file, query)
        closest = body.get("closest_match", {})
        wrong = _differs(
            {**body, "closest_match": sorted(closest)},
            {"success": True, "match": True, "closest_match": ["score", "sha256"]},
        )
        if not 0 <= closest.get("score", -1) <= _WIDEST_THRESHOLD:
            wrong.append(f"a score of {closest.get('score')}")
        yield Answered(command, body, wrong)


def _differs(body: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    return [] if body == wanted else [f"answered {body}, expected {wanted}"]


def _curl(stack: Stack, key: str, picture: Path, query: str) -> tuple[str, dict[str, Any]]:
    """Send one request; give it as one would type it, and the answer."""
    url = f"{stack.api_urls[0]}/v1/match/{query}"
    shown = ["curl", "-F", f"image=@{os.path.relpath(picture)}", url]
    done = subprocess.run(
        [*shown, "--silent", "--show-error", "--header", f"Authorization: Bearer {key}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=_CURL_SECONDS,
    )
    try:
        body: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise StackError(f"curl: {done.stderr or done.stdout}") from error
    typed = shlex.join(shown).replace("curl", 'curl -H "Authorization: Bearer $KEY"', 1)
    return typed, body
