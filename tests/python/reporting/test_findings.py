"""Findings, from cells whose answer is known."""

import numpy as np
import pandas as pd

from sysvi.reporting.findings import of_mixing, of_run, of_support, of_types
from sysvi.reporting.type_tables import cells_by_support, cells_by_type, mixing_by_type, neighbors_elsewhere


def levels(findings):
    return [finding.level for finding in findings]


def test_systems_that_mix_stay_apart_or_differ_little():
    rng = np.random.default_rng(0)
    mixed, system = rng.standard_normal((200, 3)), np.repeat(["human", "mouse"], 100)
    apart = mixed + 100 * (system == "mouse")[:, None]
    assert levels(of_mixing(mixed, apart, system)) == ["good"]
    found = list(of_mixing(apart, None, system))
    assert levels(found) == ["warning"]
    assert "human, mouse" in found[0].text
    assert found[0].advice
    assert levels(of_mixing(mixed, mixed, system)) == ["good", "note"]
    assert levels(of_mixing(mixed[:5], None, system[:5])) == []  # too few cells to judge


def test_support():
    system = np.repeat(["a", "b"], 100)
    support = pd.DataFrame({"a": np.where(system == "a", np.nan, 0.9), "b": np.where(system == "b", np.nan, 0.9)})
    assert levels(of_support(support, system, 4)) == ["good"]
    support.loc[:5, "b"] = 0.1
    (found,) = of_support(support, system, 4)
    assert found.level == "warning"
    assert "6 of 100 cells of a in b" in found.text
    assert levels(of_support(None, system, 1)) == ["note"]
    assert levels(of_support(None, system, 4)) == []


def test_types():
    label = np.repeat(["both", "own", "merged"], [60, 30, 30])
    system = np.concatenate([np.tile(["a", "b"], 30), np.repeat("a", 30), np.repeat("b", 30)])
    support = np.repeat([0.9, 0.1, 0.8], [60, 30, 30])
    types = cells_by_type(label, system, support)
    assert types["only in"].to_dict() == {"both": "", "own": "a", "merged": "b"}
    assert types.loc["both", ["a", "b"]].tolist() == [30, 30]
    assert types["with counterparts"].to_dict() == {"both": 1.0, "own": 0.0, "merged": 1.0}
    elsewhere = pd.Series({"both": 0.9, "own": 0.1, "merged": 0.6})
    found = list(of_types(types, ["a", "b"], pd.Series({"both": 0.01}), elsewhere))
    assert levels(found) == ["warning", "warning", "note"]
    assert "merged (only in b; 60%)" in found[0].text
    assert "own" not in found[0].text
    assert "both" in found[1].text
    assert levels(of_types(types, ["a", "b"], pd.Series({"both": 0.5}), elsewhere)) == ["warning", "note"]
    alone = cells_by_type(label, system, None)
    assert list(alone) == ["a", "b", "only in"]
    assert levels(of_types(alone, ["a", "b"], pd.Series(dtype=float), elsewhere.iloc[:2])) == ["note"]


def test_neighbours_of_types_elsewhere():
    """Beside a loop over the cells: types that mix, that lie apart, and that are hidden in another one."""
    rng = np.random.default_rng(1)
    label = np.repeat(["both", "apart", "hidden"], [60, 40, 20])
    system = np.concatenate([np.tile(["a", "b"], 30), np.repeat("a", 40), np.repeat("b", 20)])
    z = rng.standard_normal((120, 2)) + np.repeat([[0.0, 0], [20, 0], [0, 0]], [60, 40, 20], axis=0)
    found = neighbors_elsewhere(z, label, system)
    for name in ("both", "apart", "hidden"):
        cells = np.flatnonzero(label == name)
        near = [np.argsort(np.linalg.norm(z - z[i], axis=1))[1:16] for i in cells]
        share = np.mean([(system[rows] != system[i]).mean() for i, rows in zip(cells, near, strict=True)])
        full = np.mean([(system != system[i]).mean() for i in cells])
        np.testing.assert_allclose(found[name], share / full)
    assert found["apart"] == 0
    assert found["hidden"] > 0.5


def test_few_genes_and_interruptions(integrated):
    from dataclasses import replace

    from sysvi.reporting.run_record import read_record

    record = read_record(integrated)
    assert levels(of_run(replace(record, n_genes=2_000))) == []
    (few,) = of_run(record)
    assert f"{record.n_genes} genes" in few.text
    (stopped,) = of_run(replace(record, n_genes=2_000, status="interrupted"))
    assert "after 3 of 3 epochs" in stopped.text
    assert levels(of_run(replace(record, n_genes=2_000, status="interrupted", losses=({"epoch": []},)))) == ["warning"]


def test_classes_of_support_count_every_cell_once():
    rng = np.random.default_rng(0)
    system = rng.choice(["a", "b", "c"], 400)
    support = pd.DataFrame({name: np.where(system == name, np.nan, rng.random(400)) for name in "abc"})
    table = cells_by_support(support, system)
    assert len(table) == 6
    np.testing.assert_allclose(table.iloc[:, 3:].sum(axis=1), 1)
    row = table[(table["cells of"] == "a") & (table["in"] == "b")].iloc[0]
    values = support.loc[system == "a", "b"]
    assert row["cells"] == (system == "a").sum()
    np.testing.assert_allclose(row["0.2 to 0.4"], ((values >= 0.2) & (values < 0.4)).mean())


def test_mixing_by_type_is_that_of_the_evaluation(content):
    table = mixing_by_type(content.evaluation)
    assert {metric for metric, _ in table.columns} == {"CiLISI", "BRAS", "Graph connectivity"}
    long = content.evaluation.per_label.set_index(["metric", "embedding", "name"])["value"]
    for metric, embedding in table.columns:
        for name, value in table[metric, embedding].dropna().items():
            assert value == long[metric, embedding, name]
