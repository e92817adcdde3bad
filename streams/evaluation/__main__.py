"""`make evaluate`: the table of alterations, printed and as a page.

    python -m streams.evaluation [PICTURES] [OTHERS]

PICTURES: a folder of photographs, no two of the same; without it, those that scikit-image and
scikit-learn ship. OTHERS: a further folder of pictures to be told apart from them.
"""

import tempfile
from pathlib import Path

import skimage
import sklearn.datasets
import typer
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from agents.decide import default_match_settings
from streams.evaluation import page
from streams.evaluation.alterations import alterations
from streams.evaluation.alterations_report import halves, report
from streams.evaluation.cost import cost, drift

_REPORT = Path("build/evaluation.html")
_LEAST_SIDE_PIXELS = 200
_OTHERS = 300


def main(
    pictures: str = typer.Argument("", help="A folder of photographs."),
    others: str = typer.Argument("", help="A folder of others to be told apart from."),
) -> None:
    """Measure, print, write `build/evaluation.html`."""
    console = Console()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(pictures) if pictures else _shipped(Path(made))
        if not folder.is_dir():
            console.print(f"{folder} is no folder")
            raise typer.Exit(2)
        _, chosen = halves(_files(folder))
        if not pictures:
            chosen = _files(folder)  # too few to be split, and never tuned on
        apart = halves(_files(Path(others)))[1][:_OTHERS] if others else []
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("altering", total=len(alterations()))
            result = report(
                chosen,
                apart,
                default_match_settings(partitions=1),
                look_alikes=_files(Path(others)) if others else [],
                advance=lambda: progress.advance(task),
            )
        spent, moved = cost(chosen), drift(chosen)
    peers = list(result.lines[0].peers)
    console.print("found, in %; ours, " + ", ".join(peers))
    for line in result.lines:
        theirs = " ".join(f"{100 * line.peers[peer]:6.1f}" for peer in peers)
        named = ", ".join(f"{name} {count}" for name, count in line.named.items())
        told = f"{named}; {line.confirmed} confirmed, {line.false} false"
        console.print(f"{line.name:28} {100 * line.recall:6.1f}  {theirs}   {told}")
    for told in page.findings(result, spent, moved):
        console.print(told, highlight=False, soft_wrap=True)
    _REPORT.parent.mkdir(parents=True, exist_ok=True)
    _REPORT.write_text(page.alterations(result, spent, moved), encoding="utf-8")
    console.print(f"written: {_REPORT}")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


def _shipped(folder: Path) -> Path:
    """Photographs out of the wheels, each as a file of its own."""
    roots = (Path(skimage.__file__).parent / "data", Path(sklearn.datasets.__file__).parent)
    for root in roots:
        for path in sorted([*root.rglob("*.png"), *root.rglob("*.jpg")]):
            with Image.open(path) as image:
                if min(image.size) >= _LEAST_SIDE_PIXELS and image.mode in {"RGB", "L"}:
                    image.convert("RGB").save(folder / f"{path.stem}.png")
    return folder


if __name__ == "__main__":
    typer.run(main)
