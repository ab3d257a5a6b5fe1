"""The model of the specification in plain float64 NumPy, to check the engine against.

Written from the formulae, for clarity and not for speed; shares no code with `sysvi`. `p` is a state_dict as float64
arrays. Shapes: n cells, G genes, H hidden units, L latent dimensions, C covariate width, K components, S systems.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np


def arrays(state):
    """A state_dict (or any mapping of tensors) as float64 arrays."""
    return {name: tensor.detach().cpu().numpy().astype(np.float64) for name, tensor in state.items()}


# -- networks ---------------------------------------------------------------------------------------------------------


def one_hot(codes, n):
    """(n cells,) -> (n cells, n); a code of -1 is no category: zeros."""
    return np.array([[float(code == j) for j in range(n)] for code in codes]).reshape(len(codes), n)


def covariate_code(p, covariates, n_systems, n_categories):
    """The vector c of each cell: one-hot system | one-hot or embedded categories | continuous values."""
    parts = [one_hot(covariates.system, n_systems)]
    for j, n in enumerate(n_categories):
        category = one_hot(covariates.categorical[:, j], n)
        table = p.get(f"code.tables.{j}")
        parts.append(category if table is None else category @ table)
    return np.concatenate([*parts, covariates.continuous], axis=1)


def layer(p, name, x, c, training, momentum=0.01):
    """relu(batchnorm([x, c] [W; U] + b)): covariates are further inputs of the layer.

    In training, also moves the running statistics in `p` towards those of the minibatch.
    """
    if not len(p[f"{name}.cov_weight"]):  # a decoder without covariates_in_hidden
        c = c[:, :0]
    h = np.concatenate([x, c], 1) @ np.concatenate([p[f"{name}.weight"], p[f"{name}.cov_weight"]])
    h = h + p[f"{name}.bias"]
    mean, var = p[f"{name}.running_mean"], p[f"{name}.running_var"]
    if training:
        p[f"{name}.running_mean"] = (1 - momentum) * mean + momentum * h.mean(0)
        p[f"{name}.running_var"] = (1 - momentum) * var + momentum * h.var(0, ddof=1)
        mean, var = h.mean(0), h.var(0)
    normalised = (h - mean) / np.sqrt(var + 1e-3)
    return np.maximum(normalised * p[f"{name}.scale"] + p[f"{name}.shift"], 0)


def mlp(p, name, x, c, **mode):
    """All layers of `name`, the covariates given to each."""
    depth = 0
    while f"{name}.layers.{depth}.weight" in p:
        x = layer(p, f"{name}.layers.{depth}", x, c, **mode)
        depth += 1
    return x


def linear(p, name, x):
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def variance(log_var):
    return np.exp(log_var) + 1e-4


def encode(p, x, c, **mode):
    """Mean and variance of q(z | x, c), each (n, L)."""
    h = mlp(p, "encoder", x, c, **mode)
    mean, log_var = np.split(linear(p, "encoder.head", h), 2, axis=1)
    return mean, variance(log_var)


def decode(p, z, c, **mode):
    """Mean (n, G) and variance (n, G) of p(x | z, c)."""
    h = mlp(p, "decoder", z, c, **mode)
    if p["likelihood.head.weight"].shape[1] > h.shape[1]:  # covariates_in_mean
        h = np.concatenate([h, c], 1)
    mean = linear(p, "likelihood.head", h)
    per_gene = "likelihood.log_var" in p
    log_var = p["likelihood.log_var"] + 0 * mean if per_gene else linear(p, "likelihood.log_var_head", h)
    return mean, variance(log_var)


# -- loss terms, one value per cell -----------------------------------------------------------------------------------


def normal_log_pdf(x, mean, var):
    return -np.log(np.sqrt(2 * np.pi * var)) - (x - mean) ** 2 / (2 * var)


def gaussian_nll(x, mean, var, own=1.0):
    """-log p(x | z, c), summed over the genes that a cell's system has, 1 in `own` (n, G), others 0: (n,)."""
    return -(own * normal_log_pdf(x, mean, var)).sum(1)


def kl_standard_normal(mean, var):
    """KL(N(mean, diag var) || N(0, I)): (n,)."""
    return (var + mean**2 - 1 - np.log(var)).sum(1) / 2


def mixture_log_pdf(z, means, variances, logits, form):
    """log p(z) of a mixture of diagonal Gaussians, mixed in each dimension alone or jointly: (n,)."""
    log_w = logits - np.logaddexp.reduce(logits)
    result = np.empty(len(z))
    for i, zi in enumerate(z):
        log_pdf = normal_log_pdf(zi, means, variances)  # (K, L)
        if form == "joint":
            result[i] = np.logaddexp.reduce(log_w + log_pdf.sum(1))
        else:
            result[i] = sum(np.logaddexp.reduce(log_w + log_pdf[:, d]) for d in range(len(zi)))
    return result


def kl_mixture(z, mean, var, means, variances, logits, form):
    """One-sample estimate of KL(q || mixture) at z: (n,)."""
    return normal_log_pdf(z, mean, var).sum(1) - mixture_log_pdf(z, means, variances, logits, form)


def cycle_distance(z, z_cycled):
    """Squared distance after standardising both with mean and std of their concatenation: (n,)."""
    both = np.concatenate([z, z_cycled])
    mean, std = both.mean(0), both.std(0, ddof=1)
    return (((z - mean) / std - (z_cycled - mean) / std) ** 2).sum(1)


def discriminator_log_probabilities(p, z):
    """Log-probability of each system, (n, S)."""
    logits = linear(p, "logits", np.maximum(linear(p, "hidden", z), 0))
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def adversary(log_p, system):
    """Cross-entropy to the uniform distribution over systems (fooling), and to the true system: (n,) each."""
    return -log_p.sum(1) / log_p.shape[1], np.array([-log_p[i, own] for i, own in enumerate(system)])


def ramp(progress, value, start, end):
    """Loss weight: 0 before `start`, linear to `value` at `end`."""
    return value if start == end and progress >= end else float(np.interp(progress, [start, end], [0, value]))


# -- the whole loss ---------------------------------------------------------------------------------------------------


def kl(p, settings, z, mean, var):
    """The KL term of each cell for the prior of `settings`: (n,)."""
    if settings.prior == "standard_normal":
        return kl_standard_normal(mean, var)
    if settings.prior == "vamp":
        components = encode(p, p["prior.x"], p["prior.c"], training=False)
    else:
        components = p["prior.mean"], variance(p["prior.log_var"])
    return kl_mixture(z, mean, var, *components, p["prior.logits"], settings.mixture)


def losses(p, settings, batch, weights, eps, n_systems, n_categories, discriminator=None, own_genes=None, **mode):
    """Loss terms of a minibatch (arrays): z = mean + sd * eps.

    `own_genes`, (S, G): whether each system has each gene; all have all by default.

    `weights`: reconstruction, kl, cycle, adversary; share of the prior in the divergence, the rest is N(0, I)'s.
    In training, the VampPrior's components see the running statistics after all passes of this minibatch, with which
    `p` is left.
    """
    w = np.ones(len(batch.x)) if batch.weight is None else batch.weight
    c, c_swapped = (
        covariate_code(p, cov, n_systems, n_categories) for cov in (batch.covariates, batch.swapped_covariates)
    )
    own = np.ones((n_systems, batch.x.shape[1])) if own_genes is None else own_genes.astype(float)
    mean, var = encode(p, batch.x, c, **mode)
    z = mean + np.sqrt(var) * eps
    terms = SimpleNamespace(
        reconstruction=np.mean(w * gaussian_nll(batch.x, *decode(p, z, c, **mode), own[batch.covariates.system])),
        kl=0.0,
        cycle=0.0,
        adversary=0.0,
        discriminator=0.0,
    )
    if weights[2]:
        translated, _ = decode(p, z, c_swapped, **mode)
        mean_cycled, _ = encode(p, own[batch.swapped_covariates.system] * translated, c_swapped, **mode)
        terms.cycle = np.mean(w * cycle_distance(mean, mean_cycled))
    of_prior = kl(p, settings, z, mean, var)
    terms.kl = np.mean(w * (weights[4] * of_prior + (1 - weights[4]) * kl_standard_normal(mean, var)))
    if discriminator is not None:
        log_p = discriminator_log_probabilities(discriminator, z)
        terms.adversary, terms.discriminator = (np.mean(w * term) for term in adversary(log_p, batch.covariates.system))
    weighted = [terms.reconstruction, terms.kl, terms.cycle, terms.adversary]
    terms.total = float(np.dot(weights[:4], weighted)) + terms.discriminator
    return terms
