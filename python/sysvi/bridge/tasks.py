"""The tasks that R can call, one function each, and their registry `TASKS`.

A task is given values (a JSON object), named arrays, expression and a function for events; it returns values and named
arrays. Shapes: n cells, G genes, L latent dimensions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from sysvi._core.device import choose_device, describe_device
from sysvi._core.errors import InputError
from sysvi._core.events import Event, OnEvent, preparation_reporter
from sysvi._core.memory import check_memory
from sysvi._core.settings import DEFAULT_PRESET, ModelSettings, TrainSettings
from sysvi.api.differential_expression import differential_expression
from sysvi.api.ensemble import Ensemble, load
from sysvi.api.integrate import integrate
from sysvi.api.query import extend_model
from sysvi.api.support import SUPPORT_KEY
from sysvi.api.sysvi import SysVI
from sysvi.api.translate import LAYER, translate
from sysvi.bridge.translation import translate_for_r
from sysvi.bridge.transport import ExpressionBuffer
from sysvi.data.columns import Columns
from sysvi.data.ensure_prepared import ensure_prepared, is_prepared
from sysvi.data.orthologs import join_systems, map_orthologs, read_orthologs
from sysvi.data.own_genes import OWN_GENES_KEY, lacking_genes, own_genes_record, read_own_genes
from sysvi.data.prepare import ignore_few_genes_warning, prepare
from sysvi.data.prepare_files import prepare_files
from sysvi.data.prepare_on_disk import prepare_on_disk, write_on_disk
from sysvi.data.query import QUERY_KEY
from sysvi.data.simulate import simulate_systems
from sysvi.data.stores import open_cells
from sysvi.differences.compare_systems import compare_systems
from sysvi.evaluation.batch_strength import batch_strength
from sysvi.evaluation.evaluate import PCA_KEY, evaluate_in_detail
from sysvi.mapping.reference import load_reference, save_reference
from sysvi.mapping.transfer_labels import read_labelled, transfer_labels
from sysvi.model.checkpoint import MODEL_FILE
from sysvi.reporting.report import write_report
from sysvi.tuning.tune import tune

BYTES_OF_TRANSLATED = 20  # of a value: 4 in Python, 8 in R, and 8 while R turns the matrix around

Values = Mapping[str, Any]
Arrays = Mapping[str, Any]
Answer = tuple[dict[str, Any], dict[str, np.ndarray]]
Task = Callable[[Values, Arrays, ExpressionBuffer, OnEvent], Answer]


def _integrate(values: Values, arrays: Arrays, expression: ExpressionBuffer, on_event: OnEvent) -> Answer:
    """Train an ensemble or a single model; the answer is the embedding (n, L), the model's file and the support."""
    adata = _training_cells(values, arrays, expression, on_event)
    model = integrate(
        adata,
        **_training_arguments(values),
        members=values["members"],
        preset=values["preset"],
        memory=values.get("memory"),
        checkpoint=values.get("checkpoint"),
        seed=values["seed"],
        progress=on_event,
    )
    systems, support = _support(adata)
    return systems, {"embedding": adata.obsm["X_sysVI"], "model": _model_bytes(model), **support}


def _integrate_files(values: Values, arrays: Arrays, expression: ExpressionBuffer, on_event: OnEvent) -> Answer:
    """Prepare and integrate files that R does not load; the answer is that of `integrate`, and names and columns."""
    columns = Columns.from_json(values)
    with tempfile.TemporaryDirectory(prefix="sysvi-", dir=values["folder"]) as folder:
        path = _prepared_file(values, Path(folder), on_event)
        model = integrate(
            path,
            **replace(columns, layer=None).to_arguments(),
            members=values["members"],
            preset=values["preset"],
            memory=values["memory"],
            checkpoint=values["checkpoint"],
            device=values["device"],
            seed=values["seed"],
            progress=on_event,
            **values["settings"],
        )
        adata = model.members[0].adata
        assert adata is not None
        systems, support = _support(adata)
        texts = [columns.system, *([] if columns.batch is None else [columns.batch]), *columns.categorical]
        table = adata.obs[[*texts, *columns.continuous]].astype(dict.fromkeys(texts, str))
        metadata = _columns(table, *texts)
        answer = {**systems, "cells": list(adata.obs_names), "metadata": metadata}
        return answer, {
            "embedding": adata.obsm["X_sysVI"],
            "model": _model_bytes(model),
            "metadata": _numbers(table, metadata),
            **support,
        }


def _prepared_file(values: Values, folder: Path, on_event: OnEvent) -> Path:
    """The only file, if it is prepared; otherwise a new one in the folder, into which all are prepared."""
    files = [Path(file) for file in values["files"]]
    if len(files) == 1 and is_prepared(open_cells(files[0]), values["layer"]):
        return files[0]
    return prepare_files(
        files,
        folder / "prepared.h5ad",
        values["system"],
        values["batch"],
        layer=values["layer"],
        system_of_file=values["system_of_file"],
        orthologs=values["orthologs"],
        seed=values["seed"],
        report=preparation_reporter(on_event),
        **values["choose_genes"],
    )


def _tune(values: Values, arrays: Arrays, expression: ExpressionBuffer, on_event: OnEvent) -> Answer:
    """Compare settings; the answer is tables of runs and settings, the choice, its embedding (n, L), model, support."""
    adata = _training_cells(values, arrays, expression, on_event)
    found = tune(
        adata,
        **_training_arguments(values),
        label_key=values["label"],
        output=values["folder"],
        progress=on_event,
        **values["compared"],
    )
    settings = found.settings.reset_index()
    systems, support = _support(adata)
    answer: dict[str, Any] = {
        **systems,
        "runs": _columns(found.runs, "prior", "status", "reason", "chosen", "representative"),
        "settings": _columns(settings, "prior", "chosen"),
        "chosen": found.choice,
        "mixing": found.mixing,
        "why": found.why,
        "warnings": list(found.warnings),
        "n_missing": found.n_missing,
    }
    return answer, {
        "runs": _numbers(found.runs, answer["runs"]),
        "settings": _numbers(settings, answer["settings"]),
        "embedding": found.embedding,
        "model": _model_bytes(found.model),
        **support,
    }


def _training_cells(values: Values, arrays: Arrays, expression: ExpressionBuffer, on_event: OnEvent) -> AnnData:
    """Cells with their variable genes, or with all genes if R chose the genes.

    If the memory is limited, their expression is in a file in the folder of the files that R wrote.
    """
    on_disk = values.get("memory") is not None
    adata = _without_expression(values, arrays) if on_disk else _anndata(values, arrays, expression)
    genes = "shared"
    if lacking := values.get("lacking_genes"):
        genes, systems = "union", sorted(set(adata.obs[values["system"]].astype(str)))
        has = np.stack([~adata.var_names.isin(lacking.get(name, [])) for name in systems])
        adata.uns[OWN_GENES_KEY] = own_genes_record(adata.var_names, systems, has)
    report = preparation_reporter(on_event)
    if on_disk:
        return _on_disk(adata, expression, values, arrays.get("order"), report)
    if values["choose_genes"] is None:
        return adata
    return prepare(
        adata,
        values["system"],
        values["batch"],
        genes=genes,
        normalize=False,
        copy=False,
        report=report,
        **values["choose_genes"],
    )


def _on_disk(
    adata: AnnData,
    expression: ExpressionBuffer,
    values: Values,
    order: np.ndarray | None,
    report: Callable[[str], None],
) -> AnnData:
    """Cells with the expression of their variable genes, or of all genes, in a file; those that R wrote are removed."""
    rows = expression.take_files(adata.n_vars, order)
    assert expression.folder is not None
    path = expression.folder / "prepared.h5ad"
    if values["choose_genes"] is None:
        prepared = write_on_disk(rows, adata, path)
    else:
        keys = values["system"], values["batch"]
        prepared = prepare_on_disk(rows, adata, path, *keys, report=report, **values["choose_genes"])
    rows.remove()
    return prepared


def _training_arguments(values: Values) -> dict[str, Any]:
    """The arguments that `integrate` and `tune` have in common."""
    columns = Columns.from_json({"layer": None, **values})
    return {**columns.to_arguments(), "device": values["device"], **values["settings"]}


def _support(adata: AnnData) -> Answer:
    """Names of the systems, support of each cell by system (n, systems) and the highest of each cell (n,).

    A single model has none, and the answer is then empty.
    """
    if SUPPORT_KEY not in adata.obsm:
        return {}, {}
    table = adata.obsm[SUPPORT_KEY]
    return {"systems": list(table)}, {"support": table.to_numpy(), "cell_support": adata.obs[SUPPORT_KEY].to_numpy()}


def _model_bytes(model: SysVI | Ensemble) -> np.ndarray:
    """The bytes of the model's saved file."""
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        return np.fromfile(Path(folder, MODEL_FILE), np.uint8)


def _embed(values: Values, arrays: Arrays, expression: ExpressionBuffer, on_event: OnEvent) -> Answer:
    """Embed cells with a trained model; the answer is the embedding (n, L)."""
    model = _load_model(values, arrays)
    adata = _anndata(values, arrays, expression)
    if model.columns.layer is not None:
        adata.layers[model.columns.layer] = adata.X
    return {}, {"embedding": np.asarray(model.get_latent_representation(adata))}


def _map(values: Values, arrays: Arrays, expression: ExpressionBuffer, on_event: OnEvent) -> Answer:
    """Map new cells onto a model, and give them labels if R names a reference that has some.

    The answer is the embedding (n, L), the extended model's file, names of missing genes, and of each cell its label as
    a code of `labels`, its confidence and its novelty, (n,).
    """
    given = values["labels_from"]
    if given is not None:
        reference = load_reference(given["folder"]) if "folder" in given else _described_cells(given, arrays)
        keys = {"system_key": given["system"], "batch_key": given["batch"]}
        read_labelled(reference, given["label"], **keys)  # what is wrong with it is said before the work
    query, orthologs = _anndata(values, arrays, expression), values["orthologs"]
    extended = extend_model(
        _load_model(values, arrays),
        query,
        orthologs=pd.DataFrame(orthologs) if isinstance(orthologs, Mapping) else orthologs,
        fractional_counts=values["fractional_counts"],
        max_epochs=values["max_epochs"],
        device=values["device"],
        seed=values["seed"],
        progress=on_event,
    )
    embedding = np.asarray(extended.get_latent_representation())
    assert extended.adata is not None
    answer: dict[str, Any] = {"missing_genes": list(extended.adata.uns[QUERY_KEY]["missing_genes"])}
    out = {"embedding": embedding, "model": _model_bytes(extended)}
    if given is None:
        return answer, out
    cells = AnnData(obs=pd.DataFrame(index=query.obs_names), obsm={"X_sysVI": embedding})
    found = transfer_labels(reference, cells, given["label"], **keys)
    on_event(Event("labels", str(found).partition("\n")[0]))
    label = pd.Categorical(found.cells["label"])
    answer["labels"] = list(label.categories)
    doubt = {name: found.cells[name].to_numpy() for name in ("confidence", "novelty")}
    return answer, {**out, "label": label.codes.astype(np.int32), **doubt}


def _translate(values: Values, arrays: Arrays, expression: ExpressionBuffer, on_event: OnEvent) -> Answer:
    """Decode cells in another system, or in their own; the answer is the expression (n, G) and the names of genes."""
    model = _load_model(values, arrays)
    n_genes = len(model.vocabulary.genes if values["wanted"] is None else values["wanted"])
    check_memory(
        BYTES_OF_TRANSLATED * len(values["cells"]) * n_genes,
        f"The translated expression of {len(values['cells']):,} cells and {n_genes:,} genes",
        "choose genes (genes), translate some of the cells at a time, or write it to a file with the command line "
        "(sysvi translate)",
    )
    found = translate(
        model,
        _anndata(values, arrays, expression),
        values["to_system"],
        values["to_batch"],
        genes=values["wanted"],
        progress=on_event,
    )
    assert found is not None
    return {"genes": list(found.var_names)}, {"expression": found.layers[LAYER]}


def _compare_systems(values: Values, arrays: Arrays, expression: ExpressionBuffer, on_event: OnEvent) -> Answer:
    """Find genes that differ between systems in one label; the answer is the table."""
    table = compare_systems(
        _load_model(values, arrays),
        _anndata(values, arrays, expression),
        values["label"],
        systems=values["compared"],
        batch_key=values["donor"],
        min_cells=values["min_cells"],
        progress=on_event,
    )
    answer = {"table": _columns(table, "label", "gene", "system_1", "system_2")}
    return answer, {"table": _numbers(table, answer["table"])}


def _differential_expression(values: Values, arrays: Arrays, expression: ExpressionBuffer, on_event: OnEvent) -> Answer:
    """Compare the decoded expression of groups of cells; the answer is the table."""
    table = differential_expression(
        _load_model(values, arrays),
        _anndata(values, arrays, expression),
        **values["groups"],
        **values["settings"],
        progress=on_event,
    ).reset_index()
    answer = {"table": _columns(table, "gene", "comparison", "group1", "group2")}
    return answer, {"table": _numbers(table, answer["table"])}


def _save_reference(values: Values, arrays: Arrays, expression: ExpressionBuffer, on_event: OnEvent) -> Answer:
    """Save a model and the labelled cells that R describes as a reference."""
    given = values["reference"]
    save_reference(
        values["folder"],
        _load_model(values, arrays),
        _described_cells(given, arrays),
        given["label"],
        licence=values["licence"],
        description=values["description"],
        overwrite=values["overwrite"],
    )
    return {}, {}


def _described_cells(given: Values, arrays: Arrays) -> AnnData:
    """Cells of a reference with labels and embedding, whose arrays begin with ``reference_``."""
    embedding = np.ascontiguousarray(arrays["reference_embedding"], np.float32)
    return AnnData(obs=_obs(given, arrays, "reference_"), obsm={"X_sysVI": embedding})


def _load_model(values: Values, arrays: Arrays) -> SysVI | Ensemble:
    """The model whose file is in the array ``model``."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, MODEL_FILE)
        file.write_bytes(bytes(arrays["model"]))
        return load(file, device=values["device"])


def _prepare_systems(values: Values, arrays: Arrays, expression: ExpressionBuffer, on_event: OnEvent) -> Answer:
    """Join systems on the gene names of the reference system.

    The answer is the expression as arrays of a CSR matrix, and the counts if they were normalised; with the union of
    the genes also the names of the genes that each system lacks, one system after another.
    """
    systems = {
        system["name"]: AnnData(
            expression.take_layer(i, len(system["genes"])),
            obs=pd.DataFrame(index=pd.Index(system["cells"], dtype=object)),
            var=pd.DataFrame(index=pd.Index(system["genes"], dtype=object)),
        )
        for i, system in enumerate(values["systems"])
    }
    key, genes = values["system"], values["gene_set"]
    if genes == "union":
        names, report = list(systems), preparation_reporter(on_event)
        joined = join_systems(systems, key, genes=genes, orthologs=_tables(systems, values), report=report)
    else:
        if values["orthologs"] is not None:
            systems = _map_genes(systems, values, on_event)
        joined = join_systems(systems, key)
    del systems
    with ignore_few_genes_warning():
        prepared = prepare(
            joined,
            key,
            genes=genes,
            n_top_genes=joined.n_vars,  # all genes: variable genes are chosen when a model is trained
            min_cells=values["min_cells"],
            normalize=values["normalize"],
            fractional_counts=values["fractional_counts"],
            report=lambda line: None if "ariable" in line else preparation_reporter(on_event)(line),
        )
    x = prepared.X
    if x.nnz > np.iinfo(np.int32).max:
        raise InputError(
            f"The joined matrix has {x.nnz:,} non-zero values, more than a sparse matrix of R holds: prepare the "
            "systems in Python, or give fewer cells."
        )
    out = {"expression": x.data, "genes": x.indices.astype(np.int32), "starts": x.indptr.astype(np.int32)}
    if values["normalize"]:
        out["counts"] = prepared.layers["counts"].data  # stored at the same positions as the normalised values
    answer: dict[str, Any] = {"cells": list(prepared.obs_names), "genes": list(prepared.var_names)}
    if genes == "union":
        has = read_own_genes(prepared.uns, prepared.var_names, names)
        lacking = lacking_genes(prepared.var_names, names, has)
        answer["lacking_genes"] = [gene for of_system in lacking.values() for gene in of_system]
        answer["lacking_systems"] = [name for name, of_system in lacking.items() for _ in of_system]
    return answer, out


def _tables(systems: Mapping[str, AnnData], values: Values) -> dict[str, pd.DataFrame]:
    """The table of orthologues of each system whose genes are not named as those of the reference system."""
    if values["orthologs"] is None:
        return {}
    table, best = _read_table(systems, values)
    target = best[values["reference"]]
    return {name: table[[column, target]] for name, column in best.items() if column != target}


def _read_table(systems: Mapping[str, AnnData], values: Values) -> tuple[pd.DataFrame, dict[str, str]]:
    """The table of orthologues, and for each system its column that has most of the system's genes."""
    given = values["orthologs"]
    table = read_orthologs(given if isinstance(given, str) else pd.DataFrame(given))

    def best_column(adata: AnnData) -> str:
        return max(table.columns, key=lambda column: int(adata.var_names.isin(table[column]).sum()))

    return table, {name: best_column(adata) for name, adata in systems.items()}


def _map_genes(systems: dict[str, AnnData], values: Values, on_event: OnEvent) -> dict[str, AnnData]:
    """Rename the genes of all systems to those of the reference system.

    The names of a system are looked up in the column of the ortholog table that has most of them.
    """
    table, best = _read_table(systems, values)
    target = best[values["reference"]]
    return {
        name: adata
        if best[name] == target
        else map_orthologs(
            adata,
            table,
            source=best[name],
            target=target,
            duplicates=values["duplicates"],
            report=lambda line, name=name: on_event(Event("prepare", f"{name}: {line}")),  # type: ignore[misc]
        )
        for name, adata in systems.items()
    }


def _report(values: Values, arrays: Arrays, expression: ExpressionBuffer, on_event: OnEvent) -> Answer:
    """Write a report of the embedding in the array ``embedding0``, of the model in ``model``.

    The value ``before`` is the number of the array with the principal components before integration, if there is one;
    ``support_systems`` has the names of the systems, the columns of the array ``support``, if the model is an ensemble.
    """
    adata = _anndata(values, arrays, expression)
    adata.obsm[values["embedding"]] = np.ascontiguousarray(arrays["embedding0"], np.float32)  # as models give it
    if values["before"] is not None:
        adata.obsm[PCA_KEY] = np.ascontiguousarray(arrays[f"embedding{values['before']}"])
    if values["support_systems"] is not None:
        table = pd.DataFrame(np.array(arrays["support"]), adata.obs_names, list(values["support_systems"]))
        adata.obsm[SUPPORT_KEY] = table
        adata.obs[SUPPORT_KEY] = table.max(axis=1).to_numpy(np.float32)
    model = _load_model(values, arrays)
    adata.uns["sysvi"] = model.record()
    write_report(
        adata,
        values["file"],
        values["label"],
        embedding=values["embedding"],
        colors=values["colors"],
        max_cells=values["max_cells"],
        overwrite=values["overwrite"],
        device=values["device"],
        seed=values["seed"],
        on_event=on_event,
        for_r=True,
        translate=translate_for_r,
    )
    return {}, {}


def _evaluate(values: Values, arrays: Arrays, expression: ExpressionBuffer, on_event: OnEvent) -> Answer:
    """Measure the embeddings in the arrays ``embedding0``, ...

    The answer is the table, the values by label and by cell, and notes.

    The value ``before`` names the embedding with the principal components before integration, if there is one.
    """
    adata = _anndata(values, arrays, expression)
    for i, name in enumerate(values["embeddings"]):
        adata.obsm[name] = np.ascontiguousarray(arrays[f"embedding{i}"])
    if values["before"] is not None:
        adata.obsm[PCA_KEY] = adata.obsm[values["before"]]
    if not values["choose_genes"]:
        adata.uns["sysvi_prepare"] = {}  # keeps `evaluate` from choosing variable genes
    found = evaluate_in_detail(
        adata,
        values["measured"],
        system_key=values["system"],
        batch_key=values["batch"],
        label_key=values["label"],
        device=values["device"],
        seed=values["seed"],
        progress=on_event,
        **values["settings"],
    )
    table = found.table.reset_index()
    table["convention"] = [
        translate_for_r(text).replace(f"'{PCA_KEY}'", f"'{values['before']}'") for text in table["convention"]
    ]
    answer: dict[str, Any] = {
        "table": _columns(table, "metric", "group", "in_score", "convention"),
        "per_label": _columns(found.per_label, "embedding", "metric", "by", "name"),
        "per_cell": list(found.per_cell.columns.map(": ".join)),
        "notes": [translate_for_r(note) for note in found.notes],
    }
    return answer, {
        "table": _numbers(table, answer["table"]),
        "per_label": _numbers(found.per_label, answer["per_label"]),
        "per_cell": found.per_cell.to_numpy(np.float64),
        "rows": adata.obs_names.get_indexer(found.per_cell.index).astype(np.int32),
    }


def _batch_strength(values: Values, arrays: Arrays, expression: ExpressionBuffer, on_event: OnEvent) -> Answer:
    """Compare differences between systems with those between batches; the answer is advice, table and distances."""
    with ignore_few_genes_warning():
        adata, layer = ensure_prepared(
            _anndata(values, arrays, expression),
            values["system"],
            values["batch"],
            all_genes=not values["choose_genes"],
            report=preparation_reporter(on_event),
        )
    found = batch_strength(
        adata,
        values["system"],
        values["batch"],
        values["label"],
        layer=layer,
        seed=values["seed"],
        **values["settings"],
    )
    table = found.table.reset_index()
    answer: dict[str, Any] = {
        "substantial": found.substantial,
        "advice": found.advice,
        "table": _columns(table, "label", "system"),
        "distances": _columns(found.distances, "label", "kind", "system_1", "batch_1", "system_2", "batch_2"),
    }
    return answer, {
        "table": _numbers(table, answer["table"]),
        "distances": _numbers(found.distances, answer["distances"]),
    }


def _columns(table: pd.DataFrame, *texts: str) -> dict[str, Any]:
    """Names of a table's columns, and the values of columns that are not numeric; `_numbers` has the numeric ones."""
    return {"order": list(table), "texts": {name: table[name].tolist() for name in texts}}


def _numbers(table: pd.DataFrame, described: Values) -> np.ndarray:
    """The numeric columns of a table, (rows, columns); as an array, since JSON has no NaN."""
    return table.drop(columns=list(described["texts"])).to_numpy(np.float64)


def _simulate(values: Values, arrays: Arrays, expression: ExpressionBuffer, on_event: OnEvent) -> Answer:
    """Simulate counts; the answer is the arrays of a CSR matrix, and the columns of the cells."""
    adata = simulate_systems(**values)
    x = sparse.csr_matrix(adata.X)
    columns = {name: adata.obs[name].tolist() for name in adata.obs}
    return (
        {"cells": list(adata.obs_names), "genes": list(adata.var_names), "columns": columns},
        {"values": x.data, "genes": x.indices.astype(np.int32), "starts": x.indptr.astype(np.int32)},
    )


def _device(values: Values, arrays: Arrays, expression: ExpressionBuffer, on_event: OnEvent) -> Answer:
    """Describe the device that would be used."""
    return {"device": describe_device(choose_device(values["device"]))}, {}


def _defaults(values: Values, arrays: Arrays, expression: ExpressionBuffer, on_event: OnEvent) -> Answer:
    """Defaults of the settings of model and training, a ramp being a list of value, start and end; and of `members`."""
    settings = {"model": asdict(ModelSettings()), "training": asdict(TrainSettings())}
    return settings | {"members": DEFAULT_PRESET.members}, {}


def _anndata(values: Values, arrays: Arrays, expression: ExpressionBuffer) -> AnnData:
    """Cells with expression and columns; without expression if no genes are given."""
    adata = _without_expression(values, arrays)
    if adata.n_vars:
        x = expression.take_all(adata.n_vars)
        adata.X = x[np.asarray(arrays["order"])] if "order" in arrays else x
    return adata


def _without_expression(values: Values, arrays: Arrays) -> AnnData:
    """Cells with columns, and genes.

    The array of a categorical column holds codes from 0, and -1 for a missing value; that of a continuous column holds
    numbers.
    """
    genes = pd.Index(values["genes"] or [], dtype=object)
    return AnnData(obs=_obs(values, arrays), var=pd.DataFrame(index=genes))


def _obs(values: Values, arrays: Arrays, prefix: str = "") -> pd.DataFrame:
    """Names and columns of cells: the arrays whose names begin with `prefix` and ``column``."""
    obs = pd.DataFrame(index=pd.Index(values["cells"], dtype=object))
    for i, column in enumerate(values["columns"]):
        array = np.array(arrays[f"{prefix}column{i}"])
        levels = column["levels"]
        obs[column["name"]] = array if levels is None else pd.Categorical.from_codes(array, levels)
    return obs


TASKS: dict[str, Task] = {
    "integrate": _integrate,
    "integrate_files": _integrate_files,
    "tune": _tune,
    "embed": _embed,
    "map": _map,
    "translate": _translate,
    "compare_systems": _compare_systems,
    "differential_expression": _differential_expression,
    "save_reference": _save_reference,
    "prepare_systems": _prepare_systems,
    "evaluate": _evaluate,
    "report": _report,
    "batch_strength": _batch_strength,
    "simulate": _simulate,
    "device": _device,
    "defaults": _defaults,
}
