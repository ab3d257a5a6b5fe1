"""Reports as files: of an integration, a tuning or a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path

from anndata import AnnData

from sysvi._core.arguments import check_types
from sysvi._core.backend_of_figures import check_backend_of_figures
from sysvi._core.checks import listing
from sysvi._core.device import choose_device
from sysvi._core.errors import InputError
from sysvi._core.events import Event, OnEvent
from sysvi._core.files import write_atomically
from sysvi._core.progress import as_callback
from sysvi._core.settings import random_seed, whole_number
from sysvi.comparison.files import ARGUMENTS, read_comparison
from sysvi.comparison.result import Comparison
from sysvi.data.h5ad import check_output
from sysvi.reporting.comparison_content import collect_comparison
from sysvi.reporting.content import collect
from sysvi.reporting.document import GENERATOR, load_libraries
from sysvi.reporting.page import render
from sysvi.reporting.runs_page import render_runs
from sysvi.reporting.tuning_content import collect_tuning
from sysvi.tuning.files import CHOICE, TuningTables, read_tuning, tuning_tables
from sysvi.tuning.tune import Tuning

MIN_CELLS = 20  # that must be drawn


def report(
    results: AnnData | Tuning | Comparison | str | Path,
    path: str | Path,
    label_key: str | None = None,
    *,
    embedding: str = "X_sysVI",
    colors: Sequence[str] | None = None,
    max_cells: int = 20_000,
    overwrite: bool = False,
    device: str = "auto",
    seed: int = 0,
    progress: bool | OnEvent = True,
) -> Path:
    """Write a report of an integration, a tuning or a comparison: one HTML page that opens without a network.

    The page tells what was integrated and how: findings in plain words with what to do, the cells before and after
    (interactive; as pictures where scripts are off), metrics, cell types, agreement of the models, losses, numbers of
    genes and cells, settings and versions, and the code that makes it again. It has the values of the chosen columns of
    every shown cell, but neither expression nor names of cells.

    The report of a tuning or of a comparison draws mixing against biology for all runs (interactive, with any two
    metrics), and has the choice and why, settings or methods with their spread over seeds, time and memory of methods,
    and runs without a result, with the reasons.

    Parameters
    ----------
    results
        The data with the results of :func:`sysvi.integrate`, in memory or backed. Not changed. The cells before the
        integration are ``obsm["X_pca"]``, or 50 principal components of the expression. Or the result of
        :func:`sysvi.tune` or :func:`sysvi.compare`, or a folder with its files; then only `path`, `overwrite` and
        `progress` can be given besides.
    path
        File to write, usually ``.html``.
    label_key
        Column of ``adata.obs`` with the cell types, for the metrics and tables that need them.
    embedding
        Name of the embedding in ``adata.obsm``.
    colors
        Columns of ``adata.obs`` by which cells can be coloured, besides systems, batches, covariates, cell types and
        support. By default all of numbers and of few categories, up to 20; ``[]``: no others.
    max_cells
        Number of cells that are drawn and measured; of more, a random sample, stratified by system and cell type. A
        browser draws 100,000 smoothly, but their UMAPs and metrics take minutes.
    overwrite
        Whether to replace a file.
    device
        Device of the metrics: ``"auto"``, ``"cpu"`` or ``"cuda"``.
    seed
        Random seed of the sample, of the UMAPs and of the metrics. The same seed gives the same page.
    progress
        True prints messages; a function is called with each :class:`sysvi.Event`.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    InputError
        If there are no results of an integration, a column or the embedding is missing, jinja2 or plotly are not
        installed, or the file exists or cannot be written.

    Examples
    --------
    >>> import sysvi, tempfile
    >>> adata = sysvi.prepare(sysvi.datasets.simulate_systems(300, 200, seed=1), "system", "batch", min_cells=3)
    >>> model = sysvi.integrate(adata, "system", "batch", members=2, max_epochs=2, progress=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = sysvi.report(adata, f"{folder}/report.html", "cell_type", progress=False)
    ...     "Integration of system1 and system2" in path.read_text(encoding="utf-8")
    True
    """
    on_event = as_callback(progress)
    if not isinstance(results, AnnData):
        defaults = signature(report).parameters
        given = {"label_key": label_key, "embedding": embedding, "colors": colors, "max_cells": max_cells}
        given |= {"device": device, "seed": seed}
        if names := [name for name, value in given.items() if value != defaults[name].default]:
            raise InputError(f"{listing(names)} can be given for the report of an integration only: leave it out.")
        return write_runs_report(results, path, overwrite=overwrite, on_event=on_event)
    return write_report(
        results,
        path,
        label_key,
        embedding=embedding,
        colors=colors,
        max_cells=max_cells,
        overwrite=overwrite,
        device=device,
        seed=seed,
        on_event=on_event,
    )


def write_report(
    adata: AnnData,
    path: str | Path,
    label_key: str | None,
    *,
    embedding: str = "X_sysVI",
    colors: Sequence[str] | None = None,
    max_cells: int = 20_000,
    overwrite: bool = False,
    device: str = "auto",
    seed: int = 0,
    on_event: OnEvent,
    for_r: bool = False,
    translate: Callable[[str], str] = str,
) -> Path:
    """Write a report for any interface; arguments as in :func:`report` and :func:`sysvi.reporting.page.render`."""
    if isinstance(colors, str):
        raise InputError(f"colors is the string {colors!r}; give a list of columns: [{colors!r}].")
    given = {"results": adata, "path": path, "label_key": label_key, "embedding": embedding, "overwrite": overwrite}
    check_types(report, **given, colors=colors)
    whole_number("max_cells", max_cells, MIN_CELLS)
    path, seed = Path(path), random_seed(seed)
    choose_device(device)  # what is wrong is said before the work
    check_backend_of_figures()
    check_output(path, overwrite)
    libraries = load_libraries()
    content = collect(
        adata,
        label_key,
        embedding=embedding,
        colors=colors,
        max_cells=max_cells,
        device=device,
        seed=seed,
        on_event=on_event,
    )
    return _write(render(content, libraries, for_r=for_r, translate=translate), path, overwrite, on_event)


def write_runs_report(
    results: Tuning | Comparison | str | Path, path: str | Path, *, overwrite: bool = False, on_event: OnEvent
) -> Path:
    """Write the report of a tuning or of a comparison, of an object or of a folder with its files."""
    check_types(report, results=results, path=path, overwrite=overwrite)
    path = Path(path)
    check_output(path, overwrite)
    libraries = load_libraries()
    found = _read_folder(Path(results)) if isinstance(results, str | Path) else results
    if isinstance(found, Comparison):
        content = collect_comparison(found)
    else:
        content = collect_tuning(tuning_tables(found) if isinstance(found, Tuning) else found)
    return _write(render_runs(content, libraries), path, overwrite, on_event)


def check_report(path: Path | None) -> None:
    """Check that a report can be written beside other results, before any work is done; there is none for None.

    Like these results, a report of an earlier call is replaced, but no other file.
    """
    if path is not None:
        check_output(path, is_report(path))
        load_libraries()


def is_report(path: Path) -> bool:
    """Whether a file is a report, which begins with the name of the package that made it."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return GENERATOR.encode() in file.read(4096)


def _read_folder(folder: Path) -> TuningTables | Comparison:
    """The files of a tuning or of a comparison."""
    if (folder / CHOICE).is_file():
        return read_tuning(folder)
    if (folder / ARGUMENTS).is_file():
        return read_comparison(folder)
    if folder.is_dir():
        raise InputError(f"{folder} has no results of sysvi.tune or sysvi.compare ({CHOICE} or {ARGUMENTS}).")
    raise InputError(f"There is no folder {folder}: give the output of sysvi.tune or sysvi.compare.")


def _write(page: str, path: Path, overwrite: bool, on_event: OnEvent) -> Path:
    """Write a page into a file."""
    on_event(Event("report", "Writing the page"))
    content = page.encode("utf-8", "replace")  # a name may have half of a surrogate pair
    write_atomically(path, lambda temporary: temporary.write_bytes(content), overwrite=overwrite)
    return path
