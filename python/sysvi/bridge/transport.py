"""How expression and arrays get from R to Python and back: in memory, or in files of a folder.

Shapes: n cells, G genes, nnz stored values.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from sysvi._core.errors import InputError

FILE_TYPES = {"values": np.float32, "genes": np.int32, "lengths": np.int32}  # of the files of a layer


class ExpressionBuffer:
    """Collects expression that arrives in blocks of cells.

    The arrays of a genes x cells dgCMatrix of R are those of a cells x genes CSR matrix, so nothing is transposed.

    Parameters
    ----------
    capacity
        Largest number of stored values of the first layer, if known: its arrays are then allocated once and filled in
        place, so that blocks and matrix are never in memory together. Unused capacity takes no memory.

    Examples
    --------
    >>> import numpy as np
    >>> buffer = ExpressionBuffer(capacity=3)
    >>> buffer.add(0, np.array([1.0, 2.0]), np.array([0, 2]), np.array([0, 1, 2]))
    >>> buffer.add(0, np.array([3.0]), np.array([1]), np.array([0, 1]))
    >>> buffer.take_layer(0, n_genes=3).toarray().tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.0, 2.0], [0.0, 3.0, 0.0]]
    """

    def __init__(self, capacity: float = 0) -> None:
        self._blocks: dict[int, dict[str, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
        self._allocated: dict[str, np.ndarray] | None = None  # arrays of layer 0 that are filled in place
        if capacity:
            self._allocated = {name: np.empty(int(capacity), FILE_TYPES[name]) for name in ("values", "genes")}
        self._n_filled = 0
        self.folder: Path | None = None  # with the files, if expression came in files

    def add(self, layer: int, values: np.ndarray, genes: np.ndarray, starts: np.ndarray) -> None:
        """Append a block of cells to a layer.

        Parameters
        ----------
        layer
            Number of the layer, from 0.
        values, genes
            Stored values and their genes as numbers from 0, (nnz,). They are copied, since R owns their memory.
        starts
            Position in `values` at which each cell starts, and nnz at the end, (n + 1,).
        """
        layer, end = int(layer), self._n_filled + np.size(values)
        if self._allocated is not None and layer == 0 and end <= len(self._allocated["values"]):
            for name, part in (("values", values), ("genes", genes)):
                self._allocated[name][self._n_filled : end] = part
                self._blocks[layer][name] = [self._allocated[name][:end]]
            self._blocks[layer]["lengths"].append(np.diff(starts))
            self._n_filled = end
            return
        self._allocated = None  # later blocks are not filled in either, as blocks must stay in their order
        self._append(layer, np.array(values, np.float32, ndmin=1), np.array(genes, np.int32, ndmin=1), np.diff(starts))

    def _append(self, layer: int, values: np.ndarray, genes: np.ndarray, lengths: np.ndarray) -> None:
        for name, part in (("values", values), ("genes", genes), ("lengths", lengths)):
            self._blocks[layer][name].append(part)

    @classmethod
    def from_files(cls, folder: Path, n_layers: int) -> ExpressionBuffer:
        """Expression in the files of a task folder (see :func:`read_task`), which are read when they are needed."""
        buffer = cls()
        buffer.folder = folder = Path(folder)
        for i in range(int(n_layers)):
            buffer._append(i, *(_mapped(folder / f"layer{i}.{name}", kind) for name, kind in FILE_TYPES.items()))
        return buffer

    def take_layer(self, layer: int, n_genes: int) -> sparse.csr_matrix:
        """The cells of a layer as a CSR float32 matrix (n, G); the buffer frees them."""
        block = self._blocks.pop(layer)
        parts = {name: _concatenated(block.pop(name)) for name in ("values", "genes", "lengths")}
        starts = np.concatenate([[0], np.cumsum(parts["lengths"], dtype=np.int64)])  # (n + 1,)
        return sparse.csr_matrix((parts["values"], parts["genes"], starts), shape=(len(starts) - 1, n_genes))

    def take_all(self, n_genes: int) -> sparse.csr_matrix:
        """The cells of all layers, one layer after another, as a CSR float32 matrix (n, G); the buffer frees them."""
        first, *others = sorted(self._blocks)
        for layer in others:
            for name, parts in self._blocks.pop(layer).items():
                self._blocks[first][name] += parts
        return self.take_layer(first, n_genes)

    def take_files(self, n_genes: int, order: np.ndarray | None = None) -> StreamedRows:
        """The cells of layer 0, (n, G), left in the files that R wrote."""
        assert self.folder is not None
        self._blocks.clear()  # the files are mapped no longer
        return StreamedRows(self.folder, n_genes, order)


class StreamedRows:
    """Expression in the files of layer 0 of a task folder (see :func:`read_task`), whose rows are read when needed.

    :func:`sysvi.data.row_blocks.row_blocks` takes it as a matrix.

    Parameters
    ----------
    folder
        The folder.
    n_genes
        Number of genes, G.
    order
        For each row of the matrix the cell of the files, (n,); by default all cells in their order.

    Raises
    ------
    InputError
        If the files are incomplete.
    """

    def __init__(self, folder: Path, n_genes: int, order: np.ndarray | None = None):
        self._paths = {name: folder / f"layer0.{name}" for name in FILE_TYPES}
        lengths = np.fromfile(self._paths["lengths"], FILE_TYPES["lengths"])
        self._starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        for name in ("values", "genes"):
            if self._paths[name].stat().st_size != self._starts[-1] * np.dtype(FILE_TYPES[name]).itemsize:
                raise InputError(
                    f"The expression in {folder} is incomplete, as on a full disk: free some space, or give another "
                    "folder."
                )
        self._order = np.arange(len(lengths)) if order is None else np.asarray(order)
        self.shape = (len(self._order), n_genes)
        self.dtype = np.dtype(np.float32)
        self.nnz = int(np.diff(self._starts)[self._order].sum())

    def __getitem__(self, rows: slice) -> sparse.csr_matrix:
        """Read consecutive rows."""
        cells = self._order[rows]
        runs = np.split(cells, np.flatnonzero(np.diff(cells) != 1) + 1)  # that lie one after another in the files
        values, genes = (np.concatenate([self._read(name, run) for run in runs]) for name in ("values", "genes"))
        starts = np.concatenate([[0], np.cumsum(self._starts[cells + 1] - self._starts[cells])])
        return sparse.csr_matrix((values, genes, starts), shape=(len(cells), self.shape[1]))

    def _read(self, name: str, run: np.ndarray) -> np.ndarray:
        if not len(run):
            return np.empty(0, FILE_TYPES[name])
        start, stop = (int(place) for place in self._starts[[run[0], run[-1] + 1]])
        offset = start * np.dtype(FILE_TYPES[name]).itemsize
        return np.fromfile(self._paths[name], FILE_TYPES[name], stop - start, offset=offset)

    def remove(self) -> None:
        """Remove the files."""
        for path in self._paths.values():
            path.unlink()


class Task(NamedTuple):
    """A task that R wrote into a folder."""

    name: str
    values: str  # JSON object
    arrays: dict[str, np.ndarray]
    expression: ExpressionBuffer


def read_task(folder: Path) -> Task:
    """Read the task that R wrote into `folder`.

    ``task.json`` holds name and values, type and shape of each array and the number of layers; arrays are in
    ``in.<name>``, expression in ``layer<i>.values`` (float32), ``.genes`` (int32) and ``.lengths`` (int32, number of
    stored values of each cell). Arrays are in the byte order of this machine, with the first index running fastest.
    """
    given = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    arrays = {
        name: _mapped(folder / f"in.{name}", array["type"]).reshape(array["shape"], order="F")
        for name, array in given["arrays"].items()
    }
    expression = ExpressionBuffer.from_files(folder, given["layers"])
    return Task(given["task"], json.dumps(given["values"]), arrays, expression)


def write_answer(folder: Path, answer: str, arrays: Mapping[str, Any]) -> None:
    """Write the answer of a task into `folder`: ``answer.json`` and the arrays ``out.<name>``, as `read_task` reads."""
    for name, array in arrays.items():
        np.asarray(array).ravel(order="F").tofile(folder / f"out.{name}")
    described = {name: {"type": str(array.dtype), "shape": list(array.shape)} for name, array in arrays.items()}
    text = json.dumps({"answer": json.loads(answer), "arrays": described})
    (folder / "answer.json").write_text(text, encoding="utf-8")


def _mapped(path: Path, kind: Any) -> np.ndarray:
    """The numbers in a file, read when they are used; changes to them are not written back."""
    return np.memmap(path, kind, mode="c") if path.stat().st_size else np.empty(0, kind)


def _concatenated(parts: list[np.ndarray]) -> np.ndarray:
    """Concatenate arrays, freeing each part once it is copied, so that memory holds little more than the result."""
    if len(parts) == 1:
        return parts[0]
    result = np.empty(sum(map(len, parts)), parts[0].dtype)
    end = len(result)
    while parts:
        part = parts.pop()
        result[end - len(part) : end] = part
        end -= len(part)
    return result
