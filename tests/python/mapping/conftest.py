import anndata
import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def make_embedded():
    """Function that makes cells with an embedding: four types, two systems of two donors each, no expression."""

    def make(n=300, seed=0, types=("alpha", "beta", "delta", "gamma")):
        rng = np.random.default_rng(seed)
        code = rng.integers(0, len(types), n)
        place = 8 * np.eye(4)[[("alpha", "beta", "delta", "gamma", "new").index(name) % 4 for name in types]]
        place += 20 * np.array([name == "new" for name in types])[:, None]
        donor = rng.integers(0, 4, n)
        obs = pd.DataFrame(
            {
                "cell_type": np.array(types)[code],
                "system": np.where(donor < 2, "human", "mouse"),
                "donor": [f"donor{i}" for i in donor],
            },
            index=[f"{seed}_{i}" for i in range(n)],
        )
        return anndata.AnnData(obs=obs, obsm={"X_sysVI": (place[code] + rng.normal(size=(n, 4))).astype(np.float32)})

    return make
