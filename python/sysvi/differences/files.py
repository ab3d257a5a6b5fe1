"""Output of a comparison of systems: text for the terminal, the table and figures."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from sysvi._core.errors import InputError
from sysvi._core.files import check_folder, create_folder, write_atomically
from sysvi._core.tables import write_csv
from sysvi.differences.plots import plot_specific_genes, plot_volcano

TABLE_FILE = "differences.csv"
MAX_FDR = 0.05


def format_differences(table: pd.DataFrame) -> str:
    """Number of genes that differ in each label, and of conserved markers, for a terminal.

    Examples
    --------
    >>> columns = ["label", "system_1", "system_2", "n_donors_1", "n_donors_2", "p", "fdr", "marker_fdr"]
    >>> row = ["beta", "human", "mouse", 4, 2, 0.001, 0.002, 0.6]
    >>> print(format_differences(pd.DataFrame([row], columns=columns)))
    Genes at a false discovery rate of 0.05:
    label system_1 system_2  n_donors_1  n_donors_2  tested  specific  conserved markers
     beta    human    mouse           4           2       1         1                  0
    """
    keys = ["label", "system_1", "system_2", "n_donors_1", "n_donors_2"]
    counted = table[keys].assign(
        tested=table["p"].notna(),
        specific=table["fdr"] <= MAX_FDR,
        **{"conserved markers": table["marker_fdr"] <= MAX_FDR},
    )
    counts = counted.groupby(keys, sort=False).sum().reset_index()
    return f"Genes at a false discovery rate of {MAX_FDR:g}:\n{counts.to_string(index=False)}"


def check_output_folder(folder: Path, overwrite: bool) -> None:
    """Check, before any work is done, that a folder can be written to and holds no table that must be kept.

    Raises
    ------
    InputError
        If it cannot be created or written to, or it holds a table and `overwrite` is False.
    """
    if (folder / TABLE_FILE).exists() and not overwrite:
        raise InputError(f"{folder / TABLE_FILE} exists already; pass --overwrite to replace it, or another folder.")
    check_folder(folder, may_be_missing=True)


def write_differences(table: pd.DataFrame, folder: Path, figures: str, overwrite: bool = True) -> list[Path]:
    """Write the table and, if it compares two systems, the figures that it has something for.

    Parameters
    ----------
    table
        Result of :func:`sysvi.compare_systems`.
    folder
        Folder to write to; created if missing.
    figures
        File format of the figures: png, pdf or svg.
    overwrite
        Whether a table may be replaced. If not, one that another run wrote in the meantime is kept.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    InputError
        If a table is kept; this one is then beside it, under a name that the message gives.
    """
    create_folder(folder)
    paths = [folder / TABLE_FILE]
    write_atomically(paths[0], lambda path: write_csv(table, path, index=False), overwrite=overwrite)
    if len(table[["system_1", "system_2"]].drop_duplicates()) == 1:
        if table["p"].notna().any():
            paths.append(folder / f"volcano.{figures}")
            plot_volcano(table, paths[-1], max_fdr=MAX_FDR)
        if (table["fdr"] <= MAX_FDR).any():
            paths.append(folder / f"specific_genes.{figures}")
            plot_specific_genes(table, paths[-1], max_fdr=MAX_FDR)
    return paths
