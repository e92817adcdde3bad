"""The long-running processes."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from streams import heap
from streams.cli.session import session
from streams.settings import Settings


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for command in (hasher, matcher, api, canary):
        app.command()(command)


@contextmanager
def _process() -> Iterator[Settings]:
    # First of all: a thread that has begun has its heap already.
    heap.tame()
    with session(logs=True) as settings:
        yield settings


def hasher() -> None:
    """Run a hasher: fetch and hash pictures, append them to index-log. Any number may run."""
    with _process() as settings:
        from streams.hasher import run_hasher

        run_hasher(settings)


def matcher() -> None:
    """Run a matcher: answer each picture of index-log from an index on local disk."""
    with _process() as settings:
        from streams.matcher import run_matcher

        run_matcher(settings)


def api() -> None:
    """Run an API server: POST /v1/match/ over HTTP. Any number may run."""
    with _process() as settings:
        from streams.api.server import run_api

        run_api(settings)


def canary() -> None:
    """Run a canary: a synthetic picture and its copy go the whole way, every few minutes."""
    with _process() as settings:
        from streams.canary import run_canary

        run_canary(settings)
