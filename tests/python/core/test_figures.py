import warnings

import numpy as np
import pytest
from scipy.sparse import SparseEfficiencyWarning

from sysvi._core.errors import InputError
from sysvi._core.figures import palette, save_figure, umap


def test_only_warnings_that_say_nothing_about_the_figure_are_hidden(monkeypatch):
    import scanpy as sc

    def fake_umap(adata, random_state):
        warnings.warn("Graph is not fully connected, spectral embedding may not work as expected.", stacklevel=2)
        warnings.warn("n_neighbors is larger than the number of cells", stacklevel=2)
        adata.obsm["X_umap"] = np.full((adata.n_obs, 2), random_state)

    def fake_neighbors(*args, **kwargs):
        warnings.warn("Changing the sparsity structure of a matrix", SparseEfficiencyWarning, stacklevel=2)

    monkeypatch.setattr(sc.pp, "neighbors", fake_neighbors)
    monkeypatch.setattr(sc.tl, "umap", fake_umap)
    with pytest.warns(UserWarning, match="n_neighbors is larger") as shown:
        assert umap(np.zeros((5, 3)), seed=4).tolist() == [[4, 4]] * 5
    assert [str(warning.message) for warning in shown] == ["n_neighbors is larger than the number of cells"]


@pytest.mark.parametrize("n", [1, 10, 11, 20, 21, 60])
def test_colours_are_distinct(n):
    assert len(np.unique(palette(n), axis=0)) == n


def test_unknown_format_is_refused(tmp_path):
    from matplotlib.figure import Figure

    with pytest.raises(InputError, match=r"cells\.doc: matplotlib does not write \.doc files; use \.png"):
        save_figure(Figure(), tmp_path / "cells.doc")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_dollar_signs_begin_no_formula(tmp_path, kind):
    from matplotlib.figure import Figure

    name = r"CD4 $\notacommand{$"
    figure = Figure(layout="constrained")
    ax = figure.subplots()
    ax.plot([0, 1], label=name)
    ax.text(0, 0, name)
    ax.annotate(name, (0, 0))
    ax.set(title=name, xlabel=name, yticks=[0, 1], yticklabels=[name, "b"])
    ax.legend(title=name)
    save_figure(figure, tmp_path / f"figure.{kind}")
    assert (tmp_path / f"figure.{kind}").stat().st_size


def test_dollar_signs_in_ticks_that_are_made_while_drawing(tmp_path):
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedFormatter, FixedLocator

    ax = (figure := Figure()).subplots()
    ax.xaxis.set_major_locator(FixedLocator(list(range(30))))
    ax.xaxis.set_major_formatter(FixedFormatter([r"$\nothing{$"] * 30))
    ax.plot(range(30))
    save_figure(figure, tmp_path / "figure.png")
