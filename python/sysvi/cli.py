"""The command line: each command reads files, calls functions of the Python package and writes files.

Heavy libraries (torch, anndata, ...) are imported inside the commands, so that ``sysvi --help`` is fast.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import Field, dataclass, fields, replace
from functools import wraps
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from click.core import ParameterSource

import sysvi
from sysvi._core.events import Event, OnEvent, ignore_event, preparation_reporter
from sysvi._core.settings import PRIORS, ModelSettings, Ramp, TrainSettings, setting_types
from sysvi.data.columns import Columns

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

# -- options of settings ----------------------------------------------------------------------------------------------

OPTION_NAMES = {"max_epochs": "epochs"}  # settings whose option has another name
MAIN_SETTINGS = ("cycle_weight", "kl_weight", "max_epochs", "batch_size", "n_latent", "prior")  # first in the help
FURTHER_SETTINGS = tuple(
    f.name for f in (*fields(ModelSettings), *fields(TrainSettings)) if f.name not in (*MAIN_SETTINGS, "seed")
)
SETTING_TYPES = {**setting_types(ModelSettings), **setting_types(TrainSettings)}


class CommandWithSettings(click.Command):
    """A command whose help lists the settings that are rarely changed after all other options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help of the options in two sections."""
        main: list[tuple[str, str]] = []
        further: list[tuple[str, str]] = []
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx)
            if record is not None and isinstance(option, click.Option):
                (further if option.name in (*FURTHER_SETTINGS, "pseudoinputs_label_key") else main).append(record)
        for title, records in (("Options", main), ("Further settings of the model and of training", further)):
            with formatter.section(title):
                formatter.write_dl(records)


def combined(*decorators: Decorator) -> Decorator:
    """One decorator that adds several options, which the help lists in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def settings_options(without: Sequence[str] = ()) -> Decorator:
    """An option for each setting of model and training but the seed and those in `without`."""
    by_name = {f.name: f for f in (*fields(ModelSettings), *fields(TrainSettings))}
    names = [name for name in (*MAIN_SETTINGS, *FURTHER_SETTINGS) if name not in without]
    label = click.option(
        "--pseudoinputs-label", "pseudoinputs_label_key", help="Column of obs that pseudoinputs 'balanced_label' takes."
    )
    return combined(*(setting_option(by_name[name]) for name in names), label)


def setting_option(setting: Field[Any]) -> Decorator:
    """The option of a setting, with its type, default, limits and help."""
    default, about = setting.default, setting.metadata
    name = OPTION_NAMES.get(setting.name, setting.name).replace("_", "-")
    names = f"--{name}/--no-{name}" if default is True else f"--{name}"
    return click.option(
        names,
        setting.name,
        type=option_type(setting),
        is_flag=SETTING_TYPES[setting.name] is bool,
        default=default.value if isinstance(default, Ramp) else default,
        show_default=about["unset"] or default is not None,
        help=about["help"],
    )


def option_type(setting: Field[Any]) -> Any:
    """Click's type for the type, the registry and the limits of a setting; a ramp is given by its final value."""
    kind, registry, limits = SETTING_TYPES[setting.name], setting.metadata["registry"], setting.metadata["limits"]
    if registry:
        return click.Choice(registry.names)
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    if limits is None:
        return kind
    if kind is int:
        return click.IntRange(min=int(limits.min))
    low, high = (bound if isfinite(bound) else None for bound in (limits.min, limits.max))
    return click.FloatRange(low, high, limits.min_open, limits.max_open)


def given_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the user gave; all others are left to the defaults of the Python functions."""
    context = click.get_current_context()
    return {
        name: value
        for name, value in settings.items()
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }


# -- options that commands share --------------------------------------------------------------------------------------

layer_option = click.option("--layer", help="Layer with the expression (default: X).")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace existing results.")
genes_option = click.option(
    "--genes", "n_top_genes", default=3000, show_default=True, help="Number of variable genes to find in each system."
)
min_cells_per_gene_option = click.option(
    "--min-cells", default=20, show_default=True, help="Keep genes that are seen in more cells than this per system."
)
device_option = click.option(
    "--device", default="auto", show_default=True, help="Device to compute on: auto, cpu, cuda, cuda:1 or mps."
)
seed_option = click.option(
    "--seed",
    type=click.IntRange(0),
    default=TrainSettings.seed,
    show_default=True,
    help="Random seed; the same seed gives the same result.",
)
seeds_option = click.option(
    "--seeds", type=click.IntRange(1), default=3, show_default=True, help="Number of runs of each setting."
)
key_option = click.option("--key", default="X_sysVI", show_default=True, help="Name of the embedding in obsm.")
figures_option = click.option(
    "--figures",
    type=click.Choice(["png", "pdf", "svg"]),
    default="png",
    show_default=True,
    help="File format of the figures.",
)
output_file_options = combined(
    click.option("-o", "--output", type=FILE, required=True, help="The h5ad file to write."), overwrite_option
)
covariate_options = combined(
    click.option(
        "--covariate",
        "categorical_covariate_keys",
        multiple=True,
        help="Further categorical column of obs to correct for; can be repeated.",
    ),
    click.option(
        "--continuous",
        "continuous_covariate_keys",
        multiple=True,
        help="Continuous column of obs to correct for; can be repeated.",
    ),
    click.option(
        "--weight-systems", is_flag=True, help="Let all systems count the same, whatever their number of cells."
    ),
)


def input_options(batch_required: bool = False, label: Literal["none", "optional", "required"] = "none") -> Decorator:
    """The input file and its columns with systems, batches and cell type labels."""
    options = [
        click.argument("input", type=FILE),
        click.option(
            "--system", "system_key", required=True, help="Column of obs with the systems, for example species."
        ),
        click.option(
            "--batch",
            "batch_key",
            required=batch_required,
            help="Column of obs with the batches (samples, donors) within the systems.",
        ),
    ]
    if label == "optional":
        text = "Column of obs with the cell type labels, if there are any; used to measure only."
        options.append(click.option("--label", "label_key", help=text))
    elif label == "required":
        options.append(
            click.option("--label", "label_key", required=True, help="Column of obs with the cell type labels.")
        )
    return combined(*options, layer_option)


def min_cells_per_group_option(default: int, least: int) -> Decorator:
    """Cells that a cell type needs in a sample to be measured."""
    return click.option(
        "--min-cells",
        type=click.IntRange(least),
        default=default,
        show_default=True,
        help="Smallest number of cells of a cell type in a batch for which Moran's I is computed.",
    )


def pass_columns(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give the command one `columns` in place of the single options of columns and layer."""
    names = ("system_key", "batch_key", "layer", "categorical_covariate_keys", "continuous_covariate_keys")

    @wraps(command)
    def run(**arguments: Any) -> None:
        columns = Columns.from_arguments(**{name: arguments.pop(name) for name in (*names, "weight_systems")})
        command(columns=columns, **arguments)

    return run


# -- reporting --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """How a command reports: events while it works, and text for people unless --json or --quiet is given."""

    on_event: OnEvent
    prints_text: bool

    def text(self, text: str) -> None:
        """Print text for people on standard output."""
        if self.prints_text:
            click.echo(text)

    def preparation(self) -> Callable[[str], None]:
        """A function that reports lines of text as events of the preparation."""
        return preparation_reporter(self.on_event)

    def wrote(self, path: Path, details: str = "", **values: Any) -> None:
        """Report that a file was written."""
        self.on_event(Event("write", f"Wrote {path}{details}", {"output": str(path), **values}))


def reporting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --json and --quiet, and give the command its `report`."""

    @click.option("--quiet", is_flag=True, help="Print nothing but errors.")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON event a line, for programs.")
    @wraps(command)
    def run(as_json: bool, quiet: bool, **arguments: Any) -> None:
        with reporting(as_json, quiet) as on_event:
            command(report=Report(on_event, not (as_json or quiet)), **arguments)

    return run


@contextmanager
def reporting(as_json: bool, quiet: bool) -> Iterator[OnEvent]:
    """Choose how events are shown, and show warnings and errors as one line each."""
    from sysvi._core.progress import JsonLines, ProgressBar

    on_event: OnEvent = JsonLines() if as_json else ignore_event if quiet else ProgressBar()

    def show_warning(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
        if issubclass(category, UserWarning) and not issubclass(category, (FutureWarning, DeprecationWarning)):
            on_event(Event("warning", f"Warning: {message}"))

    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        try:
            yield on_event
        except (sysvi.InputError, sysvi.NonFiniteLossError, OSError) as error:
            if as_json:
                print(json.dumps({"stage": "error", "message": str(error)}), flush=True)
                sys.exit(1)
            raise click.ClickException(str(error)) from error


# -- commands ---------------------------------------------------------------------------------------------------------


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(sysvi.__version__, prog_name="sysvi")
def main() -> None:
    """Integrate single-cell data sets with substantial batch effects.

    sysVI brings cells of different SYSTEMS (species, organoid and tissue, cells and nuclei, protocols) into one
    embedding in which cells of the same type lie together and differences within a cell type are kept.

    Try it on simulated cells: sysvi demo. Integrate your own:
    sysvi integrate cells.h5ad --system species --batch donor -o integrated.h5ad
    """


@main.command(cls=CommandWithSettings)
@input_options()
@output_file_options
@genes_option
@min_cells_per_gene_option
@click.option("--all-genes", is_flag=True, help="Use all genes of log-normalised input instead of variable ones.")
@covariate_options
@settings_options()
@device_option
@seed_option
@key_option
@click.option("--save-model", type=FOLDER, help="Folder in which the model is saved too.")
@reporting_options
@pass_columns
def integrate(
    report: Report,
    input: Path,
    output: Path,
    columns: Columns,
    overwrite: bool,
    n_top_genes: int,
    min_cells: int,
    all_genes: bool,
    device: str,
    seed: int,
    key: str,
    save_model: Path | None,
    **settings: Any,
) -> None:
    """Integrate the systems of an h5ad file.

    INPUT holds the cells of all systems with the same genes, as counts (which are prepared as in the paper: genes seen
    in every system, normalised, variable in every system) or log-normalised (variable genes are chosen). The output is
    a copy of INPUT with the embedding in obsm; use it for neighbours, UMAP and clustering.
    """
    from sysvi.data.ensure_prepared import ensure_prepared
    from sysvi.data.h5ad import check_output, read_h5ad, write_with_embedding
    from sysvi.model.checkpoint import MODEL_FILE

    check_output(output, overwrite)
    if save_model is not None and (save_model / MODEL_FILE).exists() and not overwrite:
        raise sysvi.InputError(f"{save_model / MODEL_FILE} exists already; pass --overwrite to replace it.")
    prepared, layer = ensure_prepared(
        read_h5ad(input),
        columns.system,
        columns.batch,
        layer=columns.layer,
        n_top_genes=n_top_genes,
        min_cells=min_cells,
        all_genes=all_genes,
        report=report.preparation(),
    )
    model = sysvi.integrate(
        prepared,
        **replace(columns, layer=layer).to_arguments(),
        device=device,
        seed=seed,
        key_added=key,
        progress=report.on_event,
        **given_settings(settings),
    )
    embedding = prepared.obsm[key]
    if save_model is not None:
        model.save(save_model, overwrite=overwrite)
        report.on_event(Event("write", f"Wrote the model to {save_model}"))
    write_with_embedding(input, output, {key: embedding}, {"sysvi": model_record(model)})
    report.wrote(output, f": obsm[{key!r}], {' x '.join(map(str, embedding.shape))}", key=key)
    if model.status == "interrupted":
        sys.exit(130)


@main.command()
@input_options()
@output_file_options
@genes_option
@min_cells_per_gene_option
@reporting_options
def prepare(
    report: Report,
    input: Path,
    output: Path,
    system_key: str,
    batch_key: str | None,
    layer: str | None,
    overwrite: bool,
    n_top_genes: int,
    min_cells: int,
) -> None:
    """Prepare counts: genes seen in every system, normalised, log1p, variable in every system.

    The output has log-normalised expression in X and the counts in layers["counts"]. `sysvi integrate` prepares counts
    itself; prepare a file to look at the result, or to use it more than once.
    """
    from sysvi._core.files import write_atomically
    from sysvi.data.h5ad import check_output, read_h5ad

    check_output(output, overwrite)
    prepared = sysvi.prepare(
        read_h5ad(input),
        system_key,
        batch_key,
        layer=layer,
        n_top_genes=n_top_genes,
        min_cells=min_cells,
        report=report.preparation(),
    )
    write_atomically(output, prepared.write_h5ad)
    report.wrote(output, f": {prepared.n_obs:,} cells x {prepared.n_vars:,} genes")


@main.command()
@input_options(label="optional")
@click.option(
    "--embedding",
    "embeddings",
    multiple=True,
    default=("X_pca", "X_sysVI"),
    show_default=True,
    help="Embedding in obsm to measure; can be repeated. X_pca is computed if it is missing.",
)
@click.option("--metric", "metrics", multiple=True, help="Compute only this metric, such as iLISI; can be repeated.")
@click.option("--all", "all_metrics", is_flag=True, help="Also compute the slow metrics: kBET, Leiden clustering.")
@click.option(
    "--standardised",
    is_flag=True,
    help="Also measure each embedding with every dimension scaled to unit variance, to see whether mixing is real.",
)
@min_cells_per_group_option(default=500, least=20)
@click.option(
    "--max-cells", type=click.IntRange(100), help="Measure a stratified random sample of at most this many cells."
)
@click.option("-o", "--output", type=FOLDER, help="Folder for tables (CSV, JSON) and figures; created if missing.")
@figures_option
@overwrite_option
@device_option
@seed_option
@reporting_options
def evaluate(
    report: Report,
    input: Path,
    embeddings: tuple[str, ...],
    system_key: str,
    batch_key: str | None,
    label_key: str | None,
    layer: str | None,
    metrics: tuple[str, ...],
    all_metrics: bool,
    standardised: bool,
    min_cells: int,
    max_cells: int | None,
    output: Path | None,
    figures: str,
    overwrite: bool,
    device: str,
    seed: int,
) -> None:
    """Measure embeddings of an h5ad file: mixing of systems, and how well cell types and structure are kept.

    Prints a table, higher is better. With -o also writes evaluation.csv and .json (the table and notes on it),
    labels.csv and cells.csv (the values by cell type and by cell) and the figures evaluation and labels.
    """
    from sysvi.data.h5ad import read_h5ad
    from sysvi.evaluation.files import check_output_folder, format_evaluation, write_evaluation

    if output is not None:
        check_output_folder(output, overwrite)
    evaluation = sysvi.evaluate_in_detail(
        read_h5ad(input),
        embeddings,
        system_key=system_key,
        batch_key=batch_key,
        label_key=label_key,
        layer=layer,
        metrics=metrics or ("all" if all_metrics else "default"),
        standardised=standardised,
        min_cells=min_cells,
        max_cells=max_cells,
        device=device,
        seed=seed,
        progress=report.on_event,
    )
    report.text(format_evaluation(evaluation))
    if output is not None:
        for path in write_evaluation(evaluation, output, figures):
            report.wrote(path)


@main.command()
@input_options(batch_required=True, label="required")
@click.option(
    "--methods", default="all", show_default=True, help="Methods to compare, separated by commas: sysvi,scvi,pca."
)
@click.option(
    "--grid",
    type=click.Choice(["full", "default"]),
    default="full",
    show_default=True,
    help="Run all values of each method's tuned parameter, or its default only.",
)
@seeds_option
@click.option("--epochs", type=click.IntRange(1), help="Epochs of trained methods (default: their own).")
@click.option("--timeout", type=click.FloatRange(1), help="Seconds after which a run is stopped.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Number of runs at a time.")
@min_cells_per_group_option(default=500, least=20)
@click.option("--environments", type=FOLDER, help="Folder in which methods are installed (default: the user's cache).")
@click.option("--constraint", type=FILE, help="Constraint file of pip, for example to choose a build of torch.")
@click.option("--adapters", type=FOLDER, help="Folder with adapters of further methods.")
@click.option("-o", "--output", type=FOLDER, required=True, help="Folder for the results; finished runs are reused.")
@figures_option
@reporting_options
def compare(
    report: Report,
    input: Path,
    system_key: str,
    batch_key: str,
    label_key: str,
    layer: str | None,
    methods: str,
    grid: Any,
    seeds: int,
    epochs: int | None,
    timeout: float | None,
    jobs: int,
    min_cells: int,
    environments: Path | None,
    constraint: Path | None,
    adapters: Path | None,
    output: Path,
    figures: Any,
) -> None:
    """Compare methods of integration on the cells of an h5ad file.

    Runs each method with all values of its tuned parameter and several seeds. Each run has a process of its own, and
    methods with other dependencies have environments of their own, created when they are needed. Writes runs.csv,
    methods.csv, table.csv, tests.csv and the figures comparison and umaps. A method that cannot be installed is listed
    with the reason. After an interruption, the same command continues with the missing runs.

    Methods: sysvi, cvae, vamp, cyc, adv, pca, harmony, scvi, scvi-sysvi, glue, seurat-cca, seurat-rpca, harmony-r,
    scmgca, scgen, saturn.
    """
    from sysvi.comparison.tables import format_comparison
    from sysvi.data.h5ad import read_h5ad

    try:
        comparison = sysvi.compare(
            read_h5ad(input),
            output,
            system_key=system_key,
            batch_key=batch_key,
            label_key=label_key,
            layer=layer,
            methods="all" if methods == "all" else [name.strip() for name in methods.split(",") if name.strip()],
            grid=grid,
            seeds=seeds,
            epochs=epochs,
            timeout=timeout,
            jobs=jobs,
            min_cells=min_cells,
            environments=environments,
            constraint=constraint,
            adapters=adapters,
            figures=figures,
            progress=report.on_event,
        )
    except KeyboardInterrupt:
        sys.exit(130)
    report.text(format_comparison(comparison.table, comparison.methods, comparison.notes))


@main.command(cls=CommandWithSettings)
@input_options(label="optional")
@click.option("-o", "--output", type=FOLDER, required=True, help="Folder for runs, tables and the figure.")
@click.option(
    "--cycle-weight",
    "cycle_weights",
    type=click.FloatRange(0),
    multiple=True,
    default=(0, 2, 5, 10, 20, 50),
    show_default=True,
    help="Cycle weight to try; can be repeated.",
)
@click.option(
    "--kl-weight",
    "kl_weights",
    type=click.FloatRange(0),
    multiple=True,
    default=(1,),
    show_default=True,
    help="KL weight to try with each cycle weight; can be repeated.",
)
@click.option(
    "--prior",
    "priors",
    type=click.Choice(PRIORS.names),
    multiple=True,
    default=(ModelSettings.prior,),
    show_default=True,
    help="Prior to try with each of them; can be repeated.",
)
@seeds_option
@genes_option
@covariate_options
@settings_options(without=("cycle_weight", "kl_weight", "prior"))
@min_cells_per_group_option(default=200, least=2)
@device_option
@key_option
@figures_option
@reporting_options
@pass_columns
def tune(
    report: Report,
    input: Path,
    columns: Columns,
    label_key: str | None,
    output: Path,
    cycle_weights: tuple[float, ...],
    kl_weights: tuple[float, ...],
    priors: tuple[str, ...],
    seeds: int,
    n_top_genes: int,
    min_cells: int,
    device: str,
    key: str,
    figures: str,
    **settings: Any,
) -> None:
    """Choose the strength of integration: train with several cycle weights, priors and seeds, measure and compare.

    With --label by the rule of the paper, otherwise by a rule that needs no labels. Every finished run is kept in the
    output folder: after an interruption, the same command continues. The folder then also holds integrated.h5ad (a copy
    of INPUT with the chosen embedding in obsm), runs.csv, settings.csv, tuning.json (the choice and its reasons), the
    figure tuning and the chosen model.
    """
    from sysvi.data.ensure_prepared import ensure_prepared
    from sysvi.data.h5ad import read_h5ad, write_with_embedding

    prepared, layer = ensure_prepared(
        read_h5ad(input),
        columns.system,
        columns.batch,
        layer=columns.layer,
        n_top_genes=n_top_genes,
        report=report.preparation(),
    )
    if label_key is not None and label_key not in prepared.obs:
        raise sysvi.InputError(f"obs of {input} has no column {label_key!r} (--label).")
    tuning = sysvi.tune(
        prepared,
        **replace(columns, layer=layer).to_arguments(),
        label_key=label_key,
        cycle_weights=cycle_weights,
        kl_weights=kl_weights,
        priors=priors,
        seeds=seeds,
        output=output,
        key_added=key,
        min_cells=min_cells,
        device=device,
        progress=report.on_event,
        **given_settings(settings),
    )
    report.text(str(tuning))
    paths = sysvi.write_tuning(tuning, output, figures)
    paths.append(output / "integrated.h5ad")
    write_with_embedding(input, paths[-1], {key: tuning.embedding}, {"sysvi": model_record(tuning.model)})
    report.on_event(Event("choice", "", {**tuning.choice, "why": tuning.why, "warnings": list(tuning.warnings)}))
    for path in paths:
        report.wrote(path)
    if tuning.interrupted:
        sys.exit(130)


@main.command("batch-strength")
@input_options(batch_required=True, label="required")
@click.option(
    "--min-cells",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    help="Smallest number of cells of a cell type in a batch that is compared.",
)
@click.option("-o", "--output", type=FILE, help="Also write the table (this name, .csv) and the figure (.png).")
@overwrite_option
@seed_option
@reporting_options
def batch_strength(
    report: Report,
    input: Path,
    system_key: str,
    batch_key: str,
    label_key: str,
    layer: str | None,
    min_cells: int,
    output: Path | None,
    overwrite: bool,
    seed: int,
) -> None:
    """Are the differences between systems substantial? To be asked before integration.

    Compares the distances between batches of one system with those between systems, for each cell type.
    """
    from sysvi._core.files import write_atomically
    from sysvi.data.ensure_prepared import ensure_prepared
    from sysvi.data.h5ad import check_output, read_h5ad

    paths = [] if output is None else [output.with_suffix(".csv"), output.with_suffix(".png")]
    for path in paths:
        check_output(path, overwrite)
    adata, layer = ensure_prepared(read_h5ad(input), system_key, batch_key, layer=layer, report=report.preparation())
    strength = sysvi.batch_strength(
        adata, system_key, batch_key, label_key, layer=layer, min_cells=min_cells, seed=seed
    )
    report.text(str(strength))
    report.on_event(Event("strength", "", {"substantial": strength.substantial, "advice": strength.advice}))
    if paths:
        write_atomically(paths[0], strength.table.to_csv)
        sysvi.plot_batch_strength(strength, paths[1])
        report.on_event(Event("write", f"Wrote {paths[0]} and {paths[1]}", {"output": str(paths[0])}))


@main.command()
@click.option("-o", "--output", type=FOLDER, default="demo", show_default=True, help="Folder for the results.")
@click.option("--cells", type=click.IntRange(500), default=2000, show_default=True, help="Number of cells to simulate.")
@seed_option
@reporting_options
def demo(report: Report, output: Path, cells: int, seed: int) -> None:
    """Simulate cells of two systems, integrate them, and show the result."""
    from sysvi.demo import run_demo

    table = run_demo(output, cells, seed, report.on_event)
    report.text(table.to_string(header=False))
    files = " and ".join(str(output / name) for name in ("demo.png", "demo.h5ad"))
    report.on_event(Event("write", f"Wrote {files}", {"results": table.iloc[:, 0].to_dict()}))


def model_record(model: sysvi.SysVI) -> dict[str, Any]:
    """Settings and versions of a model and the genes that it was trained on, for uns of the output file."""
    import numpy as np

    return {**model.record(), "genes": np.array(model.vocabulary.genes, dtype=object)}


if __name__ == "__main__":
    main()
