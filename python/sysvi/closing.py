"""What a command of the command line says when it has ended: what was done, and commands to go on with."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sysvi.data.columns import Columns


@dataclass(frozen=True)
class Step:
    """A command to type next, and what it is for."""

    purpose: str
    command: str


@dataclass(frozen=True)
class Closing:
    """The last words of a command.

    Parameters
    ----------
    done
        What was done, in a sentence without its full stop.
    steps
        What to look at next.
    """

    done: str
    steps: tuple[Step, ...]

    def lines(self, time: str, n_warnings: int) -> list[str]:
        r"""The lines to print; commands stand alone on a line, so that they can be copied.

        Examples
        --------
        >>> closing = Closing("Integrated 30 cells", (Step("A report", "sysvi report a.h5ad -o a.html"),))
        >>> print(*closing.lines("2 s", 1), sep="\n")
        Done in 2 s. Integrated 30 cells. 1 warning above.
        Next:
          A report:
            sysvi report a.h5ad -o a.html
        """
        warned = f" {n_warnings} {'warning' if n_warnings == 1 else 'warnings'} above." if n_warnings else ""
        lines = [f"Done in {time}. {self.done}.{warned}"]
        if self.steps:
            lines.append("Next:")
        for step in self.steps:
            lines += [f"  {step.purpose}:", f"    {step.command}"]
        return lines


def command(*words: object) -> str:
    """A command to type, with quotes where a shell needs them.

    Examples
    --------
    >>> command("sysvi", "report", Path("my cells.h5ad"))
    "sysvi report 'my cells.h5ad'"
    """
    return shlex.join(map(str, words))


def column_options(columns: Columns) -> list[str]:
    """Options for the columns with systems and batches."""
    return ["--system", columns.system, *([] if columns.batch is None else ["--batch", columns.batch])]


def of_integrate(
    output: Path,
    columns: Columns,
    key: str,
    *,
    label_key: str | None,
    shape: tuple[int, int],
    n_members: int,
    report: Path | None,
    model: Path | None,
    has_expression: bool,
) -> Closing:
    """The closing words of ``sysvi integrate``.

    Parameters
    ----------
    output
        The file with the embedding, or the store to which it was added.
    columns
        Columns that were used.
    key
        Name of the embedding.
    label_key
        Column of cell types, if one was given.
    shape
        Number of cells, and of genes of the model.
    n_members
        Number of models.
    report, model
        Report and folder of the model that were written too.
    has_expression
        Whether the output has the expression, without which principal components cannot be computed.
    """
    models = "one model" if n_members == 1 else f"{n_members} models"
    chosen = [] if key == "X_sysVI" else ["--key", key]
    label = [] if label_key is None else ["--label", label_key]
    steps = []
    if report is not None:
        steps.append(Step("The report opens in a browser", str(report)))
    else:
        words = ["sysvi", "report", output, *chosen, *label, "-o", output.with_suffix(".html")]
        steps.append(Step("All of it on one page, with findings and what to do", command(*words)))
    embedding = [] if key == "X_sysVI" else ["--embedding", "X_pca", "--embedding", key]
    embedding = embedding if has_expression else ["--embedding", key]
    words = ["sysvi", "evaluate", output, *column_options(columns), *(label or ["--label", "CELL_TYPE"]), *embedding]
    purpose = "How well systems mix and cell types are kept"
    note = "" if label_key is not None else " (CELL_TYPE: your column of cell types; leave it out if you have none)"
    steps.append(Step(purpose + note, command(*words, "-o", "evaluation")))
    if model is not None:
        words = ["sysvi", "map", "NEW.h5ad", "--model", model, "-o", "mapped.h5ad"]
        steps.append(Step("Map new cells", command(*words)))
    return Closing(f"Integrated {shape[0]:,} cells on {shape[1]:,} genes with {models}", tuple(steps))


def of_prepare(output: Path, columns: Columns, shape: tuple[int, int] | None) -> Closing:
    """The closing words of ``sysvi prepare``; `shape` is the number of cells and genes, if they are in memory."""
    done = "Prepared the cells" if shape is None else f"Prepared {shape[0]:,} cells and {shape[1]:,} genes"
    words = ["sysvi", "integrate", output, *column_options(columns), "-o", "integrated.h5ad"]
    return Closing(done, (Step("Integrate them", command(*words)),))


def of_map(
    input: Path, output: Path, model: Path, key: str, n_cells: int, label_key: str | None, n_unknown: int | None
) -> Closing:
    """The closing words of ``sysvi map``; `n_unknown` cells were given no label, None if none were asked for."""
    steps = []
    done = f"Mapped {n_cells:,} cells"
    if n_unknown is None:
        chosen = [] if key == "X_sysVI" else ["--key", key]
        words = ["sysvi", "transfer", "REFERENCE.h5ad", output, "--label", "CELL_TYPE", *chosen, "-o", "labelled.h5ad"]
        purpose = "Label them by the cells of the model (an h5ad file with their embedding and labels)"
        steps.append(Step(purpose, command(*words)))
    else:
        done += f" and labelled {n_cells - n_unknown:,} of them"
        words = ["sysvi", "compare-systems", input, "--model", model, "--label", f"{label_key}", "-o", "differences"]
        steps.append(Step("Genes that differ between systems in one label", command(*words)))
    return Closing(done, tuple(steps))


def of_tune(
    output: Path,
    integrated: Path,
    columns: Columns,
    *,
    label_key: str | None,
    setting: str,
    n_runs: int,
    n_without_result: int,
    report: Path | None,
) -> Closing:
    """The closing words of ``sysvi tune``; `setting` is the chosen one in words."""
    label = [] if label_key is None else ["--label", label_key]
    steps = list(_report_of_folder(output, report))
    words = ["sysvi", "report", integrated, *label, "-o", integrated.with_suffix(".html")]
    steps.append(Step("The integration with the chosen setting on one page", command(*words)))
    words = ["sysvi", "evaluate", integrated, *column_options(columns), *label, "-o", "evaluation"]
    steps.append(Step("How well systems mix and structure is kept", command(*words)))
    return Closing(f"Compared {n_runs:,} runs and chose {setting}{_missing(n_without_result)}", tuple(steps))


def of_compare(output: Path, best: str | None, n_runs: int, n_without_result: int, report: Path | None) -> Closing:
    """The closing words of ``sysvi compare``; `best` is the method with the highest score, if there is one."""
    chosen = "" if best is None else f"; {best} has the highest score"
    done = f"Compared methods over {n_runs:,} runs{chosen}{_missing(n_without_result)}"
    return Closing(done, tuple(_report_of_folder(output, report)))


def _missing(n: int) -> str:
    """What to do about runs without a result."""
    return f"; {n} {'run has' if n == 1 else 'runs have'} no result (the same command tries again)" if n else ""


def _report_of_folder(output: Path, report: Path | None) -> Iterable[Step]:
    if report is None:
        page = output.with_name(f"{output.name}.html")
        yield Step("All runs on one page, with why", command("sysvi", "report", output, "-o", page))
    else:
        yield Step("The report opens in a browser", str(report))
