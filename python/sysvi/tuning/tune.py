"""Choose the integration strength: train models with several weights and seeds, measure and compare them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from sysvi._core.arguments import check_types
from sysvi._core.checks import check_finite_nonnegative, check_obs_column, get_expression, get_obs_column
from sysvi._core.errors import InputError
from sysvi._core.events import Event, OnEvent
from sysvi._core.files import check_folder, create_folder, locked_folder
from sysvi._core.fingerprint import fingerprint
from sysvi._core.progress import as_callback
from sysvi._core.settings import DEFAULT_PRESET, ModelSettings, TrainSettings, whole_number
from sysvi._version import __version__
from sysvi.api.arguments import fill_in, split_settings
from sysvi.api.ensemble import Ensemble
from sysvi.api.results import check_embedding_name, write_results
from sysvi.api.sysvi import SysVI
from sysvi.api.train_many import combinations, common_settings, refuse_single_values, train_each
from sysvi.data.columns import Columns
from sysvi.data.from_anndata import check_writable, read_data, read_vocabulary, write_setup
from sysvi.data.labels import read_labels, stratified_sample
from sysvi.data.row_blocks import row_blocks, row_sliceable
from sysvi.evaluation.scores import BIOLOGY_METRICS, best_setting, paper_scores
from sysvi.tuning.criterion import Criterion
from sysvi.tuning.explanation import choice_warnings, explain_choice
from sysvi.tuning.results import SETTING, RunKey, RunResults
from sysvi.tuning.run_store import RunStore

DEFAULT_RAMPS = (TrainSettings.cycle_weight, TrainSettings.kl_weight)


@dataclass(frozen=True)
class Tuning:
    """Result of :func:`sysvi.tune`.

    Parameters
    ----------
    runs
        One row for each run: ``cycle_weight``, ``kl_weight``, ``prior``, ``seed``, ``status``, the ``reason`` if it
        failed, the metrics,
        ``biology``, ``batch`` and ``overall`` (scores, scaled over the runs), whether the run is of the ``chosen``
        setting and whether it is its ``representative``. A run that failed or was interrupted has no metrics.
    settings
        One row for each setting (cycle weight, KL weight, prior): means over its seeds and the standard deviation of
        the overall score; best setting first.
    cycle_weight, kl_weight, prior, seed
        Setting and seed of the representative run: of the setting with the highest mean score, the run of median score.
    model
        The ensemble of the finished runs of this setting; with one such run, its model.
    embedding
        Embedding of `model`, float32, n cells x latent dimensions.
    mixing
        Name of the column with the metric of mixing: ``"iLISI"`` with labels, ``"shared mixing"`` without.
    why
        Why the setting was chosen, in two sentences.
    warnings
        What speaks against the choice, a sentence or two each.
    n_missing
        Number of runs that were not begun because Ctrl-C ended the training.
    arguments
        Arguments of :func:`sysvi.tune` that the tables and the model do not tell: ``label_key``, ``min_cells``,
        ``max_cells``, ``cycle_weights``, ``kl_weights``, ``priors`` and ``seeds``.
    """

    runs: pd.DataFrame
    settings: pd.DataFrame
    cycle_weight: float
    kl_weight: float
    prior: str
    seed: int
    model: SysVI | Ensemble
    embedding: np.ndarray
    mixing: str
    why: str
    warnings: tuple[str, ...]
    n_missing: int
    arguments: dict[str, Any]

    @property
    def choice(self) -> dict[str, Any]:
        """Setting and seed of the representative run, by name."""
        return {name: getattr(self, name) for name in RunKey._fields}

    @property
    def interrupted(self) -> bool:
        """Whether runs are missing because Ctrl-C ended the training."""
        return bool(self.n_missing or (self.runs["status"] == "interrupted").any())

    @property
    def n_without_result(self) -> int:
        """Number of runs that could not be compared: they failed, were interrupted or were not begun."""
        return self.n_missing + int(self.runs["overall"].isna().sum())

    def __str__(self) -> str:
        """Table of settings, explanation and warnings."""
        columns = [self.mixing, "NMI", "Moran", "biology", "batch", "overall", "runs"]
        lines = [self.settings[columns].round(3).to_string(), "", self.why, *self.warnings]
        if self.n_without_result:
            n_runs = len(self.runs) + self.n_missing
            lines.append(f"{self.n_without_result} of {n_runs} runs have no result (failed or interrupted).")
        return "\n".join(lines)


def tune(
    adata: AnnData,
    system_key: str,
    batch_key: str | None = None,
    label_key: str | None = None,
    *,
    cycle_weights: Sequence[float] = (0, 2, 5, 10, 30, 100),
    kl_weights: Sequence[float] = (1,),
    priors: Sequence[str] = (ModelSettings.prior,),
    seeds: int | Sequence[int] = 3,
    output: str | Path | None = None,
    key_added: str = "X_sysVI",
    layer: str | None = None,
    categorical_covariate_keys: Sequence[str] | None = None,
    continuous_covariate_keys: Sequence[str] | None = None,
    weight_systems: bool = False,
    min_cells: int = 200,
    max_cells: int = 50_000,
    device: str = "auto",
    progress: bool | OnEvent = True,
    **settings: Any,
) -> Tuning:
    """Integrate with several cycle weights, KL weights, priors and seeds, measure each result, and choose a setting.

    With labels, by the paper's rule: each metric is scaled to [0, 1] over the runs; biology is the mean of NMI and the
    ratio of Moran's I, batch correction is iLISI, and the score is 0.6 biology + 0.4 batch correction. The setting with
    the highest mean score over its seeds is chosen. Its runs become an ensemble (:class:`sysvi.Ensemble`), as the
    members that :func:`sysvi.integrate` trains; the run of median score represents them in the tables.

    Without labels, by the same rule with two changes. States that :func:`sysvi.metrics.find_states` finds in each
    system separately take the place of labels. And mixing is measured where systems share a state, by the share of
    neighbours of the same state from other systems (:func:`sysvi.metrics.shared_neighbors`), so that mixing states of
    one system with other states scores nothing. benchmarks/criterion.py measures how well this agrees with labels.

    Parameters
    ----------
    adata
        Log-normalised expression of all systems, n cells x G genes, as :func:`sysvi.prepare` returns it. It gets the
        embedding of the ensemble of the chosen setting in ``obsm[key_added]``, its support in ``sysvi_support`` of
        ``obs`` and ``obsm`` (as from :func:`sysvi.integrate`), a record of the models in ``uns["sysvi"]``, and
        ``uns["sysvi_setup"]``.
    system_key, batch_key
        Columns of ``adata.obs`` with the systems and with the batches.
    label_key
        Column with the cell type labels, if there are any; used for measuring, not for training. Missing values and
        labels such as "unlabelled" or "unknown" mark unlabelled cells.
    cycle_weights, kl_weights, priors
        Settings to compare: every cycle weight with every KL weight and every prior. Weights are numbers, and rise
        during training as by default; priors are ``"vamp"``, ``"gmm"`` and ``"standard_normal"``. Which of ``"vamp"``
        and ``"standard_normal"`` is better depends on the data.
    seeds
        Number of runs of each setting (seeds 0, 1, ...), or the seeds. With one, the result is a single model, and no
        support is computed.
    output
        Folder in which every finished run is kept. An interrupted tuning continues from there, and further weights,
        priors or seeds can be added later. By default, runs are kept in memory.
    key_added
        Name of the embedding in ``adata.obsm``.
    layer, categorical_covariate_keys, continuous_covariate_keys, weight_systems, device
        As in :func:`sysvi.integrate`.
    min_cells
        Fewest cells of a cell type (or state) in a batch for Moran's I.
    max_cells
        Largest number of cells to measure on: with more, a random sample, stratified by system and label. Models are
        trained on all cells.
    progress
        True draws a progress bar, False prints nothing; a function receives each :class:`sysvi.Event`.
    **settings
        Any other setting of :func:`sysvi.integrate`, the same for all runs.

    Returns
    -------
    Tuning

    Raises
    ------
    InputError
        If the data or settings cannot be used, if `output` holds runs of other data or settings or another tuning is
        under way in it, or if no run gave an embedding.

    Warns
    -----
    UserWarning
        If many cells of a system have a low support, as :func:`sysvi.integrate` does.

    Notes
    -----
    Ctrl-C ends the training; the choice is then made among the runs that have finished. Models are trained at the same
    time, each in one thread, as by :func:`sysvi.train_many`.

    Examples
    --------
    >>> import sysvi
    >>> adata = sysvi.prepare(sysvi.datasets.simulate_systems(300, 200, seed=1), "system", "batch", min_cells=3)
    >>> tuning = sysvi.tune(adata, "system", "batch", cycle_weights=[0, 5], seeds=1, max_epochs=2, progress=False)
    >>> tuning.runs[["cycle_weight", "seed", "status"]].values.tolist()
    [[0.0, 0, 'finished'], [5.0, 0, 'finished']]
    >>> adata.obsm["X_sysVI"].shape
    (300, 15)
    """
    check_types(tune, label_key=label_key, output=output)
    refuse_single_values("tune", settings)
    check_embedding_name(key_added)
    split_settings("tune", settings)  # for its checks, before the data are read
    on_event = as_callback(progress)
    seed_list = list(seeds if isinstance(seeds, Iterable) else range(whole_number("seeds", seeds, 1)))
    grid = combinations(seed_list, cycle_weights, kl_weights, priors)
    for combination in grid:
        ramps = combination.cycle_weight, combination.kl_weight
        if any(ramp[1:] != default[1:] for ramp, default in zip(ramps, DEFAULT_RAMPS, strict=True)):
            raise InputError("cycle_weights and kl_weights of tune must be numbers: a sysvi.Ramp cannot be compared.")
    if output is not None:
        check_folder(Path(output), may_be_missing=True)
    columns = Columns.from_arguments(
        system_key,
        batch_key,
        layer=layer,
        categorical_covariate_keys=categorical_covariate_keys,
        continuous_covariate_keys=continuous_covariate_keys,
        weight_systems=weight_systems,
    )
    check_writable(adata)
    vocabulary = read_vocabulary(adata, columns)  # also for its checks, before anything is written
    settings = fill_in(DEFAULT_PRESET, settings, adata.n_obs, len(vocabulary.systems))
    model_settings, train_settings = split_settings("tune", common_settings(settings))
    write_setup(adata, columns)

    criterion = _prepare_criterion(adata, columns, label_key, min_cells, max_cells)
    on_event(Event("prepare", criterion.describe()))
    with nullcontext() if output is None else locked_folder(create_folder(output)):
        store = None
        if output is not None:
            store = RunStore(output, _describe_runs(adata, columns, model_settings, train_settings))
        results = RunResults(adata, criterion, store)
        keys = [RunKey.from_combination(combination) for combination in grid]
        results.read_finished(keys)
        if results.results:
            on_event(Event("prepare", f"{len(results.results)} of {len(grid)} runs are there already."))
        missing = [combination for combination, key in zip(grid, keys, strict=True) if key not in results.results]
        try:
            if missing:
                data = read_data(adata, columns)
                train_each(adata, data, missing, model_settings, train_settings, device, on_event, results.add)
            arguments = {"label_key": label_key, "min_cells": min_cells, "max_cells": max_cells} | {
                "cycle_weights": list(dict.fromkeys(key.cycle_weight for key in keys)),
                "kl_weights": list(dict.fromkeys(key.kl_weight for key in keys)),
                "priors": list(dict.fromkeys(key.prior for key in keys)),
                "seeds": list(dict.fromkeys(key.seed for key in keys)),
            }
            tuning = _choose(results, keys, device, arguments)
        except BaseException:
            if store is not None:
                store.release_if_empty()
            raise
    write_results(adata, tuning.model, key_added, on_event, stacklevel=2)
    return tuning


def _prepare_criterion(
    adata: AnnData, columns: Columns, label_key: str | None, min_cells: int, max_cells: int
) -> Criterion:
    """The criterion for all cells, or for a sample of at most `max_cells`."""
    rows = np.arange(adata.n_obs)
    if adata.n_obs > whole_number("max_cells", max_cells, 2):
        rows = stratified_sample(adata, columns.system, label_key, max_cells, seed=0)
    where, expression = get_expression(adata, columns.layer)
    for start, stop, block in row_blocks(expression):
        check_finite_nonnegative(block, adata.obs_names[start:stop], adata.var_names, where, adata.raw is not None)
    label = None
    if label_key is not None:
        names, is_labelled = read_labels(adata, label_key)
        if is_labelled.sum() < 2:
            raise InputError(f"adata.obs[{label_key!r}] (label_key) labels only one cell: choose another column.")
        label = np.where(is_labelled, np.asarray(names), "")[rows]
    return Criterion.from_cells(
        row_sliceable(expression)[rows],
        rows,
        check_obs_column(adata, columns.system, "system_key")[rows],
        None if columns.batch is None else check_obs_column(adata, columns.batch, "batch_key")[rows],
        label,
        min_cells=min_cells,
    )


def _describe_runs(
    adata: AnnData, columns: Columns, model_settings: dict[str, Any], train_settings: dict[str, Any]
) -> dict[str, Any]:
    """What all runs of a tuning have in common, so that a folder of other runs is recognised.

    Settings are completed with their defaults; those in which runs differ are left out.
    """
    keys = list(columns.all)
    if key := model_settings.get("pseudoinputs_label_key"):
        get_obs_column(adata, key, "pseudoinputs_label_key")
        keys.append(key)
    names = {field.name for field in fields(ModelSettings)}
    settings = asdict(ModelSettings(**{name: value for name, value in model_settings.items() if name in names}))
    settings |= {name: value for name, value in model_settings.items() if name not in names and value is not None}
    settings |= asdict(TrainSettings(**train_settings))
    return {
        "data": fingerprint(
            get_expression(adata, columns.layer)[1], adata.var_names, *(adata.obs[key] for key in keys)
        ),
        "columns": columns.to_json(),
        "settings": {name: _describe_value(settings[name]) for name in sorted(settings) if name not in RunKey._fields},
        "usual ramps": str(DEFAULT_RAMPS),
        "version of sysvi": __version__,
    }


def _describe_value(value: Any) -> str:
    """A setting as text; arrays as their fingerprint, because their text leaves out values."""
    return str(value) if value is None or isinstance(value, str | float | int | tuple) else fingerprint(value)


def _choose(results: RunResults, keys: Sequence[RunKey], device: str, arguments: dict[str, Any]) -> Tuning:
    """Score the runs that have ended, choose a setting and combine its runs; `arguments` are those of the tuning."""
    ended = [key for key in keys if key in results.results]
    table = results.table(ended)
    mixing = results.criterion.mixing_metric
    if mixing not in table or table[mixing].isna().all():
        counts = table["status"].value_counts() if len(table) else pd.Series(dtype=int)
        statuses = ", ".join(f"{n} {status}" for status, n in counts.items()) or "none"
        raise InputError(f"No run ended with an embedding: there is nothing to choose from. Runs: {statuses}.")
    runs = paper_scores(table, batch=[mixing], biology=BIOLOGY_METRICS)
    best = best_setting(runs, SETTING)  # indices are positions in `ended`, nearest to the median score first
    representative = ended[best.index[0]]
    runs["chosen"], runs["representative"] = runs.index.isin(best.index), runs.index == best.index[0]
    settings = _summarise_settings(runs, mixing)
    model = results.model([ended[i] for i in sorted(best.index)], representative.seed, device)
    embedding = np.asarray(model.get_latent_representation())
    return Tuning(
        runs,
        settings,
        float(representative.cycle_weight),
        float(representative.kl_weight),
        representative.prior,
        representative.seed,
        model,
        embedding,
        mixing,
        explain_choice(settings, mixing),
        tuple(choice_warnings(best.iloc[0], settings, results.criterion, embedding)),
        len(keys) - len(ended),
        arguments,
    )


def _summarise_settings(runs: pd.DataFrame, mixing: str) -> pd.DataFrame:
    """One row for each setting, best first: means over its seeds, and the standard deviation of the overall score."""
    groups = runs[runs["overall"].notna()].groupby(SETTING)
    columns = [
        mixing,
        *BIOLOGY_METRICS,
        "biology",
        "batch",
        "overall",
        f"{mixing}, standardised",
        "collapsed dimensions",
    ]
    table = groups[columns].mean()
    table["overall SD"] = groups["overall"].std()
    table["runs"] = groups.size()
    chosen = groups["chosen"].first()
    return table.assign(chosen=chosen).sort_values(["chosen", "overall"], ascending=False, kind="stable")
