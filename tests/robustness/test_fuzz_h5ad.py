"""Fuzzer of h5ad files: refused in a sentence, or prepared to cells of the right form; the same of a dry run.

Whole blocks of zeros are not among the damages: HDF5 itself never ends when it reads a heap of strings of size zero.
"""

import random
from contextlib import suppress
from functools import partial

from fuzz import outcome, run_fuzzer, work

EXTREMES = (0, 1, -1, 2, 127, -128, 2**31 - 1, -(2**31), 2**40, 2**62)
N_CELLS, N_GENES = 120, 60
LAYERS = (None, "csc", "dense")


def flip_bits(rng, path):
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 2, 8, 64])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(rng, path):
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def open_at_random(rng, file, kind):
    """A random dataset or group of an open file, of the parts that sysvi reads."""
    import h5py

    found = []
    file.visititems(lambda name, item: found.append(name) if isinstance(item, kind or h5py.HLObject) else None)
    return file[rng.choice(found)]


def change_values(rng, path):
    """Values of a dataset, with preference those of the indices, become extreme."""
    import h5py
    import numpy as np

    with h5py.File(path, "r+") as file:
        dataset = open_at_random(rng, file, h5py.Dataset)
        if rng.random() < 0.5:
            name = rng.choice(["X", "layers/csc", "obsm/sparse"])
            dataset = file[name][rng.choice(["indptr", "indices"])]
        if dataset.dtype.kind in "iuf" and dataset.size:
            for _ in range(rng.choice([1, 1, 3])):
                position = tuple(rng.randrange(n) for n in dataset.shape)
                dataset[position] = np.array(rng.choice(EXTREMES)).astype(dataset.dtype)  # wraps around


def change_attribute(rng, path):
    import h5py

    with h5py.File(path, "r+") as file:
        item = open_at_random(rng, file, None)
        if not item.attrs:
            return
        name = rng.choice(sorted(item.attrs))
        value = rng.choice([rng.choice(EXTREMES), "x", [2**40, 3], [-1, -1], [N_CELLS, 2**40], [2**40, N_GENES], None])
        del item.attrs[name]
        if value is not None:
            item.attrs[name] = value


def change_shape(rng, path):
    """A dataset gets another length, dimension or type, or claims to be very long."""
    import h5py
    import numpy as np

    with h5py.File(path, "r+") as file:
        dataset = open_at_random(rng, file, h5py.Dataset)
        name, attributes = dataset.name, dict(dataset.attrs)
        kind = dataset.dtype if dataset.dtype.kind in "iufb" else np.dtype("i4")
        kind = rng.choice([kind, kind, np.dtype("f4"), np.dtype("i1"), np.dtype("c16"), np.dtype("S3")])
        shape = rng.choice([(0,), (1,), (), (N_CELLS - 1,), (N_CELLS, 2), (2**20,), (2**45,), (N_CELLS, 2**40)])
        del file[name]
        chunks = tuple(max(1, min(n, 64)) for n in shape) or None
        file.create_dataset(name, shape, kind, chunks=chunks if rng.random() < 0.8 or max(shape) > 1e6 else None)
        file[name].attrs.update(attributes)


def remove(rng, path):
    import h5py

    with h5py.File(path, "r+") as file:
        del file[open_at_random(rng, file, None).name]


def exchange(rng, path):
    """Two items take each other's place."""
    import h5py

    with h5py.File(path, "r+") as file:
        first, second = (open_at_random(rng, file, None).name for _ in range(2))
        if not (first.startswith(second) or second.startswith(first)):
            file.move(first, "/moved")
            file.move(second, first)
            file.move("/moved", second)


DAMAGES = (flip_bits, truncate, change_values, change_values, change_attribute, change_shape, remove, exchange)


def cases(folder, seed):
    import anndata
    import numpy as np
    import torch
    from scipy import sparse

    import sysvi
    from sysvi.api.dry_run import describe_run
    from sysvi.api.storage import choose_storage
    from sysvi.data.columns import Columns
    from sysvi.data.h5ad import read_h5ad

    rng = random.Random(seed)
    cells = sysvi.datasets.simulate_systems(N_CELLS, N_GENES, n_samples=2, seed=1)
    x = np.asarray(cells.X.todense() if sparse.issparse(cells.X) else cells.X, np.float32)
    adata = anndata.AnnData(sparse.csr_matrix(x), obs=cells.obs[["system", "batch"]], var=cells.var[[]])
    adata.layers.update(csc=sparse.csc_matrix(x), dense=x)
    adata.obs["age"] = np.arange(N_CELLS)
    adata.obsm.update(X_pca=x[:, :4], sparse=sparse.csr_matrix(x[:, :3]))
    adata.uns["nested"] = {"a": np.arange(3), "b": "text"}
    adata.raw = adata
    for compression in (None, "gzip"):
        adata.write_h5ad(folder / f"{compression}.h5ad", compression=compression)
    path = folder / "damaged.h5ad"
    expected = sysvi.prepare(adata, "system", "batch", min_cells=2)

    def prepare(layer, raw, exact):
        prepared = sysvi.prepare(read_h5ad(path, raw=raw), "system", "batch", layer=layer, min_cells=2, normalize=None)
        assert not exact or (prepared.X != expected.X).nnz == 0
        assert prepared.n_obs <= N_CELLS
        assert prepared.n_vars <= N_GENES
        assert np.isfinite(prepared.X.data).all()

    def dry_run(layer, raw):
        adata = read_h5ad(path, raw=raw)
        storage = choose_storage(adata, layer, None, 1, torch.device("cpu"))
        describe_run(adata, Columns.from_arguments("system", "batch", layer=layer), storage, 3000, 0, {"seed": 0})

    def attempt(source, damage, case_seed):
        path.unlink(missing_ok=True)  # else HDF5 may show the old content, if it has the file open still
        path.write_bytes(source.read_bytes())
        with suppress(OSError, KeyError, ValueError, RuntimeError):  # h5py may refuse to make this damage
            damage(random.Random(case_seed), path)
        layer = rng.choice(LAYERS)
        raw = layer is None and rng.random() < 0.2
        exact = damage in (
            truncate,
            change_attribute,
            remove,
        )  # values are not changed, and h5ad files have no checksums
        outcome(partial(dry_run, layer, raw))
        return outcome(partial(prepare, layer, raw, exact))

    while True:
        source, damage, case_seed = folder / f"{rng.choice([None, 'gzip'])}.h5ad", rng.choice(DAMAGES), rng.random()
        yield damage.__name__, partial(attempt, source, damage, case_seed)


def test_damaged_h5ad_files():
    run_fuzzer(__file__, n_cases=300)


if __name__ == "__main__":
    work(cases)
