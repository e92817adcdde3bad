"""The program `check-dedup`, put together.

Each command reads the settings, calls one function of the product and prints what it gives.
Heavy imports are inside the commands: `--help` answers at once.
"""

import typer
from rich.padding import Padding

from streams.cli import pictures, processes, status
from streams.cli.bench import bench_app
from streams.cli.dlq import dlq_app
from streams.cli.index import index_app
from streams.cli.keys import keys_app
from streams.cli.log import log_app
from streams.cli.session import out, session
from streams.cli.topics import topics_app
from streams.settings import declarations

app = typer.Typer(
    name="check-dedup",
    help="Image deduplication for Check: have we seen this picture before, which one, how sure?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
processes.add_to(app)
status.add_to(app)
pictures.add_to(app)
app.add_typer(topics_app, name="topics")
app.add_typer(dlq_app, name="dlq")
app.add_typer(log_app, name="log")
app.add_typer(index_app, name="index")
app.add_typer(keys_app, name="keys")
app.add_typer(bench_app, name="bench")


@app.command("settings")
def show_settings() -> None:
    """Print every setting: environment variable, value, unit, default and meaning."""
    with session() as settings:
        for declared in declarations():
            value, default = declared.shown(settings), str(declared.default)
            changed = f" (default {default or 'empty'})" if value != default else ""
            unit = f" {declared.unit}" if declared.unit else ""
            line = f"{declared.variable} = {value or 'empty'}{unit}{changed}"
            out.print(line, style="bold", highlight=False, markup=False, soft_wrap=True)
            out.print(Padding(declared.meaning, (0, 0, 1, 4)), highlight=False, markup=False)


def main() -> None:
    """Run the command line."""
    app()
