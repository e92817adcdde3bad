"""`check-dedup topics`: the topics on the broker."""

import time
import uuid

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
