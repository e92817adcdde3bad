"""`check-dedup bench`: measure, with a peer in the same run."""

from typing import Annotated, Literal

import typer

from streams.cli.session import session

bench_app = typer.Typer(help="Measure, with a peer in the same run.", no_args_is_help=True)


@bench_app.command("search")
def bench_search(
    codes: Annotated[int, typer.Option(help="Codes in the index, ten a picture.")] = 1_000_000,
    queries: Annotated[int, typer.Option(help="Pictures asked for.")] = 200,
    radius: Annotated[int, typer.Option(help="Search radius in bits.", min=0, max=16)] = 8,
    kind: Annotated[Literal["uniform", "skewed"], typer.Option(help="Of codes.")] = "uniform",
    seed: Annotated[int, typer.Option(help="Of the random codes.")] = 1,
) -> None:
    """Search alone: ours against FAISS IndexBinaryFlat on the same codes, one thread each."""
    with session():
        from streams.index import bench

        report = bench.run(codes=codes, queries=queries, radius=radius, seed=seed, kind=kind)
        typer.echo(str(report))


@bench_app.command("matcher")
def bench_matcher(
    pictures: Annotated[int, typer.Option(help="In the index before.", min=1)] = 100_000,
    measured: Annotated[int, typer.Option(help="Records timed.", min=1)] = 5_000,
    viral: Annotated[int, typer.Option(help="Copies of one picture, then asked for.")] = 300,
    seed: Annotated[int, typer.Option(help="Of the made fingerprints.")] = 1,
) -> None:
    """The matcher's own work, without Kafka: search, decide, write; also for a viral picture."""
    with session():
        from streams.evaluation import matching_rate

        typer.echo(str(matching_rate.run(pictures, measured, viral, seed)))
