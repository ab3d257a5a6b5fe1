"""Extending a model by systems and categories: weights written out by hand, and the same outputs for what is known."""

import numpy as np
import pytest
import torch

from sysvi._core.settings import ModelSettings
from sysvi.data.cells import Covariates, Vocabulary
from sysvi.model.cvae import Model
from sysvi.model.extension import decode_prior_samples, extend, find_starts

GENES = tuple("abcdef")
KNOWN = Vocabulary(GENES, "system", ("s1", "s2"), {"batch": ("b1", "b2", "b3"), "sex": ("f", "m")}, {"age": (0.0, 1.0)})
N_CELLS = np.array([[5, 7, 0], [0, 0, 9]]), np.array([[6, 6], [9, 0]])


def make(embed, **settings):
    settings = ModelSettings(n_hidden=8, n_latent=3, embed_categorical_covariates=embed, embedding_dim=2, **settings)
    model = Model.of_vocabulary(settings, KNOWN, torch.Generator().manual_seed(0))
    for i, tensor in enumerate(model.state_dict().values()):
        tensor.copy_(torch.rand(tensor.shape, generator=torch.Generator().manual_seed(i)) + 0.1)
    return model


def test_starts():
    """Of the batches b4 (in s1), b5 (in s2 and s3) and b6 (in s3), b4 has few cells; s3 is new."""
    batch = np.array([[1, 0, 0, 4, 0, 0], [0, 0, 0, 0, 20, 0], [0, 0, 0, 0, 2, 10]])
    sex = np.array([[5, 0], [10, 10], [6, 6]])
    systems, batches, sexes = find_starts(2, N_CELLS, [batch, sex], np.array([5, 20, 12]))
    np.testing.assert_allclose(systems.start, [[0.5, 0.5]])
    np.testing.assert_allclose(batches.start, [[0.5, 0.5, 0], [0, 0, 1], [1 / 3, 1 / 3, 1 / 3]])
    assert batches.trained.tolist() == [False, True, True]
    assert systems.trained.tolist() == [True]
    assert sexes.start.shape == (0, 2)


@pytest.mark.parametrize("embed", [False, True])
@pytest.mark.parametrize("variance", ["feature", "sample_feature"])
@pytest.mark.parametrize("in_hidden", [True, False])
def test_known_covariates_give_the_same_and_new_ones_the_mean(embed, variance, in_hidden):
    """A new batch of s1 starts at the mean of b1 and b2, and so does all that is linear in the covariates."""
    model = make(embed, out_var_mode=variance, covariates_in_hidden=in_hidden)
    vocabulary = KNOWN.extend(["s3"], {"batch": ["b4", "b5"]})
    counts = np.array([[0, 0, 0, 20, 0], [0] * 5, [0, 0, 0, 0, 30]]), np.array([[20, 0], [0, 0], [30, 0]])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    extended, new_weights = extend(model, vocabulary, find_starts(2, N_CELLS, counts, np.array([20, 0, 30])))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    def covariates(system, batch):
        n = len(system)
        return Covariates(torch.tensor(system), torch.tensor([batch, [0, 1] * (n // 2)]).T, torch.ones(n, 1))

    x = torch.rand(4, 6, generator=torch.Generator().manual_seed(5))
    known = covariates([0, 1, 1, 0], [0, 1, 2, 0])
    with torch.no_grad():
        for a, b in zip(model.encoder(x, model.code(known)), extended.encoder(x, extended.code(known)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        z = torch.rand(4, 3, generator=torch.Generator().manual_seed(6))
        decoded = [m.mean(m.decoder(z, m.code(known)), known.system) for m in (model, extended)]
        torch.testing.assert_close(*decoded, rtol=1e-6, atol=1e-6)

        def linear(m, system, batch):
            """Everything that is linear in the covariates."""
            c = m.code(covariates(system, batch))
            layers = [*m.encoder.layers, *m.decoder.layers]
            heads = [head for name, head in m.likelihood.named_children() if name.endswith("head")]
            return torch.cat(
                [c @ w.cov_weight if len(w.cov_weight) else torch.zeros(2, 8) for w in layers]
                + [c @ h.weight[:, 8:].T for h in heads],
                1,
            )

        mean = (linear(model, [0, 0], [0, 0]) + linear(model, [0, 0], [1, 1])) / 2
        torch.testing.assert_close(linear(extended, [0, 0], [3, 3]), mean)
        everywhere = [linear(model, [s, s], [b, b]) for s in (0, 1) for b in (0, 1, 2)]
        torch.testing.assert_close(linear(extended, [2, 2], [4, 4]), sum(everywhere) / 6)
    assert not extended.prior.c[:, 2].any()  # the column of s3
    n_trained = {name: int(mask.sum()) for name, mask in new_weights.items()}
    assert ("code.tables.0" in n_trained) == embed
    assert n_trained.pop("code.tables.0", 2) == 2
    assert set(n_trained.values()) == ({1} if embed else {3})
    assert "prior.c" not in n_trained


def test_cells_are_decoded_for_each_known_system_with_its_categories():
    cells = decode_prior_samples(make(False), N_CELLS, 500, 3, torch.Generator().manual_seed(0))
    system, batch = cells.covariates.system.numpy(), cells.covariates.categorical[:, 0].numpy()
    assert np.bincount(system).tolist() == [500, 500]
    assert set(batch[system == 0]) == {0, 1}
    assert (batch[system == 1] == 2).all()
    assert abs((batch[system == 0] == 1).mean() - 7 / 12) < 0.1
    assert cells.n_systems == 3
    assert cells.x.min() >= 0
