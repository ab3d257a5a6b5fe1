"""Transfer of labels: accuracy, calibration of confidences, and how well types that the reference lacks are told.

    python benchmarks/transfer.py [--sets mapped baron kang hard malaria] [--cache FOLDER]
    python benchmarks/transfer.py --figures     the figures of docs/mapping.md (mouse cells mapped onto human ones)

Each set of `paper/trust_sets.py` is integrated once (`sysvi.integrate` with its defaults, labels are not used); its
embedding is kept in the cache, with those of the members of the ensemble. Each system in turn is the query and all
others are the reference, then each batch; first with the whole reference, then with each cell type in turn removed from
it. One row for each in results/transfer.csv; rows that are there are not made again. The column `defaults` is that of
mapping.py.

The query took part in the integration, so the numbers say how well labels are transferred in a given embedding. In the
set "mapped" it did not: `sysvi.map_query` maps donors of Baron's islets onto a model of the others, and the mouse onto
a model of the human cells (the models of mapping.py). Cells of the query with a type that the whole reference lacks
are left out.

Columns: `removed`, the type that the reference lacks, and `n_removed` of its cells in the query; `accuracy` of the
candidates and its mean over types; `error_reference` and `error_query`, expected calibration errors; `plain_...`, the
same of scikit-learn's `KNeighborsClassifier(15, weights="distance")` in the embedding; `known_unknown` and
`removed_unknown`, the share of cells of known types and of the removed type that are called unknown; and the AUROC of
several measures of novelty for cells of the removed type against all others:

- `novelty`: that of `sysvi.transfer_labels`;
- `any_label`: mean distance to the nearest 15 reference cells of any label, in the same metric;
- `unscaled`: the same in the embedding as it is;
- `ratio`: `any_label` divided by the mean distance of these 15 to their own nearest 15;
- `quantile`: share of the held-out reference cells of the candidate label with a smaller distance;
- `mahalanobis`: to the nearest label, with a covariance for each label;
- `entropy` of the calibrated probabilities of labels;
- `combination`: mean rank of novelty and entropy;
- `with_query`: novelty divided by the square root of the mean distance to the nearest 15 cells of the query itself;
- `disagreement`: share of the members whose own embedding gives another candidate;
- `of_members`: mean over members of the novelty in their own embedding.

Members are compared where the query is a system. `members_accuracy` and `members_error` are accuracy and calibration
error of the mean of their probabilities.
"""

import argparse
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy.stats import entropy, rankdata
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

sys.path.insert(0, str(Path(__file__).parent / "paper"))  # for the data sets

import mapping
import trust_sets
from common import CACHE, HERE, RESULTS

import sysvi
from sysvi._core.samples import nearest_points
from sysvi.mapping.calibration import calibration_error, reliability
from sysvi.mapping.label_classifier import LabelClassifier

TABLE = RESULTS / "transfer.csv"
SETS = ["mapped", "baron", "kang", "hard", "malaria"]
KEY = ["defaults", "set", "query_is", "query", "removed"]
MIN_CELLS = 10  # of the removed type, and of all others, in the query
PRIOR_CELLS = 20  # with the pooled covariance, in that of a label
K = 15


def integrated(name: str, cache: Path) -> anndata.AnnData:
    """A set with its embedding; its expression is left out."""
    path = cache / f"{mapping.DEFAULTS}_{name}.npz"
    adata = anndata.read_h5ad(trust_sets.path(name))
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        model = sysvi.integrate(adata, "system", "batch", progress=False)
        if model.status != "finished":
            raise SystemExit(f"{name}: {model.status}, nothing is kept.")
        np.savez(path, X_sysVI=adata.obsm["X_sysVI"], X_members=np.hstack(model.member_embeddings()))
    obs = adata.obs[["system", "batch", "cell_type"]].astype(str)
    labelled = anndata.AnnData(obs=obs, obsm=dict(np.load(path)))
    return labelled[obs["cell_type"] != "unknown"].copy()


def mapped() -> Iterator[tuple[str, str, anndata.AnnData, anndata.AnnData]]:
    """As `pairs`, of queries that are mapped onto a model of the reference."""
    for kind, make in (("system", mapping.mouse_and_human), ("batch", mapping.held_out)):
        query, reference, model, _ = make(0)
        extended = sysvi.extend_model(model, query, progress=False)
        reference, query = (
            anndata.AnnData(
                obs=cells.obs[["system", "batch", "cell_type"]].astype(str),
                obsm={
                    "X_sysVI": embedder.get_latent_representation(),
                    "X_members": np.hstack(embedder.member_embeddings()),
                },
            )
            for cells, embedder in ((reference, model), (query, extended))
        )
        for name in sorted(query.obs[kind].unique()):
            yield kind, name, reference, query[query.obs[kind] == name].copy()


def pairs(name: str, cache: Path) -> Iterator[tuple[str, str, anndata.AnnData, anndata.AnnData]]:
    """What the query is, its name, the reference and the query, of a set."""
    if name == "mapped":
        yield from mapped()
        return
    adata = integrated(name, cache)
    for kind, query_name, in_query in splits(adata):
        yield kind, query_name, adata[~in_query].copy(), adata[in_query].copy()


def splits(adata: anndata.AnnData) -> Iterator[tuple[str, str, np.ndarray]]:
    """What the query is, its name, and which cells are in it."""
    for kind in ("system", "batch"):
        for name in sorted(adata.obs[kind].unique()):
            in_query = (adata.obs[kind] == name).to_numpy()
            rest_of_system = adata.obs["system"][~in_query].isin(adata.obs["system"][in_query])
            if kind == "system" or rest_of_system.any():  # else the batch is a system
                yield kind, name, in_query


def measure(kind: str, reference: anndata.AnnData, query: anndata.AnnData, removed: str) -> dict[str, float]:
    """One row: labels of the query, of a kind (system or batch), from the reference without one type."""
    kept = reference[reference.obs["cell_type"] != removed]
    result = sysvi.transfer_labels(kept, query, "cell_type", system_key="system", batch_key="batch")
    own = query.obs["cell_type"].to_numpy()
    is_new = own == removed
    right = (result.cells["candidate"].to_numpy() == own)[~is_new]
    plain = KNeighborsClassifier(K, weights="distance").fit(kept.obsm["X_sysVI"], kept.obs["cell_type"])
    shares = plain.predict_proba(query.obsm["X_sysVI"][~is_new])
    plain_right = plain.classes_[shares.argmax(axis=1)] == own[~is_new]
    unknown = result.cells["label"].to_numpy() == "unknown"
    row = {
        "n_query": len(own),
        "n_removed": int(is_new.sum()),
        "accuracy": right.mean(),
        "accuracy_of_types": pd.Series(right).groupby(own[~is_new]).mean().mean(),
        "plain_accuracy": plain_right.mean(),
        "plain_accuracy_of_types": pd.Series(plain_right).groupby(own[~is_new]).mean().mean(),
        "plain_error": calibration_error(reliability(shares.max(axis=1), plain_right)),
        "error_reference": result.calibration_error.get("reference", np.nan),
        "error_query": result.calibration_error["query"],
        "known_unknown": unknown[~is_new].mean(),
    }
    scores = novelties(kept, query, result) if removed else {}
    if kind == "system":
        of_members, probability = members(kept, query, result)
        right = (result.probability.columns.to_numpy()[probability.argmax(axis=1)] == own)[~is_new]
        row["members_accuracy"] = right.mean()
        row["members_error"] = calibration_error(reliability(probability.max(axis=1)[~is_new], right))
        scores |= of_members if removed else {}
    if removed:
        row["removed_unknown"] = unknown[is_new].mean()
        row |= {name: roc_auc_score(is_new, score) for name, score in scores.items()}
    return row


def members(
    reference: anndata.AnnData, query: anndata.AnnData, result: sysvi.LabelTransfer
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Measures of novelty, (n,), from labels in the members' own embeddings; and the mean probability of each label."""
    label = reference.obs["cell_type"].to_numpy()
    batch = (reference.obs["system"] + " " + reference.obs["batch"]).to_numpy()
    n_latent = reference.obsm["X_sysVI"].shape[1]
    candidate = result.probability.to_numpy().argmax(axis=1)
    probabilities, novelty, other = [], [], []
    for start in range(0, reference.obsm["X_members"].shape[1], n_latent):
        z, new = (cells.obsm["X_members"][:, start : start + n_latent] for cells in (reference, query))
        probability, distance = LabelClassifier.fit(z, label, batch).predict(new)
        probabilities.append(probability)
        novelty.append(distance)
        other.append(probability.argmax(axis=1) != candidate)
    found = {"disagreement": np.mean(other, axis=0), "of_members": np.mean(novelty, axis=0)}
    return found, np.mean(probabilities, axis=0)


def novelties(reference: anndata.AnnData, query: anndata.AnnData, result: sysvi.LabelTransfer) -> dict[str, np.ndarray]:
    """Each measure of novelty of the cells of the query, (n,)."""
    label = reference.obs["cell_type"].to_numpy()
    z, new = (cells.obsm["X_sysVI"].astype(np.float64) for cells in (reference, query))
    batch = (reference.obs["system"] + " " + reference.obs["batch"]).to_numpy()
    found = LabelClassifier.fit(z, label, batch)
    points = (new - found.center) @ found.scale
    code, cells = found.voters.code, found.voters.points
    distance, neighbors = nearest_points(cells, points, K)
    distance = distance.mean(axis=1)
    own = nearest_points(cells, cells, K + 1)[0][:, 1:].mean(axis=1)
    in_query = nearest_points(points, points, K + 1)[0][:, 1:].mean(axis=1)
    held_out = found.held_out
    candidate = result.probability.to_numpy().argmax(axis=1)
    gap = result.cells["novelty"].to_numpy() * found.threshold
    novelty, doubt = result.cells["novelty"].to_numpy(), entropy(result.probability.to_numpy(), axis=1)
    return {
        "novelty": novelty,
        "any_label": distance,
        "unscaled": nearest_points(z, new, K)[0].mean(axis=1),
        "ratio": distance / own[neighbors].mean(axis=1),
        "quantile": np.array(
            [(held_out.distance[held_out.code == c] < d).mean() for c, d in zip(candidate, gap, strict=True)]
        ),
        "mahalanobis": mahalanobis(cells, code, points),
        "entropy": doubt,
        "combination": rankdata(novelty) + rankdata(doubt),
        "with_query": novelty / np.sqrt(in_query),
    }


def mahalanobis(points: np.ndarray, code: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Squared distance to the nearest label's mean, by the label's covariance, drawn to the pooled one, (m,)."""
    labels = range(code.max() + 1)
    residuals = [points[code == c] - points[code == c].mean(axis=0) for c in labels]
    pooled = sum(r.T @ r for r in residuals) / len(points)
    distances = []
    for c, r in zip(labels, residuals, strict=True):
        covariance = (r.T @ r + PRIOR_CELLS * pooled) / (len(r) + PRIOR_CELLS)
        gap = new - points[code == c].mean(axis=0)
        distances.append(np.einsum("md,md->m", gap, np.linalg.solve(covariance, gap.T).T))
    return np.min(distances, axis=0)


def main() -> None:
    """Make the rows that are missing, or draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--cache", type=Path, default=CACHE / "transfer")
    parser.add_argument("--figures", action="store_true")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "Transforming to str index", anndata.ImplicitModificationWarning)
    if args.figures:
        figures()
    else:
        for name in args.sets:
            run(name, args.cache)


def run(name: str, cache: Path) -> None:
    """Make the missing rows of a set."""
    for kind, query_name, reference, query in pairs(name, cache):
        types = set(reference.obs["cell_type"])
        query = query[query.obs["cell_type"].isin(types)].copy()
        n_cells = query.obs["cell_type"].value_counts()
        frequent = n_cells[(n_cells >= MIN_CELLS) & (query.n_obs - n_cells >= MIN_CELLS)].index
        for removed in ["", *sorted(frequent)]:
            key = dict(zip(KEY, (mapping.DEFAULTS, name, kind, query_name, removed), strict=True))
            table = pd.read_csv(TABLE).fillna({"removed": ""}) if TABLE.exists() else pd.DataFrame(columns=KEY)
            if (table[KEY] == pd.Series(key)).all(axis=1).any():
                continue
            row = key | measure(kind, reference, query, removed)
            pd.concat([table, pd.DataFrame([row])]).to_csv(TABLE, index=False, float_format="%.4f")
            print({k: round(float(v), 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)


def figures() -> None:
    """Draw the figures of docs/mapping.md: the mouse, mapped onto the human cells and labelled by them."""
    reference, query = next((reference, query) for kind, _, reference, query in mapped() if kind == "system")
    result = sysvi.transfer_labels(reference, query, "cell_type", system_key="system", batch_key="batch")
    docs = HERE.parent / "docs"
    sysvi.plot_reliability(result, docs / "reliability.png")
    sysvi.plot_confusion(result, docs / "confusion.png")
    draw_map(reference, query, docs / "mapping.png")


def draw_map(reference: anndata.AnnData, query: anndata.AnnData, path: Path) -> None:
    """One UMAP of reference and query: their species, the query's own types, and the labels it was given."""
    import matplotlib.pyplot as plt
    import scanpy as sc

    both = anndata.concat([reference, query])
    sc.pp.neighbors(both, use_rep="X_sysVI", n_neighbors=15, random_state=0)
    sc.tl.umap(both, random_state=0)
    place, is_new = both.obsm["X_umap"], np.arange(both.n_obs) >= reference.n_obs
    own, given = (query.obs[key].astype(str) for key in ("cell_type", "cell_type_transferred"))
    names = [*sorted(set(reference.obs["cell_type"].astype(str)) | set(own) - {"unknown"}), "unknown"]
    colors = dict(zip(names, [*plt.get_cmap("tab20").colors] * 2, strict=False)) | {"unknown": "black"}
    figure, panels = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
    titles = ("human reference, by type", "mouse query, by its own type", "mouse query, by transferred label")
    groups = ((~is_new, reference.obs["cell_type"]), (is_new, own), (is_new, given))
    for panel, title, (rows, label) in zip(panels, titles, groups, strict=True):
        panel.scatter(*place.T, s=1, color="0.9", rasterized=True)
        panel.scatter(*place[rows].T, s=3, c=[colors[name] for name in label.astype(str)], rasterized=True)
        panel.set(title=title, xticks=[], yticks=[])
    handles = [plt.Line2D([], [], marker="o", linestyle="", color=colors[name], label=name) for name in names]
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=7)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
