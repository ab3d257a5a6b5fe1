"""When a file cannot grow any more, as on a full disk, one sentence says so, and what was there stays."""

import resource
import shutil
from contextlib import contextmanager

import anndata
import pytest
from click.testing import CliRunner
from soak import files_in

import sysvi
from sysvi.cli import main

pytestmark = pytest.mark.filterwarnings("ignore")

COLUMNS = "--system system --batch batch"
COMMANDS = {
    "integrate": f"integrate in.h5ad {COLUMNS} --min-cells 3 --members 1 --epochs 1 -o out.h5ad --overwrite",
    "prepare": f"prepare in.h5ad {COLUMNS} --min-cells 3 -o out.h5ad --overwrite",
    "evaluate": f"evaluate in.h5ad {COLUMNS} --embedding X_new --metric iLISI -o out --overwrite",
    "tune": f"tune in.h5ad {COLUMNS} --label cell_type --cycle-weight 2 --seeds 1 --epochs 1 -o out",
    "prepare files": f"prepare a.h5ad b.h5ad {COLUMNS} --min-cells 3 -o out.h5ad --overwrite",
    "prepare a store": f"prepare a.h5ad b.h5ad {COLUMNS} --min-cells 3 -o out.zarr --overwrite",
    "map": "map in.h5ad --model model --epochs 1 -o out.h5ad --overwrite",
    "translate": "translate in.h5ad --model model --to-system system1 -o out.h5ad --overwrite",
    "transfer": "transfer integrated.h5ad integrated.h5ad --label cell_type -o out.h5ad --overwrite",
    "compare-systems": "compare-systems in.h5ad --model model --label cell_type --min-cells 3 -o out --overwrite",
    "batch-strength": f"batch-strength in.h5ad {COLUMNS} --label cell_type --min-cells 3 -o out.csv --overwrite",
}


@contextmanager
def largest_file(n_bytes):
    """Let this process write no file beyond a size; as on a full disk, writing then raises an OSError."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def results(counts, tmp_path_factory):
    """A folder with a model and its cells. Functions are compiled and cached, which needs space on the disk, too."""
    folder = tmp_path_factory.mktemp("results")
    adata = sysvi.prepare(anndata.read_h5ad(counts), "system", "batch", min_cells=3)
    sysvi.integrate(adata, "system", "batch", members=2, max_epochs=1, progress=False).save(folder / "model")
    adata.write_h5ad(folder / "integrated.h5ad")
    return folder


@pytest.fixture
def folder(counts, tmp_path, monkeypatch):
    """The working folder, with the input and an earlier output."""
    monkeypatch.chdir(tmp_path)
    adata = anndata.read_h5ad(counts)
    adata.obsm["X_new"] = adata.X[:, :3].toarray()
    adata.write_h5ad("in.h5ad")
    (tmp_path / "out.h5ad").write_text("earlier")
    return tmp_path


@pytest.mark.parametrize("n_bytes", [0, 100, 3000])
@pytest.mark.parametrize("command", COMMANDS)
def test_commands(folder, results, command, n_bytes):
    shutil.copytree(results, folder, dirs_exist_ok=True)
    adata = anndata.read_h5ad("in.h5ad")
    for name, system in (("a", "system1"), ("b", "system2")):
        adata[adata.obs["system"] == system].write_h5ad(f"{name}.h5ad")
    with largest_file(n_bytes):
        result = CliRunner().invoke(main, COMMANDS[command].split())
    assert result.exit_code == 1, result.output
    [error] = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert "there is no space left" in error
    assert "Traceback" not in result.output
    assert (folder / "out.h5ad").read_text() == "earlier"
    assert not [name for name in files_in(folder) if name.endswith(".part")]
    shutil.rmtree(folder / "out", ignore_errors=True)
    assert CliRunner().invoke(main, COMMANDS[command].split()).exit_code == 0


def test_sizes_that_end_writing_anywhere(folder):
    """Wherever an h5ad file ends, HDF5 is closed in peace and the error is that of the disk."""
    from sysvi.data.h5ad import write_anndata

    adata = anndata.read_h5ad("in.h5ad")
    write_anndata(folder / "whole.h5ad", adata)
    size = (folder / "whole.h5ad").stat().st_size
    for n_bytes in range(0, size, size // 40):
        with largest_file(n_bytes), pytest.raises(OSError, match="File too large"):
            write_anndata(folder / "part.h5ad", adata)


def test_the_process_ends_without_a_crash(folder, run_sysvi):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    status, output = run_sysvi(*COMMANDS["prepare"].split(), preexec_fn=limit)
    assert status == 1
    assert output.splitlines()[-1].startswith("Error: out.h5ad cannot be written: there is no space left")
    assert "Traceback" not in output


@pytest.mark.parametrize("save_anndata", [False, True])
def test_saving_a_model(folder, save_anndata):
    prepared = sysvi.prepare(anndata.read_h5ad("in.h5ad"), "system", "batch", min_cells=3)
    model = sysvi.integrate(prepared, "system", "batch", members=1, max_epochs=1, progress=False)
    model.save("model")
    before = (folder / "model" / "model.safetensors").read_bytes()
    with largest_file(5000), pytest.raises(sysvi.InputError, match=r"model.safetensors cannot be written: there is no"):
        model.save("model", overwrite=True, save_anndata=save_anndata)
    assert (folder / "model" / "model.safetensors").read_bytes() == before
    with largest_file(len(before)), pytest.raises(sysvi.InputError, match=r"adata.h5ad cannot be written: there is no"):
        model.save("new", save_anndata=True)
    assert files_in(folder / "new") == {"model.safetensors"}


@pytest.mark.parametrize("free", [0, 10_000])
@pytest.mark.parametrize("command", ["integrate", "tune"])
def test_too_little_space_is_seen_before_training(folder, monkeypatch, command, free):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - free, free))
    result = CliRunner().invoke(main, COMMANDS[command].split())
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: out{'.h5ad' if command == 'integrate' else '/integrated.h5ad'} will take")
    assert files_in(folder) == {"in.h5ad", "out.h5ad"}


@pytest.mark.parametrize(("where", "name"), [("-o new.h5ad", "new.h5ad"), ("--in-place", "cells.zarr/obsm/X_sysVI")])
def test_too_little_space_for_an_output_without_expression(folder, monkeypatch, where, name):
    sysvi.prepare_files(["in.h5ad"], "cells.zarr", "system", "batch", min_cells=3)
    before = files_in(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 0))
    result = CliRunner().invoke(main, f"integrate cells.zarr {COLUMNS} {where} --memory 1GB --members 1".split())
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {name} will take about")
    assert "but only 0 MB are free on its disk" in result.output
    assert files_in(folder) == before
