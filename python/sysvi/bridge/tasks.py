"""The door for R: plain values in, plain values out.

A call is the name of a task, its values as JSON, named arrays and, for tasks on cells, expression handed over in
blocks. The answer is JSON and named arrays. Inside R's process reticulate calls :func:`call`; for a process of its
own, ``python -m sysvi.bridge FOLDER`` finds the same in files and answers with files. Shapes: n cells, G genes,
L latent.
"""

from __future__ import annotations

import ctypes
import json
import re
import signal
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from sysvi._core.device import choose_device, describe_device
from sysvi._core.errors import InputError
from sysvi._core.events import Event, OnEvent, as_json, preparation_reporter
from sysvi.api.integrate import integrate
from sysvi.api.sysvi import MODEL_FILE, SysVI
from sysvi.data.ensure_prepared import ensure_prepared
from sysvi.data.orthologs import join_systems, map_orthologs, read_orthologs
from sysvi.data.prepare import ignore_few_genes_warning, prepare
from sysvi.data.simulate import simulate_systems
from sysvi.evaluation.batch_strength import batch_strength
from sysvi.evaluation.evaluate import PCA_KEY, evaluate_in_detail
from sysvi.training.loop import NonFiniteLossError
from sysvi.tuning.tune import tune

Values = Mapping[str, Any]
Arrays = Mapping[str, Any]


class Expression:
    """Expression handed over in blocks of cells.

    A genes x cells dgCMatrix of R holds the very arrays of a cells x genes CSR matrix, so nothing is transposed.

    Parameters
    ----------
    room
        How many stored values the first layer has at most, where that is known: they then lie in one place from the
        start and are never held twice. Room that is not used takes no memory.

    Examples
    --------
    >>> import numpy as np
    >>> expression = Expression(room=3)
    >>> expression.add(0, np.array([1.0, 2.0]), np.array([0, 2]), np.array([0, 1, 2]))
    >>> expression.add(0, np.array([3.0]), np.array([1]), np.array([0, 1]))
    >>> expression.matrix(0, n_genes=3).toarray().tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.0, 2.0], [0.0, 3.0, 0.0]]
    """

    def __init__(self, room: float = 0) -> None:
        self._blocks: dict[int, dict[str, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
        self._room = (
            {"values": np.empty(int(room), np.float32), "genes": np.empty(int(room), np.int32)} if room else None
        )
        self._used = 0

    def add(self, layer: int, values: np.ndarray, genes: np.ndarray, starts: np.ndarray) -> None:
        """Append cells to a layer.

        Parameters
        ----------
        layer
            Which layer, from 0.
        values, genes
            The stored values and their genes, counted from 0, (nnz of the block,). They are copied: R owns its memory.
        starts
            Where each cell starts in them, and their number, (n of the block + 1,).
        """
        layer, end = int(layer), self._used + np.size(values)
        if self._room is not None and layer == 0 and end <= len(self._room["values"]):
            for name, piece in (("values", values), ("genes", genes)):
                self._room[name][self._used : end] = piece
                self._blocks[layer][name] = [self._room[name][:end]]
            self._blocks[layer]["lengths"].append(np.diff(starts))
            self._used = end
            return
        self._room = None  # from now on: blocks must stay in their order
        self._keep(layer, np.array(values, np.float32, ndmin=1), np.array(genes, np.int32, ndmin=1), np.diff(starts))

    def _keep(self, layer: int, values: np.ndarray, genes: np.ndarray, lengths: np.ndarray) -> None:
        for name, piece in (("values", values), ("genes", genes), ("lengths", lengths)):
            self._blocks[layer][name].append(piece)

    @classmethod
    def of_files(cls, folder: Path, n_layers: int) -> Expression:
        """Expression that lies in files (see :func:`run_folder`), read as it is needed."""
        expression = cls()
        for i in range(n_layers):
            kinds = {"values": np.float32, "genes": np.int32, "lengths": np.int32}
            expression._keep(i, *(_map(folder / f"layer{i}.{name}", kind) for name, kind in kinds.items()))
        return expression

    def matrix(self, layer: int, n_genes: int) -> sparse.csr_matrix:
        """The layer's cells, CSR float32 (n, G), with 64-bit starts where they are needed; its blocks are given up."""
        block = self._blocks.pop(layer)
        parts = {name: _joined(block.pop(name)) for name in ("values", "genes", "lengths")}
        starts = np.concatenate([[0], np.cumsum(parts["lengths"], dtype=np.int64)])  # (n + 1,)
        return sparse.csr_matrix((parts["values"], parts["genes"], starts), shape=(len(starts) - 1, n_genes))

    def joined(self, n_genes: int) -> sparse.csr_matrix:
        """All layers below one another, CSR float32 (n, G)."""
        first, *others = sorted(self._blocks)
        for layer in others:
            for name, pieces in self._blocks.pop(layer).items():
                self._blocks[first][name] += pieces
        return self.matrix(first, n_genes)


def _joined(pieces: list[np.ndarray]) -> np.ndarray:
    """Arrays one after another; each piece is given up once it is copied, so that both are never held whole."""
    if len(pieces) == 1:
        return pieces[0]
    joined = np.empty(sum(map(len, pieces)), pieces[0].dtype)
    end = len(joined)
    while pieces:
        piece = pieces.pop()
        joined[end - len(piece) : end] = piece
        end -= len(piece)
    return joined


def call(
    task: str,
    values: str,
    arrays: Arrays,
    expression: Expression | None = None,
    on_event: Callable[[str], object] = lambda line: None,
) -> tuple[str, dict[str, np.ndarray]]:
    """Do a task.

    Parameters
    ----------
    task
        One of `TASKS`.
    values
        JSON object with the task's values.
    arrays
        Named arrays.
    expression
        Expression of the cells, for tasks that need it.
    on_event
        Called with each event as one line of JSON; if it returns True while models train, training ends.

    Returns
    -------
    JSON object and named arrays. Input that cannot be used is told as ``{"error": sentence}``, an interrupt that leaves
    nothing to use as ``{"interrupted": true}``.

    Examples
    --------
    >>> call("device", '{"device": "cpu"}', {})[0]
    '{"device": "cpu (... threads)"}'
    """

    def tell(event: Event) -> None:
        stop = on_event(as_json(event))
        if stop is True and event.stage in ("epoch", "model"):
            raise KeyboardInterrupt

    def show_warning(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
        if issubclass(category, UserWarning) and not issubclass(category, (FutureWarning, DeprecationWarning)):
            tell(Event("warning", _for_r(str(message))))

    with warnings.catch_warnings(), _host_keeps_sigint():
        warnings.simplefilter("always", UserWarning)  # whatever filters the session's other packages have set
        warnings.showwarning = show_warning
        try:
            answer, out = TASKS[task](json.loads(values), arrays, expression or Expression(), tell)
        except (InputError, NonFiniteLossError) as error:
            answer, out = {"error": _for_r(str(error))}, {}
        except KeyboardInterrupt:
            answer, out = {"interrupted": True}, {}
    return json.dumps(answer), out


@contextmanager
def _host_keeps_sigint() -> Iterator[None]:
    """Give R its own handler of Ctrl-C back: Python's `signal` puts only Python's handlers back, not those of C."""
    get, put = ctypes.pythonapi.PyOS_getsig, ctypes.pythonapi.PyOS_setsig
    get.restype = put.restype = ctypes.c_void_p
    put.argtypes = [ctypes.c_int, ctypes.c_void_p]
    before = get(signal.SIGINT)
    try:
        yield
    finally:
        put(signal.SIGINT, before)


Answer = tuple[dict[str, Any], dict[str, np.ndarray]]


def _integrate(values: Values, arrays: Arrays, expression: Expression, on_event: OnEvent) -> Answer:
    """Train a model: its file and the embedding (n, L)."""
    adata = _to_train_on(values, arrays, expression, on_event)
    model = integrate(
        adata, values["system"], values["batch"], seed=values["seed"], progress=on_event, **_training(values)
    )
    return {}, {"embedding": adata.obsm["X_sysVI"], "model": _file_of(model)}


def _tune(values: Values, arrays: Arrays, expression: Expression, on_event: OnEvent) -> Answer:
    """Compare settings: tables of runs and settings, the choice, its model's file and embedding (n, L)."""
    found = tune(
        _to_train_on(values, arrays, expression, on_event),
        values["system"],
        values["batch"],
        values["label"],
        output=values["folder"],
        progress=on_event,
        **values["compared"],
        **_training(values),
    )
    settings = found.settings.reset_index()
    answer: dict[str, Any] = {
        "runs": _columns(found.runs, "prior", "status", "chosen", "representative"),
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
        "model": _file_of(found.model),
    }


def _to_train_on(values: Values, arrays: Arrays, expression: Expression, on_event: OnEvent) -> AnnData:
    """Cells with their variable genes, or with all genes where these were given."""
    adata = _anndata(values, arrays, expression)
    if values["choose_genes"] is None:
        return adata
    of_prepare = {"normalize": False, "copy": False, "report": preparation_reporter(on_event), **values["choose_genes"]}
    return prepare(adata, values["system"], values["batch"], **of_prepare)


def _training(values: Values) -> dict[str, Any]:
    """What `integrate` and `tune` are told alike."""
    return {
        "categorical_covariate_keys": values["categorical"],
        "continuous_covariate_keys": values["continuous"],
        "weight_systems": values["weight_systems"],
        "device": values["device"],
        **values["settings"],
    }


def _file_of(model: SysVI) -> np.ndarray:
    """The bytes of the model's file."""
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        return np.fromfile(Path(folder, MODEL_FILE), np.uint8)


def _embed(values: Values, arrays: Arrays, expression: Expression, on_event: OnEvent) -> Answer:
    """Embed cells with a trained model: (n, L)."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, MODEL_FILE)
        file.write_bytes(bytes(arrays["model"]))
        model = SysVI.load(file, device=values["device"])
    adata = _anndata(values, arrays, expression)
    if model.columns.layer is not None:
        adata.layers[model.columns.layer] = adata.X
    return {}, {"embedding": np.asarray(model.get_latent_representation(adata))}


def _prepare_systems(values: Values, arrays: Arrays, expression: Expression, on_event: OnEvent) -> Answer:
    """Join systems on the reference's gene names: expression, and counts where they were normalised, as CSR arrays."""
    systems = {
        system["name"]: AnnData(
            expression.matrix(i, len(system["genes"])),
            obs=pd.DataFrame(index=pd.Index(system["cells"], dtype=object)),
            var=pd.DataFrame(index=pd.Index(system["genes"], dtype=object)),
        )
        for i, system in enumerate(values["systems"])
    }
    if values["orthologs"] is not None:
        systems = _in_names_of(values["reference"], systems, values, on_event)
    key = values["system"]
    joined = join_systems(systems, key)
    del systems
    with ignore_few_genes_warning():  # variable ones are chosen later
        prepared = prepare(
            joined,
            key,
            n_top_genes=joined.n_vars,  # all of them: variable genes are chosen when they are needed
            min_cells=values["min_cells"],
            normalize=values["normalize"],
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
        out["counts"] = prepared.layers["counts"].data  # normalising keeps the pattern
    return {"cells": list(prepared.obs_names), "genes": list(prepared.var_names)}, out


def _in_names_of(reference: str, systems: dict[str, AnnData], values: Values, on_event: OnEvent) -> dict[str, AnnData]:
    """Rename the genes of all systems to those of the reference, each by the column that holds most of its names."""
    given = values["orthologs"]
    table = read_orthologs(given if isinstance(given, str) else pd.DataFrame(given))

    def best_column(system: str) -> str:
        return max(table.columns, key=lambda column: int(systems[system].var_names.isin(table[column]).sum()))

    target = best_column(reference)
    return {
        name: adata
        if best_column(name) == target
        else map_orthologs(
            adata,
            table,
            source=best_column(name),
            target=target,
            duplicates=values["duplicates"],
            report=lambda line, name=name: on_event(Event("prepare", f"{name}: {line}")),  # type: ignore[misc]
        )
        for name, adata in systems.items()
    }


def _evaluate(values: Values, arrays: Arrays, expression: Expression, on_event: OnEvent) -> Answer:
    """Measure embeddings, arrays ``embedding0``, ...: the table, values by label and by cell, notes.

    ``before`` names the embedding with the principal components before integration, if there is one.
    """
    adata = _anndata(values, arrays, expression)
    for i, name in enumerate(values["embeddings"]):
        adata.obsm[name] = np.ascontiguousarray(arrays[f"embedding{i}"])
    if values["before"] is not None:
        adata.obsm[PCA_KEY] = adata.obsm[values["before"]]
    if not values["choose_genes"]:
        adata.uns["sysvi_prepare"] = {}  # the genes are taken as they are
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
        _for_r(text).replace(f"'{PCA_KEY}'", f"'{values['before']}'") for text in table["convention"]
    ]
    answer: dict[str, Any] = {
        "table": _columns(table, "metric", "group", "in_score", "convention"),
        "per_label": _columns(found.per_label, "embedding", "metric", "by", "name"),
        "per_cell": list(found.per_cell.columns.map(": ".join)),
        "notes": [_for_r(note) for note in found.notes],
    }
    return answer, {
        "table": _numbers(table, answer["table"]),
        "per_label": _numbers(found.per_label, answer["per_label"]),
        "per_cell": found.per_cell.to_numpy(np.float64),
        "rows": adata.obs_names.get_indexer(found.per_cell.index).astype(np.int32),
    }


def _for_r(text: str) -> str:
    """What the engine says about its own objects, in words of R."""
    for python, r in (
        (r"adata\.X is empty\.", "There is no expression."),
        (r"(?:adata\.)?obsm?\['(.*?)'\]", r"'\1'"),
        (r"\b(\w+)_key\b", r"\1"),
        (r"=True\b", " = TRUE"),
        (r"\bsysvi\.tune\b", "TuneSysVI()"),
    ):
        text = re.sub(python, r, text)
    return text


def _batch_strength(values: Values, arrays: Arrays, expression: Expression, on_event: OnEvent) -> Answer:
    """How systems differ, beside how the samples of one do: advice, table and distances."""
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
    """A table's columns in their order, and the values of those that are not numbers; for these see `_numbers`."""
    return {"order": list(table), "texts": {name: table[name].tolist() for name in texts}}


def _numbers(table: pd.DataFrame, described: Values) -> np.ndarray:
    """The numbers of a table, (rows, columns); as an array, since they may be NaN, which JSON has not."""
    return table.drop(columns=list(described["texts"])).to_numpy(np.float64)


def _simulate(values: Values, arrays: Arrays, expression: Expression, on_event: OnEvent) -> Answer:
    """Simulated counts as CSR arrays, and the cells' columns."""
    adata = simulate_systems(**values)
    x = sparse.csr_matrix(adata.X)
    columns = {name: adata.obs[name].tolist() for name in adata.obs}
    return (
        {"cells": list(adata.obs_names), "genes": list(adata.var_names), "columns": columns},
        {"values": x.data, "genes": x.indices.astype(np.int32), "starts": x.indptr.astype(np.int32)},
    )


def _device(values: Values, arrays: Arrays, expression: Expression, on_event: OnEvent) -> Answer:
    """What the engine would run on."""
    return {"device": describe_device(choose_device(values["device"]))}, {}


TASKS: dict[str, Callable[[Values, Arrays, Expression, OnEvent], Answer]] = {
    "integrate": _integrate,
    "tune": _tune,
    "embed": _embed,
    "prepare_systems": _prepare_systems,
    "evaluate": _evaluate,
    "batch_strength": _batch_strength,
    "simulate": _simulate,
    "device": _device,
}


def _anndata(values: Values, arrays: Arrays, expression: Expression) -> AnnData:
    """Cells with their columns; without genes, without expression.

    A categorical column is an array of codes from 0, -1 where there is none; a continuous one, of numbers.
    """
    genes = values["genes"] or []
    x = expression.joined(len(genes)) if genes else None
    if x is not None and "order" in arrays:
        x = x[np.asarray(arrays["order"])]
    obs = pd.DataFrame(index=pd.Index(values["cells"], dtype=object))
    for i, column in enumerate(values["columns"]):
        array = np.array(arrays[f"column{i}"])
        levels = column["levels"]
        obs[column["name"]] = array if levels is None else pd.Categorical.from_codes(array, levels)
    return AnnData(x, obs=obs, var=pd.DataFrame(index=pd.Index(genes, dtype=object)))


# -- the same over files ----------------------------------------------------------------------------------------------


def run_folder(folder: Path) -> None:
    """Do the task that R wrote into `folder`; print events as lines of JSON and leave the answer there.

    R writes ``task.json`` (task, values, and type and shape of each array), arrays as ``in.<name>`` and expression as
    ``layer<i>.values`` (float32), ``.genes`` (int32) and ``.lengths`` (int32, stored values of each cell). The answer
    is ``answer.json`` and ``out.<name>``. Arrays are plain numbers of this machine, the first index running fastest.
    """
    given = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    arrays = {
        name: _map(folder / f"in.{name}", a["type"]).reshape(a["shape"], order="F")
        for name, a in given["arrays"].items()
    }
    expression = Expression.of_files(folder, given["layers"])
    answer, out = call(given["task"], json.dumps(given["values"]), arrays, expression, _print_line)
    for name, array in out.items():
        np.asarray(array).ravel(order="F").tofile(folder / f"out.{name}")
    shapes = {name: {"type": str(array.dtype), "shape": list(array.shape)} for name, array in out.items()}
    text = json.dumps({"answer": json.loads(answer), "arrays": shapes})
    (folder / "answer.json").write_text(text, encoding="utf-8")


def _map(path: Path, kind: Any) -> np.ndarray:
    """The numbers in a file, read as they are needed and never written back."""
    return np.memmap(path, kind, mode="c") if path.stat().st_size else np.empty(0, kind)


def _print_line(line: str) -> None:
    print(line, flush=True)
