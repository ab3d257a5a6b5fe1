"""Finding 9: which pairs of cells are anchors, how far anchors may reach, and how many members an ensemble should have.

    python benchmarks/paper/anchors.py [--sets ...] [--seeds 0 1] [--seconds 3000] [--weights]

For each set of `trust_sets.py` and each seed, the members of a default call are trained; their embeddings are kept in
benchmarks/.cache/trust. Rows that are there are not made again.

1. *Closeness* (results/paper_anchor_pairs.csv). Of pairs of cells that are mutual neighbours in all members, those of
   the same type are right, and those with a cell of a private type (without such pairs: of different types) are wrong.
   How well does the closeness of a pair tell them apart (AUROC)? It is a radius around a cell, divided by the distance
   of the pair. `radius` is the mean distance to the 15 nearest cells of the own system, or the distance within which a
   share of its cells lie; `cell` says which cell of the pair gives the radius, `members` whether the smallest closeness
   of all members counts, or the geometric mean.
2. *Settings* (results/paper_anchors.csv). Ensembles of the first members are moved with some settings of the anchors
   and scored as in `trust.py`: `neighbors`, the share of a system's cells that count as nearest neighbours, and
   `closeness`. "former" is the rule before: 10 % of the cells (with four members 6 %), in all members a closeness of
   0.15 (several systems: 0.8) by the 15 nearest cells and the smaller radius. "none" leaves the systems where they are.
   A cell's counterpart always counts in full here, of however few anchors it is the mean.
3. *Weights*, with --weights alone (results/paper_anchor_weights.csv). Ensembles of all members are moved with today's
   closeness; `enough` is the share of the usual number of anchors from which a counterpart counts in full (0: always),
   and with fewer it counts by the power `power` of their number.
"""

import argparse
import itertools
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from unittest.mock import patch

import numpy as np
import pandas as pd
import scipy.sparse as sp
import trust_sets
from runs import RESULTS
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score
from trust import Cells

import sysvi
from sysvi._core.samples import sample_rows
from sysvi.api.ensemble import CLOSENESS_OF_SEVERAL, CLOSENESS_OF_TWO
from sysvi.model import anchors
from sysvi.model.combination import combine

PAIRS, TABLE = RESULTS / "paper_anchor_pairs.csv", RESULTS / "paper_anchors.csv"
WEIGHTS = RESULTS / "paper_anchor_weights.csv"
SETS = [
    *("baron", "baron_1000", "baron_few_shared", "kang", "family_01", "family_12", "family_23"),  # two systems
    *("malaria_part", "protocols", "family_10", "family_14", "family_19", "family_20"),  # several
]
RADII: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # of each point, from the sorted distances to all, (n, n)
    "15 nearest": lambda distances: distances[:, 1:16].mean(axis=1),
    **{
        f"{q:.0%}": lambda distances, q=q: distances[:, round(q * len(distances))] for q in (0.05, 0.1, 0.25, 0.35, 0.5)
    },
}
OF_CELLS = {"smaller": np.minimum, "larger": np.maximum}
MEMBERS = (4, 8)
SETTINGS_OF_TWO = [(0.1, 1.5), (0.15, 1.5), (0.15, 1.6), (0.25, 1.6)]
SETTINGS_OF_SEVERAL = [(0.1, 2.5), (0.15, 2.5), (0.15, 2.75)]
OTHERS = [("none", np.nan), ("former", np.nan)]
WEIGHTINGS = [(0.0, 0), (0.25, 1), (0.25, 2), (0.5, 1), (0.5, 2)]  # share of the usual number of anchors, and power
KEYS = ["set", "seed", "members", "neighbors", "closeness"]


def main() -> None:
    """Run what is missing and print a line for each row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--seconds", type=float, default=np.inf)
    parser.add_argument("--weights", action="store_true", help="measure the weights of counterparts")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    end = time.monotonic() + args.seconds
    for seed, name in itertools.product(args.seeds, args.sets):
        cells = Cells(name)
        members = embeddings(cells, seed)
        if args.weights and time.monotonic() > end:
            return
        if args.weights:
            weights(cells, seed, members)
            continue
        if not has_rows(PAIRS, {"set": name, "seed": seed}):
            add_rows(PAIRS, [{"set": name, "seed": seed} | row for row in auroc_of_closeness(cells, members)])
        settings = SETTINGS_OF_TWO if len(np.unique(cells.system)) == 2 else SETTINGS_OF_SEVERAL
        for n_members, (share, closeness) in itertools.product(MEMBERS, [*OTHERS, *settings]):
            key = dict(zip(KEYS, (name, seed, n_members, str(share), closeness), strict=True))
            if has_rows(TABLE, key):
                continue
            if time.monotonic() > end:
                return
            row = key | cells.scores(moved(cells, members[:n_members], share, closeness))
            add_rows(TABLE, [row])
            print({k: round(x, 2) if isinstance(x, float) else x for k, x in row.items()}, flush=True)


def weights(cells: Cells, seed: int, members: list[np.ndarray]) -> None:
    """Add the scores of an ensemble for each weighting of counterparts."""
    combined = combine(members).apply(members)
    codes = np.unique(cells.system, return_inverse=True)[1]
    closeness = CLOSENESS_OF_TWO if codes.max() == 1 else CLOSENESS_OF_SEVERAL
    for enough, power in WEIGHTINGS:
        key = {"set": cells.name, "seed": seed, "enough": enough, "power": power}
        if has_rows(WEIGHTS, key):
            continue
        with patch.object(anchors, "_weight_of_counterparts", partial(weight_of_counterparts, enough, power)):
            moves = anchors.find_moves(members, combined, codes, closeness)
        row = key | cells.scores(moves.apply(combined, codes).astype(np.float32))
        add_rows(WEIGHTS, [row])
        print({k: round(x, 2) if isinstance(x, float) else x for k, x in row.items()}, flush=True)


def weight_of_counterparts(enough: float, power: float, n_anchors: np.ndarray) -> np.ndarray:
    """Weight of each cell's counterpart by its number of anchors; if `enough` is 0, any number gives 1."""
    if not enough or not n_anchors.any():
        return (n_anchors > 0).astype(float)
    return np.minimum(1, n_anchors / (enough * np.median(n_anchors[n_anchors > 0]))) ** power


IN_FULL = partial(weight_of_counterparts, 0.0, 0)


def has_rows(path, key: dict) -> bool:
    """Whether a table has a row with these values."""
    if not path.exists():
        return False
    table = pd.read_csv(path, dtype={"neighbors": str})
    return bool(np.all([table[k].isna() if v != v else table[k] == v for k, v in key.items()], axis=0).any())


def add_rows(path, rows: list[dict]) -> None:
    """Add rows to a table, which is made where it does not exist."""
    before = [pd.read_csv(path, dtype={"neighbors": str})] if path.exists() else []
    pd.concat([*before, pd.DataFrame(rows)]).to_csv(path, index=False, float_format="%.4f")


def embeddings(cells: Cells, seed: int) -> list[np.ndarray]:
    """Embeddings of the members of a default call, trained once."""
    path = trust_sets.FOLDER / f"{cells.name}, default, members of seed {seed}.npz"
    if not path.exists():
        model = sysvi.integrate(cells.adata, "system", "batch", seed=seed, progress=False)
        np.savez(path, members=model.member_embeddings())
    return [z.astype(np.float64) for z in np.load(path)["members"]]


def auroc_of_closeness(cells: Cells, members: list[np.ndarray]) -> Iterator[dict]:
    """How well each kind of closeness tells right from wrong pairs of neighbours, over all pairs of systems."""
    sampled = {s: sample_rows(np.flatnonzero(cells.system == s), anchors.MAX_SAMPLED_CELLS) for s in set(cells.system)}
    found, labels = [], []
    for one, other in itertools.combinations(sorted(sampled), 2):
        a, b = sampled[one], sampled[other]
        with patch.object(anchors, "_log_closeness", lambda a, b, rows, columns: np.zeros(len(rows))):
            rows, columns = anchors._anchors([(z[a], z[b]) for z in members], anchors.MinCloseness()).nonzero()
        labels.append(np.stack([cells.label[a[rows]], cells.label[b[columns]]]))
        found.append([closeness_by_kind(z[a], z[b], rows, columns) for z in members])
    label = np.concatenate(labels, axis=1)
    right = label[0] == label[1]
    wrong = ~right & np.isin(label, [*cells.private]).any(axis=0)
    wrong = wrong if wrong.sum() > 10 else ~right
    for kind, of_cells, of_members in itertools.product(RADII, OF_CELLS, ("smallest", "mean")):
        by_member = np.log(np.concatenate([[m[kind, of_cells] for m in pairs] for pairs in found], axis=1))
        closeness = by_member.min(axis=0) if of_members == "smallest" else by_member.mean(axis=0)
        auroc = roc_auc_score(right[right | wrong], closeness[right | wrong]) if wrong.any() else np.nan
        yield {"radius": kind, "cell": of_cells, "members": of_members, "pairs": len(right), "wrong": wrong.sum()} | {
            "auroc": auroc
        }


def closeness_by_kind(a: np.ndarray, b: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> dict:
    """Closeness of pairs in one member, by radius and cell."""
    sorted_a, sorted_b = (np.sort(cdist(z, z), axis=1) for z in (a, b))
    distance = np.linalg.norm(a[rows] - b[columns], axis=1)
    return {
        (kind, which): of_cells(radius(sorted_a)[rows], radius(sorted_b)[columns]) / distance
        for (kind, radius), (which, of_cells) in itertools.product(RADII.items(), OF_CELLS.items())
    }


def moved(cells: Cells, members: list[np.ndarray], share: float | str, closeness: float) -> np.ndarray:
    """Embedding of an ensemble, (n, d), with these settings of the anchors."""
    combined = combine(members).apply(members)
    codes = np.unique(cells.system, return_inverse=True)[1]
    if share == "none":
        return combined.astype(np.float32)
    counting_in_full = patch.object(anchors, "_weight_of_counterparts", IN_FULL)
    if share == "former":
        with counting_in_full, patch.object(anchors, "_anchors", former_anchors):
            former = anchors.MinCloseness(0.15 if codes.max() == 1 else 0.8)
            moves = anchors.find_moves(members, combined, codes, former)
    else:
        with counting_in_full, patch.object(anchors, "SHARE_OF_NEIGHBORS", share):
            moves = anchors.find_moves(members, combined, codes, anchors.MinCloseness(closeness))
    return moves.apply(combined, codes).astype(np.float32)


def former_anchors(members: list[tuple[np.ndarray, np.ndarray]], min_closeness: anchors.MinCloseness) -> sp.csr_array:
    """Anchors as they were found before this study."""
    pairs = np.ones((len(members[0][0]), len(members[0][1])), bool)
    with patch.object(anchors, "SHARE_OF_NEIGHBORS", min(0.1, 0.06 ** (4 / len(members)))):
        for a, b in members:
            mutual = anchors._neighbors(b, a).multiply(anchors._neighbors(a, b).T).toarray() > 0
            own_a, own_b = (RADII["15 nearest"](np.sort(cdist(z, z), axis=1)) for z in (a, b))
            pairs &= mutual & (np.minimum(own_a[:, None], own_b[None]) >= min_closeness.value * cdist(a, b))
    return sp.csr_array(pairs.astype(np.float64))


if __name__ == "__main__":
    main()
