"""Several models of the same cells that differ only in their random seeds, combined into one embedding."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from sysvi._core.arguments import row_numbers
from sysvi._core.device import choose_device
from sysvi._core.errors import InputError
from sysvi._core.seeds import generator
from sysvi._core.settings import ModelSettings, TrainSettings, random_seed
from sysvi.api.differential_methods import DifferentialMethodsOfScvi
from sysvi.api.scvi_compat import MethodsOfScvi, NotInSysVI
from sysvi.api.sysvi import SysVI, model_file, posteriors, write_model_folder
from sysvi.data.cells import Cells, Vocabulary
from sysvi.data.columns import Columns
from sysvi.model.agreement import neighbor_agreement
from sysvi.model.anchors import Moves, find_moves
from sysvi.model.checkpoint import corruption_as_input_error, holds_ensemble, load_ensemble, save_ensemble
from sysvi.model.combination import Combination, combine

# How close anchors must be: among several systems there is more often a cell that is near by mistake (docs/trust.md).
CLOSENESS_OF_TWO = 1.35
CLOSENESS_OF_SEVERAL = 1.65
WORST_FIRST = ("failed", "interrupted", "stopped_early", "finished")  # status of an ensemble: the worst of its members


class Ensemble(DifferentialMethodsOfScvi, MethodsOfScvi):
    """Models of the same cells with different random seeds, combined into one embedding.

    The embedding is made of the principal components of the members' embeddings side by side
    (:func:`sysvi.model.combination.combine`). What a single model learns by chance, such as a cell type of one system
    that lies among the cells of another type, differs between seeds and has little weight; what all members learn is
    kept. Then the systems are moved onto each other around
    those cells that correspond in most members (:func:`sysvi.model.anchors.find_moves`). :func:`sysvi.integrate` makes
    ensembles, and :func:`sysvi.load` reads them.

    Parameters
    ----------
    members
        At least two trained models of the same cells with the same settings of the model.
    seed
        Random seed of samples of the embedding; :func:`sysvi.integrate` also makes the seeds of the members from it.
    combination
        The map of the members' embeddings onto the common one; by default computed from their cells.
    moves
        How the systems are moved onto each other there; by default computed from the cells of the members.
    status
        How training ended; by default the worst status of the members.
    agreement
        Share of neighbours that each two members have in common, (members, members); computed with `combination`.

    Attributes
    ----------
    members
        The models, a tuple of :class:`sysvi.SysVI`.
    combination
        The map of the members' embeddings onto the common one.
    moves
        Where and how far the systems are moved onto each other.
    agreement
        Share of neighbours that each two members have in common; None for ensembles of earlier versions.
    adata, columns, vocabulary, model_settings, train_settings
        As in :class:`sysvi.SysVI`; all members have them in common (but each has a seed of its own).
    status
        How training ended: ``"failed"``, ``"interrupted"``, ``"stopped_early"`` or ``"finished"``.

    Raises
    ------
    InputError
        If there are fewer than two members, one is not trained, or they differ in genes, systems, columns or settings
        of the model.

    Examples
    --------
    >>> import sysvi
    >>> adata = sysvi.prepare(sysvi.datasets.simulate_systems(300, 200, seed=1), "system", "batch", min_cells=3)
    >>> model = sysvi.integrate(adata, "system", "batch", members=2, max_epochs=2, progress=False)
    >>> model
    Ensemble of 2 members: SysVI: ...
    >>> model.get_latent_representation().shape
    (300, 15)
    """

    def __init__(
        self,
        members: Sequence[SysVI],
        seed: int = 0,
        combination: Combination | None = None,
        moves: Moves | None = None,
        status: str | None = None,
        agreement: np.ndarray | None = None,
    ):
        if len(members) < 2:
            raise InputError("An ensemble has at least two members: for one, use the model itself.")
        if not all(member.is_trained for member in members):
            raise InputError("All members of an ensemble must be trained.")
        if any(_common_parts(member) != _common_parts(members[0]) for member in members):
            raise InputError("Members of an ensemble must have the same genes, systems, columns and model settings.")
        self.members, self.seed = tuple(members), random_seed(seed)
        first = self.members[0]
        self.columns: Columns = first.columns
        self.vocabulary: Vocabulary = first.vocabulary
        self.model_settings: ModelSettings = first.model_settings
        self.train_settings: TrainSettings | None = first.train_settings
        self.kernels: dict[str, Any] | None = first.kernels
        if combination is None or moves is None:
            embeddings = self.member_embeddings()
            if combination is None:
                combination, agreement = combine(embeddings), neighbor_agreement(embeddings)
            if moves is None:
                cells = first.cells_of(None)
                combined = combination.apply(embeddings)
                moves = find_moves(embeddings, combined, _systems(cells), closeness_of(cells.n_systems))
        self.combination, self.moves, self.agreement = combination, moves, agreement
        self.status = status or min((member.status for member in members), key=WORST_FIRST.index)

    def __repr__(self) -> str:
        return f"Ensemble of {len(self.members)} members: {self.members[0]!r}"

    @property
    def adata(self) -> AnnData | None:
        """The data of the members; None for an ensemble that was loaded without data."""
        return self.members[0].adata

    @property
    def is_trained(self) -> bool:
        """Always True: the members are."""
        return True

    @property
    def history(self) -> dict[str, pd.DataFrame]:
        """Loss terms per epoch, as in :class:`sysvi.SysVI`, with a column for each member."""
        histories = [member.history for member in self.members]
        return {
            name: pd.concat([history[name] for history in histories], axis=1).set_axis(
                [f"{name} of member {i}" for i in range(len(histories))], axis=1
            )
            for name in histories[0]
        }

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.members[0].device

    def to_device(self, device: str | torch.device) -> None:
        """Move all members and the data to a device, named as in :func:`sysvi.integrate`."""
        chosen = choose_device(device)
        for member in self.members:
            member.to_device(chosen)

    load_query_data = NotInSysVI("map new cells onto an ensemble with sysvi.map_query")
    prepare_query_anndata = NotInSysVI("sysvi.map_query takes new cells as they come")
    get_normalized_expression = NotInSysVI("sysvi.translate decodes with all members of an ensemble")

    # -- results ------------------------------------------------------------------------------------------------------

    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        give_mean: bool = True,
        *,
        batch_size: int | None = None,
        return_dist: bool = False,
        seed: int | None = None,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Embed cells: the members' embeddings are combined, and the systems moved onto each other.

        Parameters
        ----------
        adata
            Cells with the model's genes and known systems and categories; the model's own by default.
        indices
            Rows to embed; all by default.
        give_mean
            Use the mean of each member's q(z | x, c); False: a sample of it.
        batch_size
            Number of cells to encode at a time; by default chosen for the device.
        return_dist
            Return mean and variance of the combined embedding, in which the members are independent. The move of a cell
            counts as fixed.
        seed
            Random seed of the samples; by default the ensemble's.

        Returns
        -------
        numpy.ndarray
            Embedding, float32, cells x latent dimensions; with `return_dist` mean and variance, each of this shape.

        Raises
        ------
        InputError
            If `adata` lacks genes or has systems or categories that the model does not know.
        """
        cells = self.members[0].cells_of(adata)
        rows = row_numbers(indices, cells.n_cells)
        distributions = self._distributions(cells, rows, batch_size)
        means, system = [mean for mean, _ in distributions], _systems(cells)[rows]
        if return_dist:
            squared = np.square(self.combination.matrix)  # the variance of z A in each dimension is var(z) A²
            parts = [var.astype(np.float64) @ a for (_, var), a in zip(distributions, squared, strict=True)]
            return self.combine(means, system), np.sum(parts, axis=0).astype(np.float32)
        if give_mean:
            return self.combine(means, system)
        noise = generator(self.seed if seed is None else seed, "sample")
        samples = [
            mean + np.sqrt(var) * torch.randn(mean.shape, generator=noise).numpy() for mean, var in distributions
        ]
        # A sample moves as its mean does, so that the mean and variance of `return_dist` are those of the samples.
        combined = self.combination.apply(means)
        move = self.moves.apply(combined, system) - combined
        return (self.combination.apply(samples) + move).astype(np.float32)

    def member_embeddings(self) -> list[np.ndarray]:
        """Each member's embedding of its own cells in its own latent space: float32, cells x latent dimensions."""
        cells = self.members[0].cells_of(None)
        return [mean for mean, _ in self._distributions(cells, np.arange(cells.n_cells), None)]

    def combine(self, embeddings: Sequence[np.ndarray], system: np.ndarray | None = None) -> np.ndarray:
        """One embedding, float32, from those of the members in their own latent spaces, cells x latent dimensions.

        `system` has the codes of the cells' systems; by default the cells are the model's own.
        """
        codes = _systems(self.members[0].cells_of(None)) if system is None else system
        return self.moves.apply(self.combination.apply(embeddings), codes).astype(np.float32)

    def as_of_system(self, embeddings: Sequence[np.ndarray], system: np.ndarray, target: int) -> list[np.ndarray]:
        """Members' embeddings, M arrays (n, L), of cells of the system `target` with the same combined embedding.

        Systems are moved onto each other after the members are combined; this is what the move of the cells, with codes
        `system`, (n,), and of the target system is in the members.
        """
        gap = self.moves.displacement(self.combination.apply(embeddings), system, target)
        parts = self.combination.spread(gap)
        return [z + part.astype(np.float32) for z, part in zip(embeddings, parts, strict=True)]

    def _distributions(
        self, cells: Cells, rows: np.ndarray, batch_size: int | None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Mean and variance of q(z | x, c) of each member."""
        return [(mean.numpy(), var.numpy()) for mean, var in posteriors(self.members, cells, rows, batch_size)]

    def record(self) -> dict[str, str]:
        """How the ensemble was made, as JSON strings: as of a single model, and seeds and losses of all members."""
        seeds = [member.seed for member in self.members]
        losses = [json.loads(member.record()["losses"])[0] for member in self.members]
        own = {"seed": self.seed, "status": self.status, "members": len(seeds), "member_seeds": seeds, "losses": losses}
        own["agreement"] = None if self.agreement is None else self.agreement.round(4).tolist()
        return self.members[0].record() | {name: json.dumps(value) for name, value in own.items()}

    def extended(self, members: Sequence[SysVI]) -> Ensemble:
        """The ensemble of the extended members: combined alike, with new systems moved onto the reference's.

        `members` are those of :meth:`sysvi.SysVI.extend`, trained, whose own cells are the query.
        """
        known, moves = len(self.vocabulary.systems), self.moves
        cells = members[0].cells_of(None)
        if cells.n_systems > known:
            distributions = posteriors(members, cells, np.arange(cells.n_cells), None)
            embeddings, system = [mean.numpy() for mean, _ in distributions], _systems(cells)
            combined = self.combination.apply(embeddings)
            for code in range(known, cells.n_systems):
                new = system == code
                moves = moves.extend([z[new] for z in embeddings], combined[new], code, CLOSENESS_OF_SEVERAL)
        return Ensemble(members, self.seed, self.combination, moves, agreement=self.agreement)

    # -- saving -------------------------------------------------------------------------------------------------------

    def save(
        self, dir_path: str | Path, prefix: str | None = None, overwrite: bool = False, save_anndata: bool = False
    ) -> None:
        """Save all members and how they are combined as one file, ``dir_path/model.safetensors``.

        Parameters
        ----------
        dir_path, prefix, overwrite, save_anndata
            As in :meth:`sysvi.SysVI.save`.

        Raises
        ------
        InputError
            If the folder holds a model already, or cannot be written.
        """
        members = [member.checkpoint() for member in self.members]

        def write(path: Path) -> None:
            save_ensemble(
                path, members, self.combination, self.moves, self.seed, self.status, self.agreement, overwrite
            )

        write_model_folder(dir_path, write, overwrite, self.adata, save_anndata, prefix)


def load(
    dir_path: str | Path,
    adata: AnnData | None = None,
    accelerator: str = "auto",
    device: str | int | None = None,
    prefix: str | None = None,
) -> SysVI | Ensemble:
    """Load a saved model, single or an ensemble. Opening the file never executes code.

    Parameters
    ----------
    dir_path
        Folder in which the model was saved, or the file itself.
    adata
        Data to embed, as in :meth:`sysvi.SysVI.load`. Without data, the model embeds the cells that are passed to
        ``get_latent_representation``.
    accelerator, device
        Device of the model: ``"auto"``, ``"cpu"``, ``"cuda"``, ... or the number of a CUDA device.
    prefix
        Prefix of the file names, as in the model's ``save``.

    Returns
    -------
    SysVI or Ensemble
        What was saved.

    Raises
    ------
    InputError
        If the file is missing, damaged or not a sysVI model, or `adata` does not fit the model.

    Examples
    --------
    >>> import sysvi, tempfile
    >>> adata = sysvi.prepare(sysvi.datasets.simulate_systems(300, 200, seed=1), "system", "batch", min_cells=3)
    >>> model = sysvi.integrate(adata, "system", "batch", members=2, max_epochs=2, progress=False)
    >>> folder = tempfile.mkdtemp()
    >>> model.save(folder)
    >>> bool((sysvi.load(folder).get_latent_representation(adata) == adata.obsm["X_sysVI"]).all())
    True
    """
    path = model_file(dir_path, prefix)
    if not holds_ensemble(path):
        return SysVI.load(path, adata, accelerator, device)
    saved = load_ensemble(path)
    with corruption_as_input_error(path):
        members = [SysVI.from_checkpoint(member) for member in saved.members]
    for member in members:  # they share the cells
        member.attach(adata, members[0].cells, accelerator, device)
    with corruption_as_input_error(path):
        return Ensemble(members, saved.seed, saved.combination, saved.moves, saved.status, saved.agreement)


def closeness_of(n_systems: int) -> float:
    """How close anchors must be by default when so many systems are moved onto each other."""
    return CLOSENESS_OF_TWO if n_systems == 2 else CLOSENESS_OF_SEVERAL


def _systems(cells: Cells) -> np.ndarray:
    """Codes of the systems of cells, (n,)."""
    return cells.covariates.system.cpu().numpy()


def _common_parts(member: SysVI) -> tuple[Vocabulary, Columns, ModelSettings]:
    """What all members of an ensemble have in common."""
    return member.vocabulary, member.columns, member.model_settings
