"""Time and memory of the metrics, compared with scib-metrics 0.6.1.

    python benchmarks/metrics.py speed [--cells 100000] [--rounds 1]    metrics that both packages have, in turn
    python benchmarks/metrics.py table [--cells 100000]                 the table of sysVI: time by metric, and memory
    python benchmarks/metrics.py sample [--cells 1000000]               `evaluate` on a sample of 100,000 cells
    python benchmarks/metrics.py neighbors                              exact and approximate search: time and recall

Embeddings are simulated: 15 dimensions, 2 systems, 15 labels. Each measurement runs in its own process. Peak memory is
that of the process minus its memory after loading data and libraries. Results are written to benchmarks/results/*.csv.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).parent
CACHE, RESULTS = HERE / ".cache", HERE / "results"


def simulate(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Simulate 15 cell types of unequal size in systems that differ by half a standard deviation.

    Returns the embedding, (n, 15), and the system, batch and label of each cell, (n,).
    """
    rng = np.random.default_rng(seed)
    label = rng.choice(15, n, p=rng.dirichlet(np.full(15, 3.0)))
    system = rng.integers(0, 2, n)
    batch = 2 * system + rng.integers(0, 2, n)
    z = 2 * rng.normal(size=(15, 15))[label] + 0.5 * rng.normal(size=(2, 15))[system] + rng.normal(size=(n, 15))
    return z.astype(np.float32), system, batch, label


def main() -> None:
    """Run the benchmark named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=["speed", "table", "sample", "neighbors", "one"])
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--measurement", choices=["sysvi", "scib-metrics", "table", "sample"], help="of `one`")
    args = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    if args.benchmark == "one":
        measurements = {"sysvi": measure_sysvi, "scib-metrics": measure_scib, "table": table, "sample": sample}
        print(json.dumps(measurements[args.measurement](args.cells)))
    elif args.benchmark == "speed":
        speed(args.cells, args.rounds)
    elif args.benchmark in ("table", "sample"):
        found = run(args.benchmark, args.cells, sys.executable)
        seconds = pd.Series(found.pop("seconds"), name="seconds")
        seconds.loc["whole table"] = found["total"]
        seconds.loc["peak memory over start, MB"] = found["peak_mb"]
        print(seconds.round(2).to_string())
        seconds.to_csv(
            RESULTS / f"metrics_{args.benchmark}_{args.cells}.csv", float_format="%.2f", index_label="metric"
        )
    else:
        neighbors()


def run(measurement: str, cells: int, python: str) -> dict:
    """Run one measurement in its own process."""
    command = [python, __file__, "one", "--measurement", measurement, "--cells", str(cells)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out.strip().splitlines()[-1])


def speed(cells: int, rounds: int) -> None:
    """Measure the metrics that both packages have, in turn."""
    from common import PEER_PYTHON, make_peer_environment

    make_peer_environment()
    rows = []
    for i in range(rounds):
        a, b = run("sysvi", cells, sys.executable), run("scib-metrics", cells, str(PEER_PYTHON))
        for name in a["seconds"]:
            rows.append(
                {
                    "cells": cells,
                    "round": i,
                    "metric": name,
                    "sysvi": a["seconds"][name],
                    "scib-metrics": b["seconds"][name],
                }
            )
        totals = {"cells": cells, "round": i}
        rows.append(totals | {"metric": "all, seconds", "sysvi": a["total"], "scib-metrics": b["total"]})
        rows.append(totals | {"metric": "peak memory, MB", "sysvi": a["peak_mb"], "scib-metrics": b["peak_mb"]})
        for name in a["values"]:
            print(f"{name}: {a['values'][name]:.5f} {b['values'][name]:.5f}")
    results = pd.DataFrame(rows)
    results["ratio"] = results["scib-metrics"] / results["sysvi"]
    print(results.groupby("metric", sort=False)[["sysvi", "scib-metrics", "ratio"]].median().round(2).to_string())
    results.to_csv(RESULTS / f"metrics_speed_{cells}.csv", float_format="%.3f", index=False)


def peak_mb() -> float:
    """Peak memory of this process until now, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(steps: dict) -> dict:
    """Run named steps in order: their values and seconds, and the increase of peak memory."""
    start, seconds, values = peak_mb(), {}, {}
    for name, step in steps.items():
        began = time.perf_counter()
        value = step()
        seconds[name] = time.perf_counter() - began
        if value is not None:
            values[name] = float(value)
    return {"seconds": seconds, "values": values, "total": sum(seconds.values()), "peak_mb": peak_mb() - start}


def measure_sysvi(cells: int) -> dict:
    """Measure the metrics of sysVI that scib-metrics has, too."""
    from sysvi.evaluation.embedding_view import EmbeddingView
    from sysvi.evaluation.registry import METRICS

    z, system, batch, label = simulate(cells)
    view = EmbeddingView(z, system, batch, label, pca=z)
    steps = {"neighbours": lambda: view.neighbors and None}
    both = [
        "iLISI",
        "cLISI",
        "Graph connectivity",
        "BRAS",
        "Label silhouette",
        "Isolated labels",
        "NMI",
        "PCR comparison",
    ]
    by_name = {metric.name: metric for metric in METRICS}
    steps |= {name: lambda name=name: by_name[name].measure(view).value for name in both}
    return measure(steps)


def measure_scib(cells: int) -> dict:
    """Measure the same metrics of scib-metrics, called as by its Benchmarker."""
    import scib_metrics as sm
    from scib_metrics.nearest_neighbors import pynndescent

    z, system, _, label = simulate(cells)
    found = {}

    def search() -> None:
        found["90"] = pynndescent(z, n_neighbors=90, random_state=0, n_jobs=-1)
        found["15"] = found["90"].subset_neighbors(15)

    return measure(
        {
            "neighbours": search,
            "iLISI": lambda: sm.ilisi_knn(found["90"], system),
            "cLISI": lambda: sm.clisi_knn(found["90"], label),
            "Graph connectivity": lambda: sm.graph_connectivity(found["15"], label),
            "BRAS": lambda: sm.bras(z, label, system),
            "Label silhouette": lambda: sm.silhouette_label(z, label),
            "Isolated labels": lambda: sm.isolated_labels(z, label, system),
            "NMI": lambda: sm.nmi_ari_cluster_labels_kmeans(z, label)["nmi"],
            "PCR comparison": lambda: sm.pcr_comparison(z, z, system, categorical=True),
        }
    )


def table(cells: int) -> dict:
    """Measure the table of sysVI without slow metrics and those that need expression."""
    from sysvi.evaluation.embedding_view import EmbeddingView
    from sysvi.evaluation.registry import METRICS

    z, system, batch, label = simulate(cells)
    view = EmbeddingView(z, system, batch, label, pca=z)
    steps = {"neighbours": lambda: view.neighbors and None}
    steps |= {
        m.name: lambda m=m: m.measure(view).value for m in METRICS if not (m.slow or "moran_reference" in m.required)
    }
    return measure(steps)


def sample(cells: int) -> dict:
    """Measure `evaluate` on a stratified sample of 100,000 cells; the whole call."""
    import anndata

    import sysvi

    z, system, batch, label = simulate(cells)
    obs = pd.DataFrame({"system": system, "batch": batch, "label": label}, index=np.arange(cells).astype(str))
    adata = anndata.AnnData(obs=obs.astype(str), obsm={"Z": z})
    keys = {"system_key": "system", "batch_key": "batch", "label_key": "label"}
    step = lambda: sysvi.evaluate(adata, "Z", **keys, max_cells=100_000, progress=False)["Z"]["Total"]  # noqa: E731
    return measure({"evaluate": step})


def neighbors(sizes: tuple[int, ...] = (20_000, 50_000, 100_000, 200_000), k: int = 89) -> None:
    """Measure seconds of the exact and the approximate search, and the recall of the approximate one."""
    from sysvi.metrics._neighbors import nearest_neighbors

    nearest_neighbors(simulate(3000)[0], k, method="approximate")  # numba compiles
    rows = []
    for n in sizes:
        z, found, seconds = simulate(n)[0], {}, {}
        for method in ("exact", "approximate"):
            began = time.perf_counter()
            found[method] = nearest_neighbors(z, k, method=method).indices
            seconds[method] = time.perf_counter() - began
        some = np.random.default_rng(0).choice(n, 2000, replace=False)
        recall = np.mean([len(np.intersect1d(found["exact"][i], found["approximate"][i])) / k for i in some])
        rows.append({"cells": n, **seconds, "recall": recall})
        print(rows[-1], flush=True)
    pd.DataFrame(rows).to_csv(RESULTS / "metrics_neighbors.csv", float_format="%.4f", index=False)


if __name__ == "__main__":
    main()
