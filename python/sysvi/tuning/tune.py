"""Choosing the integration strength: several weights, several seeds, measured and compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from sysvi._core.checks import check_finite_nonnegative, check_obs_column, get_expression
from sysvi._core.errors import InputError
from sysvi._core.events import Event, OnEvent
from sysvi._core.fingerprint import fingerprint
from sysvi._core.progress import as_callback
from sysvi._core.settings import ModelSettings, Prior, TrainSettings, whole_number
from sysvi._version import __version__
from sysvi.api.integrate import split_settings
from sysvi.api.separation import SEPARATION_THRESHOLD
from sysvi.api.sysvi import SysVI
from sysvi.api.train_many import Combination, Run, combinations, refuse_single_values, train_each
from sysvi.data.columns import Columns
from sysvi.data.from_anndata import check_writable, read_data, read_vocabulary, write_setup
from sysvi.data.labels import read_labels, stratified_sample
from sysvi.data.row_blocks import row_blocks, row_sliceable
from sysvi.evaluation.scores import BIOLOGY, best_setting, paper_scores
from sysvi.tuning.criterion import N_NEIGHBORS, Criterion
from sysvi.tuning.run_store import RunStore

SETTING = ["cycle_weight", "kl_weight", "prior"]
USUAL = (TrainSettings.cycle_weight, TrainSettings.kl_weight)
Key = tuple[float, float, Prior, int]  # of a run: its setting and its seed
LOST_MIXING, MANY_COLLAPSED, MOVED = 0.5, 0.5, 0.3  # where warnings begin, with SEPARATION_THRESHOLD


@dataclass(frozen=True)
class Tuning:
    """What a tuning found.

    Parameters
    ----------
    runs
        A row a run: ``cycle_weight``, ``kl_weight``, ``prior``, ``seed``, ``status``, the measures, ``biology``,
        ``batch`` and ``overall`` (scaled over the runs), and whether it is of the ``chosen`` setting and its
        ``representative``. A run that failed or was interrupted has no measures.
    settings
        A row a setting: means and standard deviations over its seeds; best first.
    cycle_weight, kl_weight, prior, seed
        Those of the representative run: of the setting with the highest mean, the run of median score.
    model
        The model of that run.
    embedding
        Its embedding, float32, cells x latent dimensions.
    mixing
        Name of the column with the measure of mixing.
    why
        The choice in two sentences.
    warnings
        What speaks against the chosen run, a sentence each.
    n_missing
        Runs that were not begun, because Ctrl-C ended the training.
    """

    runs: pd.DataFrame
    settings: pd.DataFrame
    cycle_weight: float
    kl_weight: float
    prior: Prior
    seed: int
    model: SysVI
    embedding: np.ndarray
    mixing: str
    why: str
    warnings: tuple[str, ...]
    n_missing: int

    @property
    def choice(self) -> dict[str, Any]:
        """Setting and seed of the representative run, by name."""
        return {name: getattr(self, name) for name in (*SETTING, "seed")}

    @property
    def interrupted(self) -> bool:
        """Whether runs are missing because Ctrl-C ended the training."""
        return bool(self.n_missing or (self.runs["status"] == "interrupted").any())

    @property
    def n_without_result(self) -> int:
        """Runs that were asked for and are not among those compared: they failed, were interrupted or not begun."""
        return self.n_missing + int(self.runs["overall"].isna().sum())

    def __str__(self) -> str:
        """The table of settings, the reasons, the warnings."""
        columns = [self.mixing, "NMI", "Moran", "biology", "batch", "overall", "runs"]
        lines = [self.settings[columns].round(3).to_string(), "", self.why, *self.warnings]
        if self.n_without_result:
            asked = len(self.runs) + self.n_missing
            lines.append(f"{self.n_without_result} of {asked} runs have no result (failed or interrupted).")
        return "\n".join(lines)


def tune(
    adata: AnnData,
    system_key: str,
    batch_key: str | None = None,
    label_key: str | None = None,
    *,
    cycle_weights: Sequence[float] = (0, 2, 5, 10, 20, 50),
    kl_weights: Sequence[float] = (1,),
    priors: Sequence[Prior] = (ModelSettings.prior,),
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
    """Integrate with several cycle weights, priors and seeds, measure each result, and choose.

    With labels by the paper's rule: each metric scaled to [0, 1] over the runs; biology is the mean of NMI and the
    ratio of Moran's I, batch correction is iLISI, the score is 0.6 biology + 0.4 batch correction; the setting with
    the highest mean over the seeds is chosen, and of its runs the one of median score.

    Without labels by the same rule with two changes. States that :func:`sysvi.metrics.find_states` finds in each
    system by itself take the place of labels. And mixing is measured where systems share a state, by neighbours of
    the same state only (:func:`sysvi.metrics._shared_neighbors`): mixing the states of one system into others earns
    nothing. How well this agrees with labels, benchmarks/criterion.py measures.

    Parameters
    ----------
    adata
        Log-normalised expression of all systems, cells x genes, as :func:`sysvi.prepare` gives it. Gets the chosen
        run's embedding in ``obsm[key_added]``, what made it in ``uns["sysvi"]``, and ``uns["sysvi_setup"]``.
    system_key, batch_key
        Columns of ``adata.obs`` with the systems and with the batches.
    label_key
        Column with the cell types, if there are any; used to measure, never to train. Cells that are missing or called
        "unlabelled", "unknown" and the like have none.
    cycle_weights, kl_weights, priors
        The settings to compare: every cycle weight with every KL weight and every prior. Weights are numbers and are
        ramped up as usual; priors are ``"vamp"``, ``"gmm"`` and ``"standard_normal"``. Which of ``"vamp"`` and
        ``"standard_normal"`` is better depends on the cells.
    seeds
        How many runs of each setting (seeds 0, 1, ...), or which seeds.
    output
        Folder in which every finished run is kept. A tuning that was interrupted or killed goes on from there; further
        weights or seeds can be added to it later. Without, runs are kept in memory.
    key_added
        Where the embedding goes.
    layer, categorical_covariate_keys, continuous_covariate_keys, weight_systems, device
        As in :func:`sysvi.integrate`.
    min_cells
        Fewest cells of a type (or state) in a sample for Moran's I.
    max_cells
        Measure on a random sample of at most this many cells, stratified by system and label. All are trained on.
    progress
        True draws a progress bar, False is silent, a function gets each :class:`sysvi.Event`.
    **settings
        Any other setting of :func:`sysvi.integrate`, the same for all runs.

    Returns
    -------
    Tuning

    Raises
    ------
    InputError
        For data or settings that cannot be used, if `output` holds runs of other data or settings, or if no run ended
        with an embedding.

    Notes
    -----
    Ctrl-C ends the training under way; the choice is made among the runs that have finished. Models train side by side,
    one thread each, as in :func:`sysvi.train_many`.

    Examples
    --------
    >>> import sysvi
    >>> adata = sysvi.prepare(sysvi.datasets.simulate_systems(300, 200, seed=1), "system", "batch", min_cells=3)
    >>> found = sysvi.tune(adata, "system", "batch", cycle_weights=[0, 5], seeds=1, max_epochs=2, progress=False)
    >>> found.runs[["cycle_weight", "seed", "status"]].values.tolist()
    [[0.0, 0, 'finished'], [5.0, 0, 'finished']]
    >>> adata.obsm["X_sysVI"].shape
    (300, 15)
    """
    refuse_single_values("tune", settings)
    if not key_added or "/" in key_added:
        raise InputError(f"key_added is {key_added!r}; a name in obsm must not be empty or contain a slash.")
    model_kwargs, train_kwargs = split_settings("tune", settings)
    on_event = as_callback(progress)
    each_seed = seeds if isinstance(seeds, Iterable) else range(whole_number("seeds", seeds, 1))
    grid = combinations(list(each_seed), cycle_weights, kl_weights, priors)
    if any(ramp[1:] != usual[1:] for one in grid for ramp, usual in zip(one[1:3], USUAL, strict=True)):
        raise InputError("tune compares weights that are plain numbers: a sysvi.Ramp cannot be one of them.")
    columns = Columns.from_arguments(
        system_key,
        batch_key,
        layer=layer,
        categorical_covariate_keys=categorical_covariate_keys,
        continuous_covariate_keys=continuous_covariate_keys,
        weight_systems=weight_systems,
    )
    check_writable(adata)
    read_vocabulary(adata, columns)  # for its checks, before any run is measured
    write_setup(adata, columns)

    criterion = _yardstick(adata, system_key, batch_key, label_key, layer, min_cells, max_cells)
    on_event(Event("prepare", criterion.describe()))
    store = _store(adata, columns, output, model_kwargs, train_kwargs)
    results = _Results(adata, criterion, store)
    results.take_finished(grid)
    if results.rows:
        on_event(Event("prepare", f"{len(results.rows)} of {len(grid)} runs are there already."))
    missing = [one for one in grid if _name(_key(one)) not in results.rows]
    try:
        if missing:
            data = read_data(adata, columns)
            train_each(adata, data, missing, model_kwargs, train_kwargs, device, on_event, results.take)
        found = results.choose(grid)
    except BaseException:
        if store is not None:
            store.forget_if_empty()
        raise
    adata.obsm[key_added] = found.embedding
    adata.uns["sysvi"] = found.model.record()
    return found


class _Results:
    """What is known of each run, by its name."""

    def __init__(self, adata: AnnData, criterion: Criterion, store: RunStore | None):
        self.adata, self.criterion, self.store = adata, criterion, store
        self.rows: dict[str, dict[str, Any]] = {}
        self.kept: dict[str, tuple[SysVI, np.ndarray]] = {}  # models and embeddings, where there is no folder

    def take_finished(self, grid: Sequence[Combination]) -> None:
        """Runs that the folder holds, measured anew where they were measured by something else."""
        for key in map(_key, grid):
            name = _name(key)
            found = None if self.store is None else self.store.find(name, self.criterion.fingerprint)
            if self.store is not None and found is not None:
                measures = found.measures
                if measures is None:
                    measures = self.criterion.measure(found.embedding)
                    self.store.finish(name, found.status, self.criterion.fingerprint, measures)
                self.rows[name] = _row(key, found.status) | measures

    def take(self, run: Run) -> None:
        """A run that has just ended: kept and measured, unless it failed or was interrupted."""
        key = run.cycle_weight, run.kl_weight, run.prior, run.seed
        name, row = _name(key), _row(key, run.status)
        if run.status in ("finished", "stopped_early"):
            embedding = np.asarray(run.model.get_latent_representation())
            if self.store is not None:
                self.store.keep(name, run.model, embedding)
            else:
                self.kept[name] = run.model, embedding
            measures = self.criterion.measure(embedding)
            if self.store is not None:
                self.store.finish(name, run.status, self.criterion.fingerprint, measures)
            row |= measures
        self.rows[name] = row

    def choose(self, grid: Sequence[Combination]) -> Tuning:
        """Score all runs and choose."""
        names = [name for one in grid if (name := _name(_key(one))) in self.rows]
        rows = pd.DataFrame([self.rows[name] for name in names], index=names)
        mixing = self.criterion.mixing
        if mixing not in rows or rows[mixing].isna().all():
            raise InputError("No run ended with an embedding: there is nothing to choose from. " + _how(rows))
        runs = paper_scores(rows, batch=[mixing], biology=BIOLOGY)
        best = best_setting(runs, SETTING)
        representative = str(best.index[0])
        runs["chosen"], runs["representative"] = runs.index.isin(best.index), runs.index == representative
        settings = _means(runs, mixing)
        model, embedding = (
            self.kept[representative] if self.store is None else self.store.load(representative, self.adata)
        )
        first = best.iloc[0]
        return Tuning(
            runs.reset_index(drop=True),
            settings,
            float(first["cycle_weight"]),
            float(first["kl_weight"]),
            first["prior"],
            int(first["seed"]),
            model,
            embedding,
            mixing,
            _why(settings, mixing),
            tuple(_warnings(first, settings, self.criterion, embedding)),
            len(grid) - len(names),
        )


def _yardstick(
    adata: AnnData,
    system_key: str,
    batch_key: str | None,
    label_key: str | None,
    layer: str | None,
    min_cells: int,
    max_cells: int,
) -> Criterion:
    """What runs are measured by, on all cells or a sample."""
    rows = np.arange(adata.n_obs)
    if adata.n_obs > whole_number("max_cells", max_cells, 2):
        rows = stratified_sample(adata, system_key, label_key, max_cells, seed=0)
    label = None
    where, x = get_expression(adata, layer)
    for start, stop, block in row_blocks(x):
        check_finite_nonnegative(block, adata.obs_names[start:stop], adata.var_names, where)
    if label_key is not None:
        names, labelled = read_labels(adata, label_key)
        if labelled.sum() < 2:
            raise InputError(f"adata.obs[{label_key!r}] (label_key) names the type of {labelled.sum()} cells only.")
        label = np.where(labelled, np.asarray(names), "")[rows]
    return Criterion.of(
        row_sliceable(x)[rows],
        rows,
        check_obs_column(adata, system_key, "system_key")[rows],
        None if batch_key is None else check_obs_column(adata, batch_key, "batch_key")[rows],
        label,
        min_cells=min_cells,
    )


def _store(
    adata: AnnData,
    columns: Columns,
    output: str | Path | None,
    model_kwargs: dict[str, Any],
    train_kwargs: dict[str, Any],
) -> RunStore | None:
    """The folder of runs, where there is one."""
    if output is None:
        return None
    expression, keys = get_expression(adata, columns.layer)[1], list(columns.all)
    if key := model_kwargs.get("pseudoinputs_label_key"):
        check_obs_column(adata, key, "pseudoinputs_label_key")
        keys.append(key)
    names = {f.name for f in fields(ModelSettings)}
    model = asdict(ModelSettings(**{name: value for name, value in model_kwargs.items() if name in names}))
    del model["prior"]  # runs differ in it
    others = {name: value for name, value in model_kwargs.items() if name not in names and value is not None}
    training = {k: v for k, v in asdict(TrainSettings(**train_kwargs)).items() if k not in Combination._fields}
    made_of = {
        "data": fingerprint(expression, adata.var_names, *(adata.obs[key] for key in keys)),
        "columns": str(columns.to_json()),
        "settings": {name: _in_full(value) for name, value in sorted({**model, **others, **training}.items())},
        "usual ramps": str(USUAL),
        "version of sysvi": __version__,
    }
    return RunStore(output, made_of)


def _key(one: Combination) -> Key:
    return one.cycle_weight.value, one.kl_weight.value, one.prior, one.seed


def _name(key: Key) -> str:
    """A run's name, also that of its folder."""
    cycle_weight, kl_weight, prior, seed = key
    return f"{prior}_cycle{_digits(cycle_weight)}_kl{_digits(kl_weight)}_seed{seed}"


def _digits(weight: float) -> str:
    """As few digits as tell it from every other number."""
    return f"{weight:g}" if float(f"{weight:g}") == weight else repr(weight)


def _in_full(value: Any) -> str:
    """A setting as text; arrays by their fingerprint, as theirs leaves values out."""
    return str(value) if value is None or isinstance(value, str | float | int | tuple) else fingerprint(value)


def _row(key: Key, status: str) -> dict[str, Any]:
    return {**dict(zip((*SETTING, "seed"), key, strict=True)), "status": status}


def _how(rows: pd.DataFrame) -> str:
    counts = rows["status"].value_counts() if len(rows) else pd.Series(dtype=int)
    return f"Runs: {', '.join(f'{n} {status}' for status, n in counts.items()) or 'none'}."


def _means(runs: pd.DataFrame, mixing: str) -> pd.DataFrame:
    """A row a setting, best first: means and standard deviations over its seeds."""
    groups = runs[runs["overall"].notna()].groupby(SETTING)
    columns = [mixing, *BIOLOGY, "biology", "batch", "overall", f"{mixing}, standardised", "collapsed dimensions"]
    table = groups[columns].mean()
    table["overall SD"] = groups["overall"].std()
    table["runs"] = groups.size()
    chosen = groups["chosen"].first()
    return table.assign(chosen=chosen).sort_values(["chosen", "overall"], ascending=False, kind="stable")


def _why(settings: pd.DataFrame, mixing: str) -> str:
    """The choice in two sentences."""
    best = settings.iloc[0]
    what = _setting(settings.index[0], settings)
    kept = [
        f"{name} {best[name]:.2f} ({settings[name].min():.2f} to {settings[name].max():.2f})"
        for name in BIOLOGY
        if not np.isnan(best[name])
    ]
    second = (
        f"Its mixing ({mixing}) is {best[mixing]:.2f} in a range of {settings[mixing].min():.2f} to "
        f"{settings[mixing].max():.2f}, and of biology it keeps {' and '.join(kept)}."
    )
    if len(settings) == 1:
        return f"{what} is the only setting with a result, so nothing was compared. {second}"
    next_best = settings.iloc[1]
    spread = np.nanmax([best["overall SD"], next_best["overall SD"], 0.0])
    runs = "one run" if best["runs"] == 1 else f"the mean of {best['runs']:.0f} runs"
    first = f"{what} has the highest score, {best['overall']:.2f} ({runs})"
    other = _setting(settings.index[1], settings)
    first += f"; next comes {other[0].lower()}{other[1:]} with {next_best['overall']:.2f}"
    close = best["overall"] - next_best["overall"] <= spread
    return f"{first}{', no further away than runs differ among themselves' if close else ''}. {second}"


def _setting(setting: Any, settings: pd.DataFrame) -> str:
    """A setting in words; KL weight and prior only where there are several."""
    cycle, kl, prior = setting
    words = {"kl_weight": f"KL weight {kl:g}", "prior": f"prior {prior}"}
    several = [words[name] for name in words if settings.index.get_level_values(name).nunique() > 1]
    return f"Cycle weight {cycle:g}" + (f" with {' and '.join(several)}" if several else "")


def _warnings(run: pd.Series, settings: pd.DataFrame, criterion: Criterion, embedding: np.ndarray) -> Iterator[str]:
    """What a user must know of the chosen run."""
    mixing, standardised = run[criterion.mixing], run[f"{criterion.mixing}, standardised"]
    n_latent = embedding.shape[1]
    if settings[criterion.mixing].max() < SEPARATION_THRESHOLD:
        yield (
            f"The systems stay apart in every setting ({criterion.mixing} is {settings[criterion.mixing].max():.2f} at "
            "most): try longer training (max_epochs), other seeds, or the prior standard_normal."
        )
    elif mixing < SEPARATION_THRESHOLD:
        yield (
            f"The chosen setting leaves the systems apart ({criterion.mixing} is {mixing:.2f}), as those that mix them "
            "keep less of the biology: look at these too, and try other seeds or the prior standard_normal."
        )
    elif standardised < LOST_MIXING * mixing:
        yield (
            f"The mixing is not real: {criterion.mixing} falls from {mixing:.2f} to {standardised:.2f} once every "
            "dimension counts the same. Dimensions that tell the systems apart were shrunk; lower the KL weight."
        )
    if run["collapsed dimensions"] > MANY_COLLAPSED * n_latent:
        yield (
            f"{run['collapsed dimensions']:.0f} of {n_latent} latent dimensions have collapsed: the cells differ in "
            "fewer ways here than the model could show. A lower KL weight keeps more."
        )
    private = criterion.private_groups(embedding)
    for name, group in private[(private["foreign"] > MOVED) & (private["cells"] > N_NEIGHBORS)].iterrows():
        elsewhere = f"{group['elsewhere']} elsewhere" if group["elsewhere"] else "in it only"
        yield (
            f"{name} ({group['cells']} cells in {group['system']}, {elsewhere}) has moved onto other cells: its "
            f"neighbours from other systems, most of them {group['among']}, are {100 * group['foreign']:.0f} % of what "
            "they would be if all was mixed. Another cycle weight may keep it apart."
        )
