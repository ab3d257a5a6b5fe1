"""Finding 9: how far anchors may reach, for members of two presets, without training again.

    python benchmarks/paper/anchors.py [--sets ...] [--presets mixing conservative] [--seconds 3000]
    python benchmarks/paper/anchors.py --report      the table from the rows

An ensemble is trained for each set of `trust_sets.py` and each preset, and its members' embeddings are kept in
benchmarks/.cache/trust. The systems are then moved onto each other (`sysvi.model.anchors`) with other settings, and
each result is scored as in `trust.py`: one row in results/paper_anchors.csv. Rows that are there are not made again.

Columns: `neighbors`, the share of a system's cells that count as nearest neighbours; `closeness`, how close anchors
must be (0.3: at most 3.3 times the distance to neighbours of the own system); `rounds` of moves; scores as in trust.py.
"""

import argparse
import time
import warnings
from itertools import product
from unittest.mock import patch

import numpy as np
import pandas as pd
import trust_sets
from runs import RESULTS
from trust import Cells

import sysvi
from sysvi.model import anchors

TABLE = RESULTS / "paper_anchors.csv"
SETS = ["baron_1000", "baron_few_shared", "family_01", "family_12", "family_23", "baron", "kang"]
SETTINGS = [  # share of neighbours, closeness, rounds; the first is the default for two systems
    (0.06, 0.3, 3),
    (0.06, 0.8, 3),
    (0.06, 0.2, 3),
    (0.10, 0.3, 3),
    (0.10, 0.2, 3),
    (0.15, 0.3, 3),
    (0.15, 0.2, 6),
]
KEYS = ["set", "preset", "neighbors", "closeness", "rounds"]


def main() -> None:
    """Run what is missing and print a line for each row; or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--presets", nargs="+", default=["mixing", "conservative"])
    parser.add_argument("--seconds", type=float, default=np.inf)
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    if args.report:
        table = pd.read_csv(TABLE).pivot(index=KEYS[1:], columns="set", values=["shared", "private", "nmi"])
        print(table.round(2).to_string())
        return
    end = time.monotonic() + args.seconds
    for name, preset in product(args.sets, args.presets):
        table = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=KEYS)
        own = table[(table["set"] == name) & (table["preset"] == preset)]
        done = set(own[KEYS[2:]].itertuples(index=False, name=None))
        missing = [setting for setting in SETTINGS if setting not in done]
        if not missing:
            continue
        if time.monotonic() > end:
            return
        cells = Cells(name)
        members, combined = embeddings(cells, preset)
        codes = np.unique(cells.system, return_inverse=True)[1]
        rows = []
        for share, closeness, rounds in missing:
            with patch.object(anchors, "SHARE_OF_NEIGHBORS", share), patch.object(anchors, "N_ROUNDS", rounds):
                moves = anchors.find_moves(members, combined, codes, closeness)
            scores = cells.scores(moves.apply(combined, codes).astype(np.float32))
            rows.append(dict(zip(KEYS, (name, preset, share, closeness, rounds), strict=True)) | scores)
            print({key: round(x, 2) if isinstance(x, float) else x for key, x in rows[-1].items()}, flush=True)
        pd.concat([table, pd.DataFrame(rows)]).to_csv(TABLE, index=False, float_format="%.4f")


def embeddings(cells: Cells, preset: str) -> tuple[list[np.ndarray], np.ndarray]:
    """The members' embeddings, and the combined one before the systems are moved; trained once (seed 0)."""
    path = trust_sets.FOLDER / f"{cells.name}, {preset}, members.npz"
    if not path.exists():
        model = sysvi.integrate(cells.adata, "system", "batch", preset=preset, seed=0, progress=False)
        members = model.member_embeddings()
        np.savez(path, members=members, combined=model.combination.apply(members))
    kept = np.load(path)
    return list(kept["members"]), kept["combined"]


if __name__ == "__main__":
    main()
