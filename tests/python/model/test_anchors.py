"""Systems are moved onto each other around cells that correspond in most members of an ensemble."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from threadpoolctl import threadpool_limits

from sysvi.model import anchors as module
from sysvi.model.anchors import find_moves


def nearest(points, query, k):
    return np.argsort(np.linalg.norm(points - query, axis=1), kind="stable")[:k]


def radius(points, query):
    """Distance of a query among the points within which a quarter of the others lie, but at least ten."""
    return np.sort(np.linalg.norm(points - query, axis=1))[max(10, round(0.25 * len(points)))]


def weights_by_loops(points, queries):
    """The definition of the mean around each query: (queries, points)."""
    weights = np.zeros((len(queries), len(points)))
    for i, query in enumerate(queries):
        found = nearest(points, query, 30)
        distance = np.linalg.norm(points[found] - query, axis=1)
        weights[i, found] = np.exp(-((distance / distance[len(found) // 2]) ** 2))
    return weights / weights.sum(1, keepdims=True)


def counterpart(x, own, others):
    """Where optimal transport between normal distributions, fitted to two samples of points, takes the point x."""
    n_latent = len(x)
    pooled = (np.cov(own.T, bias=True) + np.cov(others.T, bias=True)) / 2
    if np.trace(pooled) == 0:  # a single point each
        return others.mean(0) + x - own.mean(0)
    floor = 1e-3 * np.trace(pooled) / n_latent * np.eye(n_latent)
    source, target = (
        (len(points) * np.cov(points.T, bias=True) + n_latent * pooled) / (len(points) + n_latent) + floor
        for points in (own, others)
    )
    root = scipy.linalg.sqrtm(source).real
    inverse = np.linalg.inv(root)
    transport = inverse @ scipy.linalg.sqrtm(root @ target @ root).real @ inverse
    return others.mean(0) + transport @ (x - own.mean(0))


def moved_by_loops(embeddings, system, min_closeness, further=None, reached=None):
    """The definition, cell by cell, without a sample: the mean of the members is moved.

    With a further system, only this is moved; the others are where they are `reached`.
    """
    codes = sorted(set(system))
    mean = np.mean(embeddings, axis=0)
    rows = {code: np.flatnonzero(system == code) for code in codes}
    pairs = {}
    for a in codes:
        for b in codes:
            k_a, k_b = (max(10, round(0.15 * len(rows[code]))) for code in (a, b))
            n_mutual = np.zeros((len(rows[a]), len(rows[b])))
            closeness = np.ones((len(embeddings), *n_mutual.shape))
            for z, of_member in zip(embeddings, closeness, strict=True):
                for i, one in enumerate(z[rows[a]]):
                    near = set(nearest(z[rows[b]], one, k_b))
                    own = radius(z[rows[a]], one)
                    for j, other in enumerate(z[rows[b]]):
                        n_mutual[i, j] += j in near and i in set(nearest(z[rows[a]], other, k_a))
                        of_member[i, j] = max(own, radius(z[rows[b]], other)) / max(np.linalg.norm(one - other), 1e-99)
            agreed = n_mutual >= 0.75 * len(embeddings)
            pairs[a, b] = agreed & (scipy.stats.gmean(closeness, axis=0) >= min_closeness)
    smoothing = {code: weights_by_loops(mean[rows[code]], mean[rows[code]]) for code in codes}
    moved = mean.copy()
    if further is not None:
        moved[system != further] = reached
    for _ in range(6):
        after = moved.copy()
        for a in codes if further is None else [further]:
            gap, count = np.zeros_like(moved[rows[a]]), np.zeros((len(rows[a]), 1))
            for b in codes:
                if b == a:
                    continue
                for i, x in enumerate(moved[rows[a]]):
                    mine, found = pairs[a, a][i], pairs[a, b][i]
                    if found.any():
                        of_found = pairs[b, b].sum(1)[found].mean()
                        weight = min(1, found.sum() ** 2 / (mine.sum() * of_found))
                        gap[i] += weight * (counterpart(x, moved[rows[a]][mine], moved[rows[b]][found]) - x)
                        count[i] += weight
            after[rows[a]] += (smoothing[a] @ gap) / (1 + smoothing[a] @ count)
        moved = after
    final = mean.copy()
    for code in codes:
        final[rows[code]] += smoothing[code] @ (moved - mean)[rows[code]]
    return final


def clouds(sizes, offsets, n_members=3, noise=0.1, seed=0):
    """Members' embeddings of a cloud of cells for each system, and the systems' codes."""
    rng = np.random.default_rng(seed)
    truth = np.concatenate([rng.standard_normal((n, 3)) + offset for n, offset in zip(sizes, offsets, strict=True)])
    members = [truth + noise * rng.standard_normal(truth.shape) for _ in range(n_members)]
    return members, np.repeat(np.arange(len(sizes)), sizes)


def mean_of(members):
    return np.mean(members, axis=0)


def moved(members, system):
    return find_moves(members, mean_of(members), system).apply(mean_of(members), system)


@pytest.mark.parametrize("min_closeness", [0.0, 1.6])
@pytest.mark.parametrize("sizes", [[40, 30], [25, 35, 20]])
def test_oracle(sizes, min_closeness):
    members, system = clouds(sizes, [0.0, 0.7, -0.5][: len(sizes)])
    found = find_moves(members, mean_of(members), system, min_closeness).apply(mean_of(members), system)
    np.testing.assert_allclose(found, moved_by_loops(members, system, min_closeness), atol=1e-9)
    assert np.abs(found - mean_of(members)).max() > 0.1


def test_a_further_system_is_moved_onto_the_others_which_stay():
    members, system = clouds([40, 30, 35], [0.0, 0.7, -0.5])
    known, new = ([z[rows] for z in members] for rows in (system < 2, system == 2))
    before = find_moves(known, mean_of(known), system[system < 2])
    after = before.extend(new, mean_of(new), 2, 1.6)
    reached = before.position + before.move
    np.testing.assert_array_equal(
        after.apply(mean_of(known), system[system < 2]), before.apply(mean_of(known), system[system < 2])
    )
    expected = moved_by_loops(members, system, 1.6, further=2, reached=reached)
    found = after.apply(mean_of(members), system)[system == 2]
    np.testing.assert_allclose(found, expected[system == 2], atol=1e-9)
    assert np.abs(found - mean_of(members)[system == 2]).max() > 0.1


def test_the_closer_anchors_must_be_the_less_moves():
    members, system = clouds([200, 200], [0.0, 0.7])
    sizes = [
        np.linalg.norm(find_moves(members, mean_of(members), system, closeness).move)
        for closeness in (0.0, 1.5, 2.5, 1e6)
    ]
    assert sizes[0] > sizes[1] > sizes[2] > sizes[3] == 0


@pytest.mark.parametrize("n_systems", [2, 3, 4])
def test_systems_that_correspond_meet_at_their_common_mean(n_systems):
    """The difference between the systems is in another direction than that between cells."""
    members, system = clouds([300] * n_systems, [0.0] * n_systems, noise=0.02)
    for z in members:
        z[:, 2] = 0.1 * z[:, 2] + system
    before, after = mean_of(members), moved(members, system)
    gaps = [np.ptp([z[system == code].mean(0) for code in range(n_systems)], axis=0).max() for z in (before, after)]
    assert gaps[1] < 0.25 * gaps[0]
    np.testing.assert_allclose(after.mean(0), before.mean(0), atol=0.05)


@pytest.mark.parametrize("sizes", [[400, 400], [500, 60], [300, 200, 100]])
def test_systems_that_lie_on_each_other_stay(sizes):
    """Moving cells to the mean of their anchors would draw all of them towards the middle of the cloud."""
    members, system = clouds(sizes, [0.0] * len(sizes))
    before, after = mean_of(members), moved(members, system)
    assert np.linalg.norm(after - before, axis=1).mean() < 0.15 * np.linalg.norm(before, axis=1).mean()
    np.testing.assert_allclose(after.std(axis=0), before.std(axis=0), rtol=0.1)


def test_a_group_of_one_system_stays_where_it_is():
    """Besides a cloud of both systems, each has one of its own; the members disagree where these lie."""
    rng = np.random.default_rng(1)
    members, system = clouds([400, 400], [0.0, 0.5])
    own = np.repeat([True, False, True, False], 200)  # the first half of each system's cells
    places = rng.permutation(np.eye(3)).repeat(2, 0)[: 2 * len(members)] * 8
    signs = [1, -1]
    for z, place in zip(members, places, strict=False):
        for code, sign in enumerate(signs):
            z[own & (system == code)] += sign * place
    moves = np.linalg.norm(moved(members, system) - mean_of(members), axis=1)
    assert moves[own].mean() < 0.1 * moves[~own].mean()


def test_without_agreement_nothing_moves():
    """Each member places every cell of the second system at random, on its own."""
    rng = np.random.default_rng(2)
    members, system = clouds([500, 500], [0.0, 0.0], n_members=8)
    for z in members:
        z[500:] = z[rng.permutation(np.arange(500, 1000))]
    moves = find_moves(members, mean_of(members), system).move
    together = find_moves([members[0]] * 8, mean_of(members), system).move
    assert np.linalg.norm(moves, axis=1).mean() < 0.2 * np.linalg.norm(together, axis=1).mean()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_neither_order_of_members_nor_rotation_nor_origin_nor_scale_matters(seed):
    rng = np.random.default_rng(seed)
    members, system = clouds([60, 50], [0.0, 0.6], seed=seed)
    expected = moved(members, system)
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    changed = [5 * z @ rotation + 2 for z in rng.permutation(members)]
    np.testing.assert_allclose(moved(changed, system), 5 * expected @ rotation + 2, atol=1e-8)
    each_changed = [z @ np.linalg.qr(rng.standard_normal((3, 3)))[0] * rng.uniform(0.1, 9) for z in members]
    z = mean_of(members)
    np.testing.assert_allclose(find_moves(each_changed, z, system).apply(z, system), expected, atol=1e-8)


def test_of_large_systems_a_sample_is_searched(monkeypatch):
    members, system = clouds([400, 300], [0.0, 0.5])
    full = moved(members, system)
    monkeypatch.setattr(module, "MAX_SAMPLED_CELLS", 150)
    moves = find_moves(members, mean_of(members), system)
    assert np.bincount(moves.system).tolist() == [150, 150]
    found = moves.apply(mean_of(members), system)
    gap = np.linalg.norm(full[system == 0].mean(0) - full[system == 1].mean(0))
    assert np.linalg.norm(found - full, axis=1).mean() < 0.25
    assert abs(np.linalg.norm(found[system == 0].mean(0) - found[system == 1].mean(0)) - gap) < 0.15


def test_each_cell_moves_on_its_own(monkeypatch):
    members, system = clouds([80, 70], [0.0, 0.5])
    moves, z = find_moves(members, mean_of(members), system), mean_of(members)
    whole = moves.apply(z, system)
    monkeypatch.setattr(module, "CELLS_AT_A_TIME", 7)
    np.testing.assert_allclose(moves.apply(z, system), whole, rtol=1e-12)
    np.testing.assert_allclose(moves.apply(z[::3], system[::3]), whole[::3], rtol=1e-12)
    np.testing.assert_array_equal(moves.apply(z, np.full(150, 9)), z)  # a system without sampled cells


@pytest.mark.parametrize("target", [0, 1])
def test_displacement_is_the_move_without_that_of_the_target_there(target, monkeypatch):
    members, system = clouds([80, 70], [0.0, 0.5])
    z = mean_of(members)
    moves = find_moves(members, z, system)
    after = moves.apply(z, system)
    reached, own = moves.position + moves.move, moves.system == target
    of_target = weights_by_loops(reached[own], after) @ moves.move[own]
    expected = np.where((system == target)[:, None], 0, after - z - of_target)
    found = moves.displacement(z, system, target)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert np.linalg.norm(found[system != target].mean(0)) > 0.1
    monkeypatch.setattr(module, "CELLS_AT_A_TIME", 7)
    np.testing.assert_allclose(moves.displacement(z, system, target), expected, atol=1e-12)


def test_displaced_cells_lie_among_those_of_the_target_in_the_same_place():
    members, system = clouds([300, 300], [0.0, 0.0], noise=0.02)
    for z in members:
        z[:, 2] = 0.1 * z[:, 2] + system
    z = mean_of(members)
    moves = find_moves(members, z, system)
    displaced = z + moves.displacement(z, system, 1)
    gap = np.linalg.norm(z[system == 0].mean(0) - z[system == 1].mean(0))
    assert np.linalg.norm(displaced[system == 0].mean(0) - z[system == 1].mean(0)) < 0.3 * gap


def test_input_is_not_changed_and_bits_do_not_depend_on_threads():
    members, system = clouds([200, 200], [0.0, 0.5])
    copies = [z.copy() for z in members]
    found = []
    for n_threads in (1, 2):
        with threadpool_limits(n_threads):
            found.append(moved(members, system).tobytes())
    assert found[0] == found[1]
    assert all(np.array_equal(z, copy) for z, copy in zip(members, copies, strict=True))


@pytest.mark.parametrize("sizes", [[1, 40], [1, 1], [12, 3]])
def test_systems_of_few_cells(sizes):
    members, system = clouds(sizes, [0.0, 0.5])
    for min_closeness in (0.0, 1.5):
        found = find_moves(members, mean_of(members), system, min_closeness).apply(mean_of(members), system)
        assert np.isfinite(found).all()


def test_cells_in_the_same_place():
    members, system = clouds([50, 50], [0.0, 0.5])
    for z in members:
        z[:40] = z[0]
    found = moved(members, system)
    assert np.isfinite(found).all()
    assert cdist(found[:40], found[:1]).max() < 1e-9


def test_cells_with_few_anchors_hardly_move():
    """Two groups of each system, as far from those of the other: all pairs of one are anchors, few of the other."""
    n, rng = 40, np.random.default_rng(0)
    group = np.repeat([0, 1], n)
    z = {code: np.stack([100.0 * group, 4.0 * code + rng.normal(0, 0.1, 2 * n)], axis=1) for code in (0, 1)}
    pairs = np.zeros((2 * n, 2 * n))
    pairs[:n, :n] = 1
    pairs[np.arange(n, 2 * n), rng.permutation(np.arange(n, 2 * n))] = 1
    anchors = {(0, 1): sp.csr_array(pairs), (1, 0): sp.csr_array(pairs.T)}
    anchors |= {(code, code): sp.csr_array((group[:, None] == group).astype(float)) for code in z}
    smoothing = {code: module._smoothing(x, x) for code, x in z.items()}
    moved = module._move_onto_anchors(z, smoothing, anchors)
    gap = [abs(moved[0][group == g, 1].mean() - moved[1][group == g, 1].mean()) for g in (0, 1)]
    assert gap[0] < 0.5
    assert gap[1] > 2


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_transport_gives_the_covariance_of_the_target(seed, n_latent):
    """The optimal map is the only symmetric positive definite one that does."""
    rng = np.random.default_rng(seed)
    source, target = (
        np.stack([np.cov(rng.standard_normal((n_latent, 3 * n_latent + 2))).reshape(n_latent, -1) for _ in range(4)])
        for _ in range(2)
    )
    found = module._transport(source, target)
    np.testing.assert_allclose(found @ source @ found, target, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found, np.swapaxes(found, 1, 2), atol=1e-8)
    assert (np.linalg.eigvalsh(found) > 0).all()


def test_groups_that_correspond_get_the_same_mean_and_covariance():
    """Within the groups one system varies more in the first direction, the other in the second; their means differ."""
    members, system = clouds([480, 480], [0.0, 0.4], noise=0.02)
    group = np.tile(np.arange(8), 120)
    places = np.stack(np.meshgrid([0, 9], [0, 9], [0, 9]), axis=-1).reshape(8, 3)
    factor = np.where(system[:, None] == 0, [1.0, 0.4, 1.0], [0.4, 1.0, 1.0])
    members = [z * factor + places[group] for z in members]
    for z, bound in ((mean_of(members), [0.8, 2]), (moved(members, system), [0, 0.4])):
        spread = [
            np.mean([z[(system == code) & (group == g)].std(axis=0) for g in range(8)], axis=0) for code in (0, 1)
        ]
        assert bound[0] < abs(np.log(spread[0] / spread[1]))[:2].max() < bound[1]
