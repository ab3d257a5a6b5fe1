"""Finding 8: can a default call be trusted? Types kept, private types apart, repeats that agree, support.

    python benchmarks/paper/trust.py [--sets ...] [--variants ...] [--repeats 2] [--seconds 3000]
    python benchmarks/paper/trust.py --report        how far repeats agree, and the figure

Every run is a call of `sysvi.integrate` (or of a peer) with another seed on a set of `trust_sets.py`. Its embedding is
kept in benchmarks/.cache/trust, its row in results/paper_trust.csv: the script continues where it was interrupted, and
stops before a run that would begin after `--seconds`. The members' embeddings of the default are kept too. Where they
are there, they are combined, and the systems moved onto each other, without training again (then there are no
`seconds`): remove the rows of the default to measure other rules for this.

Rows of the variant "default before" are of several systems and of the version of commit 52e0f02: its decoder's hidden
layers saw the covariates of any number of systems, and the closeness of anchors was the mean over the members. Rows of
"all anchors count" are of commit 132a389, in which the counterpart of a cell counted in full however few its anchors,
and rows of "anchors of all members" of commit 15b3318, the last before today's rules for moving systems.

Columns: `shared` (share of neighbours of the same type from other systems, 1: full mixing), `private` and
`worst_private` (the same for types of one system, of any type: 0 is right; over all their cells, and of the worst
type), `nmi` (of Leiden clusters named after types) and `nmi_pca` (of PCA's own), `lost` (types of 20 cells or more of
which no cluster is named or Jaccard's index is below one half) and `lost_pca`, `same` (neighbours of the same type),
`moran`, `support` (AUROC of the support for cells of shared types against private ones), shares of cells of private and
of shared types whose support is below some thresholds, `seconds` (on two cores, which other programs may have used too:
total_time.py compares times).
`agreement`, in the report, is the share of the 15 nearest neighbours that two repeats have in common; `halves` is the
same for principal components (15) of two random halves of the genes, which tells how far the data determine neighbours.
"""

import argparse
import functools
import itertools
import subprocess
import sys
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scanpy as sc
import trust_sets
from matplotlib.figure import Figure
from runs import RESULTS, save_figure
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(trust_sets.HERE / "pages"))  # for the tables of the documentation

from tables import trust_summary

import sysvi
from sysvi import Ramp
from sysvi.api.ensemble import closeness_of
from sysvi.api.support import neighbor_support
from sysvi.metrics import (
    jaccard,
    leiden,
    moran_ratio,
    moran_reference,
    name_clusters,
    nearest_neighbors,
    nmi,
    shared_neighbors,
)
from sysvi.model.anchors import find_moves
from sysvi.model.combination import combine

TABLE = RESULTS / "paper_trust.csv"
AGREEMENT = RESULTS / "paper_trust_agreement.csv"
MIN_CELLS = 20  # of a type in a system
THRESHOLDS = (0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6)  # of the support
FORMER = {  # the defaults of one model before this study
    "preset": "mixing",
    "members": 1,
    "n_hidden": 256,
    "covariates_in_mean": False,
    "initialisation": "random",
}
VARIANTS = {
    "default": {},
    "four members": {"members": 4},
    "mixing": {"preset": "mixing"},
    "one member": {"members": 1},
    "data start": {"initialisation": "data"},
    "random weights": {"initialisation": "random"},
    "hidden layers only": {"covariates_in_mean": False},
    "mean and hidden layers": {"covariates_in_hidden": True},  # as the default for two systems
    "mean only": {"covariates_in_hidden": False},  # as the default for more
    "mixing, cycle 10": {"preset": "mixing", "cycle_weight": 10},
    "cycle 30, KL 2": {"cycle_weight": 30, "kl_weight": 2},
    "KL ramp": {"kl_weight": Ramp(1.0, 0.0, 0.1)},
    "half the epochs": {"max_epochs": 12},
    "twice the epochs": {"max_epochs": 48},
    "former default": FORMER,
    "paper": {"preset": "paper"},
}
PEERS = {"Harmony": "harmony.py", "scvi-tools SysVI": "scvi_sysvi.py"}


class Cells:
    """A set, its labels, and what is computed once."""

    def __init__(self, name: str):
        self.name = name
        self.adata = anndata.read_h5ad(trust_sets.path(name))
        obs = self.adata.obs.astype(str)
        self.system, self.batch, self.label = (obs[key].to_numpy() for key in ("system", "batch", "cell_type"))
        self.known = np.flatnonzero(self.label != "unknown")
        counts = pd.crosstab(self.label[self.known], self.system[self.known])
        present = (counts >= MIN_CELLS).sum(axis=1)
        self.shared = set(counts.index[present > 1])
        # Types of one system only, without a single cell in another.
        private = counts.index[(present == 1) & (counts.sum(axis=1) == counts.max(axis=1))]
        self.private = {label: counts.loc[label].idxmax() for label in private}
        self.pca = sc.pp.pca(self.adata.X, n_comps=min(30, min(self.adata.shape) - 1))
        k = self.known
        self.moran = moran_reference(self.adata.X[k], self.label[k], self.batch[k], self.system[k], min_cells=60)

    def scores(self, z: np.ndarray) -> dict[str, float]:
        """Scores of an embedding, (n, d)."""
        k, label, system = self.known, self.label, self.system
        neighbors = nearest_neighbors(z, 15).indices
        scores = {"shared": np.nan}
        if self.shared:
            scores["shared"] = float(shared_neighbors(z[k], system[k], label[k], min_cells=MIN_CELLS).mean())
        mixed, sizes = {}, {}
        for name, home in self.private.items():
            cells = np.flatnonzero((label == name) & (system == home))
            mixed[name] = (system[neighbors[cells]] != home).mean() / (system != home).mean()
            sizes[name] = len(cells)
        values = pd.Series(mixed, dtype=float)
        scores["private"] = float(np.average(values, weights=[*sizes.values()])) if sizes else np.nan
        scores["worst_private"] = float(values.max()) if sizes else np.nan
        clusters = name_clusters(leiden(nearest_neighbors(z[k], 14), 2.0), label[k])
        scores["nmi"] = nmi(label[k], clusters).value
        frequent = pd.Series(label[k]).value_counts()
        per_label = jaccard(label[k], clusters).per_label
        scores["lost"] = int((per_label[frequent.index[frequent >= MIN_CELLS]] < 0.5).sum())
        scores["same"] = float((label[neighbors][k] == label[k][:, None]).mean())
        scores["moran"] = float(moran_ratio(self.moran, z[k])) if self.moran.reason is None else np.nan
        return scores

    def support_scores(self) -> dict[str, float]:
        """AUROC of the support for cells of shared types against those of private types, and shares below thresholds.

        Only what the set allows: nothing without support, no AUROC without private and shared types.
        """
        if "sysvi_support" not in self.adata.obs:
            return {}
        support, scores = self.adata.obs["sysvi_support"].to_numpy(), {}
        is_shared, is_private = (np.isin(self.label, [*labels]) for labels in (self.shared, self.private))
        if is_shared.any() and is_private.any():
            chosen = is_shared | is_private
            scores["support"] = float(roc_auc_score(is_shared[chosen], support[chosen]))
        for threshold, (kind, cells) in itertools.product(
            THRESHOLDS, {"private": is_private, "shared": is_shared}.items()
        ):
            if cells.any():
                scores[f"{kind}_below_{threshold}"] = float((support[cells] < threshold).mean())
        return scores


def main() -> None:
    """Run what is missing and print a line for each run; or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=trust_sets.names())
    parser.add_argument("--variants", nargs="+", default=["default"], choices=[*VARIANTS, *PEERS])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=np.inf)
    parser.add_argument("--peer-python", default=str(trust_sets.HERE / ".venv-bench/bin/python"))
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    if args.report:
        report(pd.read_csv(TABLE))
        return
    end = time.monotonic() + args.seconds
    for name in args.sets:
        cells = None
        for variant, repeat in itertools.product(args.variants, range(args.repeats)):
            table = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=["set", "variant", "repeat"])
            done = (table["set"] == name) & (table["variant"] == variant) & (table["repeat"] == repeat)
            if done.any():
                continue
            if time.monotonic() > end:
                return
            cells = cells or Cells(name)
            row = run(cells, variant, repeat, args.peer_python)
            pd.concat([table, pd.DataFrame([row])]).to_csv(TABLE, index=False, float_format="%.4f")
            print(
                {key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()}, flush=True
            )


def run(cells: Cells, variant: str, repeat: int, peer_python: str) -> dict:
    """One call, measured; its embedding is kept."""
    path = trust_sets.FOLDER / f"{cells.name}, {variant}, {repeat}.npy"
    members = members_path(cells.name, repeat)
    start, is_trained = time.perf_counter(), variant == "default" and members.exists()
    if is_trained:
        z = move_again(cells, [*np.load(members)["members"]])
        np.save(path, z)
    elif variant in PEERS:
        script = trust_sets.HERE / "peers" / PEERS[variant]
        seed = ["--seed", str(repeat)] if variant != "Harmony" else []
        arguments = [str(trust_sets.path(cells.name)), str(path), "--threads", "2", *seed]
        subprocess.run([peer_python, str(script), *arguments], check=True, capture_output=True)
        z = np.load(path)
    else:
        settings = settings_of(cells.adata.n_obs, variant)
        model = sysvi.integrate(cells.adata, "system", "batch", seed=repeat, progress=False, **settings)
        if model.status != "finished":  # a stop signal ends training early
            raise SystemExit(f"{cells.name}, {variant}, {repeat}: {model.status}, no row is written.")
        if variant == "default":
            np.savez(members, members=model.member_embeddings())
        z = cells.adata.obsm["X_sysVI"]
        np.save(path, z)
    seconds = np.nan if is_trained else time.perf_counter() - start
    pca = cells.scores(cells.pca)
    return {
        "set": cells.name,
        "variant": variant,
        "repeat": repeat,
        **cells.scores(z),
        "nmi_pca": pca["nmi"],
        "lost_pca": pca["lost"],
        "seconds": seconds,
        **(cells.support_scores() if variant not in PEERS else {}),
    }


def members_path(name: str, seed: int) -> Path:
    """File of the embeddings of the members of a default call."""
    return trust_sets.FOLDER / f"{name}, default, members of seed {seed}.npz"


def move_again(cells: Cells, members: list[np.ndarray]) -> np.ndarray:
    """The embedding of an ensemble of these members, (n, L); their support is added to the cells."""
    codes = np.unique(cells.system, return_inverse=True)[1]
    combined = combine(members).apply(members)
    moves = find_moves(members, combined, codes, closeness_of(codes.max() + 1))
    cells.adata.obs["sysvi_support"] = neighbor_support(members, cells.system).max(axis=1).to_numpy()
    return moves.apply(combined, codes).astype(np.float32)


def settings_of(n_cells: int, variant: str) -> dict:
    """Settings of a variant; only the length of the former default depends on the number of cells."""
    from sysvi.data.cells import n_minibatches

    settings = dict(VARIANTS[variant])
    if variant == "former default":  # 4,400 steps of 256 cells, or half as many of 1,024 with twice the learning rate
        batch_size, lr = (128, 1e-3) if n_cells < 1000 else (256, 1e-3) if n_cells < 5000 else (1024, 2e-3)
        epochs = max(20, -(-round(4.4 / lr) // n_minibatches(n_cells, batch_size)))
        settings |= {"batch_size": batch_size, "lr": lr, "max_epochs": epochs}
    return settings


def report(table: pd.DataFrame) -> None:
    """Write how far repeats agree, by set and variant, and draw the figure."""
    known = pd.read_csv(AGREEMENT).set_index(["set", "variant"])
    for (name, variant), runs in table.groupby(["set", "variant"], sort=False):
        paths = [trust_sets.FOLDER / f"{name}, {variant}, {repeat}.npy" for repeat in runs["repeat"]]
        paths = [path for path in paths if path.exists()]  # embeddings of earlier runs may not be there
        n_known = known["runs"].get((name, variant), 0)
        if len(paths) >= max(2, n_known):
            found = [nearest_neighbors(np.load(path), 15).indices for path in paths]
            pairs = [(a[:, :, None] == b[:, None, :]).any(2).mean() for a, b in itertools.combinations(found, 2)]
            known.loc[(name, variant), ["runs", "agreement", "halves"]] = (
                len(paths),
                np.mean(pairs),
                agreement_of_halves(name),
            )
    known.astype({"runs": int}).to_csv(AGREEMENT, float_format="%.4f")
    summary = trust_summary()
    plot(summary.assign(nmi_lost=summary["nmi_pca"] - summary["nmi"]).reset_index())


@functools.cache
def agreement_of_halves(name: str) -> float:
    """Share of the 15 neighbours that PCA of two random halves of a set's genes has in common."""
    adata = anndata.read_h5ad(trust_sets.path(name))
    genes = np.random.default_rng(0).permutation(adata.n_vars)
    halves = (np.sort(half) for half in np.array_split(genes, 2))
    a, b = (nearest_neighbors(sc.pp.pca(adata.X[:, half], n_comps=15), 15).indices for half in halves)
    return float((a[:, :, None] == b[:, None, :]).any(2).mean())


def plot(summary: pd.DataFrame) -> None:
    """Draw, for each set (row), mixing of shared and of private types and the types lost, by variant (colour)."""
    sets, variants = [*dict.fromkeys(summary["set"])], [*dict.fromkeys(summary["variant"])]
    colors = ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999", "#f0e442"]
    figure = Figure(figsize=(13, 1.6 + 0.3 * len(sets)), layout="constrained")
    titles = {
        "shared": "mixing of shared types\n(1: full)",
        "private": "mixing of private types\n(0: apart)",
        "nmi_lost": "NMI lost to PCA",
        "agreement": "neighbours in common\nbetween two calls",
    }
    for ax, (key, title) in zip(figure.subplots(1, len(titles), sharey=True), titles.items(), strict=True):
        for variant, color in zip(variants, colors, strict=False):
            rows = summary[summary["variant"] == variant]
            ax.scatter(rows[key], [sets.index(name) for name in rows["set"]], 26, color=color, label=variant, alpha=0.8)
        ax.set_title(title, fontsize=10)
        ax.grid(color="0.92")
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_yticks(range(len(sets)), sets)
    ax.invert_yaxis()
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
    save_figure(figure, "trust")


if __name__ == "__main__":
    main()
