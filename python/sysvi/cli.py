"""The command line: a thin door. Everything it does can be done from Python with the functions it calls."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np

import sysvi
from sysvi._core.events import Event, OnEvent, ignore_event, preparation_reporter
from sysvi._core.progress import JsonLines, ProgressBar
from sysvi._core.settings import PRIORS, ModelSettings, TrainSettings
from sysvi.api.sysvi import MODEL_FILE

MODEL, TRAINING = ModelSettings(), TrainSettings()
FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(sysvi.__version__, prog_name="sysvi")
def main() -> None:
    """Integrate single-cell data sets that differ a lot.

    sysVI brings cells of different SYSTEMS (species, organoid and tissue, cells and nuclei, protocols) into one
    embedding in which the same cell types lie together, and differences within a cell type are kept.

    Try it on simulated cells: sysvi demo. Integrate your own:
    sysvi integrate cells.h5ad --system species --batch donor -o integrated.h5ad
    """


def shared_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that `integrate` and `prepare` have in common."""
    for option in reversed(
        [
            click.argument("input", type=FILE),
            click.option("--system", required=True, help="Column of obs with the systems, for example species."),
            click.option("--batch", help="Column of obs with the samples or donors within the systems."),
            click.option("--layer", help="Layer with the expression (default: X)."),
            click.option("-o", "--output", type=FILE, required=True, help="The h5ad file to write."),
            click.option("--overwrite", is_flag=True, help="Replace the output if it exists."),
            click.option("--genes", default=3000, show_default=True, help="Variable genes to find in each system."),
            click.option(
                "--min-cells", default=20, show_default=True, help="Keep genes seen in more cells than this per system."
            ),
        ]
    ):
        command = option(command)
    return command


def reporting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How to report."""
    command = click.option("--json", "as_json", is_flag=True, help="Print one JSON event a line, for programs.")(
        command
    )
    return click.option("--quiet", is_flag=True, help="Print nothing but errors.")(command)


@main.command()
@shared_options
@click.option("--covariate", multiple=True, help="Further categorical column of obs to correct for; can be repeated.")
@click.option("--continuous", multiple=True, help="Continuous column of obs to correct for; can be repeated.")
@click.option("--weight-systems", is_flag=True, help="Count all systems the same, whatever their number of cells.")
@click.option("--all-genes", is_flag=True, help="Use all genes of log-normalised input instead of variable ones.")
@click.option(
    "--cycle-weight",
    type=click.FloatRange(0),
    default=TRAINING.cycle_weight.value,
    show_default=True,
    help="Strength of integration; with enough epochs 20 or 50 mix cells of one type more and of different types less.",
)
@click.option(
    "--kl-weight",
    type=click.FloatRange(0),
    default=TRAINING.kl_weight.value,
    show_default=True,
    help="Weight of the prior; raising it shrinks latent dimensions, which only looks like mixing.",
)
@click.option("--epochs", type=click.IntRange(1), help="Passes over the data (default: by the number of cells).")
@click.option("--batch-size", type=click.IntRange(2), help="Cells of a minibatch (default: by the number of cells).")
@click.option("--n-latent", type=click.IntRange(1), default=MODEL.n_latent, show_default=True, help="Dimensions.")
@click.option(
    "--prior",
    type=click.Choice(PRIORS.names),
    default=MODEL.prior,
    show_default=True,
    help="Prior: posteriors of pseudo-cells, a Gaussian mixture, or a standard normal.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@click.option(
    "--seed", type=click.IntRange(0), default=TRAINING.seed, show_default=True, help="Same seed, same result."
)
@click.option("--key", default="X_sysVI", show_default=True, help="Name of the embedding in obsm.")
@click.option("--save-model", type=FOLDER, help="Also save the model into this folder.")
@reporting_options
def integrate(
    input: Path,
    output: Path,
    system: str,
    batch: str | None,
    layer: str | None,
    overwrite: bool,
    genes: int,
    min_cells: int,
    covariate: tuple[str, ...],
    continuous: tuple[str, ...],
    weight_systems: bool,
    all_genes: bool,
    cycle_weight: float,
    kl_weight: float,
    epochs: int | None,
    batch_size: int | None,
    n_latent: int,
    prior: str,
    device: str,
    seed: int,
    key: str,
    save_model: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Integrate the systems of an h5ad file.

    INPUT holds the cells of all systems on the same genes, as counts (prepared as in the paper: genes seen in every
    system, normalised, variable in every system) or log-normalised (variable genes are chosen). The output is a copy
    of INPUT with the embedding in obsm; use it for neighbours, UMAP and clustering.
    """
    from sysvi.data.ensure_prepared import ensure_prepared
    from sysvi.data.h5ad import check_output, read_h5ad, write_with_embedding

    with reporting(as_json, quiet) as on_event:
        check_output(output, overwrite)
        if save_model is not None and (save_model / MODEL_FILE).exists() and not overwrite:
            raise sysvi.InputError(f"{save_model / MODEL_FILE} exists already; pass --overwrite to replace it.")
        adata = read_h5ad(input)
        prepared, layer = ensure_prepared(
            adata,
            system,
            batch,
            layer=layer,
            n_top_genes=genes,
            min_cells=min_cells,
            all_genes=all_genes,
            report=preparation_reporter(on_event),
        )
        model = sysvi.integrate(
            prepared,
            system,
            batch,
            layer=layer,
            categorical_covariate_keys=covariate,
            continuous_covariate_keys=continuous,
            weight_systems=weight_systems,
            device=device,
            seed=seed,
            key_added=key,
            progress=on_event,
            cycle_weight=cycle_weight,
            kl_weight=kl_weight,
            max_epochs=epochs,
            batch_size=batch_size,
            n_latent=n_latent,
            prior=prior,
        )
        embedding = prepared.obsm[key]
        record = {**model.record(), "genes": np.array(prepared.var_names, dtype=object)}
        if save_model is not None:
            model.save(save_model, overwrite=overwrite)
            on_event(Event("write", f"Wrote the model to {save_model}"))
        write_with_embedding(input, output, {key: embedding}, {"sysvi": record})
        shape = " x ".join(map(str, embedding.shape))
        on_event(Event("write", f"Wrote {output}: obsm[{key!r}], {shape}", {"output": str(output), "key": key}))
        if model.status == "interrupted":
            sys.exit(130)


@main.command()
@shared_options
@reporting_options
def prepare(
    input: Path,
    output: Path,
    system: str,
    batch: str | None,
    layer: str | None,
    overwrite: bool,
    genes: int,
    min_cells: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Prepare counts: genes seen in every system, normalised, log1p, variable in every system.

    The output has log-normalised expression in X and the counts in layers["counts"]. `sysvi integrate` does this by
    itself; prepare a file to look at it, or to use it more than once.
    """
    from sysvi._core.files import write_atomically
    from sysvi.data.h5ad import check_output, read_h5ad

    with reporting(as_json, quiet) as on_event:
        check_output(output, overwrite)
        adata = read_h5ad(input)
        prepared = sysvi.prepare(
            adata,
            system,
            batch,
            layer=layer,
            n_top_genes=genes,
            min_cells=min_cells,
            report=preparation_reporter(on_event),
        )
        write_atomically(output, prepared.write_h5ad)
        on_event(Event("write", f"Wrote {output}: {prepared.n_obs:,} cells x {prepared.n_vars:,} genes"))


@main.command()
@click.argument("input", type=FILE)
@click.option(
    "--embedding",
    "embeddings",
    multiple=True,
    default=("X_pca", "X_sysVI"),
    show_default=True,
    help="Embedding in obsm; can be repeated. X_pca is computed where it is not there.",
)
@click.option("--system", required=True, help="Column of obs with the systems, whose mixing is measured.")
@click.option("--batch", help="Column of obs with the samples or donors within the systems.")
@click.option("--label", help="Column of obs with the cell types; without it only what needs none is measured.")
@click.option("--layer", help="Layer with the expression (default: X).")
@click.option("--metric", "metrics", multiple=True, help="Only this metric, such as iLISI; can be repeated.")
@click.option("--all", "all_metrics", is_flag=True, help="The slow metrics too: kBET, Leiden at ten resolutions.")
@click.option(
    "--standardised", is_flag=True, help="Also measure with every dimension scaled to unit variance (is mixing real?)."
)
@click.option(
    "--min-cells", type=click.IntRange(20), default=500, show_default=True, help="Cells of a group for Moran."
)
@click.option("--max-cells", type=click.IntRange(100), help="Measure a stratified random sample of this many cells.")
@click.option("-o", "--output", type=FOLDER, help="Folder for tables (CSV, JSON) and figures; made if missing.")
@click.option("--figures", type=click.Choice(["png", "pdf", "svg"]), default="png", show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace results that are in the folder.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Same seed, same result.")
@reporting_options
def evaluate(
    input: Path,
    embeddings: tuple[str, ...],
    system: str,
    batch: str | None,
    label: str | None,
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
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure embeddings of an h5ad file: mixing, cell types kept, structure within types kept.

    Prints a table, higher is better. With -o also writes evaluation.csv and .json (the table and what to know of it),
    labels.csv and cells.csv (the values by cell type and by cell) and the figures evaluation and labels.
    """
    from sysvi.data.h5ad import read_h5ad
    from sysvi.evaluation.files import check_output_folder, format_evaluation, write_evaluation

    with reporting(as_json, quiet) as on_event:
        if output is not None:
            check_output_folder(output, overwrite)
        found = sysvi.evaluate_in_detail(
            read_h5ad(input),
            embeddings,
            system_key=system,
            batch_key=batch,
            label_key=label,
            layer=layer,
            metrics=metrics or ("all" if all_metrics else "default"),
            standardised=standardised,
            min_cells=min_cells,
            max_cells=max_cells,
            device=device,
            seed=seed,
            progress=on_event,
        )
        if not (as_json or quiet):
            click.echo(format_evaluation(found))
        if output is not None:
            for path in write_evaluation(found, output, figures):
                on_event(Event("write", f"Wrote {path}", {"output": str(path)}))


@main.command()
@click.argument("input", type=FILE)
@click.option("--system", required=True, help="Column of obs with the systems, for example species.")
@click.option("--batch", required=True, help="Column of obs with the samples or donors within the systems.")
@click.option("--label", required=True, help="Column of obs with the cell types.")
@click.option("--layer", help="Layer with the expression (default: X).")
@click.option("--methods", default="all", show_default=True, help="Names with commas between, such as sysvi,scvi,pca.")
@click.option(
    "--grid",
    type=click.Choice(["full", "default"]),
    default="full",
    show_default=True,
    help="All values of each method's tuned parameter, or its default only.",
)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Runs of each setting.")
@click.option("--epochs", type=click.IntRange(1), help="Of trained methods, instead of their own number: a quick look.")
@click.option("--timeout", type=click.FloatRange(1), help="Seconds that a run may take.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Runs at a time.")
@click.option(
    "--min-cells", type=click.IntRange(20), default=500, show_default=True, help="Cells of a group for Moran."
)
@click.option("--environments", type=FOLDER, help="Where methods are installed (default: the user's cache).")
@click.option("--constraint", type=FILE, help="pip's constraint file, for example with the build of torch to take.")
@click.option("--adapters", type=FOLDER, help="Folder with adapters of further methods.")
@click.option("-o", "--output", type=FOLDER, required=True, help="Folder for the results; finished runs are reused.")
@click.option("--figures", type=click.Choice(["png", "pdf", "svg"]), default="png", show_default=True)
@reporting_options
def compare(
    input: Path,
    system: str,
    batch: str,
    label: str,
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
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare methods of integration on the cells of an h5ad file.

    Runs each method over the values of its tuned parameter and over seeds, each run in a process of its own, and each
    method in an environment of its own where need be, made on demand. Writes runs.csv, methods.csv, table.csv,
    tests.csv and the figures comparison and umaps. A method that cannot be had is listed with the reason. Interrupted
    or killed, the same command goes on with what is missing.

    Methods: sysvi, cvae, vamp, cyc, adv, pca, harmony, scvi, scvi-sysvi, glue, seurat-cca, seurat-rpca, harmony-r,
    scmgca, scgen, saturn.
    """
    from sysvi.comparison.tables import format_comparison
    from sysvi.data.h5ad import read_h5ad

    with reporting(as_json, quiet) as on_event:
        try:
            found = sysvi.compare(
                read_h5ad(input),
                output,
                system_key=system,
                batch_key=batch,
                label_key=label,
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
                progress=on_event,
            )
        except KeyboardInterrupt:
            sys.exit(130)
        if not (as_json or quiet):
            click.echo(format_comparison(found.table, found.methods, found.notes))


@main.command()
@click.argument("input", type=FILE)
@click.option("--system", required=True, help="Column of obs with the systems, for example species.")
@click.option("--batch", help="Column of obs with the samples or donors within the systems.")
@click.option("--label", help="Column of obs with the cell types, if known; only for measuring.")
@click.option("--layer", help="Layer with the expression (default: X).")
@click.option("-o", "--output", type=FOLDER, required=True, help="Folder for runs, tables and the figure.")
@click.option(
    "--cycle-weight",
    "cycle_weights",
    type=click.FloatRange(0),
    multiple=True,
    default=(0, 2, 5, 10, 20, 50),
    show_default=True,
    help="A cycle weight to try; can be repeated.",
)
@click.option(
    "--kl-weight",
    "kl_weights",
    type=click.FloatRange(0),
    multiple=True,
    default=(1,),
    show_default=True,
    help="A KL weight to try with each of them; can be repeated.",
)
@click.option(
    "--prior",
    "priors",
    type=click.Choice(PRIORS.names),
    multiple=True,
    default=(MODEL.prior,),
    show_default=True,
    help="A prior to try with each of them; can be repeated.",
)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Runs of each setting.")
@click.option("--genes", default=3000, show_default=True, help="Variable genes to find in each system.")
@click.option("--covariate", multiple=True, help="Further categorical column of obs to correct for; can be repeated.")
@click.option("--epochs", type=click.IntRange(1), help="Passes over the data (default: by the number of cells).")
@click.option("--min-cells", type=click.IntRange(2), default=200, show_default=True, help="Cells of a group for Moran.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@click.option("--key", default="X_sysVI", show_default=True, help="Name of the chosen embedding in obsm.")
@click.option("--figures", type=click.Choice(["png", "pdf", "svg"]), default="png", show_default=True)
@reporting_options
def tune(
    input: Path,
    system: str,
    batch: str | None,
    label: str | None,
    layer: str | None,
    output: Path,
    cycle_weights: tuple[float, ...],
    kl_weights: tuple[float, ...],
    priors: tuple[str, ...],
    seeds: int,
    genes: int,
    covariate: tuple[str, ...],
    epochs: int | None,
    min_cells: int,
    device: str,
    key: str,
    figures: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Choose the strength of integration: several cycle weights, priors and seeds, measured and compared.

    With --label by the paper's rule, without by one that needs no labels. Every finished run is kept in the output
    folder: the same command goes on where it was interrupted. In the end it also holds integrated.h5ad (a copy of
    INPUT with the chosen embedding in obsm), runs.csv, settings.csv, tuning.json (the choice and why), the figure
    tuning and the chosen model.
    """
    from sysvi.data.ensure_prepared import ensure_prepared
    from sysvi.data.h5ad import read_h5ad, write_with_embedding

    with reporting(as_json, quiet) as on_event:
        adata = read_h5ad(input)
        prepared, layer = ensure_prepared(
            adata, system, batch, layer=layer, n_top_genes=genes, report=preparation_reporter(on_event)
        )
        if label is not None and label not in prepared.obs:
            raise sysvi.InputError(f"obs of {input} has no column {label!r} (--label).")
        found = sysvi.tune(
            prepared,
            system,
            batch,
            label,
            cycle_weights=cycle_weights,
            kl_weights=kl_weights,
            priors=priors,
            seeds=seeds,
            output=output,
            key_added=key,
            layer=layer,
            categorical_covariate_keys=covariate,
            min_cells=min_cells,
            device=device,
            progress=on_event,
            max_epochs=epochs,
        )
        if not (as_json or quiet):
            click.echo(str(found))
        paths = sysvi.write_tuning(found, output, figures)
        record = {**found.model.record(), "genes": np.array(prepared.var_names, dtype=object)}
        paths.append(output / "integrated.h5ad")
        write_with_embedding(input, paths[-1], {key: found.embedding}, {"sysvi": record})
        on_event(Event("choice", "", {**found.choice, "why": found.why, "warnings": list(found.warnings)}))
        for path in paths:
            on_event(Event("write", f"Wrote {path}", {"output": str(path)}))
        if found.interrupted:
            sys.exit(130)


@main.command("batch-strength")
@click.argument("input", type=FILE)
@click.option("--system", required=True, help="Column of obs with the systems.")
@click.option("--batch", required=True, help="Column of obs with the samples or donors within the systems.")
@click.option("--label", required=True, help="Column of obs with the cell types.")
@click.option("--layer", help="Layer with the expression (default: X).")
@click.option("--min-cells", type=click.IntRange(1), default=50, show_default=True, help="Cells of a type in a sample.")
@click.option("-o", "--output", type=FILE, help="Also write the table (this name, .csv) and the figure (.png).")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Same seed, same result.")
@reporting_options
def batch_strength(
    input: Path,
    system: str,
    batch: str,
    label: str,
    layer: str | None,
    min_cells: int,
    output: Path | None,
    overwrite: bool,
    seed: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Are the differences between systems substantial? Ask before integrating.

    Compares the distances between samples of one system with those between systems, cell type by cell type.
    """
    from sysvi._core.files import write_atomically
    from sysvi.data.ensure_prepared import ensure_prepared
    from sysvi.data.h5ad import check_output, read_h5ad

    with reporting(as_json, quiet) as on_event:
        paths = [] if output is None else [output.with_suffix(".csv"), output.with_suffix(".png")]
        for path in paths:
            check_output(path, overwrite)
        adata, layer = ensure_prepared(
            read_h5ad(input), system, batch, layer=layer, report=preparation_reporter(on_event)
        )
        strength = sysvi.batch_strength(adata, system, batch, label, layer=layer, min_cells=min_cells, seed=seed)
        if not (as_json or quiet):
            click.echo(str(strength))
        values = {"substantial": strength.substantial, "advice": strength.advice}
        on_event(Event("strength", "", values))
        if paths:
            write_atomically(paths[0], strength.table.to_csv)
            sysvi.plot_batch_strength(strength, paths[1])
            on_event(Event("write", f"Wrote {paths[0]} and {paths[1]}", {"output": str(paths[0])}))


@main.command()
@click.option("-o", "--output", type=FOLDER, default="demo", show_default=True, help="Folder for the results.")
@click.option("--cells", type=click.IntRange(500), default=2000, show_default=True, help="Cells to simulate.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Same seed, same result.")
@reporting_options
def demo(output: Path, cells: int, seed: int, as_json: bool, quiet: bool) -> None:
    """Simulate cells of two systems, integrate them, and show the result."""
    from sysvi.demo import run_demo

    with reporting(as_json, quiet) as on_event:
        table = run_demo(output, cells, seed, on_event)
        if not (as_json or quiet):
            click.echo(table.to_string(header=False))
        names = [str(output / name) for name in ("demo.png", "demo.h5ad")]
        on_event(Event("write", f"Wrote {' and '.join(names)}", {"results": table.iloc[:, 0].to_dict()}))


@contextmanager
def reporting(as_json: bool, quiet: bool) -> Iterator[OnEvent]:
    """Give the work a way to report; show warnings and errors as one line each."""
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


if __name__ == "__main__":
    main()
