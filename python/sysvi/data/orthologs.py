"""Mapping the genes of one species to orthologues of another, and joining species in one object."""

import warnings
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from sysvi._core.arguments import check_types
from sysvi._core.checks import (
    check_anndata,
    check_not_empty,
    check_real,
    check_shared_genes,
    check_unique_names,
    have_fractions_of_counts,
    is_missing,
    listing,
    looks_like_counts,
    whole_numbers,
)
from sysvi._core.errors import InputError
from sysvi.data.h5ad import RESERVED_COLUMN
from sysvi.data.own_genes import GENE_SETS, OWN_GENES_KEY, GeneGroups, group_genes, own_genes_record
from sysvi.data.row_blocks import check_sparse, select_genes

FEW_MATCHED = 0.2  # of all genes; between mouse and human about half have an orthologue


def map_orthologs(
    adata: AnnData,
    table: pd.DataFrame | str | PathLike[str],
    *,
    source: str | None = None,
    target: str | None = None,
    duplicates: str = "drop",
    report: Callable[[str], None] | None = None,
) -> AnnData:
    """Rename the genes of one species to their orthologues in another species.

    Genes that are not in the table are dropped, and so are genes with several orthologues (ambiguous). If several of
    the remaining genes have the same orthologue, they are dropped or their counts are summed.

    Parameters
    ----------
    adata
        Cells of one species, shape (n_cells, n_genes); never changed.
    table
        Pairs of orthologues, one per row: a DataFrame, or the path of a text file with a header, separated by commas if
        its name has ``.csv`` and by tabs otherwise, compressed or not. Rows with a missing name (empty or ``NA``) are
        ignored.
    source
        Column of the table with the gene names in ``adata``; by default the column that shares most names with
        ``adata.var_names``.
    target
        Column of the table with the new names; by default the other column of a table with two.
    duplicates
        Treatment of several genes with the same orthologue: ``"drop"`` to drop them all, or ``"sum"`` to sum their
        counts (in ``X`` and in all layers) in the place of the first one.
    report
        Function that is called with one line of text on the numbers of genes kept and dropped, for example ``print``.

    Returns
    -------
    anndata.AnnData
        New object of shape (n_cells, n_kept) with the genes in the input's order: ``var_names`` the target names,
        ``var["ortholog_source"]`` the former names (joined by ``;`` where summed), ``obs``, ``obsm`` and ``uns`` of the
        input, and ``uns["sysvi_orthologs"]`` the number of genes kept and the numbers of genes of the input that were
        lost (not in the table), ambiguous and duplicated. Sparse matrices stay sparse; a backed ``X`` becomes CSR in
        memory.

    Raises
    ------
    InputError
        If the table or its columns cannot be used, no gene is kept, or values that are not counts would be summed.

    Warns
    -----
    UserWarning
        If less than a fifth of the genes are kept.

    Examples
    --------
    >>> import numpy as np, pandas as pd, anndata
    >>> mouse = anndata.AnnData(np.array([[3.0, 1.0, 2.0]]), var=pd.DataFrame(index=["Gcg", "Ins1", "Ins2"]))
    >>> table = pd.DataFrame({"mouse": ["Ins1", "Ins2", "Gcg"], "human": ["INS", "INS", "GCG"]})
    >>> map_orthologs(mouse, table).var_names.tolist()
    ['GCG']
    >>> summed = map_orthologs(mouse, table, duplicates="sum")
    >>> summed.var_names.tolist(), summed.X.tolist(), summed.var["ortholog_source"].tolist()
    (['GCG', 'INS'], [[3.0, 3.0]], ['Gcg', 'Ins1;Ins2'])
    """
    check_types(map_orthologs, adata=adata, table=table, source=source, target=target, report=report)
    check_types(map_orthologs, duplicates=duplicates)
    if duplicates not in ("drop", "sum"):
        raise InputError(f"duplicates is {duplicates!r}; it must be 'drop' or 'sum'.")
    check_unique_names(adata)
    table = read_orthologs(table)
    source, target = _columns(table, adata.var_names, source, target)

    pairs = table[[source, target]].dropna().drop_duplicates()
    pairs = pairs[pairs[source].isin(adata.var_names)]
    ambiguous = pairs[source].duplicated(keep=False)
    n_ambiguous, n_in_table = pairs.loc[ambiguous, source].nunique(), pairs[source].nunique()
    new_name = pairs[~ambiguous].set_index(source)[target]  # former name -> new name
    shared = new_name.duplicated(keep=False)
    if duplicates == "drop":
        new_name = new_name[~shared]
    if new_name.empty:
        reason = (
            f"check that adata.var_names are names of {source!r} (adata has {listing(adata.var_names, 3)}; the table "
            f"has {listing(table[source].dropna(), 3)})"
        )
        if n_in_table:
            reason = (
                f"of its {n_in_table} genes in the table, {n_ambiguous} have several orthologues, and the others share "
                "theirs (duplicates='sum' adds their counts); give a table of one-to-one orthologues"
            )
        raise InputError(f"No gene of adata can be renamed from {source!r} to {target!r}: {reason}.")

    columns = np.flatnonzero(adata.var_names.isin(new_name.index))  # (n_columns,), in the input's order
    former = adata.var_names[columns]
    group, names = pd.factorize(new_name.loc[former].to_numpy())  # (n_columns,), (n_kept,), in order of appearance
    first = np.unique(group, return_index=True)[1]  # (n_kept,)
    var = adata.var.iloc[columns[first]].copy()
    var.index = pd.Index(names, dtype=object)
    var["ortholog_source"] = pd.Series(former).groupby(group).agg(";".join).to_numpy()

    def map_columns(matrix: Any, where: str) -> Any:  # (n_cells, n_genes) -> (n_cells, n_kept)
        check_real(matrix, where)
        check_sparse(matrix)
        in_memory = isinstance(matrix, np.ndarray) or sparse.issparse(matrix)
        matrix = matrix[:, columns] if in_memory else select_genes(matrix, columns)
        return matrix if len(first) == len(columns) else _sum_columns(matrix, group, where)

    if len(names) < FEW_MATCHED * adata.n_vars:
        warnings.warn(
            f"Only {len(names)} of {adata.n_vars} genes have an orthologue: check that adata.var_names "
            f"({listing(adata.var_names, 3)}) and column {source!r} of the table "
            f"({listing(table[source].dropna(), 3)}) are names of the same kind, and that the table is complete.",
            stacklevel=2,
        )
    counts = {
        "kept": len(names),
        "lost": int(adata.n_vars - n_in_table),
        "ambiguous": int(n_ambiguous),
        "duplicated": int(shared.sum()),
    }
    mapped = AnnData(
        None if adata.X is None else map_columns(adata.X, "adata.X"),
        obs=adata.obs.copy(),
        var=var,
        obsm=dict(adata.obsm),
        uns=dict(adata.uns) | {"sysvi_orthologs": counts},
        layers={key: map_columns(layer, f"adata.layers[{key!r}]") for key, layer in adata.layers.items()},
    )
    if report is not None:
        treatment = "dropped" if duplicates == "drop" else "summed"
        report(
            f"Orthologues: {counts['kept']} of {adata.n_vars} genes kept; {counts['lost']} not in the table, "
            f"{counts['ambiguous']} with several targets dropped, {counts['duplicated']} with a shared target "
            f"{treatment}"
        )
    return mapped


def join_systems(
    adatas: dict[str, AnnData],
    system_key: str = "system",
    *,
    genes: str = "shared",
    orthologs: Mapping[str, pd.DataFrame | str | PathLike[str]] | None = None,
    report: Callable[[str], None] | None = None,
) -> AnnData:
    """Join the cells of several systems in one object, with the genes that all systems have, or with all genes.

    Parameters
    ----------
    adatas
        Cells of each system, shape (n_cells, n_genes) of that system, by the name of the system; at least two systems,
        which name the same genes in the same way (see :func:`map_orthologs`).
    system_key
        Column of ``obs`` in which the names of the systems are stored.
    genes
        ``"shared"`` for the genes that all systems have, or ``"union"`` for all genes, also those that some systems
        lack, for ``prepare(genes="union")``.
    orthologs
        With ``genes="union"``: for systems of other species a table of orthologues, as in :func:`map_orthologs`, by
        system, to the names of the systems without a table. One-to-one orthologues are one gene. Of one-to-many and
        many-to-many orthologues the counts of a system's genes are summed. Genes that are not in the table, or whose
        orthologues no other system has, are the system's own.
    report
        Function that is called with one line of text on the numbers of genes of a union.

    Returns
    -------
    anndata.AnnData
        New object with the cells of all systems in the given order, and the shared genes in the order of the first
        system. It has the columns of ``obs``, the entries of ``obsm`` and the layers that all systems have, and the
        columns of ``var`` on which the systems agree. If a cell name occurs in two systems, all cell names are prefixed
        with ``<system>_``. A union has CSR expression, 0 where a system lacks a gene, no columns of ``var``, and the
        entry ``uns["sysvi_own_genes"]``, which says which systems have the genes that not all have.

    Raises
    ------
    InputError
        If there are fewer than two systems, they share no gene, or fewer than 500 and less than a tenth of their genes
        (systems then name their genes differently), a gene or cell name occurs twice in one system, or `system_key` is
        a column with other values already.

    Warns
    -----
    UserWarning
        If they share more genes, but less than a tenth.

    Notes
    -----
    Uses ``anndata.concat`` with an inner join.

    Examples
    --------
    >>> import numpy as np, pandas as pd, anndata
    >>> human = anndata.AnnData(np.ones((2, 2)), var=pd.DataFrame(index=["INS", "GCG"]))
    >>> mouse = anndata.AnnData(np.ones((1, 2)), var=pd.DataFrame(index=["GCG", "SST"]))
    >>> joined = join_systems({"human": human, "mouse": mouse})
    >>> joined.var_names.tolist(), joined.obs_names.tolist(), joined.obs["system"].tolist()
    (['GCG'], ['human_0', 'human_1', 'mouse_0'], ['human', 'human', 'mouse'])
    >>> mouse = anndata.AnnData(np.ones((1, 3)), var=pd.DataFrame(index=["Ins1", "Ins2", "Gcg"]))
    >>> table = pd.DataFrame({"mouse": ["Ins1", "Ins2"], "human": ["INS", "INS"]})
    >>> union = join_systems({"human": human, "mouse": mouse}, genes="union", orthologs={"mouse": table})
    >>> union.var_names.tolist(), union.X.toarray().tolist()
    (['INS', 'GCG', 'Gcg'], [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [2.0, 0.0, 1.0]])
    """
    check_types(join_systems, adatas=adatas, system_key=system_key, genes=genes, report=report)
    if genes not in GENE_SETS:
        raise InputError(f"genes is {genes!r}; it must be 'shared' or 'union'.")
    if orthologs and genes != "union":
        raise InputError("orthologs is for genes='union': rename the genes with map_orthologs first, or pass it.")
    if len(adatas) < 2:
        raise InputError(f"At least two systems are needed to join, but adatas has {len(adatas)}: add the others.")
    if system_key in ("", RESERVED_COLUMN):
        raise InputError(f"system_key is {system_key!r}; it must be the name of a column: choose another one.")
    if is_missing(pd.Series([*adatas])).any():
        raise InputError(
            f"A system in adatas ({listing(map(repr, adatas))}) has a name that stands for missing values: rename it."
        )
    for adata in adatas.values():
        check_anndata(adata)
        check_not_empty(adata)
        check_unique_names(adata)
    without_x = [system for system, adata in adatas.items() if adata.X is None]
    if 0 < len(without_x) < len(adatas):
        raise InputError(f"adata.X of system {without_x[0]!r} is empty, but others have one: put the expression there.")
    n_genes = {system: adata.n_vars for system, adata in adatas.items()}
    if groups := None if genes == "shared" else _group(adatas, orthologs or {}, report):
        n_shared = int(groups.has().all(axis=0).sum())
    else:
        n_shared = len(set.intersection(*(set(adata.var_names) for adata in adatas.values())))
    if not n_shared and groups:
        raise InputError(
            f"The systems {listing(adatas)} share no gene, by name or by their tables of orthologues (orthologs): give "
            "a table with the gene names of the systems."
        )
    if not n_shared:
        raise InputError(
            f"The systems {listing(adatas)} share no gene name: rename their genes to one species first "
            "(see map_orthologs)."
        )
    check_shared_genes(n_shared, n_genes, "of")
    for system, adata in adatas.items():
        if system_key in adata.obs and (adata.obs[system_key].astype(str) != system).any():
            raise InputError(
                f"The cells of system {system!r} have a column {system_key!r} already, which the names of the systems "
                "would replace: rename the column, or choose another system_key."
            )
    in_memory = {system: adata.to_memory() if adata.isbacked else adata for system, adata in adatas.items()}
    if groups:
        in_memory = {system: _sum_groups(adata, groups, system) for system, adata in in_memory.items()}
    joined = anndata.concat(in_memory, join="inner", merge="unique", label=system_key, index_unique="_")
    names = pd.Index(
        [name for adata in adatas.values() for name in adata.obs_names]
    )  # without the suffixes of anndata.concat
    joined.obs_names = names if names.is_unique else joined.obs[system_key].astype(str).to_numpy() + "_" + names
    if groups:
        joined.uns[OWN_GENES_KEY] = own_genes_record(groups.names, adatas, groups.has())
    return joined


def _group(
    adatas: Mapping[str, AnnData],
    orthologs: Mapping[str, pd.DataFrame | str | PathLike[str]],
    report: Callable[[str], None] | None,
) -> GeneGroups:
    """Group the genes of the systems by the tables of orthologues."""
    if unknown := [system for system in orthologs if system not in adatas]:
        raise InputError(
            f"orthologs has a table for {unknown[0]!r}, which is none of the systems {listing(adatas)}: correct its "
            "name."
        )
    if len(orthologs) == len(adatas):
        raise InputError(
            "orthologs has a table for every system: leave out the system whose gene names the tables lead to."
        )
    to = pd.Index(np.concatenate([adata.var_names for name, adata in adatas.items() if name not in orthologs]))
    tables = {}
    for system, given in orthologs.items():
        names = adatas[system].var_names
        table = read_orthologs(given)
        others = [str(name) for name in table.columns]
        target = max(others, key=lambda name: to.isin(table[name]).sum()) if len(others) > 1 else None
        source, target = _columns(table, names, None, target)
        tables[system] = table[[source, target]]
        if not names.isin(table[source]).any():
            raise InputError(
                f"The table of orthologues has no gene of system {system!r} (it has {listing(names, 3)}; the table has "
                f"{listing(table[source].dropna(), 3)}): give a table with names of the same kind."
            )
    groups = group_genes({system: adata.var_names for system, adata in adatas.items()}, tables)
    if report is not None:
        has = groups.has()
        n_summed = sum(int((np.bincount(genes) > 1).sum()) for genes in groups.of_system.values())
        alone = ", ".join(
            f"{int((row & (has.sum(axis=0) == 1)).sum())} of {system!r} only"
            for system, row in zip(adatas, has, strict=True)
        )
        report(
            f"Genes: {int(has.all(axis=0).sum())} of all systems, {alone}; several genes of a system are summed in "
            f"{n_summed} of them"
        )
    return groups


def _sum_groups(adata: AnnData, groups: GeneGroups, system: str) -> AnnData:
    """The cells of a system with all genes of the groups, CSR, 0 where it has none."""
    group, n_groups = groups.of_system[system], len(groups.names)
    several = np.bincount(group, minlength=n_groups)[group] > 1  # (n_genes,)
    selector = sparse.csr_matrix(
        (np.ones(len(group), np.float32), (np.arange(len(group)), group)), (len(group), n_groups)
    )

    def sum_columns(matrix: Any, where: str) -> sparse.csr_matrix:
        check_real(matrix, where)
        check_sparse(matrix)
        matrix = sparse.csr_matrix(matrix)
        if several.any():
            _check_counts(matrix[:, several].data, f"{where} of system {system!r}", "leave one-to-one orthologues only")
        return sparse.csr_matrix(matrix @ selector.astype(np.result_type(matrix.dtype, np.float32)))

    return AnnData(
        None if adata.X is None else sum_columns(adata.X, "adata.X"),
        obs=adata.obs,
        var=pd.DataFrame(index=groups.names),
        obsm=dict(adata.obsm),
        uns=dict(adata.uns),
        layers={key: sum_columns(layer, f"adata.layers[{key!r}]") for key, layer in adata.layers.items()},
    )


def read_orthologs(table: pd.DataFrame | str | PathLike[str]) -> pd.DataFrame:
    """Read a table of orthologues, with missing names (empty or ``NA``) as NaN."""
    if not isinstance(table, pd.DataFrame):
        path = Path(table)
        if not path.is_file():
            raise InputError(f"There is no orthologue table {str(path)!r}: check the path.")
        if path.suffix.lower() in (".xlsx", ".xls", ".ods"):
            raise InputError(f"The orthologue table {path} is a spreadsheet: save it as CSV.")
        # pandas would also read "nan" and "null" as missing, but genes may have these names
        # Without a header: given one, pandas would take the first of too many fields of a row for the row's name.
        try:
            table = pd.read_csv(
                path, sep="," if ".csv" in path.suffixes else "\t", dtype=str, keep_default_na=False, header=None
            )
        except pd.errors.EmptyDataError:
            raise InputError(f"The orthologue table {path} is empty.") from None
        except pd.errors.ParserError as error:
            raise InputError(
                f"The rows of the orthologue table {path} do not have the fields of its header "
                f"({str(error).strip().splitlines()[-1]}): write it without row names, and quote fields that hold the "
                "separator."
            ) from None
        except UnicodeDecodeError:
            raise InputError(f"The orthologue table {path} is not text in UTF-8: save it in this encoding.") from None
        except Exception as error:  # each kind of compression has errors of its own
            raise InputError(f"The orthologue table {path} cannot be read ({error}).") from error
        table = table.iloc[1:].set_axis(table.iloc[0].astype(str), axis=1).reset_index(drop=True)
    names = table.rename(columns=str).apply(lambda column: column.astype("string").str.strip()).astype(object)
    return names.mask(names.isna() | names.isin(["", "NA"]), np.nan)


def _columns(table: pd.DataFrame, var_names: pd.Index, source: str | None, target: str | None) -> tuple[str, str]:
    """Choose the column of the table with the names in the data, and the column with the new names."""
    columns = [str(name) for name in table.columns]
    for argument, name in (("source", source), ("target", target)):
        if name is not None and name not in columns:
            raise InputError(
                f"{argument}={name!r} is not a column of the orthologue table: choose one of {listing(columns)}."
            )
    if len(columns) < 2 or (source is not None and source == target):
        raise InputError(
            f"The orthologue table must have two different columns, source and target, but it has {listing(columns)}: "
            "separate columns with commas in a .csv file, with tabs in others."
        )
    if len(set(columns)) < len(columns):
        raise InputError(f"The orthologue table has two columns of the same name ({listing(columns)}): rename one.")
    if source is None:
        source = max((name for name in columns if name != target), key=lambda name: var_names.isin(table[name]).sum())
    if target is None:
        others = [name for name in columns if name != source]
        if len(others) > 1:
            raise InputError(
                f"The orthologue table has more than two columns ({listing(columns)}): "
                "keep two of them, or name the one with the new gene names (argument target)."
            )
        target = others[0]
    if source in var_names:
        raise InputError(
            f"The first row of the orthologue table must name its columns, but {source!r} is a gene of adata: add such "
            "a row."
        )
    return source, target


def _sum_columns(matrix: Any, group: np.ndarray, where: str) -> Any:
    """Sum the columns of each group.

    Parameters
    ----------
    matrix
        Counts, (n_cells, n_columns).
    group
        Group of each column, (n_columns,): 0, ..., n_groups - 1.
    where
        Place of the counts, for messages.

    Returns
    -------
    numpy.ndarray or scipy.sparse matrix
        Sums, (n_cells, n_groups), sparse if `matrix` is.
    """
    _check_counts(matrix.data if sparse.issparse(matrix) else matrix[matrix != 0], where, "pass duplicates='drop'")
    ones = np.ones(
        len(group), dtype=np.result_type(matrix.dtype, np.float32)
    )  # as float, in which sums do not overflow
    return matrix @ sparse.csr_matrix((ones, (np.arange(len(group)), group)))


def _check_counts(values: np.ndarray, where: str, otherwise: str) -> None:
    """An InputError if values other than 0 are not those of counts, which alone can be summed over genes."""
    with_fractions = values.size and have_fractions_of_counts(whole_numbers(values).sum(), values.size, values.max())
    if not (looks_like_counts(values) or with_fractions):
        raise InputError(
            f"{where} does not look like counts, and only counts can be summed over genes that share a target: "
            f"give counts or {otherwise}."
        )
