"""Fuzzer of zarr stores: a damaged store must be refused in a sentence, or be used for what it holds; by a dry run too.

The chunks of the expression that `prepare_files` wrote, in shards, have checksums: their values must be right, or be
refused.
"""

import json
import random
import shutil
from functools import partial

from fuzz import outcome, run_fuzzer, work
from test_fuzz_models import NUMBERS, flip_bits, places, truncate

N_CELLS, N_GENES = 120, 60
LAYERS = (None, "csc", "dense")


def blank(rng, content):
    """A file that was not written, as after a power failure."""
    content[:] = bytes(len(content))


def damage_bytes(change, rng, store, path):
    content = bytearray(path.read_bytes())
    if content:
        change(rng, content)
    path.write_bytes(content)


def remove(rng, store, path):
    path.unlink()


def remove_folder(rng, store, path):
    if path.parent != store:
        shutil.rmtree(path.parent)


def exchange(rng, store, path):
    """Two files take each other's place."""
    other = rng.choice(files_of(store))
    first, second = path.read_bytes(), other.read_bytes()
    path.write_bytes(second)
    other.write_bytes(first)


def forge(rng, store, path):
    """Change or remove an entry of the metadata of a group or an array."""
    path = rng.choice([file for file in files_of(store) if file.name in ("zarr.json", ".zarray", ".zattrs")])
    values = json.loads(path.read_text())
    entries = list(places(values))
    if not entries:
        return
    *parents, last = rng.choice(entries)
    parent = values
    for key in parents:
        parent = parent[key]
    if rng.random() < 0.2:
        del parent[last]
    else:
        parent[last] = rng.choice(NUMBERS)
    path.write_text(json.dumps(values))


def files_of(store):
    return sorted(path for path in store.rglob("*") if path.is_file())


OF_BYTES = {"flip bits": flip_bits, "truncate": truncate, "blank": blank}
DAMAGES = {name: partial(damage_bytes, change) for name, change in OF_BYTES.items()}
DAMAGES |= {"remove": remove, "remove folder": remove_folder, "exchange": exchange, "forge": forge}


def cases(folder, seed):
    import anndata
    import numpy as np
    import torch
    from scipy import sparse

    import sysvi
    from sysvi.api.dry_run import describe_run
    from sysvi.api.storage import choose_storage
    from sysvi.data import store_writer
    from sysvi.data.columns import Columns
    from sysvi.data.row_blocks import read_rows
    from sysvi.data.stores import open_cells

    rng = random.Random(seed)
    cells = sysvi.datasets.simulate_systems(N_CELLS, N_GENES, n_samples=2, seed=1)
    counts = anndata.AnnData(sparse.csr_matrix(cells.X), obs=cells.obs[["system", "batch"]], var=cells.var[[]])
    counts.layers.update(csc=sparse.csc_matrix(counts.X), dense=counts.X.toarray())
    counts.obsm["X_pca"] = counts.X[:, :4].toarray()
    for version in (2, 3):
        with anndata.settings.override(zarr_write_format=version):
            counts.write_zarr(folder / f"counts{version}.zarr")
    store_writer.CHUNK_VALUES, store_writer.SHARD_CHUNKS = 400, 3  # several shards of several chunks
    sysvi.prepare_files([folder / "counts3.zarr"], folder / "prepared.zarr", "system", "batch", min_cells=2)
    expected = read_rows(open_cells(folder / "prepared.zarr").X, np.arange(N_CELLS))
    path = folder / "damaged.zarr"

    def dry_run(layer):
        adata = open_cells(path)
        storage = choose_storage(adata, layer, None, 1, torch.device("cpu"))
        describe_run(adata, Columns.from_arguments("system", "batch", layer=layer), storage, None, 0, {"seed": 0})

    def use(layer, exact):
        adata = open_cells(path)
        if layer == "prepared":
            x = read_rows(adata.X, np.arange(adata.n_obs))
            assert not exact or (x.shape == expected.shape and (x != expected).nnz == 0)
        else:
            prepared = sysvi.prepare(adata, "system", "batch", layer=layer, min_cells=2, normalize=None)
            assert prepared.n_obs <= N_CELLS
            assert prepared.n_vars <= N_GENES
            assert np.isfinite(prepared.X.data).all()

    def attempt(source, name, layer, case_seed):
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(folder / source, path)
        damaged_rng = random.Random(case_seed)
        target = damaged_rng.choice(files_of(path))
        DAMAGES[name](damaged_rng, path, target)
        is_chunk_of_x = target.is_relative_to(path / "X") and target.name != "zarr.json"
        outcome(partial(dry_run, None if layer == "prepared" else layer))
        return outcome(partial(use, layer, exact=is_chunk_of_x and name in OF_BYTES))

    while True:
        source = rng.choice(["counts2.zarr", "counts3.zarr", "prepared.zarr", "prepared.zarr"])
        layer = "prepared" if source == "prepared.zarr" else rng.choice(LAYERS)
        name = rng.choice(list(DAMAGES))
        yield f"{name}: {source} {layer}", partial(attempt, source, name, layer, rng.random())


def test_damaged_stores():
    run_fuzzer(__file__, n_cases=150)


if __name__ == "__main__":
    work(cases)
