"""What the API tells of its requests.

A middleware outside of all others, so that it sees the status that a client gets; requests that
aiohttp itself refuses, because they are no HTTP, never reach it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from streams.telemetry import metrics
from streams.telemetry.registry import Registry

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# As web servers log a client that went away.
_CLIENT_GONE: Final = 499


class RequestMetrics:
    """Counts and times requests by endpoint; what has no name is `other`."""

    def __init__(self, registry: Registry, endpoints: dict[str, str]) -> None:
        """Take the names of the endpoints by the canonical path of their routes."""
        self._endpoints = endpoints
        self._requests = registry.counter(metrics.HTTP_REQUESTS_TOTAL)
        self._seconds = registry.histogram(metrics.HTTP_REQUEST_DURATION_SECONDS)
        self._in_flight = registry.gauge(metrics.HTTP_REQUESTS_IN_FLIGHT)
        for endpoint in {*endpoints.values(), "other"}:
            self._seconds.labels(endpoint)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count one request."""
        resource = request.match_info.route.resource
        path = "" if resource is None else resource.canonical
        endpoint = self._endpoints.get(path, "other")
        began, status = time.perf_counter(), _CLIENT_GONE
        self._in_flight.inc()
        try:
            response = await handler(request)
            status = response.status
        except asyncio.CancelledError:
            raise
        except BaseException:
            status = web.HTTPInternalServerError.status_code
            raise
        else:
            return response
        finally:
            self._in_flight.dec()
            self._requests.labels(endpoint, str(status)).inc()
            self._seconds.labels(endpoint).observe(time.perf_counter() - began)
