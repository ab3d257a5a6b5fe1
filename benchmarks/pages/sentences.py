"""Sentences of the documentation whose numbers come from tables in benchmarks/results.

`sentences` gives them by page; each must be in its page as it is here, apart from line breaks and bold type. `GIVEN`
has the other numbers of these pages: settings, definitions and versions, which were not measured.
"""

from __future__ import annotations

import functools

from tables import (
    compared, defaults, former_mixing, mapping_runs, method_runs, metric_speed, missing_genes, rank_correlation, read,
    stages_without_training, transfer_rows, translated, trust_summary,
)  # fmt: skip

# Real cells, without `breast`, which has too few cells and genes.
REAL = ["baron", "baron_2500", "baron_1000", "baron_few_shared", "kang", "malaria_part", "protocols"]

GIVEN: dict[str, tuple[str, ...]] = {
    "docs/trust.md": (
        "128, 0.001", "0.002 or 0.004", "rises from 0.1 to 0.6 of training", "its share rises from 0.1 to 0.6 of training",
        "a support below 0.2", "A threshold of 0.3", "at least 2.75 times the distance",
    ),
}  # fmt: skip


@functools.cache
def sentences() -> dict[str, list[str]]:
    """The sentences of each page."""
    return {
        "README.md": readme(),
        "docs/trust.md": of_trust(),
        "docs/translate.md": of_translate(),
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


def readme() -> list[str]:
    """Sentences of README.md."""
    return [
        f"keeps cell types about as well as PCA does (NMI at most {nmi_lost():.2f} lower) and keeps private types apart "
        f"(mixing of at most {worst_private(REAL):.2f} in the worst call)",
        f"In simulations whose types PCA finds, private types mix by at most {worst_private(simulations(False)):.2f}; "
        f"where PCA loses types, private types mix too ({trust('family_20', 'private'):.2f})",
    ]


def of_trust() -> list[str]:
    """Sentences of docs/trust.md."""
    support = trust_summary().xs("default", level="variant")
    private, shared = support["private_below_0.2"].dropna(), support["shared_below_0.2"].dropna()
    more = support["private_below_0.3"].dropna()
    closeness = read("paper_anchor_pairs").groupby(["radius", "cell", "members", "set"])["auroc"].mean()
    old, new = closeness["15 nearest", "smaller", "smallest"], closeness["25%", "larger", "mean"]
    lost = simulations(True)
    halves = trust_summary()["halves"].dropna()
    once = {name: trust_summary().loc[(name, "default")] for name in ("hard", "held_out", "malaria", "malaria_species")}
    measured = {name for name, variant in trust_summary().index if name.startswith("family_") and variant == "default"}
    return [
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
        f"Private types mix by {worst_private(simulations(False)):.2f} at most",
        f"not separate mix, by {max(trust(name, 'private') for name in lost):.2f} on average in the worst set",
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
        f"Not measured yet: {24 - len(measured)} of the 24 random simulations",
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
