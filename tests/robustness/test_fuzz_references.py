"""Fuzzer of saved references: a damaged one must be refused in a sentence, or give the right labels."""

import json
import random
from contextlib import suppress
from functools import partial

import test_fuzz_h5ad
from fuzz import outcome, run_fuzzer, work
from test_fuzz_models import blank, exchange_blocks, extend, flip_bits, forge, truncate

MODEL, CELLS, CONFIG = "model.safetensors", "cells.h5ad", "config.json"
OF_BYTES = (flip_bits, truncate, extend, blank, exchange_blocks)


def cases(folder, seed):
    import pandas as pd

    import sysvi
    from sysvi.mapping.reference import _checksum

    rng = random.Random(seed)
    adata = sysvi.prepare(sysvi.datasets.simulate_systems(300, 100, seed=1), "system", "batch", min_cells=3)
    small = {"max_epochs": 2, "n_hidden": 16, "n_latent": 4, "device": "cpu", "progress": False}
    model = sysvi.integrate(adata, "system", "batch", members=2, **small)
    reference, query = adata[::4].copy(), adata[1::10].copy()
    path = folder / "reference"
    sysvi.save_reference(path, model, reference, "cell_type", licence="mit")
    intact = {name: (path / name).read_bytes() for name in (MODEL, CELLS, CONFIG)}

    def labels():
        return sysvi.transfer_labels(sysvi.load_reference(path), query, "cell_type").cells

    expected = labels()

    def use(exact):
        found = labels()
        if exact:
            pd.testing.assert_frame_equal(found, expected)

    def restore():
        for name, content in intact.items():
            (path / name).unlink(missing_ok=True)  # else HDF5 may show the old content, if it has the file open still
            (path / name).write_bytes(content)

    def attempt(damage, name, case_seed):
        restore()
        content = bytearray(intact[name])
        damage(random.Random(case_seed), content)
        (path / name).write_bytes(content)
        return outcome(partial(use, exact=True))

    def attempt_forged(case_seed):
        restore()
        config = json.loads(intact[CONFIG])
        forge(random.Random(case_seed), config)
        (path / CONFIG).write_text(json.dumps(config))
        return outcome(partial(use, exact=False))

    def attempt_cells(damage, case_seed):
        """Cells that were changed by somebody who knows about the checksum."""
        restore()
        with suppress(OSError, KeyError, ValueError, RuntimeError):  # h5py may refuse to make this damage
            damage(random.Random(case_seed), path / CELLS)
        config = json.loads(intact[CONFIG])
        config["sha256"][CELLS] = _checksum(path / CELLS)
        (path / CONFIG).write_text(json.dumps(config))
        return outcome(partial(use, exact=False))

    while True:
        damage = rng.choice(OF_BYTES)
        yield damage.__name__, partial(attempt, damage, rng.choice(list(intact)), rng.random())
        yield "forge", partial(attempt_forged, rng.random())
        damage = rng.choice(test_fuzz_h5ad.DAMAGES)
        yield f"cells, {damage.__name__}", partial(attempt_cells, damage, rng.random())


def test_damaged_references():
    run_fuzzer(__file__, n_cases=150)


if __name__ == "__main__":
    work(cases)
