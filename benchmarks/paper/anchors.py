"""Finding 9: which members an ensemble should have, and how far anchors may reach.

    python benchmarks/paper/anchors.py [--sets ...] [--seconds 3000]
    python benchmarks/paper/anchors.py --report      the table from the rows

For each set of `trust_sets.py`, four members are trained with the preset `conservative` and four with `mixing`, twice
(seeds 0 and 1); their embeddings are kept in benchmarks/.cache/trust. Members are then put together to ensembles, the
systems are moved onto each other (`sysvi.model.anchors`), and each result is scored as in `trust.py`: one row in
results/paper_anchors.csv. Rows that are there are not made again.

Columns: `ensemble`, which members; `neighbors`, the share of a system's cells that count as nearest neighbours;
`closeness`, how close anchors must be (0.3: at most 3.3 times the distance to neighbours of the own system); scores as
in trust.py.
"""

import argparse
import itertools
import time
import warnings
from unittest.mock import patch

import numpy as np
import pandas as pd
import trust_sets
from runs import RESULTS
from trust import Cells

import sysvi
from sysvi.model import anchors
from sysvi.model.combination import combine

TABLE = RESULTS / "paper_anchors.csv"
SETS = ["baron_1000", "baron_few_shared", "family_01", "family_12", "family_23", "baron", "kang"]
ENSEMBLES = {  # preset, seed and members of each part
    "4 conservative, seed 0": [("conservative", 0, 4)],
    "4 conservative, seed 1": [("conservative", 1, 4)],
    "6 conservative": [("conservative", 0, 3), ("conservative", 1, 3)],
    "8 conservative": [("conservative", 0, 4), ("conservative", 1, 4)],
    "4 mixing, seed 0": [("mixing", 0, 4)],
    "4 mixing, seed 1": [("mixing", 1, 4)],
    "8 mixing": [("mixing", 0, 4), ("mixing", 1, 4)],
    "2 conservative, 2 mixing": [("conservative", 1, 2), ("mixing", 1, 2)],
    "4 conservative, 4 mixing": [("conservative", 1, 4), ("mixing", 1, 4)],
}
SETTINGS = [(0.06, 0.3), (0.06, 0.2), (0.1, 0.2), (0.1, 0.15), (0.15, 0.15)]  # share of neighbours, closeness
KEYS = ["set", "ensemble", "neighbors", "closeness"]


def main() -> None:
    """Run what is missing and print a line for each row; or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seconds", type=float, default=np.inf)
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    if args.report:
        print_table(pd.read_csv(TABLE))
        return
    end = time.monotonic() + args.seconds
    for name in args.sets:
        cells = None
        for ensemble, (share, closeness) in itertools.product(ENSEMBLES, SETTINGS):
            table = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=KEYS)
            key = (name, ensemble, share, closeness)
            if key in set(table[KEYS].itertuples(index=False, name=None)):
                continue
            if time.monotonic() > end:
                return
            cells = cells or Cells(name)
            row = dict(zip(KEYS, key, strict=True)) | cells.scores(moved(cells, ensemble, share, closeness))
            pd.concat([table, pd.DataFrame([row])]).to_csv(TABLE, index=False, float_format="%.4f")
            print({k: round(x, 2) if isinstance(x, float) else x for k, x in row.items()}, flush=True)


def moved(cells: Cells, ensemble: str, share: float, closeness: float) -> np.ndarray:
    """Embedding of an ensemble, (n, d), with these settings of the anchors."""
    members = [z for preset, seed, n in ENSEMBLES[ensemble] for z in embeddings(cells, preset, seed)[:n]]
    combined = combine(members).apply(members)
    codes = np.unique(cells.system, return_inverse=True)[1]
    with patch.object(anchors, "share_of_neighbors", lambda n_members: share):
        moves = anchors.find_moves(members, combined, codes, closeness)
    return moves.apply(combined, codes).astype(np.float32)


def embeddings(cells: Cells, preset: str, seed: int) -> list[np.ndarray]:
    """Embeddings of four members, trained once."""
    path = trust_sets.FOLDER / f"{cells.name}, {preset}, members of seed {seed}.npz"
    if not path.exists():
        model = sysvi.integrate(cells.adata, "system", "batch", preset=preset, members=4, seed=seed, progress=False)
        np.savez(path, members=model.member_embeddings())
    return list(np.load(path)["members"])


def print_table(table: pd.DataFrame) -> None:
    """Print mixing of shared and of private types and NMI, by ensemble and settings (rows) and set (columns)."""
    scores = table[["shared", "private", "nmi"]].map(lambda value: "" if np.isnan(value) else f"{value:.2f}")
    cell = scores["shared"] + " / " + scores["private"] + " / " + scores["nmi"]
    wide = table.assign(cell=cell).pivot(index=KEYS[1:], columns="set", values="cell").fillna("")
    keys = [(ensemble, *setting) for ensemble in ENSEMBLES for setting in SETTINGS]
    wide = wide.reindex([key for key in keys if key in wide.index])
    sets = [name for name in SETS if name in wide]
    print(f"| members | neighbours, closeness | {' | '.join(sets)} |\n|{'---|' * (len(sets) + 2)}")
    for (ensemble, share, closeness), row in wide[sets].iterrows():
        print(f"| {ensemble} | {share:.0%}, {closeness:g} | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
