"""Install the wheel in dist/ into empty environments and integrate simulated cells outside the checkout.

    python tools/test_wheel.py 3.11 3.12 3.13
    python tools/test_wheel.py --without-torch 3.13

Run by ``make test-wheel`` after ``make dist``. The Pythons are looked for on PATH and among those of pyenv. pip's own
settings apply: ``PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu`` gives torch's CPU build. The variable
``SYSVI_TORCH`` says which torch (default: any). ``--without-torch`` installs everything else, and tests what works
without torch: that all requirements can be installed together, the command line's help, preparing and metrics.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

REQUIREMENTS = """
import sys
from email.parser import Parser
from zipfile import ZipFile
with ZipFile(sys.argv[1]) as wheel:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    wanted = Parser().parsestr(wheel.read(name).decode()).get_all("Requires-Dist")
print("\\n".join(each for each in wanted if "extra ==" not in each and not each.startswith("torch")))
"""

INSTALLED = """
import sys
from importlib.resources import files
import sysvi
root = files("sysvi")
assert str(root).startswith(sys.prefix), f"{root} is not in the environment {sys.prefix}"
for name in ("py.typed", "__init__.pyi", "reporting/templates/report.html.j2", "comparison/adapters/harmony.R"):
    assert root.joinpath(name).is_file(), name
"""

IMPORTS = """
import importlib
from importlib.util import find_spec
from pkgutil import walk_packages
import sysvi
assert find_spec("plotly") is None, "The environment has an extra: it cannot show that imports work without."
for module in walk_packages(sysvi.__path__, "sysvi."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if error.name != "triton":  # it comes with builds of torch for GPUs, which alone need these modules
            raise
for name in sysvi.__all__:
    getattr(sysvi, name)
"""

PREPARE = """
import anndata, numpy, scipy.sparse
import sysvi
rng = numpy.random.default_rng(0)
counts = scipy.sparse.csr_matrix(rng.poisson(1.0, (200, 60)).astype("float32"))
adata = anndata.AnnData(counts)
adata.obs["system"] = ["a", "b"] * 100
prepared = sysvi.prepare(adata, "system", min_cells=3)
assert prepared.n_obs == 200 and 0 < prepared.X.max() < 20
score = sysvi.metrics.ari(adata.obs["system"].to_numpy(), adata.obs["system"].to_numpy()).value
assert score == 1, score
"""

SIMULATE = """
import sysvi
sysvi.datasets.simulate_systems(600, 200, seed=1).write_h5ad("cells.h5ad")
"""

INTEGRATED = """
import anndata, numpy
adata = anndata.read_h5ad("integrated.h5ad")
embedding = adata.obsm["X_sysVI"]
assert embedding.shape[0] == 600 and numpy.isfinite(embedding).all() and embedding.std() > 0
assert adata.obs["sysvi_support"].between(0, 1).all()
"""


def find_python(version: str) -> Path:
    """Path of a Python, for example for "3.12", on PATH or among those of pyenv."""
    candidates = [shutil.which(f"python{version}")]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates += sorted(map(str, pyenv.glob(f"{version}.*/bin/python")))
    for path in filter(None, candidates):
        found = subprocess.run(
            [path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True
        )
        if found.stdout.strip() == version:  # a shim of pyenv may be on PATH without a Python behind it
            return Path(path)
    sys.exit(f"There is no Python {version} on PATH or in {pyenv}: install it, or name other versions.")


def test_wheel(wheel: Path, version: str, torch: bool) -> None:
    """Install `wheel` into a new environment of one Python, and use it from an empty folder.

    Parameters
    ----------
    wheel
        The wheel.
    version
        Version of Python, such as "3.12".
    torch
        Whether to install torch, and integrate.

    Raises
    ------
    subprocess.CalledProcessError
        If a step fails; its output is printed.
    """
    with tempfile.TemporaryDirectory(prefix=f"sysvi-wheel-{version}-") as name:
        folder = Path(name)
        subprocess.run([find_python(version), "-m", "venv", folder / "venv"], check=True)
        binaries = folder / "venv" / "bin"
        work = folder / "work"
        work.mkdir()
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "SYSVI", "VIRTUAL_ENV"))
        }

        def call(program: str, *arguments: str | Path) -> str:
            command = [binaries / program, *arguments]
            done = subprocess.run(command, cwd=work, env=kept, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                print(done.stdout)
            done.check_returncode()
            return done.stdout

        pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:")
        if torch:
            # torch alone and first: a CPU build that satisfies the wheel is not replaced afterwards.
            call("python", *pip, *os.environ.get("SYSVI_TORCH", "torch").split())
            call("python", *pip, wheel)
            call("python", "-m", "pip", "check")
        else:
            call("python", *pip, *call("python", "-c", REQUIREMENTS, wheel).splitlines())
            call("python", *pip, "--no-deps", wheel)
        call("python", "-c", INSTALLED)
        assert wheel.name.split("-")[1] in call("sysvi", "--version")
        assert "integrate" in call("sysvi", "--help")
        call("sysvi", "integrate", "--help")
        call("python", "-c", PREPARE)
        if torch:
            call("python", "-c", IMPORTS)
            call("sysvi", "demo", "--cells", "500", "--quiet")
            assert all((work / "demo" / name).stat().st_size > 0 for name in ("demo.h5ad", "demo.png"))
            call("python", *pip, f"{wheel}[report]")
            call("python", "-c", SIMULATE)
            options = ("--system", "system", "--batch", "batch", "--epochs", "2", "--quiet", "--device", "cpu")
            call("sysvi", "integrate", "cells.h5ad", *options, "-o", "integrated.h5ad", "--report", "report.html")
            call("python", "-c", INTEGRATED)
            assert "sysVI" in (work / "report.html").read_text()
        done = "ran the demo, integrated 600 cells and wrote a report" if torch else "prepared cells, without torch"
        print(f"Python {version}: {done}", flush=True)


def main() -> None:
    """Test the wheel in each of the given Pythons."""
    parser = argparse.ArgumentParser(description="Install the wheel in dist/ into empty environments and use it.")
    parser.add_argument("versions", nargs="+", metavar="VERSION", help="version of Python, such as 3.12")
    parser.add_argument(
        "--without-torch", action="store_true", help="install everything but torch, and do not integrate"
    )
    arguments = parser.parse_args()
    wheels = list((ROOT / "dist").glob("sysvi-*.whl"))
    if len(wheels) != 1:
        sys.exit(f"dist/ must hold one wheel, not {len(wheels)}: run make dist first.")
    for version in arguments.versions:
        test_wheel(wheels[0], version, not arguments.without_torch)


if __name__ == "__main__":
    main()
