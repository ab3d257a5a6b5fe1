"""The command line: each command reads files, calls functions of the Python package and writes files.

Heavy libraries (torch, anndata, ...) are imported inside the commands, so that ``sysvi --help`` is fast.
"""

from __future__ import annotations

import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import Field, dataclass, field, fields, replace
from functools import wraps
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args, get_origin

import click
from click.core import ParameterSource

import sysvi
from sysvi._core.errors import LostProcessError
from sysvi._core.events import Event, OnEvent, ignore_event, preparation_reporter
from sysvi._core.interrupts import by_signal, catch_interrupts, exit_status, raise_interrupts
from sysvi._core.launcher import launched_rank, n_launched
from sysvi._core.settings import DEFAULT_PRESET, PRESETS, PRIORS, ModelSettings, Ramp, TrainSettings, setting_types
from sysvi._core.words import duration
from sysvi.closing import Closing, of_compare, of_integrate, of_map, of_prepare, of_tune
from sysvi.data.columns import Columns

if TYPE_CHECKING:
    from anndata import AnnData

    from sysvi.mapping.reference import Reference

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
    """The option of a setting, with its type, default (that of the default preset), limits and help."""
    of_preset, about = DEFAULT_PRESET.settings.get(setting.name), setting.metadata
    default = setting.default if of_preset is None else of_preset
    name = OPTION_NAMES.get(setting.name, setting.name).replace("_", "-")
    names = f"--{name}/--no-{name}" if default is True else f"--{name}"
    return click.option(
        names,
        setting.name,
        type=option_type(setting),
        is_flag=SETTING_TYPES[setting.name] is bool,
        default=default.value if isinstance(default, Ramp) else default,
        show_default=default is not None or about["unset"],
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
raw_option = click.option("--raw", is_flag=True, help="Take expression and genes from raw instead of X.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace existing results.")
genes_option = click.option(
    "--genes", "n_top_genes", default=3000, show_default=True, help="Number of variable genes to find in each system."
)
min_cells_per_gene_option = click.option(
    "--min-cells", default=20, show_default=True, help="Keep genes that are seen in more cells than this per system."
)
fractional_counts_option = click.option(
    "--fractional-counts",
    is_flag=True,
    help="Take values with fractions as counts, as from SoupX, DecontX and EM counters.",
)
device_option = click.option(
    "--device", default="auto", show_default=True, help="Device to compute on: auto, cpu, cuda, cuda:1 or mps."
)
model_option = click.option(
    "--model",
    "model_path",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder in which the model was saved, or its file.",
)
model_layer_option = click.option("--layer", help="Layer with the expression (default: that of the model, or X).")
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
ensemble_options = combined(
    click.option(
        "--members",
        type=click.IntRange(1),
        default=DEFAULT_PRESET.members,
        show_default=", ".join(f"{preset.members} with {name}" for name, preset in PRESETS.items()),
        help="Number of models, which differ in their seed and are combined; with 1, no support is computed.",
    ),
    click.option(
        "--preset",
        type=click.Choice(list(PRESETS)),
        help="Settings that go together: conservative (the default: types of single systems stay apart), mixing "
        "(systems mix more, sometimes such types too) or paper (its model and training). Options given take "
        "precedence.",
    ),
)
figures_option = click.option(
    "--figures",
    type=click.Choice(["png", "pdf", "svg"]),
    default="png",
    show_default=True,
    help="File format of the figures.",
)
report_option = click.option(
    "--report",
    "report_path",
    type=FILE,
    help="Also write a report (HTML), as sysvi report does; that of an earlier call is replaced.",
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


def input_options(
    batch_required: bool = False, label: Literal["none", "optional", "required"] = "none", many: bool = False
) -> Decorator:
    """The input file, or files, and the columns with systems, batches and cell type labels."""
    files = click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
    options = [
        files if many else click.argument("input", type=click.Path(path_type=Path)),
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
    return combined(*options, layer_option, raw_option)


of_files_options = combined(
    click.option(
        "--system-of-file",
        multiple=True,
        metavar="FILE=SYSTEM",
        help="System of a file without such a column; FILE is its path, its name, or a pattern. Can be repeated.",
    ),
    click.option(
        "--orthologs",
        multiple=True,
        metavar="SYSTEM=TABLE",
        help="Table of orthologues by which the genes of a system are renamed; can be repeated.",
    ),
)


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


def read_input(path: Path, raw: bool, layer: str | None, or_zarr: bool = False) -> AnnData:
    """Open the input file, or zarr store where the command takes one; with `raw`, with the expression of raw."""
    from sysvi.data.ensure_prepared import is_prepared
    from sysvi.data.h5ad import read_h5ad
    from sysvi.data.stores import open_cells

    if raw and layer is not None:
        raise sysvi.InputError("--raw and --layer name two different places of the expression: give one of them.")
    adata = open_cells(path, raw) if or_zarr else read_h5ad(path, raw)
    genes = click.get_current_context().get_parameter_source("n_top_genes")
    if is_prepared(adata, layer) and genes is ParameterSource.COMMANDLINE:
        warnings.warn("The input is prepared already: --genes has no effect.", stacklevel=1)
    return adata


# -- reporting --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """How a command reports: events while it works, and text for people unless --json or --quiet is given."""

    on_event: OnEvent
    prints_text: bool
    warnings: list[str] = field(default_factory=list)  # that were shown
    start: float = field(default_factory=time.perf_counter)

    def text(self, text: str) -> None:
        """Print text for people on standard output."""
        if self.prints_text:
            click.echo(text)

    def close(self, closing: Closing) -> None:
        """Print what was done and what to look at next, for people, on standard error."""
        if self.prints_text:
            for line in closing.lines(duration(time.perf_counter() - self.start), len(self.warnings)):
                click.echo(line, err=True)

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
        shown: list[str] = []
        with reporting(as_json, quiet, shown, goes_on=arguments.get("checkpoint") is not None) as on_event:
            command(report=Report(on_event, not (as_json or quiet) and launched_rank() == 0, shown), **arguments)

    return run


SEVERAL_PROCESSES = ("integrate",)  # commands that several processes carry out together


@contextmanager
def together() -> Iterator[Callable[[], bool]]:
    """Join the processes that a launcher such as torchrun has started, if there are several.

    Gives a function that says whether this process is the first of them that fails, which then says why.
    """
    if n_launched() == 1:
        yield lambda: True
        return
    name = click.get_current_context().info_name
    if name not in SEVERAL_PROCESSES:
        if launched_rank():
            sys.exit(1)
        raise sysvi.InputError(f"sysvi {name} works in a single process: run it without torchrun.")
    from sysvi._core.ranks import join_launched

    with join_launched() as launched:
        yield launched.is_first_to_fail


@contextmanager
def reporting(as_json: bool, quiet: bool, shown: list[str], goes_on: bool = False) -> Iterator[OnEvent]:
    """Choose how events are shown, and show warnings (listed in `shown`), errors and interrupts as one line each.

    After an interrupt the exit status is that of a program that `goes_on` when it is run again, or not.
    """
    from sysvi._core.backend_of_figures import check_backend_of_figures
    from sysvi._core.progress import JsonLines, ProgressBar

    on_event: OnEvent = JsonLines() if as_json else ignore_event if quiet else ProgressBar()
    on_error, is_first_to_fail = on_event, lambda: True
    if launched_rank():  # the first process shows what all do
        on_event = ignore_event

    def show_warning(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
        if issubclass(category, UserWarning) and not issubclass(category, (FutureWarning, DeprecationWarning)):
            shown.append(in_words_of_options(str(message)))
            on_event(Event("warning", f"Warning: {shown[-1]}"))

    def fail(message: str, status: int) -> NoReturn:
        if is_first_to_fail():
            show_error(message, on_error, as_json)
        sys.exit(status)

    with warnings.catch_warnings(), raise_interrupts(), ExitStack() as stack:
        warnings.showwarning = show_warning
        try:
            check_backend_of_figures()
            is_first_to_fail = stack.enter_context(together())
            yield on_event
        except KeyboardInterrupt:
            fail(f"Interrupted{by_signal()}; no file was left half-written.", exit_status(goes_on))
        except (sysvi.InputError, sysvi.NonFiniteLossError, LostProcessError, OSError) as error:
            fail(in_words_of_options(str(error)), 1)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            fail(f"There is not enough memory ({str(error).splitlines()[0]}): {LESS_MEMORY}", 1)


def show_error(message: str, on_event: OnEvent, as_json: bool) -> None:
    """Print an error."""
    on_event(Event("error", message if as_json else ""))  # which also ends the progress bar
    if not as_json:
        click.echo(f"Error: {message}", err=True)


LESS_MEMORY = "give fewer genes (--genes) or cells, or use a machine with more memory."


def is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether memory is exhausted, which torch reports as a RuntimeError."""
    return isinstance(error, MemoryError) or "allocate" in str(error) or "out of memory" in str(error)


# Options that are not named as the argument of Python, with hyphens for underscores.
OPTION_OF_ARGUMENT = {
    "batch_key": "--batch",
    "cluster_key": "--cluster",
    "categorical_covariate_keys": "--covariate",
    "continuous_covariate_keys": "--continuous",
    "groupby": "--groupby",
    "key_added": "--key",
    "label_key": "--label",
    "max_epochs": "--epochs",
    "n_top_genes": "--genes",
    "pseudoinputs_label_key": "--pseudoinputs-label",
    "system_key": "--system",
    "system_of_file": "--system-of-file",
}
OTHER_ARGUMENTS = (
    *("all_genes", "layer", "max_cells", "memory", "min_cells", "overwrite", "standardised", "to_batch", "to_system"),
    "weight_systems",
)
ARGUMENT = re.compile(rf"\b({'|'.join((*OPTION_OF_ARGUMENT, *OTHER_ARGUMENTS, *SETTING_TYPES))})\b(=True|=)?")
PHRASES = (
    (
        r"fractional_counts=True of sysvi\.prepare \(--fractional-counts on the command line\)",
        "--fractional-counts (of sysvi prepare, integrate and tune)",
    ),
    (
        r"fractional_counts=True of sysvi\.map_query or sysvi\.extend_model "
        r"\(--fractional-counts on the command line\)",
        "--fractional-counts (of sysvi map)",
    ),
    (
        r"give counts \(see the argument layer\) or pass normalize=False",
        "give counts (--layer), or log-normalised values to sysvi integrate",
    ),
    (r" \(of SysVI: weight_batches=True\)", ""),
    (r"take adata = adata\.raw\.to_adata\(\)", "pass --raw"),
    (r"run adata = sysvi\.prepare\(.*?\) first", "run sysvi prepare first"),
    (r" \(see the argument layer\)", " (--layer)"),
    (r", or name the one with the new gene names \(argument target\)", " in the file"),
    (r"\((orthologs|systems)\)", r"(--\1)"),
    (r"\(colors\)", "(--color)"),
    (
        r"join the systems with sysvi\.join_systems\(\.\.\., genes='union'\) first",
        "give sysvi prepare a file of each system",
    ),
    (r"\bgenes='(shared|union)'", r"--gene-set \1"),
    (
        r"sysvi\.extend_model first, and use the model that this returns",
        "sysvi map --save-model first, and use the model that this saves",
    ),
    (r"\bsysvi\.map_query\b", "sysvi map"),
    (r"\bsysvi\.(prepare|integrate|evaluate|tune|compare)\b", r"sysvi \1"),
    (r"\badata\.(obsm?|obs_names|var|var_names|uns|X|layers|raw)\b", r"\1"),
    (r"\badata has\b", "The input has"),
)


def in_words_of_options(message: str) -> str:
    """A message of the Python package in the words of the command line.

    Examples
    --------
    >>> in_words_of_options("adata.obs['x'] (system_key) is missing: set n_top_genes, kl_weight=2 or overwrite=True.")
    "obs['x'] (--system) is missing: set --genes, --kl-weight 2 or --overwrite."
    """

    def option(found: re.Match[str]) -> str:
        name, value = found[1], found[2] or ""
        if "_" not in name and not value:
            return name  # a word of English, such as "prior"
        option = OPTION_OF_ARGUMENT.get(name, f"--{name.replace('_', '-')}")
        return f"{option} " if value == "=" else option

    for phrase, words in PHRASES:
        message = re.sub(phrase, words, message)
    return ARGUMENT.sub(option, message)


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
@input_options(label="optional", many=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The h5ad file to write; of several inputs, or of cells in a zarr store, it may be a .zarr store too.",
)
@click.option(
    "--in-place",
    is_flag=True,
    help="Add the embedding, the support and the record of the model to the zarr store INPUT, instead of --output.",
)
@overwrite_option
@click.option("--report", "report_path", type=FILE, help="Also write a report (HTML), as sysvi report does.")
@genes_option
@min_cells_per_gene_option
@fractional_counts_option
@click.option("--all-genes", is_flag=True, help="Use all genes of log-normalised input instead of variable ones.")
@of_files_options
@covariate_options
@ensemble_options
@settings_options()
@device_option
@seed_option
@key_option
@click.option("--save-model", type=FOLDER, help="Folder in which the model is saved too.")
@click.option(
    "--memory",
    help="Memory that the run may take, such as 4GB: prepared cells that need more are read from disk during training "
    "(default: as much as it needs).",
)
@click.option(
    "--checkpoint",
    type=FOLDER,
    help="Folder in which the state of training is kept: after a kill, the same command goes on from there. After "
    "SIGTERM or SIGUSR1 the exit status is 75.",
)
@click.option("--copy", is_flag=True, help="Copy the expression into the output even if the cells stay on disk.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done, with its time, memory, disk and passes.")
@reporting_options
@pass_columns
def integrate(
    report: Report,
    inputs: tuple[Path, ...],
    raw: bool,
    label_key: str | None,
    output: Path | None,
    in_place: bool,
    system_of_file: tuple[str, ...],
    orthologs: tuple[str, ...],
    report_path: Path | None,
    columns: Columns,
    overwrite: bool,
    n_top_genes: int,
    min_cells: int,
    fractional_counts: bool,
    all_genes: bool,
    device: str,
    seed: int,
    key: str,
    save_model: Path | None,
    memory: str | None,
    checkpoint: Path | None,
    copy: bool,
    dry_run: bool,
    **settings: Any,
) -> None:
    """Integrate the systems of h5ad files and zarr stores.

    INPUTS hold the cells of all systems with the same genes, as counts (which are prepared as in the paper: genes seen
    in every system, normalised, variable in every system) or log-normalised (variable genes are chosen). The output is
    a copy of the h5ad file with the embedding in obsm; use it for neighbours, UMAP and clustering.

    Several INPUTS are prepared as by sysvi prepare, into a temporary store beside the output, which then has obs, the
    embedding and the record of the model, but no expression.

    Several models are trained and combined. How far they agree that a cell has counterparts in other systems, from 0 to
    1, is written into sysvi_support in obs, and for each other system into sysvi_support in obsm.

    Started by torchrun, several processes train together: each reads a share of the cells, which must be prepared, and
    the first writes the output.

    With --memory, the output of sysvi prepare may be larger than memory: its cells are then read from disk, and the
    output holds obs, the embedding and the record of the model, but no expression (unless --copy is given). With
    --in-place, they are added to the store that is read, and there is no other output.
    """
    from sysvi._core.device import choose_device
    from sysvi._core.files import check_free_space
    from sysvi.api.arguments import find_preset, number_of_members
    from sysvi.api.dry_run import describe_run, output_bytes
    from sysvi.api.storage import choose_storage, storage_values
    from sysvi.data.ensure_prepared import ensure_prepared, is_prepared
    from sysvi.data.store_results import check_in_place
    from sysvi.data.store_writer import check_cells_output
    from sysvi.data.stores import open_cells

    if (output is None) != in_place:
        raise click.UsageError(
            "Give either --output, a file to write, or --in-place, to add to the store that is read."
        )
    if in_place and copy:
        raise click.UsageError("--copy is for --output: with --in-place, the expression stays where it is.")
    input = inputs[0]
    if len(inputs) > 1 or system_of_file or orthologs:
        for is_given, name in ((in_place, "--in-place"), (copy, "--copy"), (raw, "--raw"), (all_genes, "--all-genes")):
            if is_given:
                raise click.UsageError(f"{name} is for a single INPUT: leave it out, or run sysvi prepare first.")
        if n_launched() > 1 or dry_run:
            what = "--dry-run is" if dry_run else "Several processes are"
            raise sysvi.InputError(f"{what} for prepared cells: run sysvi prepare with these inputs first.")
        assert output is not None
        check_model_output(save_model, overwrite)
        settings_of_preparation = {
            "layer": columns.layer,
            "n_top_genes": n_top_genes,
            "min_cells": min_cells,
            "fractional_counts": fractional_counts,
            "seed": seed,
            "report": report.preparation(),
        }
        of_file, tables = pairs(system_of_file, "--system-of-file"), pairs(orthologs, "--orthologs")
        prepared_inputs = prepared_beside(output, overwrite, inputs, columns, of_file, tables, settings_of_preparation)
        input = click.get_current_context().with_resource(prepared_inputs)
        adata, columns = open_cells(input), replace(columns, layer=None)
    else:
        adata = read_input(input, raw, columns.layer, or_zarr=True)
    if in_place:
        check_in_place(input, key, overwrite or dry_run)
    given, storage = given_settings(settings), None
    if memory is not None or dry_run:
        n_members = number_of_members(given.get("members"), find_preset(given.get("preset")))
        storage = choose_storage(adata, columns.layer, memory, n_members, choose_device(device))
    on_disk, ready = storage is not None and storage.window_cells is not None, is_prepared(adata, columns.layer)
    copied = 0 if output is None else check_copy(input, output, copy, on_disk)
    if on_disk and not ready:
        raise sysvi.InputError(
            f"The cells are not prepared, and too many to prepare them in {memory} (--memory): run sysvi prepare with "
            "the same input and columns first, and integrate its output."
        )
    several = n_launched() > 1
    if several and not ready:
        raise sysvi.InputError(
            "The cells are not prepared, which one process does for several: run sysvi prepare first, and give its "
            "output to all."
        )
    if several and (dry_run or report_path is not None):
        raise sysvi.InputError(
            "--dry-run and --report are for a single process: leave them out, and run sysvi report on the output."
        )
    if dry_run and storage is not None:
        chosen = None if ready or all_genes else n_top_genes
        given = {"seed": seed, **given}
        report.on_event(describe_run(adata, columns, storage, chosen, copied, given, choose_device(device)))
        return
    n_bytes = copied + output_bytes(adata.n_obs, given.get("n_latent", ModelSettings.n_latent))
    if output is None:
        check_free_space(input / "obsm" / key, n_bytes)
    else:
        check_cells_output(output, overwrite, n_bytes)
    check_model_output(save_model, overwrite)
    if report_path is not None and on_disk:
        raise sysvi.InputError("--report needs the expression in memory: leave --report out, or raise --memory.")
    check_report_output(adata, report_path, label_key, overwrite)
    prepared, layer = adata, columns.layer
    if not on_disk and not several and storage is not None:
        report.on_event(Event("storage", storage.why, storage_values(storage)))
    if not on_disk and not several and input in inputs:
        prepared, layer = ensure_prepared(
            adata,
            columns.system,
            columns.batch,
            layer=columns.layer,
            n_top_genes=n_top_genes,
            min_cells=min_cells,
            all_genes=all_genes,
            fractional_counts=fractional_counts,
            report=report.preparation(),
        )
    model = sysvi.integrate(
        prepared,
        **replace(columns, layer=layer).to_arguments(),
        device=device,
        memory=memory if on_disk else None,
        checkpoint=checkpoint,
        seed=seed,
        key_added=key,
        progress=report.on_event,
        **given,
    )
    with catch_interrupts() as interrupted:  # what was trained is written first
        if launched_rank() == 0:
            write_results_of(prepared, model, key, input if copied or in_place else None, output, overwrite)
            save_trained_model(model, save_model, overwrite, report)
    details = f": obsm[{key!r}], {' x '.join(map(str, prepared.obsm[key].shape))}"
    if len(model.members) > 1:
        details += f", combined from {len(model.members)} models; their agreement in sysvi_support of obs and obsm"
    if model.status == "interrupted":
        details += _note_of_interrupt(len(model.members), checkpoint)
    report.wrote(output or input, details, key=key)
    if model.status == "interrupted" or interrupted():
        sys.exit(exit_status())
    if report_path is not None:
        sysvi.report(
            prepared,
            report_path,
            label_key,
            embedding=key,
            overwrite=overwrite,
            device=device,
            seed=seed,
            progress=report.on_event,
        )
        report.wrote(report_path)
    report.close(
        of_integrate(
            output or input,
            columns,
            key,
            label_key=label_key,
            shape=(prepared.n_obs, len(model.vocabulary.genes)),
            n_members=len(model.members),
            report=report_path,
            model=save_model,
            has_expression=copied > 0 or in_place,
        )
    )


def _note_of_interrupt(n_models: int, checkpoint: Path | None) -> str:
    """What to add to the message about the output if training was interrupted: its models, and how to go on."""
    models = "of one model, without support" if n_models == 1 else f"of {n_models} models"
    again = "" if checkpoint is None else "; the same command with --overwrite goes on from the checkpoint"
    return f". Training was interrupted, so this is the embedding {models}{again}"


@main.command("report")
@click.argument("input", type=click.Path(path_type=Path))
@click.option("--label", "label_key", help="Column of obs with the cell type labels, if there are any.")
@click.option(
    "--color",
    "colors",
    multiple=True,
    help="Further column of obs to colour cells by; can be repeated (default: those of numbers and few categories).",
)
@raw_option
@click.option("-o", "--output", type=FILE, required=True, help="The page (HTML) to write.")
@overwrite_option
@click.option(
    "--max-cells",
    type=click.IntRange(20),
    default=20_000,
    show_default=True,
    help="Draw and measure a stratified random sample of at most this many cells.",
)
@key_option
@device_option
@seed_option
@reporting_options
def write_report(
    report: Report,
    input: Path,
    label_key: str | None,
    colors: tuple[str, ...],
    raw: bool,
    output: Path,
    overwrite: bool,
    max_cells: int,
    key: str,
    device: str,
    seed: int,
) -> None:
    """Write a report: one page that opens in any browser, without a network.

    INPUT is an h5ad file or a zarr store with an integration, or the output folder of sysvi tune or sysvi compare. The
    page of an integration has findings in plain words with what to do, the cells before and after (interactive),
    metrics, cell types, agreement of the models, losses, genes and cells of each step, settings, versions, and the
    command that makes it again. The page of a folder draws mixing against biology for all runs, and has the choice and
    why, a table of settings or methods, and runs without a result. Needs pip install "sysvi[report]".
    """
    from sysvi.data.stores import is_zarr

    is_folder = input.is_dir() and not is_zarr(input)
    if raw and is_folder:
        raise sysvi.InputError("--raw is for the report of an integration: leave it out.")
    sysvi.report(
        input if is_folder else read_input(input, raw, None, or_zarr=True),
        output,
        label_key,
        embedding=key,
        colors=list(colors) or None,
        max_cells=max_cells,
        overwrite=overwrite,
        device=device,
        seed=seed,
        progress=report.on_event,
    )
    report.wrote(output)


@main.command()
@input_options(many=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="The h5ad file, or zarr store (a name that ends in .zarr), to write.",
)
@overwrite_option
@genes_option
@min_cells_per_gene_option
@fractional_counts_option
@of_files_options
@click.option(
    "--gene-set",
    type=click.Choice(["shared", "union"]),
    default="shared",
    show_default=True,
    help="Genes to keep: those that all systems have, or also those that some lack.",
)
@click.option(
    "--dask",
    metavar="ADDRESS",
    help="Address of a Dask scheduler, such as tcp://node1:8786, or its scheduler file (.json), on whose workers the "
    "files are read; the result is the same. Needs pip install 'sysvi[dask]'.",
)
@seed_option
@reporting_options
def prepare(
    report: Report,
    inputs: tuple[Path, ...],
    raw: bool,
    output: Path,
    system_key: str,
    batch_key: str | None,
    layer: str | None,
    overwrite: bool,
    n_top_genes: int,
    min_cells: int,
    fractional_counts: bool,
    system_of_file: tuple[str, ...],
    orthologs: tuple[str, ...],
    gene_set: str,
    dask: str | None,
    seed: int,
) -> None:
    """Prepare counts: genes seen in every system, normalised, log1p, variable in every system.

    The output has log-normalised expression in X and the counts in layers["counts"]. `sysvi integrate` prepares counts
    itself; prepare a file to look at the result, or to use it more than once.

    Several INPUTS, h5ad files and zarr stores, are joined on the genes that all have. Then, and with --dask, and if
    INPUT or output is a zarr store, nothing needs to fit into memory: cells are read in blocks and written in random
    order, without the counts, for sysvi integrate --memory.

    With --gene-set union, genes that some systems lack are kept too, and the counts of one-to-many and many-to-many
    orthologues are summed. Give one file of each system; they are joined in memory.
    """
    from sysvi.data.block_map import connected
    from sysvi.data.h5ad import check_output
    from sysvi.data.prepare_files import join_files
    from sysvi.data.store_writer import write_cells

    settings: dict[str, Any] = {
        "layer": layer,
        "n_top_genes": n_top_genes,
        "min_cells": min_cells,
        "fractional_counts": fractional_counts,
        "report": report.preparation(),
    }

    def write_prepared(prepared: AnnData) -> None:
        write_cells(output, prepared, overwrite)
        report.wrote(output, f": {prepared.n_obs:,} cells x {prepared.n_vars:,} genes")
        report.close(of_prepare(output, Columns(system_key, batch_key), prepared.shape))

    streamed = len(inputs) > 1 or inputs[0].is_dir() or output.suffix == ".zarr" or system_of_file or orthologs or dask
    if streamed:
        if raw:
            raise sysvi.InputError("--raw is for a single h5ad file: leave it out, or prepare the files one by one.")
        of_file, tables = pairs(system_of_file, "--system-of-file"), pairs(orthologs, "--orthologs")
        if gene_set == "union":
            if dask:
                raise sysvi.InputError("--gene-set union joins the cells in memory: leave --dask out.")
            if output.suffix != ".h5ad":
                raise sysvi.InputError(f"--gene-set union joins the cells in memory and writes .h5ad, not {output}.")
            check_output(output, overwrite)
            joined = join_files(
                inputs, system_key, layer=layer, system_of_file=of_file, orthologs=tables, report=settings["report"]
            )
            settings["layer"] = None
            write_prepared(sysvi.prepare(joined, system_key, batch_key, genes=gene_set, **settings))
            return
        with connected(dask) if dask else nullcontext():
            sysvi.prepare_files(
                inputs,
                output,
                system_key,
                batch_key,
                system_of_file=of_file,
                orthologs=tables,
                seed=seed,
                overwrite=overwrite,
                **settings,
            )
        report.wrote(output)
        report.close(of_prepare(output, Columns(system_key, batch_key), None))
        return
    check_output(output, overwrite)
    cells = read_input(inputs[0], raw, layer)
    write_prepared(sysvi.prepare(cells, system_key, batch_key, genes=gene_set, **settings))


@contextmanager
def prepared_beside(
    output: Path,
    overwrite: bool,
    inputs: Sequence[Path],
    columns: Columns,
    system_of_file: Mapping[str, str],
    orthologs: Mapping[str, str],
    settings: Mapping[str, Any],
) -> Iterator[Path]:
    """Prepare several inputs into a store in a temporary folder beside the output, which is removed at the end."""
    from sysvi._core.files import folder_beside
    from sysvi.data.store_writer import check_cells_output

    check_cells_output(output, overwrite)
    with folder_beside(output) as folder:
        yield sysvi.prepare_files(
            inputs,
            folder / "prepared.zarr",
            columns.system,
            columns.batch,
            system_of_file=system_of_file,
            orthologs=orthologs,
            **settings,
        )


def pairs(values: Sequence[str], option: str) -> dict[str, str]:
    """The pairs of an option that is given as NAME=VALUE.

    Examples
    --------
    >>> pairs(["mouse=table.tsv"], "--orthologs")
    {'mouse': 'table.tsv'}
    """
    found: dict[str, str] = {}
    for value in values:
        name, separator, rest = value.rpartition("=") if option == "--system-of-file" else value.partition("=")
        if not (name and separator and rest):
            raise sysvi.InputError(f"{option} is {value!r}; it must be two names with = between them.")
        if name in found:
            raise sysvi.InputError(f"{option} is given twice for {name!r}: give it once.")
        found[name] = rest
    return found


@main.command("map")
@click.argument("input", type=click.Path(path_type=Path))
@model_option
@click.option("--system", "system_key", help="Column of obs with the systems (default: that of the model).")
@click.option("--batch", "batch_key", help="Column of obs with the batches (default: that of the model).")
@model_layer_option
@raw_option
@click.option("--orthologs", type=FILE, help="Table of orthologues, if the genes are those of another species.")
@fractional_counts_option
@click.option("--label", "label_key", help="Column of obs of the model's cells with labels to transfer.")
@click.option(
    "--labels-from",
    type=click.Path(exists=True, path_type=Path),
    help="The model's cells: an h5ad file, or a folder of sysvi.save_reference (default: --model).",
)
@output_file_options
@click.option("--epochs", "max_epochs", type=click.IntRange(1), help="Passes over new batches and systems.")
@device_option
@seed_option
@key_option
@click.option("--save-model", type=FOLDER, help="Folder in which the extended model is saved.")
@reporting_options
def map_cells(
    report: Report,
    input: Path,
    model_path: Path,
    system_key: str | None,
    batch_key: str | None,
    layer: str | None,
    raw: bool,
    orthologs: Path | None,
    fractional_counts: bool,
    label_key: str | None,
    labels_from: Path | None,
    output: Path,
    overwrite: bool,
    max_epochs: int | None,
    device: str,
    seed: int,
    key: str,
    save_model: Path | None,
) -> None:
    """Embed new cells with a trained model, whose own cells stay where they are.

    INPUT holds new cells, as counts or log-normalised; genes may be in any order, and some may be missing. Systems and
    batches that the model does not know get weights of their own, which are trained; all other weights stay. The output
    is a copy of INPUT with the embedding in obsm, in the same space as that of the model's cells. With --label, it also
    has the columns that sysvi transfer adds.
    """
    import numpy as np
    from anndata import AnnData

    from sysvi.api.results import check_embedding_name
    from sysvi.data.h5ad import check_output
    from sysvi.data.query import QUERY_KEY
    from sysvi.mapping.reference import CONFIG_FILE
    from sysvi.mapping.transfer_labels import read_labelled

    check_embedding_name(key)
    query = read_input(input, raw, layer)
    check_output(output, overwrite, input.stat().st_size)
    check_model_output(save_model, overwrite)
    model = sysvi.load(model_path, device=device)
    labelled = None
    keys: dict[str, Any] = {"system_key": model.columns.system, "batch_key": model.columns.batch}
    if label_key is not None:
        if labels_from is None and not (model_path / CONFIG_FILE).is_file():
            raise sysvi.InputError(
                f"{model_path} was not written by sysvi.save_reference, so it has no labels: give --labels-from, the "
                "model's cells."
            )
        labelled = open_reference(model_path if labels_from is None else labels_from)
        read_labelled(labelled, label_key, key, **keys)  # what is wrong with it is said before the work
    elif labels_from is not None:
        raise sysvi.InputError("--labels-from names cells with labels, but not their column: give it with --label.")
    extended = sysvi.extend_model(
        model,
        query,
        system_key,
        batch_key,
        layer=layer,
        orthologs=orthologs,
        fractional_counts=fractional_counts,
        max_epochs=max_epochs,
        device=device,
        seed=seed,
        progress=report.on_event,
    )
    with catch_interrupts() as interrupted:  # what was trained is written first
        assert extended.adata is not None
        embedding = np.asarray(extended.get_latent_representation())
        results = AnnData(obs=query.obs, obsm={key: embedding}, uns={QUERY_KEY: extended.adata.uns[QUERY_KEY]})
        columns: dict[str, Any] = {}
        if labelled is not None and label_key is not None:
            found = sysvi.transfer_labels(labelled, results, label_key, embedding=key, **keys)
            report.text(str(found))
            columns = found.columns(label_key)
        write_results_of(results, extended, key, input, output, overwrite, columns)
        save_trained_model(extended, save_model, overwrite, report)
    report.wrote(output, f": obsm[{key!r}], {' x '.join(map(str, embedding.shape))}", key=key)
    if extended.status == "interrupted" or interrupted():
        sys.exit(exit_status())
    unknown = int((columns[f"{label_key}_transferred"] == "unknown").sum()) if columns else None
    report.close(of_map(input, output, save_model or model_path, key, len(embedding), label_key, unknown))


@main.command()
@click.argument("input", type=click.Path(path_type=Path))
@model_option
@click.option("--to-system", help="System in which cells are decoded (default: their own, without noise).")
@click.option(
    "--to-batch",
    help="Batch under which cells are decoded, or 'average': the mean over the batches of the system (default: the "
    "cell's own, if the system has it, otherwise 'average').",
)
@click.option(
    "--genes", help="Names of genes, separated by commas, or a file with a name a line (default: all of the model)."
)
@model_layer_option
@raw_option
@output_file_options
@device_option
@click.option("--key", default="sysvi_translated", show_default=True, help="Name of the layer with the result.")
@reporting_options
def translate(
    report: Report,
    input: Path,
    model_path: Path,
    to_system: str | None,
    to_batch: str | None,
    genes: str | None,
    layer: str | None,
    raw: bool,
    output: Path,
    overwrite: bool,
    device: str,
    key: str,
) -> None:
    """Decode the expression that cells would have in another system, or have in their own without noise.

    INPUT holds cells of systems and batches that the model knows, as counts or log-normalised. The output has these
    cells and the decoded genes: the expression that the model expects, log-normalised, in a layer, and the cells' own
    log-normalised expression in X. It is computed and written in blocks of cells.
    """
    from sysvi.data.h5ad import check_output

    cells = read_input(input, raw, layer)
    check_output(output, overwrite)
    sysvi.translate(
        sysvi.load(model_path, device=device),
        cells,
        to_system,
        to_batch,
        genes=None if genes is None else read_gene_names(genes),
        layer=layer,
        key_added=key,
        output=output,
        overwrite=overwrite,
        progress=report.on_event,
    )
    report.wrote(output, f": layers[{key!r}]", key=key)


@main.command("compare-systems")
@click.argument("input", type=click.Path(path_type=Path))
@model_option
@click.option("--label", "label_key", required=True, help="Column of obs with the labels: cell types, or finer states.")
@click.option("--systems", help="Names of the systems to compare, separated by commas (default: all of the model).")
@click.option("--batch", "batch_key", help="Column of obs with the donors (default: the batches of the model).")
@click.option(
    "--min-cells",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Smallest number of cells of a label in a donor that make a profile.",
)
@model_layer_option
@raw_option
@click.option(
    "-o", "--output", type=FOLDER, required=True, help="Folder for the table and the figures; created if missing."
)
@figures_option
@overwrite_option
@device_option
@reporting_options
def compare_systems(
    report: Report,
    input: Path,
    model_path: Path,
    label_key: str,
    systems: str | None,
    batch_key: str | None,
    min_cells: int,
    layer: str | None,
    raw: bool,
    output: Path,
    figures: str,
    overwrite: bool,
    device: str,
) -> None:
    """Find genes that differ between systems in one label only, and genes that mark a label in both systems.

    INPUT holds cells of systems and batches that the model knows, as counts or log-normalised. Donors are the
    replicates. Writes differences.csv, one row for each label, pair of systems and gene, and, of two systems, the
    figures volcano (effects and p-values by label) and specific_genes (a heat map of the genes that differ). Prints the
    number of genes found.
    """
    from sysvi.differences.files import check_output_folder, format_differences, write_differences

    check_output_folder(output, overwrite)
    table = sysvi.compare_systems(
        sysvi.load(model_path, device=device),
        read_input(input, raw, layer),
        label_key,
        systems=None if systems is None else [name.strip() for name in systems.split(",") if name.strip()],
        batch_key=batch_key,
        layer=layer,
        min_cells=min_cells,
        progress=report.on_event,
    )
    report.text(format_differences(table))
    for path in write_differences(table, output, figures, overwrite):
        report.wrote(path)


@main.command("differential-expression")
@click.argument("input", type=click.Path(path_type=Path))
@model_option
@click.option("--groupby", required=True, help="Column of obs with the groups.")
@click.option("--group1", multiple=True, help="First group; can be repeated (default: each group of the column).")
@click.option("--group2", help="Second group (default: all cells of the other groups).")
@click.option(
    "--mode",
    type=click.Choice(["change", "vanilla"]),
    default="change",
    show_default=True,
    help="Probability of a change beyond --delta, or of any rise.",
)
@click.option(
    "--delta",
    type=click.FloatRange(0),
    default=0.25,
    show_default=True,
    help="Log2 fold change above which a gene is changed.",
)
@click.option(
    "--batch-correction", is_flag=True, help="Decode all cells alike: the mean over the systems and their batches."
)
@click.option(
    "--fdr-target",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Expected false discovery rate of the genes that are called.",
)
@click.option(
    "--samples", "n_samples", type=click.IntRange(2), default=5000, show_default=True, help="Samples of each group."
)
@model_layer_option
@raw_option
@click.option("-o", "--output", type=FILE, required=True, help="The table to write (CSV).")
@overwrite_option
@device_option
@click.option("--seed", type=click.IntRange(0), help="Random seed of the samples (default: the model's).")
@reporting_options
def differential_expression(
    report: Report,
    input: Path,
    model_path: Path,
    groupby: str,
    group1: tuple[str, ...],
    group2: str | None,
    mode: Literal["change", "vanilla"],
    delta: float,
    batch_correction: bool,
    fdr_target: float,
    n_samples: int,
    layer: str | None,
    raw: bool,
    output: Path,
    overwrite: bool,
    device: str,
    seed: int | None,
) -> None:
    """Compare the expression that a model decodes for groups of cells, as scvi-tools does.

    INPUT holds cells of systems and batches that the model knows, as counts or log-normalised. Writes a row for each
    gene and comparison. Cells are not replicates: what differs between donors appears as a difference of the groups;
    sysvi compare-systems tests over donors.
    """
    from sysvi._core.files import write_atomically
    from sysvi._core.tables import write_csv
    from sysvi.data.h5ad import check_output

    check_output(output, overwrite)
    table = sysvi.differential_expression(
        sysvi.load(model_path, device=device),
        read_input(input, raw, layer),
        groupby,
        group1 or None,
        group2,
        mode=mode,
        delta=delta,
        batch_correction=batch_correction,
        fdr_target=fdr_target,
        n_samples_overall=n_samples,
        layer=layer,
        seed=seed,
        progress=report.on_event,
    )
    write_atomically(output, lambda path: write_csv(table, path, index_label="gene"), overwrite=overwrite)
    report.wrote(output)


def read_gene_names(given: str) -> list[str]:
    """Names of genes from a list with commas, or from a file with a name a line."""
    path = Path(given)
    if path.is_file():
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise sysvi.InputError(f"{path} (--genes) cannot be read as text: {error}.") from error
        return [line.strip() for line in lines if line.strip()]
    if path.suffix in (".txt", ".csv", ".tsv") or "/" in given:
        raise sysvi.InputError(f"There is no file {path} (--genes): check the path, or give names with commas.")
    return [name.strip() for name in given.split(",") if name.strip()]


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
    raw: bool,
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
    """Measure embeddings: mixing of systems, and how well cell types and structure are kept.

    INPUT is an h5ad file or a zarr store with embeddings in obsm.

    Prints a table, higher is better. With -o also writes evaluation.csv and .json (the table and notes on it),
    labels.csv and cells.csv (the values by cell type and by cell) and the figures evaluation and labels; for other
    benchmarks scib.csv (the metrics that scib-metrics has, under its names) and evaluation_mqc.json (for MultiQC).
    """
    from sysvi.evaluation.files import check_output_folder, format_evaluation, write_evaluation

    if output is not None:
        check_output_folder(output, overwrite)
    evaluation = sysvi.evaluate_in_detail(
        read_input(input, raw, layer, or_zarr=True),
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
    report.text(in_words_of_options(format_evaluation(evaluation)))
    if output is not None:
        for path in write_evaluation(evaluation, output, figures, overwrite=overwrite):
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
@report_option
@reporting_options
def compare(
    report: Report,
    input: Path,
    raw: bool,
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
    report_path: Path | None,
) -> None:
    """Compare methods of integration on the cells of an h5ad file.

    Runs each method with all values of its tuned parameter and several seeds. Each run has a process of its own, and
    methods with other dependencies have environments of their own, created when they are needed. Writes runs.csv,
    methods.csv, table.csv, tests.csv and the figures comparison and umaps. A method that cannot be installed is listed
    with the reason. After an interruption, the same command continues with the missing runs.

    Methods: sysvi, cvae, vamp, cyc, adv, pca, harmony, scvi, scvi-sysvi, drvi, glue, concord, scvital, seurat-cca,
    seurat-rpca, harmony-r, stacas, scmgca, scgen, scanvi, saturn.
    """
    from sysvi.comparison.tables import format_comparison
    from sysvi.reporting.report import check_report, write_runs_report

    check_report(report_path)
    try:
        comparison = sysvi.compare(
            read_input(input, raw, layer),
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
        sys.exit(exit_status())
    report.text(format_comparison(comparison.table, comparison.methods, comparison.notes))
    if report_path is not None:
        write_runs_report(comparison, report_path, overwrite=True, on_event=report.on_event)
        report.wrote(report_path)
    n_without_result = int((comparison.runs["status"] != "finished").sum())
    best = None if comparison.table.empty else str(comparison.table["title"].iloc[0])
    report.close(of_compare(output, best, len(comparison.runs), n_without_result, report_path))


@main.command(cls=CommandWithSettings)
@input_options(label="optional")
@click.option("-o", "--output", type=FOLDER, required=True, help="Folder for runs, tables and the figure.")
@click.option(
    "--cycle-weight",
    "cycle_weights",
    type=click.FloatRange(0),
    multiple=True,
    default=(0, 2, 5, 10, 30, 100),
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
@fractional_counts_option
@covariate_options
@settings_options(without=("cycle_weight", "kl_weight", "prior"))
@min_cells_per_group_option(default=200, least=2)
@device_option
@key_option
@figures_option
@report_option
@reporting_options
@pass_columns
def tune(
    report: Report,
    input: Path,
    raw: bool,
    columns: Columns,
    label_key: str | None,
    output: Path,
    cycle_weights: tuple[float, ...],
    kl_weights: tuple[float, ...],
    priors: tuple[str, ...],
    seeds: int,
    n_top_genes: int,
    fractional_counts: bool,
    min_cells: int,
    device: str,
    key: str,
    figures: str,
    report_path: Path | None,
    **settings: Any,
) -> None:
    """Choose the strength of integration: train with several cycle weights, priors and seeds, measure and compare.

    With --label by the rule of the paper, otherwise by a rule that needs no labels. Every finished run is kept in the
    output folder: after an interruption, the same command continues. The folder then also holds integrated.h5ad (a copy
    of INPUT with the embedding in obsm, the mean of the runs of the chosen setting, and their agreement in
    sysvi_support of obs and obsm), runs.csv, settings.csv, tuning.json (the choice and its reasons), the figure tuning
    and the model, an ensemble of these runs.
    """
    from sysvi._core.files import check_folder, check_free_space
    from sysvi.data.ensure_prepared import ensure_prepared
    from sysvi.reporting.report import check_report, write_runs_report

    check_report(report_path)
    adata = read_input(input, raw, columns.layer)
    integrated = output / "integrated.h5ad"
    check_folder(output, may_be_missing=True)
    check_free_space(integrated, input.stat().st_size)
    prepared, layer = ensure_prepared(
        adata,
        columns.system,
        columns.batch,
        layer=columns.layer,
        n_top_genes=n_top_genes,
        fractional_counts=fractional_counts,
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
    with catch_interrupts() as interrupted:
        paths = sysvi.write_tuning(tuning, output, figures)
        write_results_of(prepared, tuning.model, key, input, integrated)
        paths.append(integrated)
        if report_path is not None:
            paths.append(write_runs_report(tuning, report_path, overwrite=True, on_event=report.on_event))
    report.on_event(Event("choice", "", {**tuning.choice, "why": tuning.why, "warnings": list(tuning.warnings)}))
    for path in paths:
        report.wrote(path)
    if tuning.interrupted or interrupted():
        sys.exit(exit_status())
    report.close(
        of_tune(
            output,
            integrated,
            columns,
            label_key=label_key,
            setting=f"cycle weight {tuning.cycle_weight:g}, KL weight {tuning.kl_weight:g}, prior {tuning.prior}",
            n_runs=len(tuning.runs),
            n_without_result=tuning.n_without_result,
            report=report_path,
        )
    )


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
    raw: bool,
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
    from sysvi._core.tables import write_csv
    from sysvi.data.ensure_prepared import ensure_prepared
    from sysvi.data.h5ad import check_output

    paths = [] if output is None else [output.with_suffix(".csv"), output.with_suffix(".png")]
    for path in paths:
        check_output(path, overwrite)
    adata, layer = ensure_prepared(
        read_input(input, raw, layer), system_key, batch_key, layer=layer, report=report.preparation()
    )
    strength = sysvi.batch_strength(
        adata, system_key, batch_key, label_key, layer=layer, min_cells=min_cells, seed=seed
    )
    report.text(str(strength))
    report.on_event(Event("strength", "", {"substantial": strength.substantial, "advice": strength.advice}))
    if paths:
        write_atomically(paths[0], lambda path: write_csv(strength.table, path), overwrite=overwrite)
        figure = ", and no figure: there are no two samples of one cell type"
        if len(strength.distances):
            sysvi.plot_batch_strength(strength, paths[1])
            figure = f" and {paths[1]}"
        report.wrote(paths[0], figure)


@main.command()
@click.argument("reference", type=click.Path(exists=True, path_type=Path))
@click.argument("query", type=FILE)
@click.option("--label", "label_key", required=True, help="Column of obs of the reference with the labels.")
@click.option("--system", "system_key", help="Column of obs of the reference with the systems.")
@click.option("--batch", "batch_key", help="Column of obs of the reference with the batches (samples, donors).")
@click.option("--cluster", "cluster_key", help="Column of obs of the query with clusters, for the printed summary.")
@key_option
@output_file_options
@reporting_options
def transfer(
    report: Report,
    reference: Path,
    query: Path,
    label_key: str,
    system_key: str | None,
    batch_key: str | None,
    cluster_key: str | None,
    key: str,
    output: Path,
    overwrite: bool,
) -> None:
    """Label the cells of QUERY by those of REFERENCE in the same embedding, with confidence and novelty.

    REFERENCE is an h5ad file, or a folder of sysvi.save_reference, which knows its systems and batches. The output is a
    copy of QUERY with the columns LABEL_transferred, LABEL_confidence and LABEL_novelty in obs; where it is not sure,
    the label is "unknown". Prints a summary.
    """
    from sysvi.data.h5ad import check_output, read_h5ad, write_with_results

    check_output(output, overwrite, query.stat().st_size if query.is_file() else 0)
    cells = read_h5ad(query)
    result = sysvi.transfer_labels(
        open_reference(reference),
        cells,
        label_key,
        embedding=key,
        system_key=system_key,
        batch_key=batch_key,
        cluster_key=cluster_key,
    )
    report.text(str(result))
    write_with_results(
        query,
        output,
        cells=cells.obs_names,
        obs=result.columns(label_key),
        obsm={},
        uns={},
        overwrite=overwrite,
    )
    counts = result.cells["label"].value_counts().to_dict()
    report.wrote(output, labels=counts, calibration_error=result.calibration_error)


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


def open_reference(path: Path) -> AnnData | Reference:
    """The reference whose labels are transferred: a folder of sysvi.save_reference, or an h5ad file."""
    from sysvi.data.h5ad import read_h5ad

    return sysvi.load_reference(path) if path.is_dir() else read_h5ad(path)


def check_report_output(adata: AnnData, path: Path | None, label_key: str | None, overwrite: bool) -> None:
    """Check that a report of some cells can be made and written, before any work is done; there is none for None."""
    from sysvi.data.h5ad import check_output
    from sysvi.data.labels import read_labels
    from sysvi.reporting.document import load_libraries

    if path is not None:
        check_output(path, overwrite)
        read_labels(adata, label_key)
        load_libraries()
    elif label_key is not None:
        raise sysvi.InputError("--label names cell types for the report: give --report too, or leave --label out.")


def check_model_output(folder: Path | None, overwrite: bool) -> None:
    """Check that a model can be saved in a folder, before any work is done; there is none for None."""
    from sysvi._core.files import check_folder
    from sysvi.model.checkpoint import MODEL_FILE

    if folder is not None:
        check_folder(folder, may_be_missing=True)
        if (folder / MODEL_FILE).exists() and not overwrite:
            raise sysvi.InputError(f"{folder / MODEL_FILE} exists already; pass --overwrite to replace it.")


def save_trained_model(
    model: sysvi.SysVI | sysvi.Ensemble, folder: Path | None, overwrite: bool, report: Report
) -> None:
    """Save a model in a folder, if there is one."""
    if folder is not None:
        model.save(folder, overwrite=overwrite)
        report.on_event(Event("write", f"Wrote the model to {folder}"))


def check_copy(source: Path, target: Path, copy: bool, on_disk: bool) -> int:
    """Size of the input file if the output is to be a copy of it, with the results; 0 if it has the results alone.

    A copy is made of h5ad files whose expression is read into memory, and of others if `copy` is True.
    """
    is_store = source.is_dir()
    if copy and is_store:
        raise sysvi.InputError("--copy copies h5ad files, but the input is a zarr store: leave the option out.")
    if copy or not (on_disk or is_store):
        if target.suffix == ".zarr":
            raise sysvi.InputError(
                f"{target} has the name of a zarr store, but the output is a copy of an h5ad file: name it .h5ad, or "
                "make a store of the input with sysvi prepare, which is integrated without a copy."
            )
        return source.stat().st_size
    if target.exists() and target.samefile(source):
        advice = "use --in-place" if is_store else "pass --copy"
        raise sysvi.InputError(
            f"{target} is the input, and the output of cells that stay on disk has no expression: give --output "
            f"another name, or {advice}."
        )
    return 0


def write_results_of(
    adata: AnnData,
    model: sysvi.SysVI | sysvi.Ensemble,
    key: str,
    source: Path | None,
    target: Path | None,
    overwrite: bool = True,
    columns: Mapping[str, Any] | None = None,
) -> None:
    """Write a copy of an h5ad file with what `integrate`, `map` or `tune` wrote into its prepared cells, `adata`.

    Without a `source` to copy, the file, or the zarr store by the name of `target`, has obs, the results and the record
    of the model, but no expression. Without a `target`, the results are added to the source, a zarr store. Further
    columns of obs are given as `columns`. The record of the model in uns also has the genes that it was trained on,
    since the copy has all genes. If the source was replaced during the run, the results are written without its
    expression, into a file beside `target`, and an InputError is raised.
    """
    import numpy as np
    from anndata import AnnData

    from sysvi.api.support import SUPPORT_KEY
    from sysvi.data.h5ad import OtherCellsError, write_with_results
    from sysvi.data.query import QUERY_KEY
    from sysvi.data.store_results import add_results
    from sysvi.data.store_writer import write_cells

    support = adata.obs.get(SUPPORT_KEY)
    obs = {SUPPORT_KEY: None if support is None else support.to_numpy(), **(columns or {})}
    obsm = {key: adata.obsm[key], SUPPORT_KEY: adata.obsm.get(SUPPORT_KEY)}
    uns = {"sysvi": {**model.record(), "genes": np.array(model.vocabulary.genes, dtype=object)}}
    if QUERY_KEY in adata.uns:
        uns[QUERY_KEY] = adata.uns[QUERY_KEY]

    def results() -> AnnData:
        """The results without expression."""
        return AnnData(obs=adata.obs, obsm={name: x for name, x in obsm.items() if x is not None}, uns=uns)

    if source is None:
        assert target is not None
        write_cells(target, results(), overwrite)
        return
    try:
        if target is None:
            add_results(source, cells=adata.obs_names, obs=obs, obsm=obsm, uns=uns)
        else:
            write_with_results(source, target, cells=adata.obs_names, obs=obs, obsm=obsm, uns=uns, overwrite=overwrite)
    except OtherCellsError as error:
        place = target or source
        kept = place.with_name(f"{place.stem}.results.h5ad")
        write_cells(kept, results(), overwrite=True)
        raise sysvi.InputError(f"{error} Their embedding, with their names and columns, is in {kept}.") from error


if __name__ == "__main__":
    main()
