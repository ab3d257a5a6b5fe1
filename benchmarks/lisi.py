"""Both conventions of LISI, compared with scib-metrics 0.6.1 and harmonypy 2.1.0.

    python benchmarks/lisi.py [--cells 3000]

These need Python 3.12 or later and get an environment of their own in benchmarks/.cache. The embedding is simulated:
15 dimensions, 15 cell types, two systems. Writes results/lisi.csv: for each tool, the number of other neighbours that
it uses, the median of its LISI of systems over cells, ours for the same number, and the largest relative difference
between the values of a cell.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from common import CACHE, PEERS, RESULTS
from metrics import simulate

from sysvi.comparison.environments import get_environment
from sysvi.comparison.methods import Method
from sysvi.metrics import LISI_NEIGHBORS, lisi, nearest_neighbors

TOOLS = Method(
    "lisi",
    PEERS / "lisi.py",
    "LISI",
    "scib-metrics",
    requires_python=">=3.12",
    dependencies=("scib-metrics==0.6.1", "harmonypy==2.1.0"),
    imports=("scib_metrics", "harmonypy"),
)
CONVENTIONS = {"scib_with_self": "scib-metrics", "scib_without_self": "harmonypy", "harmonypy": "harmonypy"}


def main() -> None:
    """Compute LISI with each tool, compare it with ours, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=3000)
    args = parser.parse_args()
    environment = get_environment(TOOLS, CACHE / "environments", None, print)
    embedding, system, _, _ = simulate(args.cells)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "embedding.npy", embedding)
        np.save(folder / "system.npy", system)
        files = [folder / "embedding.npy", folder / "system.npy", folder / "lisi.npz"]
        subprocess.run([*environment.command, TOOLS.script, *files], env=environment.process_variables(), check=True)
        theirs = dict(np.load(folder / "lisi.npz"))
    rows = []
    for tool, convention in CONVENTIONS.items():
        n_neighbors = LISI_NEIGHBORS[convention]
        ours = lisi(nearest_neighbors(embedding, n_neighbors), system)
        version = environment.version_of("harmonypy" if tool == "harmonypy" else "scib-metrics")
        difference = np.max(np.abs(theirs[tool] / ours - 1))
        rows.append((tool, version, n_neighbors, np.median(theirs[tool]), np.median(ours), difference))
    table = pd.DataFrame(rows, columns=["tool", "version", "neighbours", "median", "ours", "largest difference"])
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / "lisi.csv", index=False, float_format="%.7g")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
