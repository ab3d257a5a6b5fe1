"""Sentences of the documentation whose numbers come from tables in benchmarks/results.

`sentences` gives them by page; each must be in its page as it is here, apart from line breaks and bold type. `GIVEN`
has the other numbers of these pages: settings, definitions and versions, which were not measured. `REPEATED` are pages
whose sentences may repeat the numbers of the tables beside them.
"""

from __future__ import annotations

import functools

import fig5
import pandas as pd
from scipy.stats import ttest_ind
from tables import (
    FORMER_RULES,
    beta_gene,
    compared,
    former_mixing,
    method_runs,
    metric_speed,
    missing_genes,
    of_mapping,
    rank_correlation,
    read,
    stages_without_training,
    transfer_rows,
    translated,
    trust_summary,
)

# Real cells, without `breast`, which has too few cells and genes.
REAL = ["baron", "baron_2500", "baron_1000", "baron_few_shared", "kang", "malaria_part", "protocols"]

# Simulations of more than two systems with a strong effect that Harmony was run on.
STRONG = [f"family_{i}" for i in ("09", "10", "13", "14", "16", "19", "21", "22")]

REPEATED = {"benchmarks/README.md", "benchmarks/paper/README.md"}
GIVEN: dict[str, tuple[str, ...]] = {
    "README.md": ("Python 3.11 or later",),
    "docs/trust.md": (
        "128, 0.001", "0.002 or 0.004", "rises from 0.1 to 0.6 of training", "its share rises from 0.1 to 0.6 of training",
        "a support below 0.2", "A threshold of 0.3", "by 0.04 and of 400 islet cells by 0.11",
        "must be at least 1.35", "1.65). The radius", "at least 1.65",
        "at least 1.2 times as much as without a shift", "2.5 widths of the weights",
    ),
    "docs/compare-systems.md": (
        "by 0.5 to 1.5 (natural logarithm)", "(standard deviation 0.5)", "than in the others (0.2)",
        "a false discovery rate of 0.05",
    ),
    "docs/other-methods.md": ("scvi-tools 1.4.2", "0.6 biology + 0.4 batch correction"),
    "docs/guide.md": ("A support below 0.2",),
    "docs/kernels.md": ("at most 40 % of the expression",),
    "docs/how-it-works.md": ("between 0.1 and 0.6 of training",),
    "docs/report.md": ("if its CiLISI is below 0.05",),
    "benchmarks/README.md": (
        "scvi-tools 1.5.1 and scib-metrics 0.6.1", "scib-metrics 0.6.1", "harmonypy 2.1.0", "version 3.12 or later",
        "scvi-tools 1.4.2", "scib-metrics 0.5.10", "torch 2.13.0, numba 0.68.1", "15 % non-zero", "10 % non-zero",
        "11 % of the values non-zero", "torch 2.11.0 for CUDA 13.0", "0.4 iLISI + 0.3 NMI + 0.3 Moran's I",
    ),
    "benchmarks/paper/README.md": (
        "would be an iLISI of 0.38", "are fully mixed has 0.38", "scvi-tools 1.4.2", "the AUROC below 0.9",
    ),
    "docs/performance.md": ("torch 2.13.0, numba 0.68.1", "scib-metrics 0.5.10", "scvi-tools 1.5.1's SysVI"),
    "docs/benchmarks.md": ("scib-metrics 0.5.10", "scvi-tools 1.4.2", "0.6 biology + 0.4 batch correction"),
    "docs/tuning.md": (
        "0.6 biology + 0.4 batch correction", "(at least 0.8 of it)", "and at least by 0.2",
    ),
    "docs/differential-expression.md": (
        "scvi-tools 1.5.1", "whose change exceeds 0.25", "of at most 0.05",
    ),
    "docs/mapping.md": (
        "divided by the distance that 5 % of the reference cells exceed", "its confidence below 0.5",
    ),
}  # fmt: skip


@functools.cache
def sentences() -> dict[str, list[str]]:
    """The sentences of each page."""
    return {
        "README.md": readme(),
        "docs/trust.md": of_trust(),
        "docs/translate.md": of_translate(),
        "docs/mapping.md": of_labels(),
        "docs/performance.md": of_performance(),
        "docs/tuning.md": of_tuning(),
        "docs/differential-expression.md": [],
        "docs/benchmarks.md": [metrics_of_few_cells()],
        "docs/faq.md": [],
        "docs/how-it-works.md": [],
        "docs/index.md": [],
        "docs/settings.md": [],
        "docs/compare-systems.md": of_comparison(),
        "docs/beta-cells.md": of_beta_cells(),
        "docs/other-methods.md": of_other_methods(),
        "docs/guide.md": of_guide(),
        "docs/kernels.md": of_kernels(),
        "docs/report.md": of_report(),
        "benchmarks/README.md": of_measurements(),
        "benchmarks/paper/README.md": of_findings(),
    }


def trust(name: str, column: str = "shared", variant: str = "default") -> float:
    """A score of a set, mean over calls."""
    return float(trust_summary().loc[(name, variant)][column])


def nmi_lost() -> float:
    """How far the NMI of real cells is below PCA's, at most; mean over calls."""
    return max(trust(name, "nmi_pca") - trust(name, "nmi") for name in REAL)


def worst_private(names: list[str]) -> float:
    """Mixing of private types in the worst call of these sets."""
    return float(trust_summary().xs("default", level="variant").loc[names, "worst private"].max())


def simulations(pca_loses_types: bool) -> list[str]:
    """Random simulations in which PCA loses at least one type, or none."""
    table = trust_summary().xs("default", level="variant")
    table = table[table.index.str.startswith("family_") & table["private"].notna()]
    return list(table.index[(table["lost_pca"] > 0) == pca_loses_types])


def missing_simulations() -> int:
    """How many of the 24 random simulations were not run with the default."""
    return 24 - sum(name.startswith("family_") for name, variant in trust_summary().index if variant == "default")


def readme() -> list[str]:
    """Sentences of README.md."""
    largest = read("scale_disk").query("what == 'disk'").sort_values("cells").iloc[-1]
    assert largest["cells"] == 5_000_000
    return [
        f"Five million cells x 2,000 genes trained within {largest['peak_mb'] / 1e3:.1f} GB",
        f"keeps cell types about as well as PCA does (NMI at most {nmi_lost():.2f} lower) and keeps private types apart "
        f"(mixing of at most {worst_private(REAL):.2f} in the worst call)",
        f"In simulations whose types PCA finds, private types mix by at most {worst_private(simulations(False)):.2f} "
        f"(one of them loses a type in some calls); where PCA loses types, private types mix too ({trust('family_20', 'private'):.2f})",
    ]


def closeness() -> tuple[pd.Series, pd.Series]:
    """AUROC by set of the closeness by the 15 nearest cells, and of today's."""
    auroc = read("paper_anchor_pairs").groupby(["radius", "cell", "members", "set"])["auroc"].mean()
    return auroc["15 nearest", "smaller", "smallest"], auroc["25%", "larger", "mean"]


def of_trust() -> list[str]:
    """Sentences of docs/trust.md."""
    support = trust_summary().xs("default", level="variant")
    private, shared = support["private_below_0.2"].dropna(), support["shared_below_0.2"].dropna()
    more = support["private_below_0.3"].dropna()
    found = read("paper_trust").query("variant == 'default'").query("set in @simulations(False)")
    of_01, others = found[found["set"] == "family_01"], found[found["set"] != "family_01"]
    worst_types = others.groupby("set")["worst_private"].max()
    assert worst_types.idxmax() == "family_07"
    assert (of_01["lost"] <= 1).all()
    assert (others["lost"] == 0).all()
    old, new = closeness()
    lost = simulations(True)
    halves = trust_summary()["halves"].dropna()
    once = {name: trust_summary().loc[(name, "default")] for name in ("hard", "held_out", "malaria", "malaria_species")}
    return [
        f"an NMI of {trust('family_12', 'nmi', 'former default'):.2f} and mixes shared types by "
        f"{trust('family_12', 'shared', 'former default'):.2f}; today's default has {trust('family_12', 'nmi'):.2f} and "
        f"{trust('family_12'):.2f} (PCA: an NMI of {trust('family_12', 'nmi_pca'):.2f}",
        f"on Baron {shared['baron']:.0%} are, and among all malaria parasites, whose systems hardly mix, up to "
        f"{shared[['malaria', 'malaria_species']].max():.0%}".replace("%", " %"),
        f"private types: {private['baron']:.0%} on Baron, {private.drop('baron').min() * 100:.0f} to "
        f"{private.drop('baron').max():.0%} elsewhere".replace("%", " %"),
        f"find {more['baron']:.0%} on Baron and {more.drop('baron').min() * 100:.0f} to {more.drop('baron').max():.0%} "
        f"elsewhere, but would also name {support['shared_below_0.3']['baron']:.0%} of Baron's shared ones".replace(
            "%", " %"
        ),
        f"has a mean AUROC of {new.mean():.2f} over {len(new)} sets, against {old.mean():.2f} for the 15 nearest "
        f"neighbours; it is better on {(new > old).sum()} sets, and worse by at most {(old - new).max():.2f} on the others",
        f"private types stay apart (worst call: {worst_private(REAL):.2f})",
        f"Private types mix by {others['private'].max():.2f} at most on average over the cells of a set, and no type is "
        f"lost, but in `family_01`. Single types mix more: one of `family_07` by {worst_types['family_07']:.2f}",
        f"In `family_01`, private types mix by {of_01['private'].min():.2f} to {of_01['private'].max():.2f}, and "
        f"{(of_01['lost'] > 0).sum()} of {len(of_01)} calls lose a type",
        f"not separate mix, by {max(trust(name, 'private') for name in lost):.2f} on average in the worst set, more than by "
        f"the rules before ({max(trust(name, 'private', FORMER_RULES) for name in lost):.2f})",
        "unless the effect is weak ({:.2f} to {:.2f})".format(
            *(f([trust(name, variant="Harmony") for name in STRONG]) for f in (min, max))
        ),
        f"same three types mix by {trust('family_04'):.2f}, and the NMI falls to {trust('family_04', 'nmi'):.2f} (PCA "
        f"{trust('family_04', 'nmi_pca'):.2f})",
        f"in `family_18` they mix by {trust('family_18'):.2f}, with an NMI of {trust('family_18', 'nmi'):.2f}",
        f"Shared types of 1,000 of Baron's cells mix by {trust('baron_1000'):.2f}, where Harmony has "
        f"{trust('baron_1000', variant='Harmony'):.2f}",
        f"have {halves.min():.2f} to {halves.max():.2f} of their neighbours in common",
        "shared types mix by {:.2f} and {:.2f}, private ones by {:.2f}, the NMI is {:.2f} in both, and the support has an "
        "AUROC of {:.2f} and {:.2f}".format(
            *(once[name]["shared"] for name in ("hard", "held_out")),
            max(once[name]["private"] for name in ("hard", "held_out")),
            min(once[name]["nmi"] for name in ("hard", "held_out")),
            *(once[name]["support"] for name in ("hard", "held_out")),
        ),
        "mix by {:.2f} as four systems and by {:.2f} as two species, with an NMI of {:.2f} and {:.2f} (PCA {:.2f})".format(
            *(once[name][column] for column in ("shared", "nmi") for name in ("malaria", "malaria_species")),
            once["malaria"]["nmi_pca"],
        ),
        f"scvi-tools 1.5.1 mixes shared types of 1,000 of Baron's cells by "
        f"{trust('baron_1000', variant='scvi-tools SysVI'):.2f}, with an NMI of "
        f"{trust('baron_1000', 'nmi', 'scvi-tools SysVI'):.2f}, and Kang's by "
        f"{trust('kang', variant='scvi-tools SysVI'):.2f}, with {trust('kang', 'nmi', 'scvi-tools SysVI'):.2f}",
        f"Not measured yet: {missing_simulations()} of the 24 random simulations",
    ]


def of_labels() -> list[str]:
    """Sentences of docs/mapping.md."""
    shared = {setting: of_mapping("donors", setting, "shared").mean() for setting in ("mapped", "retrained")}
    accuracy = {
        setting: of_mapping("system", setting, "accuracy_mouse")[0] for setting in ("mapped", "mapped, genes scaled")
    }
    labels = {column: of_mapping("donors", "scANVI", column)[0] - of_mapping("donors", "mapped", column).mean()
              for column in ("labels_human", "labels_mouse")}  # fmt: skip
    distance = [missing_genes(f"30% missing, {way}")["distance"] for way in ("decoded", "0", "mean")]
    transfers = transfer_rows()
    whole = transfers[transfers["removed"] == ""].groupby(["set", "query_is"]).mean(numeric_only=True)
    removed = transfers[transfers["removed"] != ""]
    novelty = removed[removed["set"] == "mapped"].groupby("query_is")["novelty"].mean()
    worst = removed[removed["set"] == "mapped"].set_index("removed")["novelty"]
    others = removed[removed["set"] != "malaria"]
    of_mouse = transfers[(transfers["removed"] == "") & (transfers["query"] == "mouse")].set_index("set")[
        "known_unknown"
    ]
    low, high = whole.loc["mapped"].min(), whole.loc["mapped"].max()
    assert worst.idxmin() == "delta"
    assert whole.drop("malaria")["error_query"].max() < 0.04
    return [
        f"shares fewer neighbours between the species ({shared['mapped']:.2f}) than after training on all cells "
        f"({shared['retrained']:.2f})",
        "the mouse's accuracy falls from {:.3f} to {:.3f}".format(*accuracy.values()),
        f"its own labels are more accurate by {min(labels.values()):.3f} to {max(labels.values()):.3f}",
        "distance with 30 % of the genes missing: {:.3f}, against {:.3f} with 0 and {:.3f} with the mean".format(
            *distance
        ),
        f"{low['accuracy'] * 100:.0f} to {high['accuracy'] * 100:.0f} % of the cells get the right candidate, confidences "
        f"are off by {low['error_query']:.3f} to {high['error_query']:.3f}, and {low['known_unknown'] * 100:.0f} to "
        f"{high['known_unknown'] * 100:.0f} % of the cells of known types are called unknown",
        f"recognised with a mean AUROC of {novelty.min():.2f} (worst: delta cells of the mouse, {worst.min():.2f})",
        "the mean calibration error is below 0.04",
        f"the mean AUROC at least {others.groupby(['set', 'query_is'])['novelty'].mean().min():.2f}",
        f"Single removals have a lower AUROC, from {others['novelty'].min():.2f} on",
        f"{of_mouse['baron'] * 100:.0f} % of the mouse integrated with human cells, but {of_mouse['mapped'] * 100:.0f} % "
        "where it was mapped",
    ]


def of_translate() -> list[str]:
    """Sentences of docs/translate.md."""
    donor = {method: translated("donor", method) for method in ("translate", "scvi-tools SysVI")}
    of_type = {method: translated("type", method).mean(numeric_only=True) for method in
               ("translate", "shift", "other half")}  # fmt: skip
    error = donor["translate"]["cycle_error"]
    return [
        f"correlate with the denoised cells by {donor['translate']['cycle'].mean():.2f} (after the mean of each gene is "
        f"subtracted), and differ from them by {error.min():.2f} to {error.max():.2f} of their standard deviation",
        "and scvi-tools' is better ({:.2f} against {:.2f})".format(
            *(donor[method].loc["endothelial", "all"] for method in ("scvi-tools SysVI", "translate"))
        ),
        "the correlation is {:.2f}, that of adding the difference of the means {:.2f}, and halves of the real mouse cells "
        "reach {:.2f}".format(*(of_type[method]["all"] for method in ("translate", "shift", "other half"))),
        f"about {donor['translate']['variance'].mean():.0%} of the variance of measured ones, since noise is left out, and "
        f"{donor['translate']['detected'].mean():.0%} of their values are above 0, where "
        f"{donor['translate']['detected_mouse'].mean():.0%} are in real cells".replace("%", " %"),
    ]


def metrics_of_few_cells() -> str:
    """The sentence about the speed of the metrics on 20,000 cells."""
    table = read("metrics_speed_20000").query("metric == 'all, seconds'")
    ours, theirs, ratio = (table[key].median() for key in ("sysvi", "scib-metrics", "ratio"))
    return f"on 20,000 cells, beside scib-metrics 0.6.1, they take {ours:.1f} s instead of {theirs:.0f} s ({ratio:.0f} times)"


def times_of_whole_calls() -> str:
    """How many times as long as sysvi's a script with scvi-tools' default call takes: the least and most of all sets."""
    ratio = read("total_time").groupby("set")["whole call, times"].median()
    return f"{ratio.min():.1f} to {ratio.max():.1f} times as long"


def of_performance() -> list[str]:
    """Sentences of docs/performance.md."""
    quality = read("baron_quality").set_index("Unnamed: 0")
    ours, theirs = (quality[quality.index.str.startswith(tool)].mean() for tool in ("sysvi", "scvi-tools"))
    overall = {name: method_runs(name).groupby("method")["overall"].mean() for name in ("baron", "hard", "held_out")}
    speed = read("training").groupby(["data", "cells"])["times as fast"].median()
    million = read("scaling").query("cells == 1_000_000").set_index("method")["seconds"] / 60
    steps = read("floor").pivot_table(index="minibatch", columns="part", values="milliseconds")
    floor = steps["measured step"] / steps["floor"]
    table = read("metrics_table_100000").set_index("metric")["seconds"]
    sample = read("metrics_sample_1000000").set_index("metric")["seconds"]
    memory = "peak memory over start, MB"
    return [
        f"(shared neighbours {former_mixing():.2f} against {theirs['shared_neighbors']:.2f})",
        f"(NMI {ours['nmi']:.2f} against {theirs['nmi']:.2f})",
        f"{overall['baron']['sysvi']:.2f} on Baron's islets (Harmony {overall['baron']['harmony']:.2f}, scVI "
        f"{overall['baron']['scvi']:.2f}), {overall['hard']['sysvi']:.2f} on the hard simulation (scVI "
        f"{overall['hard']['scvi']:.2f}) and {overall['held_out']['sysvi']:.2f} on the held-out simulation (scVI "
        f"{overall['held_out']['scvi']:.2f})",
        f"sysvi is {speed.min():.1f} to {speed.max():.1f} times as fast as scvi-tools' SysVI",
        f"take {million['sysvi']:.1f} minutes for 20 epochs, scvi-tools' SysVI {million['scvi-tools SysVI'] // 60:.0f} h "
        f"{million['scvi-tools SysVI'] % 60:.0f} min",
        f"could do at best ({floor.min():.1f} to {floor.max():.1f} times)",
        "ready for training in {:.0f} s and {:.1f} GB, where scanpy's functions take {:.0f} s and {:.1f} GB".format(
            *stages_without_training()
        ),
        "too take {:.0f} s and {:.2f} GB, where scib-metrics takes {:.0f} s and {:.1f} GB".format(*metric_speed()),
        metrics_of_few_cells(),
        times_of_whole_calls(),
        f"The whole table of metrics takes {table['whole table']:.0f} s and {table[memory] / 1000:.1f} GB",
        f"a stratified sample of 100,000 takes {sample['evaluate']:.0f} s and {sample[memory] / 1000:.1f} GB",
        f"Baron's default training ({read('gpu_baron')['epochs'].iloc[0]} epochs) takes "
        f"{read('gpu_baron')['training_s'].mean():.1f} s, and a step of 2,048 cells x 3,000 genes "
        f"{read('gpu_steps')['ms'].min():.2f} ms",
    ]


def of_tuning() -> list[str]:
    """Sentences of docs/tuning.md."""
    full = read("paper_criterion")
    means = full[full["data"] == "held_out"].groupby("variant").mean(numeric_only=True)
    default, ramp = means.loc["default"], means.loc["KL ramp, prior comes in"]
    lost = []
    for name in ("baron", "held_out"):
        scores = full[full["data"] == name].groupby("variant")[["with labels", "without labels"]].mean()
        lost.append(scores["with labels"].max() - scores["with labels"][scores["without labels"].idxmax()])
    short = read("criterion").set_index("data")["correlation of the score with labels between seeds"]
    runs = read("criterion_runs")
    wrong = runs[(runs["data"] == "hard") & (runs["kl_weight"] == 3) & (runs["cycle_weight"] == 0)].mean(
        numeric_only=True
    )
    return [
        f"costs {min(lost):.2f} to {max(lost):.2f} of the score on the other two",
        f"preserves cell types better (NMI {ramp['NMI']:.2f} against {default['NMI']:.2f}) and mixes more cells of the same "
        f"type ({ramp['shared mixing']:.2f} against {default['shared mixing']:.2f}), and has the lower iLISI "
        f"({ramp['iLISI']:.2f} against {default['iLISI']:.2f})",
        f"predicts that of another seed's with {short['baron']:.2f}",
        f"has an iLISI of {wrong['iLISI']:.2f} and shared mixing of {wrong['shared mixing']:.2f}",
        f"With labels this setting scores {wrong['with labels']:.2f}, without {wrong['without labels']:.2f}",
    ]


def of_comparison() -> list[str]:
    """Sentences of docs/compare-systems.md."""
    scenarios = ("usual", "unequal", "noisy")
    ours = {scenario: compared(scenario, "pseudobulk") for scenario in (*scenarios, "weak")}
    planted = [100 * ours[scenario]["planted FDR"] for scenario in scenarios]
    others = [
        max(compared(scenario, method)["auprc_tested"] for method in ("limma-voom", "edgeR")) for scenario in ours
    ]
    assert all(ours[scenario]["auprc_tested"] > other for scenario, other in zip(ours, others, strict=True))
    voom = {scenario: compared(scenario, "limma-voom")["auprc"] for scenario in ours}
    ahead = sum(voom[scenario] > ours[scenario]["auprc"] for scenario in ours)
    beta = read("compare_systems_baron")
    mafb = beta_gene("MAFB")
    return [
        f"of {ours['usual']['labels']:.0f} labels in each kind of simulation, {ours['usual']['labels with hits']:.0f} "
        f'("usual"), {ours["unequal"]["labels with hits"]:.0f} ("unequal") and {ours["noisy"]["labels with hits"]:.0f} '
        '("noisy") have a gene',
        f"{min(planted):.0f} to {max(planted):.0f} % of the genes that are called did not change",
        f'The {ours["weak"]["planted FDR"]:.2f} of "weak" is a mean over simulations with few genes: in all, '
        f"{ours['weak']['false']:.0f} of {ours['weak']['hits']:.0f}",
        f"is ahead in {['none', 'one', 'two', 'three'][ahead]} of the four ({voom['usual']:.2f} against "
        f'{ours["usual"]["auprc"]:.2f} in "usual")',
        f"limma-voom calls a gene in {compared('unequal', 'limma-voom')['labels with hits']:.0f} of 120 labels without a "
        f"difference, and edgeR in {compared('unequal', 'edgeR')['labels with hits']:.0f}",
        f"The test here finds {ours['noisy']['found'] * 100:.0f} % of the planted genes there",
        f"({compared('usual', 'edgeR')['found']:.2f}; here {ours['usual']['found']:.2f})",
        f"({compared('usual', 'model effect')['auprc_tested']:.2f} and {ours['usual']['auprc_tested']:.2f} among tested genes)",
        f"{ours['usual']['found'] * 100:.0f} % of those that change by a factor of 1.6 to 4.5, and "
        f"{ours['weak']['found'] * 100:.0f} % of weak changes",
        f"Of the {beta['p'].notna().sum():,} genes that are tested in beta cells, {(beta['fdr'] < 0.05).sum()} differ there "
        f"beyond the other types; {(beta['marker_fdr'] < 0.05).sum()} are conserved markers",
        f"(effect {mafb['effect']:.1f}, false discovery rate {mafb['fdr']:.2f})",
    ]


def of_beta_cells() -> list[str]:
    """Sentences of docs/beta-cells.md."""
    beta = read("compare_systems_baron")
    genes = {name: beta_gene(name) for name in ("MAFB", "UCN3", "ABCC8")}
    marker_rate = f"{genes['UCN3']['marker_fdr']:.0e}".replace("e-0", "e-")
    return [
        f"Of the {beta['p'].notna().sum():,} genes that are tested, {(beta['fdr'] < 0.05).sum()} differ at a false discovery "
        "rate of 0.05",
        f"Of {beta['marker_p'].notna().sum():,}, {(beta['marker_fdr'] < 0.05).sum()} mark beta cells in both species",
        f"effect {genes['MAFB']['effect']:.1f}, false discovery rate {genes['MAFB']['fdr']:.2f}",
        f"effect {genes['UCN3']['effect']:.1f}, false discovery rate {genes['UCN3']['fdr']:.2f}; among the first conserved "
        f"markers (false discovery rate {marker_rate})",
        f"(effect {genes['ABCC8']['effect']:.1f}, false discovery rate {genes['ABCC8']['fdr']:.4f})",
    ]


def of_other_methods() -> list[str]:
    """Sentences of docs/other-methods.md."""
    kang, baron = (fig5.best_of(name).set_index("method") for name in ("kang", "baron"))
    score, mixed = baron["overall"], baron["iLISI"]
    seurat = kang.loc[["seurat-cca", "seurat-rpca"], "overall"]
    return [
        f"it has {score['seurat-cca']:.2f}, sysVI {score['sysvi']:.2f}, Harmony {score['harmony']:.2f} (its R package "
        f"{score['harmony-r']:.2f}) and scVital {score['scvital']:.2f}. sysVI keeps types best (NMI {baron['NMI'].max():.2f}), "
        f"but its iLISI is {mixed['sysvi']:.2f}, that of Seurat CCA {mixed['seurat-cca']:.2f}",
        f"sysVI mixes shared types by {trust('baron'):.2f} and Harmony by {trust('baron', variant='Harmony'):.2f}",
        f"the paper's score of Harmony's R package is {kang['overall']['harmony-r']:.2f}, that of sysVI "
        f"{kang['overall']['sysvi']:.2f}, and those of Seurat's two integrations {seurat.min():.2f} and {seurat.max():.2f}",
        f"takes {kang['seconds']['harmony-r']:.0f} s, sysVI {kang['seconds']['sysvi']:.0f} s",
        f"it mixes shared types by {trust('baron_1000', variant='Harmony'):.2f}, sysVI's default by "
        f"{trust('baron_1000'):.2f}, but it keeps types less well (NMI {trust('baron_1000', 'nmi', 'Harmony'):.2f} against "
        f"{trust('baron_1000', 'nmi'):.2f})",
        f"Moran's I is {trust('baron', 'moran', 'Harmony'):.2f} on Baron, sysVI's {trust('baron', 'moran'):.2f}",
    ]


def of_guide() -> list[str]:
    """Sentences of docs/guide.md."""
    means = read("union").groupby("genes").mean(numeric_only=True)
    shared, union = means.loc["shared"], means.loc["union"]
    seconds = read("union").pivot_table(index="seed", columns="genes", values="seconds")
    return [
        f"{union['n_lacking']:,.0f} of the union's {union['n_genes']:,.0f} genes are in one species only",
        f"the species share {union['shared_neighbors']:.2f} of their neighbours within types instead of "
        f"{shared['shared_neighbors']:.2f}, and clusters match types less well (NMI {union['nmi']:.2f} instead of "
        f"{shared['nmi']:.2f})",
        f"labels transfer as well ({union['accuracy']:.2f} instead of {shared['accuracy']:.2f})",
        f"Training takes {(seconds['union'] / seconds['shared']).median():.1f} times as long",
    ]


def of_kernels() -> list[str]:
    """Sentences of docs/kernels.md."""
    union = read("union_steps").set_index(["genes", "gradient"])["seconds"]
    steps = read("steps").pivot_table(index="minibatch", columns="step", values="relative")
    plain = steps["plain: autograd, nothing fused, dense, float32"]
    layers = steps["layers by torch's operations"]
    gpu = read("gpu_steps").set_index("step")["ms"] / read("gpu_steps")["ms"].min()
    return [
        f"took {union['half of both', 'by hand']:.3f} processor seconds instead of {union['all of both', 'by hand']:.3f}, and "
        f"{union['half of both', 'autograd']:.3f} by autograd",
        "takes {:.1f}, {:.1f}, {:.1f} and {:.1f} times as long".format(*plain),
        f"it takes {layers.min():.1f} to {layers.max():.1f} times as long",
        "the plain version takes {:.1f} times as long, layers by torch's operations {:.1f} times".format(
            gpu["plain: autograd, float32, one by one"], gpu["layers and dense expression by torch's operations"]
        ),
    ]


def of_report() -> list[str]:
    """Sentences of docs/report.md."""
    size, *seconds = read("report_scale")["value"]
    return [
        f"has {size:.1f} MB",
        "took {:.0f} s of processor time to open it, {:.0f} s to colour both pictures by another column, {:.0f} s to hide a "
        "category, and {:.0f} s to select cells with the lasso".format(*seconds),
    ]


def of_measurements() -> list[str]:
    """Sentences of benchmarks/README.md."""
    scaling = read("scaling").set_index(["method", "cells"])
    seconds, million = scaling["seconds"], scaling.xs(1_000_000, level="cells")
    embedding, many = read("embedding").iloc[0], read("many").set_index("way")
    gpu = read("gpu_baron")
    plain = read("steps").pivot_table(index="minibatch", columns="step", values="relative")
    plain = plain["plain: autograd, nothing fused, dense, float32"]
    return [
        times_of_whole_calls(),
        f"make a step {plain.min():.0f} to {plain.max():.1f} times as fast",
        f"sysvi: {seconds['sysvi', 1000]:.1f} s for 1,000 cells",
        "{:.0f} s for 100,000, {:.0f} s for 300,000, {:.0f} s for a million".format(
            *(seconds["sysvi", n] for n in (100_000, 300_000, 1_000_000))
        ),
        f"the data take {million['data_mb'].iloc[0] / 1000:.1f} GB, and peak memory above that after the imports is "
        "{:.1f} GB (sysvi), {:.1f} GB (scvi-tools) and {:.1f} GB (Harmony)".format(
            *(million["peak_mb"][method] / 1000 for method in ("sysvi", "scvi-tools SysVI", "Harmony"))
        ),
        f"takes {embedding['seconds']:.1f} s, that is {embedding['cells_per_s']:,.0f} cells a second and "
        f"{embedding['times_the_floor']:.1f} times the least time",
        f"{many['median_s']['twelve by train_many']:.1f} s by `train_many`, {many['median_s']['twelve in turn']:.1f} s one "
        f"after the other, {many['median_s']['one model']:.2f} s for one alone, so `train_many` takes "
        f"{many['times_one_model']['twelve by train_many']:.1f} times one model",
        f"{gpu['training_s'].mean():.1f} s of training, {gpu['all_s'].iloc[1:].median():.1f} s for the whole call, "
        f"{gpu['all_s'].iloc[0]:.1f} s for the first call",
    ]


def of_findings() -> list[str]:
    """Sentences of benchmarks/paper/README.md."""
    runs = {name: method_runs(name) for name in ("baron", "hard", "held_out")}
    overall = {name: table.groupby("method")["overall"] for name, table in runs.items()}
    priors = read("paper_priors").query("data == 'baron' and prior == 'vamp' and components == 5")
    start = priors.groupby(["start", "trainable"])[["iLISI", "NMI"]].mean()
    private = runs["held_out"].query("method == 'sysvi'")["private mixed"].sort_values()
    components = {
        key: [
            float((group[column] * group["n_cells"]).sum() / group["n_cells"].sum())
            for column in ("purity", "system_mixing")
        ]
        for key, group in read("paper_prior_components").groupby(["data", "prior"])
    }
    rules = read("paper_anchor_rules").groupby(["rule", "set"])[["shared", "private", "nmi"]].mean()
    usual, today = rules.loc["weight by the usual number"], rules.loc["today"]
    old, new = closeness()
    later = read("paper_anchor_rules").query("set == 'family_01' and seed > 0").groupby("rule")["private"].max()
    of_baron = [rules.loc[(rule, "baron"), "shared"] for rule in ("before", "today", "means only", "all members")]
    return [
        "(Baron: {:.2f} instead of {:.2f}; {:.2f} without the covariances, {:.2f} if pairs must be mutual in all "
        "members)".format(of_baron[1], of_baron[0], *of_baron[2:]),
        f"private types mix by {usual['private']['baron_few_shared']:.2f} where few types are shared (today "
        f"{today['private']['baron_few_shared']:.2f}) and by {usual['private']['family_01']:.2f} in `family_01` "
        f"({today['private']['family_01']:.2f})",
        f"is better on {(new > old).sum()} of {len(new)} sets, and worse by at most {(old - new).max():.2f} on the others",
        f"private types mix by up to {later['today']:.2f}, as with the rules before, and by up to {later['all members']:.2f} "
        f"if pairs must be mutual in all members, {later['2 rounds']:.2f} in two rounds and "
        f"{later['closeness 0.15 more']:.2f} with closer anchors",
        "Frozen components (iLISI {:.2f} and NMI {:.2f} with five)".format(*start.loc[("random cells", False)]),
        "initial components ({:.2f} and {:.2f}) do as well".format(*start.loc[("as many of each system", True)]),
        "five human cells mix less ({:.2f} and {:.2f})".format(*start.loc[("cells of one system", True)]),
        f"One seed of scvi-tools' SysVI ({overall['baron'].max()['scvi-sysvi']:.2f}) comes near VAMP",
        f"(sysVI is ahead of scVI by {overall['hard'].mean()['sysvi'] - overall['hard'].mean()['scvi']:.3f}, Welch's p "
        f"{welch(runs['hard'], 'scvi'):.2f})",
        f"sysVI is better than scVI in every seed (Welch's p {welch(runs['held_out'], 'scvi'):.3f}), and than CYC on average, "
        f"which may be chance ({welch(runs['held_out'], 'cyc'):.2f})",
        f"({private.iloc[-1]:.2f} of full mixing; {private.iloc[0]:.2f} to {private.iloc[-2]:.2f})",
        "Spearman's correlation over runs is {:.2f}, {:.2f}, {:.2f} and {:.2f}".format(
            *(rank_correlation(name) for name in ("hard", "baron", "kang", "held_out"))
        ),
        "a purity of {:.2f} in cell type and a mixing of species of {:.2f}".format(*components["baron", "vamp"]),
        "on the hard simulation {:.2f} and {:.2f}".format(*components["hard", "vamp"]),
        f"In `family_04` the NMI is {trust('family_04', 'nmi_pca') - trust('family_04', 'nmi'):.2f} below PCA's",
        f"Mixing on Baron was {former_mixing():.2f} with the former default",
    ]


def welch(runs: pd.DataFrame, method: str) -> float:
    """Welch's p-value of the overall scores of sysVI and of another method."""
    scores = [runs.loc[runs["method"] == name, "overall"] for name in ("sysvi", method)]
    return float(ttest_ind(*scores, equal_var=False).pvalue)
