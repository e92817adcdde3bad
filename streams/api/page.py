"""The web page at `/`: three files beside the program, with no build step and no foreign host.

Called by `streams.api.server`. The page knows nothing that a client does not: it speaks to the
public API with the key that its user types in. Its policy lets it load its own two files, show
pictures that its user chose, and talk to this server; nothing else, and it cannot be framed.
"""

from importlib.resources import files
from typing import Final

from aiohttp import web

_FILES: Final = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Page:
    """The page's files, read once."""

    def __init__(self) -> None:
        """Read them."""
        folder = files(__package__) / "static"
        self._files = {
            path: ((folder / name).read_text(encoding="utf-8"), content_type)
            for path, (name, content_type) in _FILES.items()
        }

    @property
    def paths(self) -> tuple[str, ...]:
        """Where they are served."""
        return tuple(self._files)

    async def answer(self, request: web.Request) -> web.Response:
        """Give the file of a request's path."""
        text, content_type = self._files[request.path]
        return web.Response(text=text, content_type=content_type, headers=_HEADERS)
