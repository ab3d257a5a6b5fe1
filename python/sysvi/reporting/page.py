"""The page of a report of an integration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from sysvi._core.figures import draw_umaps, figure_as_png, palette
from sysvi._core.settings import Ramp
from sysvi.api.support import LOW_SUPPORT, SUPPORT_KEY
from sysvi.evaluation.evaluate import PCA_KEY
from sysvi.evaluation.registry import METRICS
from sysvi.evaluation.tables import AGGREGATE, embedding_columns
from sysvi.reporting.content import Content
from sysvi.reporting.document import Libraries, as_base64, as_hex, numbers, render_page, sorted_findings
from sysvi.reporting.recipe import chosen_settings, recipes
from sysvi.reporting.shown_cells import Column

TERMS = {"total": "Total loss", "reconstruction": "Reconstruction loss", "kl": "KL divergence", "cycle": "Cycle loss"}
MAX_STATIC_CATEGORIES = 40  # of a column that colours the static picture


def render(
    content: Content, libraries: Libraries, *, for_r: bool = False, translate: Callable[[str], str] = str
) -> str:
    """Make the page.

    Parameters
    ----------
    content
        What the report shows.
    libraries
        Result of `load_libraries`.
    for_r
        Whether R made the embedding, and its users read the report.
    translate
        Function that puts sentences of the Python package into the words of another interface.

    Returns
    -------
    str
        HTML. The same content gives the same text.
    """
    record = content.record
    titles = {name: _umap_title(name, content.embedding) for name in content.umaps}
    losses = _losses(content)
    settings = _settings(content)
    static = _static_columns(content)
    mixing = content.mixing.astype(float)
    variables = {
        "c": content,
        "title": f"Integration of {_listed(content.systems)}",
        "sections": _sections(content),
        "facts": _facts(content),
        "findings": sorted_findings(content.findings, translate),
        "notes": [translate(note) for note in content.notes],
        "umap_titles": list(titles.items()),
        "static_columns": [column.name for column in static],
        "cells_png": as_base64(figure_as_png(_draw_cells(content, titles, static))),
        "score_columns": embedding_columns(content.evaluation.table),
        "scores": _scores(content.evaluation.table, translate),
        "mixing_head": [
            (metric, [column[1] for column in mixing.columns if column[0] == metric]) for metric in _firsts(mixing)
        ],
        "mixing_rows": [(name, row.tolist()) for name, row in mixing.iterrows()],
        "type_systems": [] if content.types is None else _systems_of(content.types),
        "low_support": LOW_SUPPORT,
        "losses": losses,
        "has_held_out": any(curve["held_out"] for loss in losses for curve in loss["curves"]),
        "losses_png": as_base64(figure_as_png(_draw_losses(losses))) if losses else "",
        "members": _members(content, losses),
        "steps": _steps(content),
        "given_settings": [row for row in settings if row["given"]],
        "all_settings": settings,
        "recipes": recipes(record, content.embedding, content.n_cells, for_r),
    }
    return render_page(libraries, "report", _data(content, losses), variables)


def _umap_title(name: str, embedding: str) -> str:
    if name == embedding:
        return f"after integration ({name})"
    return "before integration (principal components)" if name == PCA_KEY else name


def _listed(names: list[str]) -> str:
    """Names as a list in a sentence; of many, their number."""
    if len(names) > 4:
        return f"{len(names)} systems"
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _sections(content: Content) -> list[tuple[str, str]]:
    types = [] if content.types is None else [("types", "Cell types")]
    return [
        *[("findings", "Findings"), ("cells", "Cells"), ("scores", "Scores")],
        *types,
        *[("agreement", "Agreement"), ("training", "Training"), ("data-and-settings", "Data and settings")],
        ("again", "Make it again"),
    ]


def _facts(content: Content) -> list[tuple[str, str]]:
    record, groups = content.record, content.groups
    facts = [("Cells", f"{content.n_cells:,}"), ("Genes of the model", f"{record.n_genes:,}")]
    facts.append(("Systems", f"{len(content.systems)}"))
    if "batch" in groups:
        facts.append(("Batches", f"{groups['batch'].nunique():,}"))
    if content.types is not None:
        facts.append(("Cell types", f"{len(content.types):,}"))
    facts += [("Models", f"{record.n_members}"), ("Training", record.status.replace("_", " "))]
    table = content.evaluation.table
    if "Total" in table.index and pd.notna(total := table[content.embedding]["Total"]):
        facts.append(("Total score", f"{total:.2f}"))
    return facts


def _scores(table: pd.DataFrame, translate: Callable[[str], str]) -> list[dict[str, Any]]:
    """Rows of the table of metrics."""
    meanings = {metric.name: metric.meaning for metric in METRICS}
    rows, last = [], None
    for name, row in table.iterrows():
        total = row["group"] == AGGREGATE
        group = "Aggregated scores" if total else str(row["group"]).capitalize()
        rows.append(
            {
                "name": name,
                "group": group,
                "first_of_group": group != last,
                "total": total,
                "star": not row["in_score"] and not total,
                "values": [float(row[column]) for column in embedding_columns(table)],
                "meaning": meanings.get(str(name), ""),
                "convention": translate(row["convention"]),
            }
        )
        last = group
    return rows


def _firsts(mixing: pd.DataFrame) -> list[str]:
    """Names of the metrics of a table of mixing, each once."""
    return list(dict.fromkeys(column[0] for column in mixing.columns))


def _systems_of(types: pd.DataFrame) -> list[str]:
    return list(types.columns[: list(types.columns).index("only in")])  # the columns before are systems


def _losses(content: Content) -> list[dict[str, Any]]:
    """Curves of each loss term, with their first and last value."""
    record = content.record
    colors = as_hex(palette(record.n_members))
    found: list[dict[str, Any]] = []
    for term, title in TERMS.items():
        curves: list[dict[str, Any]] = [
            {
                "name": f"model {i + 1}{', held out' if cells == 'validation' else ''}",
                "color": colors[i],
                "held_out": cells == "validation",
                "epoch": list(losses["epoch"]),
                "values": list(losses[f"{term}_{cells}"]),
            }
            for i, losses in enumerate(record.losses)
            for cells in ("train", "validation")
            if losses.get(f"{term}_{cells}")
        ]
        if curves:
            first, last = ([curve["values"][end] for curve in curves if not curve["held_out"]] for end in (0, -1))
            found.append({"title": title, "term": term, "curves": curves, "first": _range(first), "last": _range(last)})
    return found


def _range(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "no number"
    low, high = f"{min(known):.4g}", f"{max(known):.4g}"
    return low if low == high else f"{low} to {high}"


def _members(content: Content, losses: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Seed, epochs and last losses of each model."""
    rows = []
    for seed, of_member in zip(content.record.member_seeds, content.record.losses, strict=True):
        last = [(of_member.get(f"{loss['term']}_train") or [None])[-1] for loss in losses]
        epochs = of_member["epoch"][-1] if of_member["epoch"] else 0
        rows.append({"seed": seed, "epochs": epochs, "last": ["" if x is None else f"{x:.5g}" for x in last]})
    return rows


def _steps(content: Content) -> list[tuple[str, int]]:
    """Steps of the preparation with the number of genes that each kept."""
    preparation = content.record.preparation
    if preparation is None:
        return [("Genes that the model was trained on", content.record.n_genes)]
    seen = f"Seen in more than {preparation['min_cells']} cells of every system"
    variable = [(f"Variable in {name}", n) for name, n in preparation["variable_genes"].items()]
    steps = [("In the input", preparation["genes_in"]), (seen, preparation["genes_detected"]), *variable]
    return [*steps, ("Variable in every system: genes of the model", preparation["genes_kept"])]


def _settings(content: Content) -> list[dict[str, Any]]:
    """All settings with their help, and whether they were given or differ from the defaults."""
    chosen = chosen_settings(content.record, content.n_cells)
    rows: list[dict[str, Any]] = [
        {"name": "preset", "value": chosen.preset, "help": "Settings that go together.", "given": True},
        {"name": "members", "value": content.record.n_members, "help": "Number of models.", "given": True},
        {"name": "seed", "value": content.record.seed, "help": "Random seed.", "given": True},
    ]
    parts: tuple[Any, ...] = (content.record.model_settings, content.record.train_settings)
    for f, value in ((f, getattr(settings, f.name)) for settings in parts for f in fields(settings)):
        if f.name == "seed":
            continue
        if isinstance(value, Ramp):
            value = f"{value.value:g}, rising from {value.start:g} to {value.end:g}" if value.end else value.value
        rows.append({"name": f.name, "value": value, "help": f.metadata["help"], "given": f.name in chosen.settings})
    return [row for row in rows if row["value"] is not None]


def _data(content: Content, losses: list[dict[str, Any]]) -> dict[str, Any]:
    """What the script of the page draws."""
    main = _main_columns(content)
    return {
        "umaps": [
            {"x": numbers(points[:, 0], "<f4"), "y": numbers(points[:, 1], "<f4")} for points in content.umaps.values()
        ],
        "columns": [_column_data(column) for column in content.columns],
        "main": [i for i, column in enumerate(content.columns) if column.name in main],
        "losses": [{"curves": loss["curves"]} for loss in losses],
    }


def _main_columns(content: Content) -> set[str]:
    """Columns that are told of every cell under the pointer."""
    columns = content.record.columns
    return {name for name in (columns.system, columns.batch, content.label, SUPPORT_KEY) if name is not None}


def _column_data(column: Column) -> dict[str, Any]:
    if column.categories is None:
        return {"name": column.name, "categories": None, "values": numbers(column.values, "<f4")}
    return {
        "name": column.name,
        "categories": list(column.categories),
        "colors": as_hex(palette(len(column.categories))),
        "values": numbers(column.values, "<i4"),
    }


def _static_columns(content: Content) -> list[Column]:
    """Columns that colour the static picture: systems, and cell types or batches."""
    wanted = [content.record.columns.system, content.label or content.record.columns.batch]
    found = [column for name in wanted for column in content.columns if column.name == name]
    return [column for i, column in enumerate(found) if not i or len(column.categories or ()) <= MAX_STATIC_CATEGORIES]


def _draw_cells(content: Content, titles: dict[str, str], columns: list[Column]) -> Any:
    points = {titles[name].partition(" (")[0]: z for name, z in content.umaps.items()}
    as_categorical = partial(pd.Categorical.from_codes, ordered=False)
    shown = {column.name: as_categorical(column.values, list(column.categories or ())) for column in columns}
    return draw_umaps(points, shown)


def _draw_losses(losses: list[dict[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(losses), 2.8), layout="constrained")
    for ax, loss in zip(figure.subplots(1, len(losses), squeeze=False)[0], losses, strict=True):
        for curve in loss["curves"]:
            values = [np.nan if value is None else value for value in curve["values"]]
            ax.plot(
                curve["epoch"], values, ":" if curve["held_out"] else "-", color=curve["color"], label=curve["name"]
            )
        ax.set(title=loss["title"], xlabel="epoch")
        ax.spines[["top", "right"]].set_visible(False)
    return figure
