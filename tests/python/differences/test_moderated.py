"""Moderated t-tests against limma, formulae written out, and SciPy."""

import numpy as np
import pytest
from scipy import integrate, optimize, special, stats

from sysvi.differences.moderated import inverse_trigamma, moderate, usual_variance


def example(n_genes):
    """Values of 3 and 4 donors by formulae, which R computes too, and the level of each gene."""
    gene, donor = np.arange(1, n_genes + 1), np.arange(1, 8)[:, None]
    level = np.cos(gene)
    scale = np.exp(0.5 * level + 0.6 * np.sin(3 * gene))
    values = scale * np.sin(gene * donor**2 + donor) + np.where((donor > 3) & (gene % 5 == 0), 0.8, 0.0)
    return values[:3], values[3:], level


def test_limma_gives_the_same():
    """R, limma 3.54.1: eBayes(contrasts.fit(lmFit(y, design), c(-1, 1)), trend = level), and without trend."""
    fit = moderate(*example(60))
    genes = [0, 4, 29, 59]
    assert fit.df == pytest.approx(8.15531469223)
    t = [-0.695456988257, 1.64486531642, 1.08994569485, 3.2326184641]
    p = [0.506099269008, 0.137897869117, 0.306891873831, 0.0117049675272]
    np.testing.assert_allclose(fit.t((-1, 1))[genes], t, rtol=1e-9)
    np.testing.assert_allclose(fit.two_sided_p((-1, 1))[genes], p, rtol=1e-9)
    few = moderate(*example(20))  # too few genes for a trend
    assert few.df == pytest.approx(7.35263862524)
    np.testing.assert_allclose(few.t((-1, 1))[[0, 4, 19]], [-0.730072771962, 1.66910743834, 0.762379866024], rtol=1e-9)
    np.testing.assert_allclose(
        few.two_sided_p((-1, 1))[[0, 4, 19]], [0.487949654763, 0.136967460499, 0.469580098419], rtol=1e-9
    )


def test_formulae_written_out():
    first, second, level = example(20)
    fit = moderate(first, second, level)
    variance = (first.var(axis=0, ddof=1) * 2 + second.var(axis=0, ddof=1) * 3) / 5
    log_f = np.log(variance) - special.psi(2.5) + np.log(2.5)
    spread = log_f.var(ddof=1) - special.polygamma(1, 2.5)
    df_prior = 2 * optimize.brentq(lambda x: special.polygamma(1, x) - spread, 0.01, 100)
    usual = np.exp(log_f.mean() + special.psi(df_prior / 2) - np.log(df_prior / 2))
    moderated = (df_prior * usual + 5 * variance) / (df_prior + 5)
    np.testing.assert_allclose(fit.variance, moderated, rtol=1e-8)
    difference = second.mean(axis=0) - first.mean(axis=0)
    t = difference / np.sqrt(moderated * (1 / 3 + 1 / 4))
    density = stats.t(df_prior + 5).pdf
    p = [2 * integrate.quad(density, abs(value), np.inf)[0] for value in t]
    np.testing.assert_allclose(fit.two_sided_p((-1, 1)), p, rtol=1e-6)
    in_first = first.mean(axis=0) / np.sqrt(moderated / 3)
    np.testing.assert_allclose(fit.one_sided_p((1, 0)), stats.t.sf(in_first, df_prior + 5), rtol=1e-8)


def example_weights():
    """Weights of the example's donors and genes, which R computes too."""
    gene, donor = np.arange(1, 61), np.arange(1, 8)[:, None]
    weights = 1 + 0.8 * np.sin(2 * gene + 3 * donor)
    return weights[:3], weights[3:]


def test_limma_gives_the_same_with_weights():
    """R, limma 3.62.2: the same, of lmFit(y, design, weights = w), by the code below.

    gene <- 1:60; donor <- 1:7
    level <- cos(gene); scale <- exp(0.5 * level + 0.6 * sin(3 * gene))
    y <- scale * sin(outer(gene, donor^2) + rep(donor, each = 60)) + 0.8 * outer(gene %% 5 == 0, donor > 3)
    w <- 1 + 0.8 * sin(outer(2 * gene, 3 * donor, "+"))
    design <- model.matrix(~ 0 + factor(donor > 3))
    fit <- limma::eBayes(limma::contrasts.fit(limma::lmFit(y, design, weights = w), c(-1, 1)), trend = level)
    print(fit$t[c(1, 5, 30, 60)], digits = 12); print(fit$p.value[c(1, 5, 30, 60)], digits = 12)
    print(fit$df.total[1], digits = 12)
    """
    fit = moderate(*example(60), weights=example_weights())
    genes = [0, 4, 29, 59]
    assert fit.df == pytest.approx(7.84401412154)
    np.testing.assert_allclose(
        fit.t((-1, 1))[genes], [0.148963182440, 1.675215392379, 0.681046978562, 3.546005509098], rtol=1e-9
    )
    np.testing.assert_allclose(
        fit.two_sided_p((-1, 1))[genes],
        [0.88534108596513, 0.13317275792300, 0.51543921732469, 0.00779819784142],
        rtol=1e-9,
    )


def test_only_the_ratio_of_weights_matters():
    first, second, level = example(60)
    weights = example_weights()
    fit = moderate(first, second, level, weights)
    scaled = moderate(first, second, level, tuple(7 * w for w in weights))
    np.testing.assert_allclose(scaled.two_sided_p((-1, 1)), fit.two_sided_p((-1, 1)), rtol=1e-9)
    ones = moderate(first, second, level, tuple(np.ones_like(w) for w in weights))
    np.testing.assert_allclose(ones.t((-1, 1)), moderate(first, second, level).t((-1, 1)), rtol=1e-12)


def test_one_gene_is_the_usual_t_test():
    first, second, level = (array[..., :1] for array in example(20))
    fit = moderate(first, second, level)
    expected = stats.ttest_ind(second[:, 0], first[:, 0])
    np.testing.assert_allclose(fit.t((-1, 1))[0], expected.statistic)
    np.testing.assert_allclose(fit.two_sided_p((-1, 1))[0], expected.pvalue)


def test_prior_is_recovered_from_its_own_variances():
    """Variances drawn as the model says: F-distributed around a value that depends on the level."""
    rng = np.random.default_rng(0)
    level = rng.uniform(0, 3, 20_000)
    expected = np.exp(1 - level)
    usual, df_prior = usual_variance(expected * rng.f(4, 9, level.size), 4, level)
    assert df_prior == pytest.approx(9, rel=0.1)
    np.testing.assert_allclose(usual, expected, rtol=0.1)
    equal = expected * rng.chisquare(4, level.size) / 4  # no spread but that of four degrees of freedom
    _, df_prior = usual_variance(equal, 4, level)
    assert df_prior > 100


def test_p_values_are_uniform_without_a_difference():
    rng = np.random.default_rng(1)
    level = rng.normal(size=20_000)
    scale = np.sqrt(np.exp(0.5 * level) / rng.gamma(3, 1 / 3, level.size))
    p = moderate(scale * rng.normal(size=(3, level.size)), scale * rng.normal(size=(2, level.size)), level)
    for share in (0.001, 0.01, 0.1, 0.5):
        n_below = (p.two_sided_p((-1, 1)) < share).sum()
        assert stats.binomtest(int(n_below), level.size, share).pvalue > 1e-3


def test_variances_of_zero_are_raised():
    first, second, level = example(60)
    first[:, 7], second[:, 7] = 1.0, 3.0
    assert np.isfinite(moderate(first, second, level).two_sided_p((-1, 1))).all()
    zero = np.zeros((3, 5))
    np.testing.assert_array_equal(moderate(zero, zero, np.arange(5.0)).two_sided_p((-1, 1)), 1)


@pytest.mark.parametrize("y", [1e-6, 0.01, 0.7, 3.0, 1e4])
def test_inverse_trigamma(y):
    assert special.polygamma(1, inverse_trigamma(y)) == pytest.approx(y, rel=1e-9)
