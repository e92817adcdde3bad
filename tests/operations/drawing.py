"""Draws a dashboard's panels from what Prometheus answered, for people without a Grafana."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure

from deploy.generate.dashboards import Dashboard
from deploy.local.prometheus import Series

mpl.use("agg")

_COLUMNS: Final = 3
_LEGENDS: Final = 8

Answers = Mapping[tuple[str, str], Sequence[Series]]
"""By panel's title and expression."""


def draw(dashboard: Dashboard, answers: Answers, file: Path) -> None:
    """Write one PNG with all panels."""
    rows = -(-len(dashboard.panels) // _COLUMNS)
    figure = Figure(figsize=(6 * _COLUMNS, 3.4 * rows), layout="constrained")
    figure.suptitle(dashboard.title)
    places = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes, panel in zip(places, dashboard.panels, strict=False):
        drawn = 0
        for query in panel.queries:
            for series in answers.get((panel.title, query.expr), ()):
                start = min(at for at, _ in series.points)
                legend = query.legend
                for name, text in series.labels.items():
                    legend = legend.replace("{{" + name + "}}", text)
                times = [at - start for at, _ in series.points]
                axes.plot(times, [value for _, value in series.points], label=legend or None)
                drawn += bool(legend)
        axes.set_title(f"{panel.title} [{panel.unit}]", fontsize=10)
        axes.set_xlabel(textwrap.shorten(panel.description, 90), fontsize=6)
        if 0 < drawn <= _LEGENDS:
            axes.legend(fontsize=6)
    for axes in places[len(dashboard.panels) :]:
        axes.set_axis_off()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=70)
