import pandas as pd
import pytest

from sysvi.data.gene_names import match_genes

FOUND = [
    (["b", "a"], ["a", "b"], [1, 0]),
    (["Gcg"], ["GCG"], [0]),  # case
    (["ENSG00000000003.15"], ["ENSG00000000003"], [0]),  # versions
    (["ENSG00000000003"], ["ENSG00000000003.2"], [0]),
    (["ENSMUSG00000000003.15"], ["ensmusg00000000003.1"], [0]),
    (["H2-K1.1"], ["H2-K1"], [-1]),  # no Ensembl id
    (["Ins1"], ["INS"], [-1]),  # differs in more than case
    (["Gcg", "gcg"], ["GCG"], [-1]),  # two candidates
    (["Gcg", "GCG"], ["GCG"], [1]),  # the same name comes first
    (["GCG"], ["Gcg", "gcg"], [-1, -1]),  # two genes
    (["GCG"], ["GCG", "Gcg"], [0, -1]),  # a name is taken once
    ([], ["a"], [-1]),
]


@pytest.mark.parametrize(("names", "genes", "position"), FOUND)
def test_genes_are_found_once_or_not(names, genes, position):
    assert match_genes(pd.Index(names, dtype=object), genes).position.tolist() == position


def test_what_was_disregarded_is_told():
    match = match_genes(pd.Index(["Gcg", "ENSG00000000003.15", "SST"]), ["SST", "ENSG00000000003", "GCG"])
    assert match.by_case == [("GCG", "Gcg")]
    assert match.by_version == [("ENSG00000000003", "ENSG00000000003.15")]
