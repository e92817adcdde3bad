"""The small HTTP server of a process: `/metrics`, `/livez`, `/readyz`, on threads of its own.

Started by the hasher, the matcher, the API and the canary where `CHECK_DEDUP_METRICS_PORT` names a
port. It needs nothing of the event loop: it answers while that is blocked, and says so through
the checks of `streams.probes`. Nothing of it is meant for the public.
"""

import json
import socket
import threading
from collections.abc import Iterable
from typing import Final, Self
from wsgiref.simple_server import WSGIRequestHandler
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from streams.errors import MisconfiguredError
from streams.probes import Probe, Probes

# A client that sends nothing, or takes nothing, holds a thread for no longer.
_CLIENT_SECONDS: Final = 5.0
_PATHS: Final[dict[str, Probe]] = {"/livez": "live", "/readyz": "ready"}


class TelemetryServer:
    """Serves one process's metrics and probes."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry, probes: Probes) -> None:
        """Listen at once; port 0 is any free one.

        Raises:
            MisconfiguredError: the address cannot be listened on.
        """
        self._metrics = make_wsgi_app(registry)
        self._probes = probes
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            kind = _Server6 if family == socket.AF_INET6 else ThreadingWSGIServer
            self._server = kind((host, port), _Handler)
        except OSError as error:
            place = f"{host}:{port}"
            raise MisconfiguredError(f"metrics cannot be served on {place}: {error}") from error
        self._server.set_app(self._answer)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="telemetry", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.server_port

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            answer: Iterable[bytes] = self._metrics(environ, start_response)
            return answer
        if path not in _PATHS:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"/metrics, /livez, /readyz\n"]
        failing = self._probes.failing(_PATHS[path])
        status = "503 Service Unavailable" if failing else "200 OK"
        start_response(status, [("Content-Type", "application/json")])
        return [json.dumps({"status": "failing" if failing else "ok", "failing": failing}).encode()]


class _Server6(ThreadingWSGIServer):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = _CLIENT_SECONDS

    def log_message(self, *_: object) -> None:
        """Log no requests: they come every few seconds for ever."""
