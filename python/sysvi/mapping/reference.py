"""References that can be shared: a folder with the model, the embedding and the labels of its cells, and a model card.

A folder holds enough to map and to label new cells, but no expression:

- ``model.safetensors``: the model, as ``model.save`` writes it;
- ``cells.h5ad``: embedding, labels, systems and batches of the cells, without ``X``;
- ``README.md``: the model card, with the header of the Hugging Face hub;
- ``config.json``: names of the columns, and checksums of the two data files. It is written last.

Loading executes no code: there is no pickle in these formats.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd
from anndata import AnnData

from sysvi._core.arguments import check_types
from sysvi._core.checks import check_anndata, get_obs_column, listing
from sysvi._core.errors import InputError
from sysvi._core.files import create_folder, write_atomically
from sysvi._version import __version__
from sysvi.api.ensemble import Ensemble, load
from sysvi.api.sysvi import SysVI
from sysvi.data.h5ad import read_h5ad, write_anndata
from sysvi.data.labels import is_labelled, read_labels
from sysvi.mapping.batches import batches
from sysvi.mapping.calibration import calibration_error
from sysvi.mapping.label_classifier import LabelClassifier
from sysvi.metrics._latent import get_embedding
from sysvi.model.checkpoint import MODEL_FILE

CELLS_FILE, CARD_FILE, CONFIG_FILE = "cells.h5ad", "README.md", "config.json"
FILES = (MODEL_FILE, CELLS_FILE, CARD_FILE, CONFIG_FILE)
FORMAT, FORMAT_VERSION = "sysvi-reference", 1
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")  # owner/name on the hub


@dataclass(frozen=True, eq=False)
class Reference:
    """A reference that was loaded: what is needed to map new cells and to label them.

    Parameters
    ----------
    model
        The model, a `sysvi.SysVI` or `sysvi.Ensemble` without data.
    adata
        Its cells: labels, systems and batches in ``obs``, the embedding in ``obsm``; no expression and no genes.
    embedding
        Key of the embedding in ``adata.obsm``.
    label_keys
        Columns of ``adata.obs`` with labels.
    system_key, batch_key
        Columns of ``adata.obs`` with the systems and, where there are some, the batches.
    """

    model: SysVI | Ensemble
    adata: AnnData
    embedding: str
    label_keys: tuple[str, ...]
    system_key: str
    batch_key: str | None

    def __repr__(self) -> str:
        return (
            f"Reference of {self.adata.n_obs:,} cells with {listing(self.label_keys)}; embedding {self.embedding!r} of "
            f"{self.model!r}"
        )


def save_reference(
    dir_path: str | PathLike[str],
    model: SysVI | Ensemble,
    adata: AnnData,
    label_keys: str | Sequence[str],
    *,
    licence: str,
    description: str = "",
    embedding: str = "X_sysVI",
    overwrite: bool = False,
) -> None:
    """Save a model and its labelled cells as a reference that can be shared: one folder, without expression.

    Parameters
    ----------
    dir_path
        Folder; created if missing.
    model
        Trained model, single or an ensemble.
    adata
        Its cells, with the embedding in ``obsm``. Names of cells, labels, systems and batches are written; no other
        column of ``obs``, since such a column may say more about donors than may be shared.
    label_keys
        Columns of ``adata.obs`` with labels.
    licence
        Identifier of the licence under which others may use the reference, such as ``"cc-by-4.0"``, for the model card.
    description
        What the cells are, for the model card (Markdown).
    embedding
        Key of the embedding in ``adata.obsm``.
    overwrite
        Replace the files of a reference that is in the folder.

    Raises
    ------
    InputError
        If the folder has one of the files already or cannot be written, a column or the embedding is missing, or the
        embedding is not that of the model.

    Examples
    --------
    >>> import sysvi, tempfile
    >>> adata = sysvi.prepare(sysvi.datasets.simulate_systems(300, 200, seed=1), "system", "batch", min_cells=3)
    >>> model = sysvi.integrate(adata, "system", "batch", members=1, max_epochs=2, progress=False)
    >>> folder = tempfile.mkdtemp()
    >>> save_reference(folder, model, adata, "cell_type", licence="cc0-1.0")
    >>> load_reference(folder)
    Reference of 300 cells with cell_type; embedding 'X_sysVI' of SysVI: ...
    """
    check_types(
        save_reference,
        dir_path=dir_path,
        model=model,
        label_keys=label_keys,
        licence=licence,
        description=description,
        embedding=embedding,
        overwrite=overwrite,
    )
    check_anndata(adata)
    keys = (label_keys,) if isinstance(label_keys, str) else tuple(dict.fromkeys(label_keys))
    if not keys:
        raise InputError("label_keys is empty: name the columns of adata.obs with the labels.")
    cells = _reference_cells(model, adata, keys, embedding)
    card = _model_card(model, cells, keys, licence, description)
    folder = Path(dir_path)
    for name in FILES:
        if (folder / name).exists() and not overwrite:
            raise InputError(f"{folder} has a file {name} already; pass overwrite=True to replace it.")
    create_folder(folder)
    write_atomically(folder / CELLS_FILE, lambda temporary: write_anndata(temporary, cells))
    model.save(folder, overwrite=overwrite)
    write_atomically(folder / CARD_FILE, lambda temporary: temporary.write_text(card, encoding="utf-8"))
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "sysvi_version": __version__,
        "embedding": embedding,
        "label_keys": keys,
        "system_key": model.columns.system,
        "batch_key": model.columns.batch,
        "licence": licence,
        "sha256": {name: _checksum(folder / name) for name in (MODEL_FILE, CELLS_FILE)},
    }
    text = json.dumps(config, indent=2) + "\n"
    write_atomically(folder / CONFIG_FILE, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def load_reference(dir_or_repo: str | PathLike[str]) -> Reference:
    """Load a reference from a folder or from the Hugging Face hub. No code in its files is executed.

    Parameters
    ----------
    dir_or_repo
        Folder that :func:`save_reference` wrote, or a repository of the hub, ``"owner/name"``, which is downloaded once
        (needs ``pip install "sysvi[hub]"``). An existing folder takes precedence.

    Returns
    -------
    Reference

    Raises
    ------
    InputError
        If there is no such folder or repository, or a file is missing, damaged or of another version.

    Examples
    --------
    See :func:`save_reference`.
    """
    check_types(load_reference, dir_or_repo=dir_or_repo)
    folder = Path(dir_or_repo)
    if not folder.exists() and isinstance(dir_or_repo, str) and REPOSITORY.fullmatch(dir_or_repo):
        folder = _download(dir_or_repo)
    config = _read_config(folder)
    cells = read_h5ad(folder / CELLS_FILE)
    columns = {*config["label_keys"], config["system_key"], config["batch_key"]} - {None}
    if missing := [*(columns - set(cells.obs)), *({config["embedding"]} - set(cells.obsm))]:
        raise InputError(f"{folder / CONFIG_FILE} is damaged: {missing[0]!r} is not in its cells. Copy it again.")
    return Reference(
        load(folder),
        cells,
        config["embedding"],
        tuple(config["label_keys"]),
        config["system_key"],
        config["batch_key"],
    )


def upload_reference(dir_path: str | PathLike[str], repo: str, *, private: bool = True) -> None:
    """Upload a reference to the Hugging Face hub; needs ``pip install "sysvi[hub]"`` and a login (``hf auth login``).

    Parameters
    ----------
    dir_path
        Folder that :func:`save_reference` wrote. Only the files of the reference are uploaded.
    repo
        Repository of the hub, ``"owner/name"``; created if missing.
    private
        Whether a repository that is created can be seen by its owner only.

    Raises
    ------
    InputError
        If the folder holds no reference, `repo` is no name of a repository, or huggingface_hub is not installed.
    """
    check_types(upload_reference, dir_path=dir_path, repo=repo, private=private)
    folder = Path(dir_path)
    _read_config(folder)
    if not REPOSITORY.fullmatch(repo):
        raise InputError(f"repo is {repo!r}; it must be the name of a repository of the hub, 'owner/name'.")
    hub = _hub()
    hub.create_repo(repo, private=private, exist_ok=True)
    hub.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=[*FILES])


def _reference_cells(model: SysVI | Ensemble, adata: AnnData, label_keys: tuple[str, ...], embedding: str) -> AnnData:
    """The cells of a reference without expression, checked."""
    z = get_embedding(adata, embedding)
    if z.shape[1] != model.model_settings.n_latent:
        raise InputError(
            f"adata.obsm[{embedding!r}] has {z.shape[1]} dimensions, but the model has "
            f"{model.model_settings.n_latent}: give the embedding of this model."
        )
    for key in label_keys:
        if not is_labelled(get_obs_column(adata, key, "label_keys")).any():
            raise InputError(f"adata.obs[{key!r}] (label_keys) labels no cell: choose another column.")
    batch = () if model.columns.batch is None else (model.columns.batch,)
    keys = dict.fromkeys((*label_keys, model.columns.system, *batch))
    obs = pd.DataFrame({key: get_obs_column(adata, key, "label_keys") for key in keys}, index=adata.obs_names)
    for key in keys:
        if isinstance(obs[key].dtype, pd.CategoricalDtype):  # names of cells that are not shared stay private
            obs[key] = obs[key].cat.remove_unused_categories()
    return AnnData(obs=obs, obsm={embedding: z})


def _model_card(
    model: SysVI | Ensemble, cells: AnnData, label_keys: tuple[str, ...], licence: str, description: str
) -> str:
    """The README.md of a reference: cells, labels and their scores, genes, versions and licence."""
    header = {"license": licence, "library_name": "sysvi", "tags": ["single-cell", "rna", "biology", "sysvi"]}
    versions = json.loads(model.record()["versions"])
    system = cells.obs[model.columns.system].value_counts(sort=False)
    batch = model.columns.batch
    lines = [
        "---",
        *(f"{name}: {json.dumps(value)}" for name, value in header.items()),  # JSON is YAML
        "---",
        "",
        "# sysVI reference",
        "",
        description.strip() or "Reference of single cells, integrated with sysVI.",
        "",
        f"- {cells.n_obs:,} cells of {len(system)} systems (`{model.columns.system}`): "
        + ", ".join(f"{name} ({n:,})" for name, n in system.items()),
        *([] if batch is None else [f"- {cells.obs[batch].nunique():,} batches (`{batch}`)"]),
        f"- {len(model.vocabulary.genes):,} genes: {listing(model.vocabulary.genes, 5)}",
        f"- {model!r}",
        f"- Made with {', '.join(f'{name} {version}' for name, version in versions.items())}",
        f"- Licence: {licence}",
        "",
    ]
    for key in label_keys:
        lines += [f"## Labels `{key}`", "", *_score_lines(cells, key, model.columns.system, batch), ""]
    lines += [
        "## Use",
        "",
        "```python",
        "import sysvi",
        "",
        'reference = sysvi.load_reference("owner/name")  # or a local folder',
        "query = sysvi.map_query(reference.model, query)  # query.obs has "
        + " and ".join(f"{key!r}" for key in (model.columns.system, batch) if key is not None),
        f"sysvi.transfer_labels(reference, query, {label_keys[0]!r})",
        "```",
        "",
    ]
    return "\n".join(lines)


def _score_lines(cells: AnnData, label_key: str, system_key: str, batch_key: str | None) -> list[str]:
    """How well labels are found by cells of other batches, as a Markdown table with a row for each label."""
    label, labelled = read_labels(cells, label_key)
    assert label is not None  # label_key is given
    z = next(iter(cells.obsm.values()))
    batch = batches(cells, system_key, batch_key)
    found = LabelClassifier.fit(z[labelled], label[labelled], batch[labelled])
    held_out = found.held_out
    error = calibration_error(held_out.reliability())
    n_cells = pd.Series(label[labelled]).value_counts()
    accuracy = pd.Series(held_out.correct).groupby(found.labels[held_out.code]).mean().reindex(n_cells.index)
    return [
        "Accuracy: share of a label's cells that get it from cells of other batches (from other cells, if the label is "
        f"in one batch only). Expected calibration error of their confidences: {error:.3f}.",
        "",
        "| label | cells | accuracy |",
        "|---|---|---|",
        *(
            f"| {str(name).replace('|', '&#124;')} | {n:,} | {share:.2f} |"
            for name, n, share in zip(n_cells.index, n_cells, accuracy, strict=True)
        ),
    ]


def _checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_config(folder: Path) -> dict[str, Any]:
    """Read config.json of a reference, and check that its files are those that were saved."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise InputError(f"{folder} holds no reference: there is no {CONFIG_FILE}, which sysvi.save_reference writes.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path} is damaged: copy it again.") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise InputError(f"{path} was not written by sysvi.save_reference.")
    if config.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {config.get('format_version')}, but this version of sysvi reads "
            f"{FORMAT_VERSION} only: load it with the version of sysvi that saved it."
        )
    names = config.get("label_keys"), (config.get("embedding"), config.get("system_key"))
    sums = config.get("sha256")
    if (
        not all(isinstance(part, list | tuple) and part and all(isinstance(x, str) for x in part) for part in names)
        or not isinstance(config.get("batch_key", 0), str | None)
        or not isinstance(sums, dict)
        or set(sums) != {MODEL_FILE, CELLS_FILE}
    ):
        raise InputError(f"{path} is damaged: entries are missing or of another type. Copy it again.")
    for name, expected in sums.items():
        if not (folder / name).is_file():
            raise InputError(f"{folder} has no file {name}: the reference is incomplete, copy it again.")
        if _checksum(folder / name) != expected:
            raise InputError(f"{folder / name} is damaged: its checksum is not that of config.json. Copy it again.")
    return config


def _download(repo: str) -> Path:
    """Download the files of a reference from the hub, and return their folder."""
    hub = _hub()
    try:
        return Path(hub.snapshot_download(repo, allow_patterns=[*FILES]))
    except Exception as error:  # of the hub, the network, or the disk
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InputError(
            f"There is no folder {repo}, and no reference of this name could be downloaded from the Hugging Face hub: "
            f"{reason}."
        ) from error


def _hub() -> Any:
    """The library of the Hugging Face hub."""
    try:
        return import_module("huggingface_hub")
    except ImportError as error:
        raise InputError(
            'The Hugging Face hub needs the package huggingface_hub: install it with pip install "sysvi[hub]".'
        ) from error
