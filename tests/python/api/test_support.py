"""Support of cells: agreement of several embeddings about the neighbours of a cell in another system."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sysvi._core.events import as_json
from sysvi._core.samples import sample_rows
from sysvi.api import support as module
from sysvi.api.support import (
    describe_support,
    neighbor_support,
    unsupported_cells,
    warn_about_unsupported_cells,
)

K = 15


def support_by_loops(embeddings, system):
    """The definition, cell by cell and pair by pair."""
    names = sorted(set(system))
    table = np.full((len(system), len(names)), np.nan)
    for i in range(len(system)):
        own = [j for j in range(len(system)) if system[j] == system[i] and j != i]
        for column, name in enumerate(names):
            if name == system[i]:
                continue
            others = [j for j in range(len(system)) if system[j] == name]
            parts = []
            for a, proposing in enumerate(embeddings):
                near = sorted(others, key=lambda j, z=proposing: np.linalg.norm(z[j] - z[i]))[:K]
                for b, judging in enumerate(embeddings):
                    if a == b:
                        continue
                    distance = np.mean([np.linalg.norm(judging[j] - judging[i]) for j in near])
                    radius = np.mean(sorted(np.linalg.norm(judging[j] - judging[i]) for j in own)[:K])
                    parts.append(min(1, radius / distance))
            table[i, column] = np.mean(parts)
    return pd.DataFrame(table, columns=names)


def clouds(sizes, shifts, n_members, seed=0, noise=0.5):
    """Cells of several systems in some embeddings that differ by noise: embeddings and system."""
    rng = np.random.default_rng(seed)
    centres = np.outer(shifts, [1, 0, 0])
    cells = np.concatenate([rng.normal(centre, size=(n, 3)) for n, centre in zip(sizes, centres, strict=True)])
    system = np.repeat([f"system{i}" for i in range(len(sizes))], sizes).astype(object)
    order = rng.permutation(len(system))
    members = [(cells + noise * rng.normal(size=cells.shape))[order].astype(np.float32) for _ in range(n_members)]
    return members, system[order]


# -- the values -------------------------------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 25), min_size=2, max_size=3),
    gap=st.floats(0, 3),
    n_members=st.integers(2, 4),
    seed=st.integers(0, 1000),
)
def test_support_is_its_definition(sizes, gap, n_members, seed):
    """Also of systems with fewer cells than neighbours."""
    embeddings, system = clouds(sizes, gap * np.arange(len(sizes)), n_members, seed)
    found = neighbor_support(embeddings, system)
    pd.testing.assert_frame_equal(found, support_by_loops(embeddings, system), rtol=1e-4, atol=1e-6)


def test_each_system_has_a_column_with_nan_for_its_own_cells():
    embeddings, system = clouds([30, 20, 40], [0, 1, 2], 2)
    found = neighbor_support(embeddings, system)
    assert list(found) == ["system0", "system1", "system2"]
    for name in found:
        np.testing.assert_array_equal(found[name].isna(), system == name)
    values = found.to_numpy()[found.notna()]
    assert values.min() >= 0
    assert values.max() <= 1


def test_systems_that_mix_alike_in_all_embeddings_have_a_high_support():
    embeddings, system = clouds([400, 400], [0, 0], 3, noise=0)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0].astype(np.float32)
    turned = [embeddings[0], 3 * embeddings[1] @ rotation + 2, embeddings[2]]
    found = neighbor_support(turned, system).max(axis=1)
    assert found.median() > 0.8
    same = neighbor_support([embeddings[0]] * 3, system).max(axis=1)
    np.testing.assert_allclose(found, same, rtol=1e-3)  # neither rotation nor scale matters


def test_cells_at_the_same_place_are_counterparts():
    """All distances are 0, within the system and to the other one."""
    z = np.repeat(np.eye(3, dtype=np.float32), 40, axis=0)
    found = neighbor_support([z, z], np.tile(["a", "b"], 60).astype(object))
    np.testing.assert_array_equal(found.max(axis=1), 1)


def test_systems_far_apart_have_none():
    embeddings, system = clouds([100, 100], [0, 50], 3)
    assert neighbor_support(embeddings, system).max(axis=1).max() < 0.1


def test_embeddings_that_disagree_give_less_than_those_that_agree():
    """Each embedding alone mixes the systems fully, but pairs the cells of system1 with others of system0."""
    centres, within = 30 * np.eye(4), np.random.default_rng(0).normal(size=(400, 4))
    kind = np.tile(np.arange(4), 100)
    system = np.repeat(["a", "b"], 200).astype(object)

    def embedding(shift):
        place = np.where(system == "b", (kind + shift) % 4, kind)
        return (centres[place] + within).astype(np.float32)

    agree = neighbor_support([embedding(1), embedding(1)], system).max(axis=1)
    disagree = neighbor_support([embedding(1), embedding(2)], system).max(axis=1)
    assert agree.median() > 0.7
    assert disagree.max() < 0.3


def test_of_large_systems_a_sample_stands_for_all(monkeypatch):
    embeddings, system = clouds([300, 200], [0, 1], 3)
    full = neighbor_support(embeddings, system)
    monkeypatch.setattr(module, "MAX_REFERENCE_CELLS", 150)
    found = neighbor_support(embeddings, system)
    pd.testing.assert_frame_equal(found, neighbor_support(embeddings, system))
    pd.testing.assert_frame_equal(found.isna(), full.isna())
    assert not found.equals(full)
    assert (found - full).abs().mean().max() < 0.15
    sample = np.concatenate([sample_rows(np.flatnonzero(system == name), 150) for name in ("system0", "system1")])
    sample = np.sort(sample)
    assert len(sample) == 300
    among = neighbor_support([z[sample] for z in embeddings], system[sample])  # cells of the sample see the same cells
    np.testing.assert_allclose(found.iloc[sample], among, rtol=1e-5)


def test_a_cell_outside_of_the_sample_has_as_many_neighbours_as_one_inside(monkeypatch):
    """Points of a circle: every cell has the same surroundings, but only half of them are searched."""
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    z = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    every_second = np.flatnonzero(np.arange(400) % 2 == 0)
    inside, outside = module._own_distances(z, np.repeat("a", 400), {"a": every_second})[:2]
    step = 2 * np.pi / 200
    assert inside == pytest.approx(step * np.mean([1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8]), rel=0.01)
    near = np.sort(np.concatenate([np.arange(0.5, 9)] * 2))[:15]
    assert outside == pytest.approx(step * near.mean(), rel=0.01)


def test_many_cells_are_measured_in_blocks(monkeypatch):
    embeddings, system = clouds([50, 30], [0, 1], 2)
    full = neighbor_support(embeddings, system)
    monkeypatch.setattr(module, "CELLS_AT_A_TIME", 7)
    pd.testing.assert_frame_equal(neighbor_support(embeddings, system), full)


# -- what is said about it --------------------------------------------------------------------------------------------


@pytest.fixture
def table():
    """Support of 100 human and 50 mouse cells: 20 human and 2 mouse cells have none."""
    system = np.repeat(["human", "mouse"], [100, 50]).astype(object)
    support = pd.DataFrame({"human": np.where(system == "mouse", 0.9, np.nan)}, index=[f"c{i}" for i in range(150)])
    support["mouse"] = np.where(system == "human", 0.2, np.nan)  # 0.2 itself is not low
    support.iloc[:20, 1] = 0.19
    support.iloc[100:102, 0] = 0
    return support, system


def test_cells_of_low_support_are_counted_by_pair_of_systems(table):
    expected = [("human", "mouse", 20, 100, 0.2), ("mouse", "human", 2, 50, 0.04)]
    assert list(unsupported_cells(*table).itertuples(index=False, name=None)) == expected


def test_the_warning_names_systems_with_many_such_cells_only(table):
    with pytest.warns(UserWarning, match="no counterpart") as seen:
        warn_about_unsupported_cells(*table, stacklevel=1)
    [warning] = seen
    text = str(warning.message)
    assert "20 of 100 cells of human in mouse (support below 0.2)" in text
    assert "of mouse in human" not in text
    assert "do not interpret their neighbours" in text
    assert warning.filename == __file__


def test_few_such_cells_give_no_warning(table):
    support, system = table
    support.iloc[:16, 1] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_about_unsupported_cells(support, system, stacklevel=1)
    support.iloc[15, 1] = 0  # the fifth of 100
    with pytest.warns(UserWarning, match="5 of 100 cells of human"):
        warn_about_unsupported_cells(support, system, stacklevel=1)


def test_the_event_has_a_sentence_and_numbers(table):
    event = describe_support(*table)
    assert event.message == (
        "Counterparts on which the members agree: 80 of 100 cells of human in mouse; 48 of 50 cells of mouse in human."
    )
    line = json.loads(as_json(event))
    assert line["stage"] == "support"
    assert line["low_support"][0] == {"system": "human", "other": "mouse", "n_cells": 20, "of": 100, "share": 0.2}


def test_of_several_systems_a_cell_needs_a_counterpart_in_one_of_the_others():
    system = np.repeat(["a", "b", "c"], [4, 2, 2]).astype(object)
    support = pd.DataFrame(0.9, index=range(8), columns=["a", "b", "c"])
    support.loc[:3, "a"], support.loc[4:5, "b"], support.loc[6:, "c"] = np.nan, np.nan, np.nan
    support.loc[0, ["b", "c"]] = 0.1  # low in both
    support.loc[1, "b"] = 0.1  # low in one
    expected = [("a", "any other system", 1, 4, 0.25), ("b", "any other system", 0, 2, 0.0)]
    expected += [("c", "any other system", 0, 2, 0.0)]
    assert list(unsupported_cells(support, system).itertuples(index=False, name=None)) == expected
