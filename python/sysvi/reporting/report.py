"""Reports of an integration as a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from anndata import AnnData

from sysvi._core.arguments import check_types
from sysvi._core.backend_of_figures import check_backend_of_figures
from sysvi._core.device import choose_device
from sysvi._core.errors import InputError
from sysvi._core.events import Event, OnEvent
from sysvi._core.files import write_atomically
from sysvi._core.progress import as_callback
from sysvi._core.settings import random_seed, whole_number
from sysvi.data.h5ad import check_output
from sysvi.reporting.content import collect
from sysvi.reporting.page import load_libraries, render

MIN_CELLS = 20  # that must be drawn


def report(
    adata: AnnData,
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
    """Write a report of an integration: one HTML page that opens in any browser, without a network.

    The page tells what was integrated and how: findings in plain words with what to do, the cells before and after
    (interactive; as pictures where scripts are off), metrics, cell types, agreement of the models, losses, numbers of
    genes and cells, settings and versions, and the code that makes it again. It has the values of the chosen columns of
    every shown cell, but neither expression nor names of cells.

    Parameters
    ----------
    adata
        The data with the results of :func:`sysvi.integrate`, in memory or backed. Not changed. The cells before the
        integration are ``obsm["X_pca"]``, or 50 principal components of the expression.
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
    return write_report(
        adata,
        path,
        label_key,
        embedding=embedding,
        colors=colors,
        max_cells=max_cells,
        overwrite=overwrite,
        device=device,
        seed=seed,
        on_event=as_callback(progress),
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
    given = {"adata": adata, "path": path, "label_key": label_key, "embedding": embedding, "overwrite": overwrite}
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
    on_event(Event("report", "Writing the page"))
    page = render(content, libraries, for_r=for_r, translate=translate)
    content_of_file = page.encode("utf-8", "replace")  # a name may have half of a surrogate pair
    write_atomically(path, lambda temporary: temporary.write_bytes(content_of_file), overwrite=overwrite)
    return path
