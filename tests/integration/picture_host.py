"""Hosts that answer every request with one picture, at once or when they like."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(
    picture: bytes,
    address: str = "127.0.0.1",
    port: int = 0,
    *,
    delay_seconds: Callable[[str], float] = lambda _path: 0.0,
) -> Iterator[int]:
    """Run a host for as long as the context; gives its port. It answers a path after its delay."""
    with _Host((address, port), _Answer) as host:
        host.picture, host.delay_seconds = picture, delay_seconds
        threading.Thread(target=host.serve_forever, daemon=True).start()
        try:
            yield host.server_port
        finally:
            host.shutdown()


class _Host(ThreadingHTTPServer):
    """Takes a burst of connections, and does not wait for them when it stops."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    picture: bytes
    delay_seconds: Callable[[str], float]


class _Answer(BaseHTTPRequestHandler):
    server: _Host

    def do_GET(self) -> None:
        """Wait, then serve."""
        time.sleep(self.server.delay_seconds(self.path))
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.picture)))
        self.end_headers()
        self.wfile.write(self.server.picture)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
