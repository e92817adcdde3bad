"""`check-dedup topics`: the topics on the broker."""

import json
import time
import uuid
from typing import Annotated

import msgspec
import typer

from streams.cli.session import out, session

topics_app = typer.Typer(help="The topics on the broker.", no_args_is_help=True)


@topics_app.command("create")
def create_topics() -> None:
    """Make every topic, first settings record and first offset that is not there yet."""
    with session() as settings:
        from agents.decide import default_match_settings
        from streams.kafka import topics

        created = topics.create(
            settings,
            default_match_settings(settings.partitions),
            clock_ms=lambda: time.time_ns() // 1_000_000,
            new_key=lambda: uuid.uuid4().hex,
        )
        for name in created.topics:
            out.print(f"created {name}")
        out.print(
            f"{len(created.topics)} topics made, settings written into {len(created.settings)} "
            f"partitions of index-log, {len(created.offsets)} first offsets committed"
        )


@topics_app.command("renew-settings")
def renew_settings(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the settings only.")] = False,
) -> None:
    """Put this version's match settings in force, once all matchers and APIs are this version.

    They are appended to each partition of index-log and hold from there on; outcomes that are
    made stay as they are. A matcher of an older version stops when it meets them.
    """
    with session() as settings:
        from agents.decide import default_match_settings
        from streams.kafka import topics

        renewed = default_match_settings(settings.partitions)
        out.print_json(data=msgspec.to_builtins(renewed))
        if dry_run:
            return
        offsets = topics.renew(
            settings,
            renewed,
            clock_ms=lambda: time.time_ns() // 1_000_000,
            new_key=lambda: uuid.uuid4().hex,
        )
        for partition, offset in sorted(offsets.items()):
            out.print(f"index-log[{partition}]: in force from offset {offset} on")


@topics_app.command("check")
def check_topics() -> None:
    """Hold the broker's topics against their declarations; exit 1 where they differ."""
    with session() as settings:
        from streams.kafka import topics

        problems = topics.check(settings)
        for problem in problems:
            out.print(problem, style="red", highlight=False, soft_wrap=True)
        if problems:
            raise typer.Exit(1)
        out.print("all topics are as declared")


@topics_app.command("acls")
def list_acls(
    user: Annotated[
        str | None, typer.Option(help="hasher, matcher, api, canary or operator; all of them.")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what each process may do on a broker with an authorizer, and needs to."""
    with session():
        from streams.kafka.access import USERS

        wanted = [one for one in USERS if user in (None, one.name)]
        if not wanted:
            typer.echo(f"error: there is no user {user}", err=True)
            raise typer.Exit(2)
        if as_json:
            listed = {one.name: [msgspec.to_builtins(a) for a in one.access()] for one in wanted}
            out.print_json(json.dumps(listed))
            return
        for one in wanted:
            out.print(f"{one.name}: {one.meaning}", style="bold", highlight=False, soft_wrap=True)
            for access in one.access():
                line = f"    {access.resource} {access.name}: {', '.join(access.operations)}"
                out.print(line, highlight=False, soft_wrap=True)
