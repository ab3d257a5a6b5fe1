"""Finding 9: which pairs of cells are anchors, and how systems are moved onto each other around them.

    python benchmarks/paper/anchors.py [--sets ...] [--seeds 0 1] [--seconds 3000] [--pairs]

For each set of `trust_sets.py` and each seed, the members of a default call are trained; their embeddings are kept in
benchmarks/.cache/trust. Rows that are there are not made again.

1. *Rules* (results/paper_anchor_rules.csv). The members are combined, the systems moved by today's rules or by rules
   that differ in one respect, and the result scored as in `trust.py`. `rule` says in which: how close anchors must be,
   in which share of the members they must be mutual neighbours, rounds of moves, moves by the difference of means
   without that of covariances, or the weight of counterparts that was used before: the squared number of anchors,
   relative to a quarter of their usual number (the median over the cells that have some). "before" is the rule before:
   differences of means, this weight, pairs mutual in all members of a closeness of 1.5 (more than two systems: 1.65 in
   every member), two rounds. "none" leaves the systems where they are.
2. *Closeness*, with --pairs (results/paper_anchor_pairs.csv). Of pairs of cells that are mutual neighbours in all
   members, those of the same type are right, and those with a cell of a private type (without such pairs: of different
   types) are wrong. How well does the closeness of a pair tell them apart (AUROC)? It is a radius around a cell,
   divided by the distance of the pair. `radius` is the mean distance to the 15 nearest cells of the own system, or the
   distance within which a share of its cells lie; `cell` says which cell of the pair gives the radius, `members`
   whether the smallest closeness of all members counts, or the geometric mean.
"""

import argparse
import itertools
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from unittest.mock import patch

import numpy as np
import pandas as pd
import scipy.sparse as sp
from runs import RESULTS
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score
from trust import Cells, members_path

import sysvi
from sysvi._core.samples import sample_rows
from sysvi.api.ensemble import closeness_of
from sysvi.model import anchors
from sysvi.model.combination import combine

PAIRS, RULES = RESULTS / "paper_anchor_pairs.csv", RESULTS / "paper_anchor_rules.csv"
SETS = [
    *("baron", "baron_2500", "baron_1000", "baron_few_shared", "kang", "family_01", "family_12", "family_23"),  # two
    *("malaria_part", "protocols", "family_09", "family_10", "family_14", "family_19", "family_20"),  # several
]
RADII: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # of each point, from the sorted distances to all, (n, n)
    "15 nearest": lambda distances: distances[:, 1:16].mean(axis=1),
    **{
        f"{q:.0%}": lambda distances, q=q: distances[:, round(q * len(distances))] for q in (0.05, 0.1, 0.25, 0.35, 0.5)
    },
}
OF_CELLS = {"smaller": np.minimum, "larger": np.maximum}


def usual_weight(pairs: sp.csr_array, n_own: np.ndarray, n_of_others: np.ndarray) -> np.ndarray:
    """Weight of each cell's counterpart before: by its number of anchors, relative to a quarter of the usual number."""
    n = pairs.sum(axis=1)
    return np.minimum(1, np.square(n / (0.25 * np.median(n[n > 0])))) if n.any() else n


def no_transport(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Keep the covariance, so that cells move by the difference of means."""
    return np.broadcast_to(np.eye(source.shape[1]), source.shape)


def anchors_before(
    a: np.ndarray, b: np.ndarray, radius_a: np.ndarray, radius_b: np.ndarray, min_closeness: float, of: Callable
) -> sp.csr_array:
    """Anchors before: mutual in all members, and close on average over the members, or in each."""
    mutual = mutual_in_all(a, b)
    distances = [cdist(*z) for z in zip(a, b, strict=True)]
    radii = [np.maximum(one[:, None], other) for one, other in zip(radius_a, radius_b, strict=True)]
    closeness = of([np.log(radius) - np.log(d + 1e-300) for radius, d in zip(radii, distances, strict=True)], axis=0)
    return sp.csr_array(mutual.multiply(closeness >= np.log(min_closeness)))


def mutual_in_all(a: np.ndarray, b: np.ndarray) -> sp.csr_array:
    """Pairs that are mutual neighbours in all members, from embeddings (M, a, L) and (M, b, L)."""
    distances = [cdist(*z) for z in zip(a, b, strict=True)]
    nearest = anchors._are_nearest
    return sp.csr_array(np.all([nearest(d) & nearest(d.T).T for d in distances], axis=0).astype(float))


MEANS, USUAL = {"_transport": no_transport}, {"_weight_of_counterparts": usual_weight}
BEFORE = {**MEANS, **USUAL, "N_ROUNDS": 2}
CHANGES: dict[str, dict] = {  # what differs from today's rules, by rule
    "today": {},
    "closeness 0.15 less": {"closeness": -0.15},
    "closeness 0.15 more": {"closeness": 0.15},
    "half of the members": {"SHARE_OF_MEMBERS": 0.5},
    "all members": {"SHARE_OF_MEMBERS": 1.0},
    "2 rounds": {"N_ROUNDS": 2},
    "4 rounds": {"N_ROUNDS": 4},
    "8 rounds": {"N_ROUNDS": 8},
    "means only": MEANS,
    "weight by the usual number": USUAL,
}


def main() -> None:
    """Run what is missing and print a line for each row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--seconds", type=float, default=np.inf)
    parser.add_argument("--pairs", action="store_true", help="measure kinds of closeness")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    end = time.monotonic() + args.seconds
    for seed, name in itertools.product(args.seeds, args.sets):
        if time.monotonic() > end:
            return
        cells = Cells(name)
        members = embeddings(cells, seed)
        if args.pairs:
            if not has_rows(PAIRS, {"set": name, "seed": seed}):
                add_rows(PAIRS, [{"set": name, "seed": seed} | row for row in auroc_of_closeness(cells, members)])
            continue
        for rule in ("none", "before", *CHANGES):
            key = {"set": name, "seed": seed, "rule": rule}
            if has_rows(RULES, key):
                continue
            row = key | cells.scores(moved(cells, members, rule))
            add_rows(RULES, [row])
            print({k: round(x, 2) if isinstance(x, float) else x for k, x in row.items()}, flush=True)


def moved(cells: Cells, members: list[np.ndarray], rule: str) -> np.ndarray:
    """Embedding of an ensemble, (n, d), moved by a rule."""
    combined = combine(members).apply(members)
    codes = np.unique(cells.system, return_inverse=True)[1]
    if rule == "none":
        return combined.astype(np.float32)
    is_two = codes.max() == 1
    changes = dict(CHANGES.get(rule, BEFORE))
    closeness = closeness_of(codes.max() + 1) + changes.pop("closeness", 0.0)
    if rule == "before":
        closeness, of = (1.5, np.mean) if is_two else (1.65, np.min)
        changes["_anchors"] = partial(anchors_before, of=of)
    with ExitStack() as stack:
        for name, value in changes.items():
            stack.enter_context(patch.object(anchors, name, value))
        moves = anchors.find_moves(members, combined, codes, closeness)
    return moves.apply(combined, codes).astype(np.float32)


def has_rows(path, key: dict) -> bool:
    """Whether a table has a row with these values."""
    if not path.exists():
        return False
    table = pd.read_csv(path)
    return bool(np.all([table[k] == v for k, v in key.items()], axis=0).any())


def add_rows(path, rows: list[dict]) -> None:
    """Add rows to a table, which is made where it does not exist."""
    before = [pd.read_csv(path)] if path.exists() else []
    pd.concat([*before, pd.DataFrame(rows)]).to_csv(path, index=False, float_format="%.4f")


def embeddings(cells: Cells, seed: int) -> list[np.ndarray]:
    """Embeddings of the members of a default call, trained once."""
    path = members_path(cells.name, seed)
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
        rows, columns = mutual_in_all(np.stack(members)[:, a], np.stack(members)[:, b]).nonzero()
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


if __name__ == "__main__":
    main()
