"""The tables of the documentation, each made from tables in benchmarks/results.

`TABLES` has a function for the name of each table, which returns it as Markdown. `write.py` writes them into pages.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import fig5
import pandas as pd
from results import beside, markdown, number, read, span

TRUST_SETS = {
    "baron": "Baron islets, human and mouse",
    "baron_1000": "1,000 cells of them",
    "baron_few_shared": "1,800 of them with two shared types",
    "kang": "Kang, control and stimulated",
    "malaria_part": "malaria parasites, two species and two protocols, 2,986 cells",
    "protocols": "human pancreas, four protocols, 400 cells",
    "family_12": "two systems with a strong effect, one private type each, 900 simulated cells (`family_12`)",
    "family_23": "two systems, 2 shared and 4 private types, 2,500 simulated cells (`family_23`)",
    "family_01": "two systems with a strong effect, 8 shared and 6 private types, 1,500 simulated cells (`family_01`)",
    "family_10": "four systems, 2 shared and 8 private types, 2,800 simulated cells (`family_10`)",
    "family_19": "three systems, 3,700 simulated cells (`family_19`)",
    "family_20": "four systems, 7 shared and 8 private types, 1,900 simulated cells (`family_20`)",
}
PAPER_SETS = {"baron": "Baron", "kang": "Kang", "hard": "hard simulation", "held_out": "held-out simulation"}
METHODS = {
    "sysVI (VAMP + CYC)": "**sysVI (VAMP + CYC)**",
    "CYC": "CYC (standard normal prior and cycle)",
    "Harmony (Python)": "Harmony",
    "PCA (not integrated)": "PCA",
    "SysVI (scvi-tools)": "scvi-tools' SysVI",
}
TRANSFER_SETS = {
    "mapped": "Baron islets, query mapped",
    "baron": "Baron islets, human and mouse",
    "kang": "Kang, control and stimulated",
    "hard": "hard simulation",
    "malaria": "malaria, two species by two protocols",
}
NOVELTY = [
    "novelty", "any_label", "unscaled", "ratio", "quantile", "mahalanobis", "entropy", "combination", "with_query",
]  # fmt: skip
TRANSLATIONS = {
    "none": "human cells as they are",
    "shift": "difference of species means added",
    "neighbours": "15 nearest mouse cells",
    "translate": "**`sysvi.translate`**",
    "scvi-tools SysVI": "scvi-tools 1.5.1 SysVI",
    "mouse, denoised": "real mouse cells, denoised",
    "other half": "half of the real mouse cells",
}
TABLES: dict[str, Callable[[], str]] = {}


def is_table(function: Callable[[], str]) -> Callable[[], str]:
    """Add a table under the name of its function."""
    TABLES[function.__name__] = function
    return function


# -- trust: mixing of shared and private types, types kept

FORMER_SEVERAL = "default before"  # rows of several systems that were made by an earlier version
FORMER_RULES = "anchors of all members"  # rows of the rules by which systems were moved before


@functools.cache
def trust_summary() -> pd.DataFrame:
    """Means over the calls of each set and variant, and the worst call."""
    runs = read("paper_trust")
    runs = runs.assign(order=runs["set"].map(_place), other=runs["variant"] != "default")
    groups = runs.sort_values(["order", "other"], kind="stable").groupby(["set", "variant"], sort=False)
    support = [name for name in runs if "_below_" in name]
    table = groups[["shared", "private", "nmi", "nmi_pca", "same", "moran", "support", *support]].mean()
    table = table.join(read("paper_trust_agreement").set_index(["set", "variant"])[["agreement", "halves"]])
    return table.assign(
        runs=groups.size(),
        seconds=groups["seconds"].median(),
        **{"worst private": groups["private"].max()},
        **groups[["lost", "lost_pca"]].max(),
    )


def _place(name: str) -> tuple[bool, int, str]:
    """Place of a set in tables: real cells first, as in `TRUST_SETS`, then simulations."""
    first = list(TRUST_SETS).index(name) if name in TRUST_SETS else len(TRUST_SETS)
    return name.startswith("family"), 0 if name.startswith("family") else first, name


def mixing(name: str, variant: str = "default", columns: Iterable[str] = ("shared", "private", "nmi")) -> str:
    """Scores of a variant: by default mixing of shared types, of private types, and NMI."""
    row = trust_summary().loc[(name, variant)]
    return " / ".join(number(row[column]) for column in columns if pd.notna(row[column]))


@is_table
def readme() -> str:
    """The measurements of the README."""
    table = trust_summary()
    agreement = table.xs("default", level="variant")["agreement"].dropna()
    stages, metrics = stages_without_training(), metric_speed()
    sysvi, peer = whole_call("baron")
    names = {
        "family_12": "strong simulation: mixing of shared types / of private types / cell types kept (NMI; PCA {})",
        "family_23": "simulation with twice as many private types as shared ones: the same (PCA {})",
        "family_20": "simulation of four systems, half of the types private: the same (PCA {})",
        "baron_few_shared": "Baron islets with few shared types: the same (PCA {})",
        "baron": "Baron islets, human and mouse: the same (PCA {})",
        "baron_1000": "1,000 cells of them: the same (PCA {})",
        "kang": "Kang, control and stimulated: mixing / cell types kept (PCA {})",
    }
    former = {"family_12": mixing("family_12", "former default"), "baron": f"mixing {number(former_mixing())}"}
    rows = [
        [title.format(number(table.loc[(name, "default")]["nmi_pca"])), mixing(name), mixing(name, "Harmony"),
         former.get(name)]
        for name, title in names.items()
    ]  # fmt: skip
    rows += [
        ["neighbours that two calls with different seeds have in common",
         f"{number(agreement.min())} - {number(agreement.max())}", None,
         f"{number(defaults('baron', 'default')['agreement'].mean())} (Baron)"],
        ["script with the default call, Baron islets, two cores without bfloat16",
         f"{sysvi:.0f} s (scvi-tools 1.5.1: {peer / 60:.0f} min, extrapolated)", None, None],
        ["counts on disk to prepared expression, 100,000 cells x 20,000 genes",
         "{:.0f} s, {:.1f} GB (scanpy {:.0f} s, {:.1f} GB)".format(*stages), None, None],
        ["nine metrics on 100,000 cells",
         "{:.0f} s, {:.2f} GB (scib-metrics {:.0f} s, {:.1f} GB)".format(*metrics), None, None],
    ]  # fmt: skip
    return markdown(["measurement", "sysVI", "Harmony", "one model from random weights (former default)"], rows)


@is_table
def trust() -> str:
    """What is reached on the main sets."""
    table = trust_summary()
    rows = []
    for name, title in TRUST_SETS.items():
        row = table.loc[(name, "default")]
        harmony = mixing(name, "Harmony") if (name, "Harmony") in table.index else None
        rows.append(
            [title, number(row["shared"]), beside(row["private"], row["worst private"]),
             beside(row["nmi"], row["nmi_pca"]), beside(row["agreement"], row["halves"]), number(row["support"]),
             harmony]
        )  # fmt: skip
    header = [
        "cells", "mixing of shared types", "of private types (worst call)", "NMI (PCA)",
        "neighbours in common (PCA, halves of genes)", "support, AUROC", "Harmony: shared / private / NMI",
    ]  # fmt: skip
    return markdown(header, rows)


@is_table
def trust_moves() -> str:
    """The default beside the former rules for moving systems onto each other, where both were run."""
    table, rows = trust_summary(), []
    for name in table.xs("default", level="variant").index:
        if (name, FORMER_RULES) in table.index:
            runs = table.loc[name].loc[[FORMER_RULES, "default"]]
            rows.append([name, *(number(value) for key in ("shared", "worst private", "nmi") for value in runs[key])])
    titles = "mixing of shared types", "of private types, worst call", "NMI"
    return markdown(["cells", *(f"{title}: {when}" for title in titles for when in ("before", "now"))], rows)


@is_table
def trust_several() -> str:
    """More than two systems: the default of before, in which hidden layers saw the covariates, and today's."""
    table, rows = trust_summary(), []
    for name in table.xs(FORMER_SEVERAL, level="variant").index:
        variants = FORMER_SEVERAL, "default"
        pair = [table.loc[(name, variant)] for variant in variants]
        mixed = [mixing(name, variant, ("shared", "private")) for variant in variants]
        kept = [number(row["nmi"]) for row in pair]
        rows.append([name, *mixed, *kept, number(pair[1]["nmi_pca"]), *(number(row["lost"], 0) for row in pair)])
    header = [
        "cells", "mixing of shared / private types, before", "now", "NMI, before", "now", "PCA",
        "types lost, worst call, before", "now",
    ]  # fmt: skip
    return markdown(header, rows)


@is_table
def trust_all() -> str:
    """All sets and variants; of scores with a worst run or with PCA's own, these stand in brackets."""
    rows = []
    for row in trust_summary().reset_index().to_dict("records"):
        rows.append(
            [row["set"], row["variant"], row["runs"], number(row["shared"]),
             beside(row["private"], row["worst private"]), beside(row["nmi"], row["nmi_pca"]),
             beside(row["lost"], row["lost_pca"], 0), *(number(row[key]) for key in ("same", "moran", "support")),
             beside(row["agreement"], row["halves"]), number(row["seconds"], 0)]
        )  # fmt: skip
    header = [
        "cells", "variant", "runs", "shared", "private (worst)", "NMI (PCA)", "types lost, worst (PCA)", "same",
        "Moran", "support AUROC", "agreement (PCA, halves of genes)", "s",
    ]  # fmt: skip
    return markdown(header, rows)


@is_table
def trust_support() -> str:
    """Shares of cells whose support is below a threshold."""
    table = trust_summary().xs("default", level="variant")
    columns = [f"{kind}_below_{threshold}" for threshold in (0.2, 0.3, 0.5) for kind in ("private", "shared")]
    rows = [[name, *map(number, row)] for name, row in table[columns].dropna(how="all").iterrows()]
    header = [f"{kind} types, below {threshold}" for threshold in (0.2, 0.3, 0.5) for kind in ("private", "shared")]
    return markdown(["cells", *header], rows)


@is_table
def anchor_pairs() -> str:
    """AUROC of kinds of closeness, by set."""
    pairs = read("paper_anchor_pairs")
    kinds = [("15 nearest", "smaller", "smallest"), ("15 nearest", "larger", "mean"), ("10%", "larger", "mean"),
             ("25%", "smaller", "smallest"), ("25%", "larger", "mean"), ("35%", "larger", "mean"),
             ("50%", "larger", "mean")]  # fmt: skip
    sets = anchor_sets()
    wide = pairs.pivot_table(index=["radius", "cell", "members"], columns="set", values="auroc")[sets]
    rows = [[*kind, *(number(v) for v in wide.loc[kind]), number(wide.loc[kind].mean())] for kind in kinds]
    return markdown(["radius", "cell", "members", *sets, "mean"], rows)


def anchor_sets() -> list[str]:
    """The sets of the study of anchors: those of two systems first."""
    return ["baron", "baron_1000", "baron_few_shared", "kang", "family_01", "family_12", "family_23",
            "malaria_part", "protocols", "family_10", "family_14", "family_19", "family_20"]  # fmt: skip


@is_table
def anchor_rules() -> str:
    """Mixing of shared types, of private types and NMI, by rules that differ from today's in one respect."""
    table = read("paper_anchor_rules")
    columns = ["shared", "private", "nmi"]
    mean = table.groupby(["set", "rule"], sort=False)[columns].mean()
    rules, sets = (list(dict.fromkeys(table[key])) for key in ("rule", "set"))
    rows = [
        [name, *(" / ".join(number(value) for value in mean.loc[(name, rule)] if pd.notna(value)) for rule in rules)]
        for name in sets
    ]
    return markdown(["cells", *rules], rows)


# -- the findings of the paper


def _means(table: pd.DataFrame, columns: list[str], by_set: tuple[str, ...] = ("baron", "hard")) -> list[str]:
    """Means over seeds of the columns on each of the sets."""
    return [number(table.loc[table["data"] == name, column].mean()) for name in by_set for column in columns]


@is_table
def kl_weight() -> str:
    """Mixing by KL weight: iLISI as it is and standardised."""
    columns = ["iLISI", "iLISI, standardised"]
    rows = [[f"{weight:g}", *_means(group, columns)] for weight, group in read("paper_kl_weight").groupby("kl_weight")]
    return markdown(["KL weight", "Baron", "standardised", "hard simulation", "standardised"], rows)


@is_table
def adversary() -> str:
    """An adversary and the cycle loss, by weight."""
    columns = ["iLISI", "private mixed", "types kept", "NMI"]
    groups = read("paper_adversary").groupby(["model", "weight"], sort=False)
    rows = [[model, weight, *_means(group, columns)] for (model, weight), group in groups]
    names = ["private types mixed", "types kept", "NMI"]
    return markdown(["model", "weight", "Baron iLISI", *names, "hard simulation iLISI", *names], rows)


@is_table
def priors() -> str:
    """Priors by number of components, which start at random cells and are trained."""
    table = read("paper_priors")
    usual = (table["start"] == "random cells") & table["trainable"].eq(True)
    table = table[usual | (table["prior"] == "standard_normal")]
    shown = {"standard_normal": "standard normal", "gmm": "Gaussian mixture", "vamp": "VampPrior"}
    rows = [
        [shown[prior], "" if pd.isna(n) else f"{n:.0f}", *_means(group, ["iLISI", "iLISI, standardised", "NMI"])]
        for prior in shown
        for n, group in table[table["prior"] == prior].groupby("components", dropna=False)
    ]
    names = ["standardised", "NMI"]
    return markdown(["prior", "components", "Baron iLISI", *names, "hard simulation iLISI", *names], rows)


def paper_score(runs: pd.DataFrame, mixing: str = "iLISI") -> pd.Series:
    """The paper's score of each run: 0.6 biology + 0.4 batch correction, each metric scaled over the runs."""
    scaled = (runs[[mixing, "NMI", "Moran"]] - runs[[mixing, "NMI", "Moran"]].min()) / (
        runs[[mixing, "NMI", "Moran"]].max() - runs[[mixing, "NMI", "Moran"]].min()
    )
    return 0.6 * scaled[["NMI", "Moran"]].mean(axis=1) + 0.4 * scaled[mixing]


def method_runs(name: str) -> pd.DataFrame:
    """Finished runs of the methods on one set."""
    runs = read(f"paper_methods_{name}")
    runs = runs[runs["status"] == "finished"]
    return runs.assign(**{"with CiLISI": paper_score(runs, "CiLISI"), "title": runs["title"].replace(METHODS)})


def _methods(name: str, further: tuple[str, ...] = ()) -> str:
    columns = ["with CiLISI", "iLISI", "CiLISI", "NMI", "Moran", "kNN purity", *further]
    groups = method_runs(name).groupby("title")
    means = groups[["overall", *columns]].mean().assign(sd=groups["overall"].std(), seconds=groups["seconds"].median())
    rows = [
        [title, number(row["overall"]) + (f" ± {row['sd']:.2f}" if pd.notna(row["sd"]) else ""),
         *(number(row[column]) for column in columns), number(row["seconds"], 0)]
        for title, row in means.sort_values("overall", ascending=False).iterrows()
    ]  # fmt: skip
    names = ["with CiLISI", "iLISI", "CiLISI", "NMI", "Moran", "neighbours of the same type"]
    names += ["private types mixed"] * len(further)
    return markdown(["method", "overall", *names, "s a run, one core"], rows)


@is_table
def methods_baron() -> str:
    """Methods on Baron's islets."""
    return _methods("baron")


@is_table
def methods_hard() -> str:
    """Methods on the hard simulation."""
    return _methods("hard")


@is_table
def methods_held_out() -> str:
    """Methods on the held-out simulation."""
    return _methods("held_out", ("private mixed",))


TABLES |= {f"fig5_{name}": functools.partial(fig5.table_of, name) for name in fig5.SETS}
TABLES |= {"fig5_overall": fig5.overall, "fig5_behind": fig5.behind}


@is_table
def cycle_form() -> str:
    """The form of the cycle loss, by cycle weight."""
    rows = []
    for weight, group in read("paper_cycle_form").groupby("cycle_weight"):
        faulty = group["form"].str.contains("faulty")
        forms = [_means(group[part], ["iLISI", "NMI"]) for part in (~faulty, faulty)]
        rows.append([weight, *(value for pair in zip(*forms, strict=True) for value in pair)])
    header = ["cycle weight", "Baron iLISI", "faulty", "NMI", "faulty", "hard simulation iLISI", "faulty", "NMI"]
    return markdown([*header, "faulty"], rows)


def defaults(name: str, variant: str) -> pd.DataFrame:
    """Runs of a variant of the former default on one set."""
    table = read("paper_defaults")
    return table[(table["data"] == name) & (table["variant"] == variant)]


@is_table
def choices() -> str:
    """Choices beyond the paper, each changed alone."""
    table = read("paper_defaults")
    rows = []
    for (name, variant), group in table[table["data"] != "demo"].groupby(["data", "variant"], sort=False):
        title = f"**{PAPER_SETS[name]}, default**" if variant == "default" else variant
        title = title.replace("no ramp", "no ramp of the cycle") + (f" ({len(group)} seeds)" if len(group) < 5 else "")
        columns = ["iLISI", "shared", "NMI", "Moran", "private mixed"]
        rows.append(
            [title, f"{group['score'].mean():.2f} ± {group['score'].std():.2f}",
             *(number(group[column].mean()) for column in columns), number(group["collapsed dimensions"].mean(), 1),
             number(group["agreement"].mean())]
        )  # fmt: skip
    header = ["choice", "score", "iLISI", "shared", "NMI", "Moran", "private types mixed", "unused dimensions"]
    return markdown([*header, "agreement"], rows)


@is_table
def short_trainings() -> str:
    """Neighbours shared across systems on the demo's cells."""
    table = read("paper_defaults")
    shared = table[table["data"] == "demo"].pivot_table(index="variant", columns="seed", values="shared", sort=False)
    bold = {"default", "a quarter of the epochs"}
    rows = [[f"**{name}**" if name in bold else name, *map(number, row)] for name, row in shared.iterrows()]
    return markdown(["variant", *(f"seed {seed}" for seed in shared)], rows)


@is_table
def criterion() -> str:
    """Scores with and without labels after full training."""
    rows = []
    columns = ["with labels", "without labels", "NMI", "NMI of states"]
    for (name, variant), group in read("paper_criterion").groupby(["data", "variant"], sort=False):
        title = f"**{PAPER_SETS[name]}**, default" if variant == "default" else variant.split(",")[0]
        rows.append([title, *(number(group[column].mean()) for column in columns)])
    return markdown(["setting", "with labels", "without", "NMI", "NMI of states"], rows)


# -- choosing without labels


@is_table
def choice() -> str:
    """Whether tuning without labels chooses as with labels."""
    names = {"baron": "Baron islets", "kang": "Kang", "hard": "hard simulation"}
    rows = [
        [names[r["data"]], r["runs"], number(r["correlation over runs"]), number(r["correlation over settings"]),
         r["chosen with labels"], r["chosen without"], number(r["score with labels of what is chosen without"]),
         number(r["median score with labels"])]
        for r in read("criterion").to_dict("records")
    ]  # fmt: skip
    header = ["data", "runs", "correlation over runs", "over settings", "chosen with labels", "chosen without"]
    return markdown([*header, "its score with labels", "median setting's"], rows)


@is_table
def choice_after_full_training() -> str:
    """The same among settings that are nearly as good as each other."""
    rows = []
    for name, runs in read("paper_criterion").groupby("data", sort=False):
        means = runs.groupby("variant")[["with labels", "without labels"]].mean()
        best = {column: means[column].idxmax() for column in means}
        cells = [f"{v.split(',')[0]} ({number(means.loc[v, 'with labels'])})" for v in best.values()]
        rows.append([PAPER_SETS[name], len(runs), number(rank_correlation(name)), *cells])
    header = ["data", "runs", "correlation over runs", "chosen with labels (score)"]
    return markdown([*header, "chosen without (score with labels)"], rows)


def rank_correlation(name: str) -> float:
    """Spearman's correlation of the scores with and without labels over full trainings on one set."""
    runs = read("paper_criterion")
    runs = runs[runs["data"] == name]
    return float(runs["with labels"].corr(runs["without labels"], method="spearman"))


# -- mapping and labels


def mapping_runs() -> pd.DataFrame:
    """Runs of mapping with the default of today."""
    table = read("mapping")
    return table[table["defaults"] == "conservative"]


@is_table
def mapping_methods() -> str:
    """Mapping a donor or a species, and other methods."""
    parts = {
        "donors": ("a donor of each species, onto the other donors",
                   ["mapped", "retrained", "scvi-tools SysVI", "scANVI", "Seurat MapQuery", "PCA and Harmony"]),
        "system": ("all mouse cells, onto the human donors as systems",
                   ["mapped", "retrained", "mapped, genes scaled", "scANVI", "Seurat MapQuery", "PCA and Harmony"]),
    }  # fmt: skip
    runs, rows = mapping_runs(), []
    for part, (title, settings) in parts.items():
        for setting in settings:
            group = runs[(runs["part"] == part) & (runs["setting"] == setting)].mean(numeric_only=True)
            accuracies = [
                number(group[f"accuracy_{s}"], 3)
                + (f" ({number(group[f'labels_{s}'], 3)})" if pd.notna(group[f"labels_{s}"]) else "")
                for s in ("human", "mouse")
            ]
            name = setting.replace("retrained", "trained on all cells")
            rows.append([title if setting == "mapped" else "", name, *accuracies, number(group["shared"])])
    return markdown(["held out, and mapped", "", "accuracy, human", "accuracy, mouse", "shared"], rows)


def of_mapping(part: str, setting: str, column: str) -> pd.Series:
    """Values of a column by seed."""
    runs = mapping_runs()
    return runs[(runs["part"] == part) & (runs["setting"] == setting)].set_index("seed")[column]


@is_table
def mapping_aims() -> str:
    """What mapping and transfer of labels should reach, and what they do."""

    def accuracy(part: str, column: str) -> str:
        mapped, all_cells = (of_mapping(part, setting, column) for setting in ("mapped", "retrained"))
        worst = f" ({mapped.min():.3f})" if len(mapped) > 1 else ""
        return f"{mapped.mean():.3f}{worst}, trained on all cells {all_cells.mean():.3f}"

    def worst_loss(part: str, column: str) -> float:
        return float((of_mapping(part, "retrained", column) - of_mapping(part, "mapped", column)).max())

    def shared(part: str, setting: str) -> str:
        return number(of_mapping(part, setting, "shared").mean())

    transfers = transfer_rows()
    whole = transfers[transfers["removed"] == ""].groupby(["set", "query_is"])["error_query"].mean()
    removed = transfers[transfers["removed"] != ""]
    low, others = removed["novelty"] < 0.9, removed["set"] != "malaria"
    mapped = removed[removed["set"] == "mapped"].groupby("query_is")["novelty"]
    errors = "; ".join(
        f"{title} {whole[name, 'system']:.3f} and {whole[name, 'batch']:.3f}"
        for name, title in {"mapped": "mapped queries", "kang": "Kang", "malaria": "malaria"}.items()
    )
    donor_loss = max(worst_loss("donors", column) for column in
                     ("accuracy_human", "accuracy_mouse", "labels_human", "labels_mouse"))  # fmt: skip
    seconds = {name: of_mapping(part, name, "seconds").iloc[0] for part, name in
               [("time", "10,000 cells of a new donor"), ("known", "100,000 cells, mapped"),
                ("known", "100,000 cells, embedded")]}  # fmt: skip
    rows = [
        ["new donors: accuracy within 0.02 of training on all cells",
         f"Baron, a donor of each species held out: human {accuracy('donors', 'accuracy_human')}; mouse "
         f"{accuracy('donors', 'accuracy_mouse')}. With the labels of `transfer_labels`: human "
         f"{accuracy('donors', 'labels_human')}; mouse {accuracy('donors', 'labels_mouse')}",
         f"at most {donor_loss:.3f} lower in a seed"],
        ["a new system: within 0.05 of training on all cells",
         f"Baron's mouse onto human donors: {accuracy('system', 'accuracy_mouse')}. With the labels of "
         f"`transfer_labels`: {accuracy('system', 'labels_mouse')}. Simulated third system (one seed): "
         f"{accuracy('third', 'accuracy')}",
         f"yes on average; in the worst seed {worst_loss('system', 'accuracy_mouse'):.3f} lower by neighbours, "
         f"{worst_loss('system', 'labels_mouse'):.3f} by `transfer_labels`"],
        ["a new system mixes as after training on all cells",
         f"shared neighbours {shared('system', 'mapped')} against {shared('system', 'retrained')} (mouse), "
         f"{shared('third', 'mapped')} against {shared('third', 'retrained')} (simulation)",
         "in Baron's cells, not in the simulation"],
        ["types that the reference lacks: AUROC of 0.9 where they are apart",
         f"mapped queries: mean {mapped.mean().min():.2f}, worst {mapped.min().min():.2f}; all sets: below 0.9 in "
         f"{low.sum()} of {len(removed)} removals ({(low & others).sum()} of {others.sum()} without malaria), of types "
         "that others resemble", "yes for mapped queries"],
        ["calibration error at most 0.05", f"each system and each batch as the query: {errors}", "yes, but for malaria"],
        ["10,000 cells of a new donor in under 20 s on two cores",
         f"{seconds['10,000 cells of a new donor']:.1f} s (one seed)", "yes"],
        ["cells of known batches at the speed of embedding",
         f"100,000 cells x 2,000 genes: {seconds['100,000 cells, mapped']:.1f} s from counts, of which "
         f"{seconds['100,000 cells, embedded']:.1f} s are the embedding (one seed)", "the rest is their preparation"],
    ]  # fmt: skip
    return markdown(["aim", "measured", "reached"], rows)


@is_table
def mapping_further() -> str:
    """Mapping on further sets."""
    parts = {
        "batch of kang": "Kang: a donor of each condition",
        "batch of hard": "simulation `hard`: a batch of each system",
        "third": "simulation `held_out`: a system",
        "system of malaria_part": "malaria (2,986 cells): a system of four",
        "system of protocols": "four protocols (400 cells): a protocol",
    }
    runs, rows = mapping_runs(), []
    for part, title in parts.items():
        row: list[object] = [title]
        for setting in ("mapped", "retrained"):
            found = runs[(runs["part"] == part) & (runs["setting"] == setting)].mean(numeric_only=True)
            labels = f" ({number(found['labels'], 3)})" if pd.notna(found["labels"]) else ""
            row += [number(found["accuracy"], 3) + labels, number(found["shared"])]
        rows.append(row)
    return markdown(["held out", "mapped: accuracy", "shared", "trained on all cells: accuracy", "shared"], rows)


def missing_genes(setting: str) -> pd.Series:
    """The run in which the query lacks genes, for example "5% missing, mean"."""
    runs = mapping_runs()
    return runs[(runs["part"] == "genes") & (runs["setting"] == setting)].iloc[0]


@is_table
def mapping_genes() -> str:
    """What stands for genes that the query lacks."""
    rows = []
    for share in ("5%", "10%", "30%"):
        for way, title in {"0": "0", "mean": "mean of the reference", "decoded": "decoded"}.items():
            run = missing_genes(f"{share} missing, {way}")
            rows.append([share.replace("%", " %"), title, *(number(run[f"accuracy_{s}"], 3) for s in ("human", "mouse")),
                         number(run["distance"], 3)])  # fmt: skip
    for way, title in {"decoded": "normalised by the share of these genes in the reference",
                       "uncorrected": "normalised as if these were all genes"}.items():  # fmt: skip
        run = missing_genes(f"the model's genes only, {way}")
        rows.append(["none, but counts of no other genes", title,
                     *(number(run[f"accuracy_{s}"], 3) for s in ("human", "mouse")), number(run["distance"], 3)])  # fmt: skip
    header = ["genes that the query lacks", "what stands for them", "accuracy, human", "accuracy, mouse"]
    return markdown([*header, "distance to the embedding with all genes"], rows)


def transfer_rows() -> pd.DataFrame:
    """Transfers of labels with the default of today."""
    table = read("transfer").fillna({"removed": ""})
    return table[table["defaults"] == "conservative"]


@is_table
def transfer_accuracy() -> str:
    """Accuracy and calibration of transferred labels."""
    rows = []
    for (name, kind), group in transfer_rows().groupby(["set", "query_is"], sort=False):
        whole = group[group["removed"] == ""].mean(numeric_only=True)
        accuracies = [beside(whole[f"{way}accuracy"], whole[f"{way}accuracy_of_types"], 3) for way in ("", "plain_")]
        errors = [number(whole[key], 3) for key in ("error_reference", "error_query", "plain_error", "known_unknown")]
        rows.append([TRANSFER_SETS[name], f"each {kind}", *accuracies, *errors])
    header = ["cells", "query", "accuracy (of types)", "scikit-learn", "calibration error: reference", "query"]
    return markdown([*header, "query, scikit-learn", "known types called unknown"], rows)


@is_table
def transfer_novelty() -> str:
    """How well cells of removed types are told from others."""
    rows = []
    for (name, kind), group in transfer_rows().groupby(["set", "query_is"], sort=False):
        gone = group[group["removed"] != ""]
        scores = [f"{gone[key].mean():.3f} ({gone[key].min():.2f})" for key in NOVELTY]
        rows.append([TRANSFER_SETS[name], f"each {kind}", len(gone), number(gone["removed_unknown"].mean()), *scores])
    return markdown(["cells", "query", "types removed", "called unknown", *NOVELTY], rows)


@is_table
def transfer_members() -> str:
    """How far the members of an ensemble help."""
    table, rows = transfer_rows(), []
    for name, group in table[table["query_is"] == "system"].groupby("set", sort=False):
        gone, whole = group[group["removed"] != ""], group[group["removed"] == ""].mean(numeric_only=True)
        scores = [
            f"{gone[key].mean():.3f} ({gone[key].min():.2f})" for key in ("novelty", "disagreement", "of_members")
        ]
        means = [number(whole[key], 3) for key in ("accuracy", "members_accuracy", "error_query", "members_error")]
        rows.append([TRANSFER_SETS[name], len(gone), *scores, *means])
    header = ["cells", "types removed", "novelty", "disagreement", "of_members", "accuracy", "of the members' mean"]
    return markdown([*header, "calibration error", "of the members' mean"], rows)


@is_table
def union() -> str:
    """Genes of one species."""
    rows = []
    for name, group in read("union").groupby("genes", sort=False):
        title = f"{name} ({group['n_genes'].iloc[0]:,.0f})"
        accuracy, lacking = span(group["accuracy"], 3), f"{group['n_lacking'].iloc[0]:,.0f}"
        rows.append([title, accuracy, span(group["shared_neighbors"]), span(group["nmi"]), lacking])
    header = ["genes", "accuracy of labels from the other species", "neighbours shared by the species", "NMI"]
    return markdown([*header, "genes in one species only"], rows)


# -- expression


def translated(part: str, method: str) -> pd.DataFrame:
    """Scores of a method by type."""
    table = read("translate")
    return table[(table["part"] == part) & (table["method"] == method)].set_index("type")


def _translation(part: str, columns: dict[str, str]) -> str:
    rows = []
    for method, title in TRANSLATIONS.items():
        means = translated(part, method)[list(columns)].mean()
        if means.notna().any():
            digits = [3 if column == "error" else 2 for column in columns]
            rows.append([title, *(number(value, n) for value, n in zip(means, digits, strict=True))])
    return markdown(["", *columns.values()], rows)


@is_table
def translate_donor() -> str:
    """Translation of a donor that is held out."""
    columns = {"all": "all genes", "types": "differences between types", "species": "200 genes", "change": "change",
               "error": "error", "variance": "variance", "detected": "above 0"}  # fmt: skip
    return _translation("donor", columns)


@is_table
def translate_type() -> str:
    """Translation of types that the target lacks."""
    columns = {"all": "all genes", "species": "200 genes", "change": "change", "error": "error",
               "variance": "variance", "detected": "above 0"}  # fmt: skip
    return _translation("type", columns)


def _translation_by_type(part: str) -> str:
    methods = {
        key: title for key, title in TRANSLATIONS.items() if key in ("translate", "neighbours", "scvi-tools SysVI")
    }
    found = {title: scores for key, title in methods.items() if len(scores := translated(part, key)["all"])}
    types = list(next(iter(found.values())).index)
    return markdown(["", *types], [[title, *map(number, scores.loc[types])] for title, scores in found.items()])


@is_table
def translate_donor_types() -> str:
    """Translation of a donor by type."""
    return _translation_by_type("donor")


@is_table
def translate_type_types() -> str:
    """Translation of types that the target lacks, by type."""
    return _translation_by_type("type")


def compared(scenario: str, method: str) -> pd.Series:
    """Means over simulations of a test of genes that differ in one type."""
    table = read("compare_systems")
    table = table[(table["scenario"] == scenario) & (table["method"] == method)]
    realised = table["false"] / table["hits"].clip(lower=1)
    unchanged, home = table["kind"] == "unchanged", (table["kind"] == "planted") & (table["label"] == "type0")
    return pd.Series(
        {
            "unchanged": table[unchanged]["seed"].nunique(),
            "unchanged FDR": realised[unchanged].mean(),
            "labels": unchanged.sum(),
            "labels with hits": (unchanged & (table["hits"] > 0)).sum(),
            "planted": table[home]["seed"].nunique(),
            "planted FDR": realised[home].mean(),
            "found": (table["hits"] - table["false"])[home].mean() / 100,
            "hits": table[home]["hits"].sum(),
            "false": table[home]["false"].sum(),
            "tested": table[home]["tested"].mean(),
            "auprc_tested": table[home]["auprc_tested"].mean(),
            "auprc": table[home]["auprc"].mean(),
        }
    )


@is_table
def compare_systems() -> str:
    """Tests of genes that differ between systems in one type, on simulations."""
    titles = {
        "pseudobulk": "`sysvi.compare_systems`", "limma-voom": "limma-voom on donor sums", "edgeR": "edgeR on donor sums",
        "decoded": "the same test of decoded expression", "model effect": "`model_effect`, genes ranked by its size",
        "translated effect": "`sysvi.translate` to the other system, ranked by size",
        "Wilcoxon": "Wilcoxon's test over cells",
    }  # fmt: skip
    rows = []
    for scenario in ("usual", "weak", "unequal", "noisy"):
        for method, title in titles.items():
            found = compared(scenario, method)
            if not found["planted"]:
                continue
            counts = ", ".join(f"{found[kind]:.0f}" for kind in ("unchanged", "planted") if found[kind])
            if method.endswith("effect"):  # which has no p-values
                counts, rates = f"{found['planted']:.0f}", ["", "", ""]
            else:
                rates = [number(found[key], 3) for key in ("unchanged FDR", "planted FDR")] + [number(found["found"])]
            rows.append(
                [scenario, f"{title} ({counts})", *rates, *(number(found[k]) for k in ("auprc_tested", "auprc"))]
            )
    header = ["simulations", "method (simulations without, with a difference)", "realised FDR, no difference"]
    return markdown([*header, "realised FDR, planted", "found", "AUPRC, tested genes", "AUPRC, all genes"], rows)


def beta_gene(name: str) -> pd.Series:
    """The comparison of a gene in beta cells of human and mouse."""
    return read("compare_systems_baron").set_index("gene").loc[name]


@is_table
def beta_markers() -> str:
    """Known markers of beta cells."""
    remarks = {
        "G6PC2": "", "SLC30A8": ", the zinc transporter of insulin granules [3]", "NKX6-1": "",
        "PDX1": ", which delta cells express too",
    }  # fmt: skip
    rows = []
    for gene, remark in remarks.items():
        row = beta_gene(gene)
        rows.append([gene + remark, number(row["marker_1"], 1), number(row["marker_2"], 1), f"{row['marker_fdr']:.0e}"])
    return markdown(["gene", "human, log2 over other types", "mouse", "false discovery rate"], rows)


@is_table
def differential_expression() -> str:
    """Genes that are called where only donors differ."""
    titles = {
        "differential_expression": "`sysvi.differential_expression`",
        "differential_expression, corrected": "the same, `batch_correction=True`",
        "Wilcoxon": "Wilcoxon's test over cells",
        "donors": "moderated t-test over donors, two against two",
    }
    table, rows = read("differential_expression"), []
    for method, title in titles.items():
        unchanged, planted = (
            table[(table["method"] == method) & (table["kind"] == kind)] for kind in ("unchanged", "planted")
        )
        wrong = planted["false"].sum() / planted["hits"].sum() if planted["hits"].any() else float("nan")
        rows.append(
            [title, number(unchanged["hits"].mean(), 1), f"{(unchanged['hits'] > 0).sum()} of {len(unchanged)}",
             number(planted["hits"].mean(), 1), number(wrong),
             number((planted["hits"] - planted["false"]).mean() / 30), number(planted["auprc"].mean())]
        )  # fmt: skip
    header = ["method", "genes called, no difference", "simulations with any", "called, 30 doubled"]
    return markdown([*header, "of these wrong", "found", "area under the precision-recall curve"], rows)


# -- quality and speed of the former default


def former_mixing() -> float:
    """Mixing of Baron's cells with one model from random weights."""
    table = read("baron_quality").set_index("Unnamed: 0")["shared_neighbors"]
    return float(table[table.index.str.startswith("sysvi")].mean())


@is_table
def baron() -> str:
    """Metrics of the former default on Baron's islets, beside scvi-tools' SysVI."""
    table = read("baron_quality").set_index("Unnamed: 0")
    metrics = {"shared_neighbors": "shared neighbours", "label_transfer": "label transfer", "knn_purity": "same type",
               "iLISI": "iLISI", "nmi": "NMI", "ari": "ARI"}  # fmt: skip
    tools = {tool: table[table.index.str.startswith(tool)] for tool in ("PCA", "scvi-tools", "sysvi")}
    rows = [
        [title, number(tools["PCA"][name].iloc[0]), span(tools["scvi-tools"][name]), span(tools["sysvi"][name])]
        for name, title in metrics.items()
    ]
    return markdown(["mean (lowest - highest seed)", "PCA", "scvi-tools 1.4.2 SysVI", "sysvi 0.1.0"], rows)


@is_table
def training() -> str:
    """Seconds an epoch beside scvi-tools' SysVI."""
    rows = []
    for (name, cells, genes), rounds in read("training").groupby(["data", "cells", "genes"], sort=False):
        times = [
            f"{number(rounds[tool].median())} ({number(rounds[tool].min())} - {number(rounds[tool].max())}), "
            f"minibatch {rounds[f'minibatch of {tool}'].iloc[0]:,}"
            for tool in ("sysvi", "scvi-tools SysVI")
        ]
        ratio = rounds["times as fast"]
        filled = f"{rounds['density'].iloc[0]:.0%}".replace("%", " %")
        rows.append([f"{name}, {cells:,} x {genes:,}, {filled} non-zero", *times,
                     f"{ratio.median():.1f} ({ratio.min():.1f} - {ratio.max():.1f})"])  # fmt: skip
    return markdown(["data", "sysvi, s an epoch", "scvi-tools 1.4.2 SysVI, s an epoch", "times as fast (rounds)"], rows)


@is_table
def total_time() -> str:
    """Seconds of a script with the default call, beside scvi-tools' SysVI, and until its score.

    A star marks a time of the peer that was extrapolated.
    """
    names = {
        "kang": "Kang, control and stimulated",
        "baron_1000": "1,000 cells of Baron's",
        "demo": "the demo's simulation",
        "hard": "hard simulation",
        "baron": "Baron islets, human and mouse",
    }
    table = read("total_time")
    rows: list[list[object]] = []
    for name, title in names.items():
        rounds = table[table["set"] == name]
        if rounds.empty:
            continue
        is_extrapolated = (rounds["peer epochs trained"] < rounds["peer epochs"]).any()
        times = [number(rounds[key].median(), 0) for key in ("sysvi, s", "peer, s")]
        row = [
            title,
            times[0],
            times[1] + ("*" if is_extrapolated else ""),
            number(rounds["whole call, times"].median(), 1),
        ]
        if is_extrapolated:
            rows.append([*row, None, None])
            continue
        to_score = rounds["to the peer's score, times"]
        scores = " / ".join(number(rounds[key].median()) for key in ("sysvi score", "peer score"))
        rows.append([*row, number(to_score.median(), 1) if to_score.notna().all() else "not reached", scores])
    header = ["cells", "sysvi, s", "scvi-tools 1.5.1 SysVI, s", "times as fast", "times as fast to the peer's score",
              "score: sysvi / scvi-tools"]  # fmt: skip
    return markdown(header, rows)


@is_table
def scaling() -> str:
    """Seconds and memory by number of cells."""
    table = read("scaling")
    methods = list(dict.fromkeys(table["method"]))
    rows = []
    for cells, group in table.groupby("cells"):
        by_method = group.set_index("method")
        row: list[object] = [f"{cells:,}"]
        for method in methods:
            if method not in by_method.index:
                row += [None, None]
                continue
            point = by_method.loc[method]
            mark = "" if pd.isna(point["extrapolated"]) else "*"
            row += [number(point["seconds"], 1 if point["seconds"] < 100 else 0) + mark, number(point["peak_mb"], 0)]
        rows.append(row)
    return markdown(["cells", *(f"{m}, {unit}" for m in methods for unit in ("s", "MB"))], rows)


@is_table
def steps() -> str:
    """Milliseconds of a training step on a CPU."""
    table = read("steps")
    sizes = list(dict.fromkeys(table["minibatch"]))
    titles = {
        "all on": "all optimisations",
        "parts of a step in turn, torch's threads on each":
            "its parts one after the other, each on both threads of torch",
        "minibatch made between the steps": "no prefetch of minibatches",
        "plain: autograd, nothing fused, dense, float32": "none: autograd, nothing fused, dense, float32",
    }  # fmt: skip
    rows = [
        [titles.get(step, step), *(f"{row.median_ms:.0f} ({row.relative:.2f})" for row in group.itertuples())]
        for step, group in table.groupby("step", sort=False)
    ]
    return markdown(["a step with", *(f"minibatch {size:,}" for size in sizes)], rows)


@is_table
def floor() -> str:
    """Time of a step compared with the least time that its operations need."""
    wide = read("floor").pivot_table(index="minibatch", columns="part", values="milliseconds")
    rows = [
        [f"{size:,}", number(row["floor"], 1), number(row["measured step"], 1),
         number(row["measured step"] / row["floor"], 1)]
        for size, row in wide.iterrows()
    ]  # fmt: skip
    return markdown(["minibatch", "least time, ms", "measured, ms", "measured / least"], rows)


def stages_without_training() -> tuple[float, float, float, float]:
    """Seconds and GB of memory from an uncompressed file of counts to prepared expression: sysvi's, then scanpy's."""
    table = read("in_and_out")
    table = table[table["file"] == "plain"]
    values: list[float] = []
    for way in ("sysvi", "scanpy"):
        part = table[(table["way"] == way) & ~table["stage"].isin(["checks", "training", "embedding", "write"])]
        values += [part["seconds"].sum(), part["peak_mb"].max() / 1000]
    return tuple(values)  # type: ignore[return-value]


@is_table
def in_and_out() -> str:
    """From counts to the written embedding, stage by stage."""
    table = read("in_and_out")
    ways = [("sysvi", "plain"), ("sysvi", "gzip"), ("scanpy", "plain"), ("scanpy", "gzip")]
    parts = [table[(table["way"] == way) & (table["file"] == file)].set_index("stage") for way, file in ways]
    titles = {
        "training": "training, default length (extrapolated)",
        "embedding": "embedding, and the check whether systems stay apart",
    }
    rows = [
        [titles.get(stage, stage), *(number(part["seconds"].get(stage, float("nan")), 1) for part in parts)]
        for stage in dict.fromkeys(table["stage"])
    ]
    others = [part[~part.index.isin(["training", "checks", "embedding"])]["seconds"].sum() for part in parts]
    rows.append(["all but training, checks and embedding", *(number(value, 0) for value in others)])
    rows.append(["peak memory above the imports, MB", *(number(part["peak_mb"].max(), 0) for part in parts)])
    header = ["sysvi, uncompressed file", "sysvi, gzip", "scanpy, uncompressed", "scanpy, gzip"]
    return markdown(["seconds", *header], rows)


@is_table
def imports() -> str:
    """CPU seconds of imports."""
    rows = [
        [f"`{r.task}`", f"{r.median_cpu_s:.2f} ({r.min_cpu_s:.2f} - {r.max_cpu_s:.2f})"]
        for r in read("imports").itertuples()
    ]
    return markdown(["process", "CPU seconds, median (lowest - highest)"], rows)


@is_table
def ranks() -> str:
    """Training speed of several processes, medians over rounds."""
    runs = read("ranks").groupby(["minibatch", "setup"], sort=False)[["cells_per_second", "loss"]].median()
    speed = runs["cells_per_second"]
    rows = [
        [number(size, 0), name, number(speed[size, name], 0),
         number(speed[size, name] / speed[size, "1 process x 2 threads"]), number(loss)]
        for (size, name), loss in runs["loss"].items()
    ]  # fmt: skip
    return markdown(["minibatch", "processes", "cells a second", "relative", "loss of the last epoch"], rows)


@is_table
def scale_disk() -> str:
    """Preparing files into a store, and training from it."""
    titles = {"prepare": "preparing {files} into {store}", "memory": "training in memory, from {store}, {epochs}",
              "disk": "training from disk, {store}, {epochs}, windows of {window_cells:,.0f} cells"}  # fmt: skip
    stores = {"zarr": "a zarr store", "h5ad": "an h5ad file"}
    rows = []
    for row in read("scale_disk").to_dict("records"):
        epochs = "" if pd.isna(row["epochs"]) else f"{row['epochs']:.0f} epoch" + ("s" if row["epochs"] > 1 else "")
        files = f"{row['files']} file" + ("s" if row["files"] > 1 else "")
        words = {"epochs": epochs, "files": files, "store": stores[row["store"]]}
        title = titles[row["what"]].format(**row | words)
        rows.append([number(row["cells"], 0), title, number(row["seconds"], 0), number(row["cpu_seconds"], 0),
                     number(row["cells_per_second"], 0), f"{row['peak_mb']:,.0f} MB"])  # fmt: skip
    header = ["cells", "what", "seconds", "CPU seconds", "cells a second in training", "peak memory of the process"]
    return markdown(header, rows)


@is_table
def reading() -> str:
    """Microseconds for each cell that is read from a store, with and without annbatch."""
    readers = {"sysvi": "sysVI", "sysvi with annbatch": "with annbatch", "annbatch": "annbatch's loader"}
    titles = {"512": "windows, row blocks of 512 cells", "2500": "windows, row blocks of 2,500 cells",
              "random": "20,000 random cells"}  # fmt: skip
    runs = read("reading").set_index(["what", "reader"])
    columns = "microseconds", "cpu_microseconds"
    rows = [
        [title, *(number(runs.loc[(what, reader), name], 1) for reader in readers for name in columns)]
        for what, title in titles.items()
    ]
    return markdown(["what is read", *(word for name in readers.values() for word in (name, "CPU"))], rows)


@is_table
def scale_quality() -> str:
    """Metrics of embeddings from memory and from disk: means and ranges over seeds."""
    runs = read("scale_disk_quality")
    metrics = {"iLISI": "iLISI", "CiLISI": "CiLISI", "NMI fixed": "NMI", "ARI fixed": "ARI",
               "kNN purity": "same type", "Moran": "Moran's I"}  # fmt: skip
    names = {"baron": "Baron islets", "hard": "hard simulation"}
    runs = runs.sort_values(["set", "where"], ascending=[True, False])
    rows = [
        [names[name], where, len(part), *(span(part[m]) if part[m].notna().any() else "" for m in metrics)]
        for (name, where), part in runs.groupby(["set", "where"], sort=False)
    ]
    return markdown(["cells", "expression", "seeds", *metrics.values()], rows)


@is_table
def scale_model() -> str:
    """Costs of 1 to 100 million cells, in proportion to what was measured."""
    table = read("scale_model").set_index("what")
    rows = [[what, *(f"{value:,.{0 if value >= 100 else 1 if value >= 1 else 2}f}" for value in row)]
            for what, row in table.iterrows()]  # fmt: skip
    return markdown(["cells", *(number(int(cells), 0) for cells in table.columns)], rows)


@is_table
def scale_constants() -> str:
    """The constants of these costs."""
    of = read("scale_model_constants").set_index("constant")["value"]
    each = "for each cell"
    rows = [
        ["in the store", f"{of['bytes in the store']:,.0f} bytes {each}"],
        ["memory: expression in memory, on disk, of preparing",
         " / ".join(f"{of[f'bytes of memory, {what}']:,.0f}"
                    for what in ("expression in memory", "expression on disk", "preparing")) + f" bytes {each}"],
        ["preparing, two cores", f"{1e6 * of['seconds of preparing']:.0f} microseconds {each}"],
        ["reading, in each pass", f"{1e6 * of['CPU seconds of reading, each pass']:.1f} CPU microseconds {each}"],
        ["training an epoch, two cores: from disk, in memory",
         " / ".join(f"{1e6 * of[f'seconds of training {where}, each epoch']:.0f}" for where in ("from disk", "in memory"))
         + f" microseconds {each}"],
        ["training on one NVIDIA H200, expression on the card",
         f"{of['cells a second of a card'] / 1e6:.1f} million cells a second"],
        ["minibatch, epochs, members", f"{of['minibatch']:,.0f} cells, {of['epochs']:.0f}, {of['members']:.0f}"],
        ["parameters of a model", f"{of['parameters']:,.0f}"],
    ]  # fmt: skip
    return markdown(["what", "cost"], rows)


def whole_call(name: str) -> tuple[float, float]:
    """Median seconds of a script with the default call on a set: sysvi's, then that of scvi-tools' SysVI."""
    rounds = read("total_time").query("set == @name")
    return rounds["sysvi, s"].median(), rounds["peer, s"].median()


def metric_speed() -> tuple[float, float, float, float]:
    """Seconds and GB of memory of nine metrics on 100,000 cells: sysvi's, then scib-metrics'."""
    table = read("metrics_speed_100000").set_index("metric")[["sysvi", "scib-metrics"]]
    seconds, memory = table.loc["all, seconds"], table.loc["peak memory, MB"] / 1000
    return seconds.iloc[0], memory.iloc[0], seconds.iloc[1], memory.iloc[1]


@is_table
def metrics() -> str:
    """Seconds of the metrics that scib-metrics has too."""
    table = read("metrics_speed_100000")
    rows = [[r.metric, number(r.sysvi, 1), number(r._4, 1), f"{r.ratio:.1f}"] for r in table.itertuples(index=False)]
    return markdown(["metric", "sysVI, s", "scib-metrics, s", "times as fast"], rows)


@is_table
def gpu() -> str:
    """Milliseconds of a step on a GPU."""
    table = read("gpu_steps")
    best = table["ms"].min()
    titles = {
        "all on": "all optimisations: replayed CUDA graph, Triton kernels, two streams, bfloat16",
        "float32 products": "float32 products and expression",
        "steps one by one": "no CUDA graph",
        "steps one by one, by torch's operations": "no CUDA graph, torch's operations",
        "plain: autograd, float32, one by one": "none: autograd, float32, no CUDA graph",
    }
    rows = [
        [titles.get(r.step, r.step), number(r.ms), f"{r.ms / best:.1f}", number(r.peak_gb)]
        for r in table.sort_values("ms").itertuples()
    ]
    return markdown(["a step with", "ms", "times the shortest", "peak memory, GB"], rows)
