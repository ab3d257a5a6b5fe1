"""What to do with files that are no h5ad files: the line that makes one of them."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

GZIP = b"\x1f\x8b"  # the first bytes of files that are compressed with gzip
WRITE = "write_h5ad('cells.h5ad')"


def explain_folder(path: Path) -> str:
    """What a folder is that was given in place of a file, and how to make an h5ad file of it."""
    names = {entry.name.removesuffix(".gz") for entry in path.iterdir()}
    if names & {".zgroup", ".zattrs", "zarr.json"}:
        return f"{path} is a zarr store: convert it with anndata.io.read_zarr({str(path)!r}).{WRITE}."
    if "matrix.mtx" in names:
        return f"{path} holds a matrix of 10x Genomics: {_convert_mtx(path)}."
    return f"{path} is a folder, but no zarr store: give the name of an h5ad file or a store."


def explain_other_file(path: Path) -> str:
    """What a file is that is not HDF5, and how to make an h5ad file of it."""
    name = path.name.lower()
    if name.removesuffix(".gz").endswith(".mtx"):
        return f"{path} is a Matrix Market file, with neither genes nor cells: {_convert_mtx(path.parent)}."
    if name.endswith((".rds", ".rdata", ".rda", ".qs")):
        return f"{path} holds objects of R: integrate them there, with RunSysVI() of the R package sysVI."
    if name.endswith((".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")):
        separator = "" if ".csv" in name else ", delimiter='\\t'"
        return f"{path} is a text table: convert it with scanpy.read_csv({str(path)!r}{separator}).{WRITE}."
    if name.endswith((".xlsx", ".xls")):
        return f"{path} is an Excel table: save it as CSV, then convert it with scanpy.read_csv."
    if not path.stat().st_size:
        return f"{path} is empty: write it again, or copy it again from where it comes."
    with path.open("rb") as file:
        start = file.read(len(GZIP))
    if start == GZIP:
        return f"{path} is compressed with gzip: decompress it first, with gunzip or gzip -d."
    return f"{path} is not an h5ad file (it is not HDF5): convert it with scanpy or anndata first."


def explain_hdf5(path: Path, content: Set[str]) -> str:
    """What an HDF5 file with groups `content` is that is not an h5ad file, and how to make an h5ad file of it."""
    if "mod" in content:
        return (
            f"{path} is an h5mu file with several modalities: write the one with the RNA with "
            f"mudata.read_h5mu({str(path)!r})['rna'].{WRITE}."
        )
    if "assays" in content or path.suffix.lower() == ".h5seurat":
        return (
            f"{path} is an h5Seurat file: integrate it in R, with SeuratDisk::LoadH5Seurat and RunSysVI() of the R "
            "package sysVI."
        )
    if {"row_attrs", "col_attrs"} <= content:
        return f"{path} is a loom file: convert it with scanpy.read_loom({str(path)!r}).{WRITE}."
    if "matrix" in content or path.suffix == ".h5":
        return (
            f"{path} is an HDF5 file but not an h5ad file; if it comes from 10x Genomics, convert it with "
            f"scanpy.read_10x_h5({str(path)!r}).{WRITE}."
        )
    return f"{path} is an HDF5 file but not an h5ad file (without obs and var): convert it with anndata first."


def _convert_mtx(folder: Path) -> str:
    return f"convert it with scanpy.read_10x_mtx({str(folder)!r}).{WRITE}"
