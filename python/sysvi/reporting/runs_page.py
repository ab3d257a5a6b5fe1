"""The page of a report of many runs: of a tuning, or of a comparison of methods."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sysvi._core.figures import figure_as_png, palette
from sysvi.reporting.document import Libraries, as_base64, as_hex, render_page, sorted_findings
from sysvi.reporting.runs_content import Point, RunsContent, Series

# Symbols of the series in both pictures, by their names in plotly and in matplotlib.
SYMBOLS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "triangle-down": "v",
    "cross": "P",
    "x": "X",
}


def render_runs(content: RunsContent, libraries: Libraries) -> str:
    """Make the page: HTML. The same content gives the same text."""
    colors = as_hex(palette(len(content.series)))
    drawn = list(zip(content.series, colors, _symbols(len(content.series)), strict=True))
    sections = [("findings", "Findings"), ("trade-off", "Trade-off"), ("choices", content.choices[0])]
    sections += [("runs", "Runs"), ("data-and-settings", "Data and settings"), ("again", "Make it again")]
    variables = {
        "c": content,
        "title": content.title,
        "sections": sections,
        "facts": content.facts,
        "findings": sorted_findings(content.findings),
        "notes": content.notes,
        "recipes": content.recipes,
        "figure_png": as_base64(figure_as_png(_draw(content.axes[:2], drawn))) if drawn else "",
    }
    data = {
        "axes": content.axes,
        "series": [
            {
                "name": series.name,
                "color": color,
                "symbol": symbol,
                "means": list(map(_point, series.means)),
                "runs": list(map(_point, series.runs)),
            }
            for series, color, symbol in drawn
        ],
    }
    return render_page(libraries, "runs", data, variables)


def _symbols(n: int) -> list[str]:
    names = list(SYMBOLS)
    return [names[i % len(names)] for i in range(n)]


def _point(point: Point) -> dict[str, Any]:
    return {
        "name": point.name,
        "values": list(map(_rounded, point.values)),
        "spreads": list(map(_rounded, point.spreads)),
        "chosen": point.chosen,
    }


def _rounded(value: float) -> float | None:
    """A number with the digits that a reader can see; None if it is missing."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _draw(axes: tuple[str, ...], drawn: list[tuple[Series, str, str]]) -> Any:
    """The figure for pages without scripts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    ax = figure.subplots()
    for series, color, symbol in drawn:
        look: dict[str, Any] = {"color": color, "marker": SYMBOLS[symbol]}
        runs = np.array([point.values[:2] for point in series.runs]).reshape(-1, 2)
        means = np.array([point.values[:2] for point in series.means]).reshape(-1, 2)
        ax.scatter(runs[:, 0], runs[:, 1], s=14, alpha=0.4, linewidths=0, **look)
        ax.plot(means[:, 0], means[:, 1], linewidth=1.2, markersize=7, label=series.name, **look)
        for point, position in zip(series.means, means, strict=True):
            if point.chosen:
                ax.plot(*position, "o", markersize=15, markerfacecolor="none", markeredgecolor="black")
            if np.isfinite(position).all() and len(series.means) > 1:
                ax.annotate(point.name, tuple(position), (6, 6), textcoords="offset points", fontsize=8)
    ax.set(xlabel=axes[0], ylabel=axes[1])
    ax.grid(color="0.92")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure
