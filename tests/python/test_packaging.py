"""The files of packaging/, workflows and the website of the R package agree with the package and each other."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import anndata
import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import sysvi

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RECIPE = yaml.safe_load((ROOT / "packaging" / "conda" / "recipe.yaml").read_text())
MODULE = ROOT / "packaging" / "nf-core" / "sysvi" / "integrate"
CONTAINERS = {name: (ROOT / "packaging" / "containers" / name).read_text() for name in ("Dockerfile", "sysvi.def")}
CONDA_NAMES = {"igraph": "python-igraph", "matplotlib": "matplotlib-base", "torch": "pytorch"}  # PyPI: conda-forge
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def conda_name(requirement: str) -> str:
    """A requirement of pyproject.toml in the words of conda-forge."""
    wanted = Requirement(requirement)
    return f"{CONDA_NAMES.get(wanted.name, wanted.name)} {wanted.specifier}"


# -- versions


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("DESCRIPTION", r"^Version: (.+)$"),
        ("CITATION.cff", r"^version: (.+)$"),
        ("packaging/conda/recipe.yaml", r'^  version: "(.+)"$'),
        ("packaging/nf-core/sysvi/integrate/main.nf", r"ghcr\.io/sysvi/sysvi:([\d.]+)"),
        ("packaging/nf-core/sysvi/integrate/main.nf", r"^        sysvi: ([\d.]+)$"),
        ("packaging/nf-core/sysvi/integrate/environment.yml", r"conda-forge::sysvi=(.+)$"),
    ],
)
def test_one_version_everywhere(file, pattern):
    found = re.findall(pattern, (ROOT / file).read_text(), re.MULTILINE)
    assert found == [sysvi.__version__]


def test_news_begin_with_the_version_of_the_package():
    assert (ROOT / "NEWS.md").read_text().startswith(f"# sysVI {sysvi.__version__}\n")


def test_oldest_python_is_the_same_everywhere():
    oldest = RECIPE["context"]["python_min"]
    classified = [c.rpartition(" ")[2] for c in PROJECT["project"]["classifiers"] if "Python :: 3." in c]
    wanted = SpecifierSet(PROJECT["project"]["requires-python"])
    assert f"{oldest}.0" in wanted
    assert f"3.{int(oldest[2:]) - 1}.99" not in wanted
    assert classified[0] == oldest
    makefile = (ROOT / "Makefile").read_text()
    assert f"WHEEL_PYTHONS ?= {' '.join(classified)}\n" in makefile


# -- conda


def test_the_recipe_needs_what_pyproject_needs():
    expected = [conda_name(wanted) for wanted in PROJECT["project"]["dependencies"]]
    python, *run = RECIPE["requirements"]["run"]
    assert python == "python >=${{ python_min }}"
    assert run == sorted(expected)


def test_the_recipe_builds_with_what_pyproject_builds_with():
    expected = {conda_name(wanted) for wanted in PROJECT["build-system"]["requires"]}
    assert set(RECIPE["requirements"]["host"]) == expected | {"python ${{ python_min }}.*", "pip"}


def test_the_recipe_has_the_commands_of_pyproject():
    expected = [f"{name} = {target}" for name, target in PROJECT["project"]["scripts"].items()]
    assert RECIPE["build"]["python"]["entry_points"] == expected
    assert RECIPE["about"]["license"] == PROJECT["project"]["license"]


# -- containers


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_install_the_tested_torch_and_known_extras(name):
    constraints = (ROOT / "constraints-dev.txt").read_text().split()
    assert re.findall(r"torch==[\d.]+", CONTAINERS[name]) == [c for c in constraints if c.startswith("torch==")]
    (extras,) = re.findall(r"\$\{wheel\}\[([a-z,]+)\]", CONTAINERS[name])
    assert set(extras.split(",")) <= set(PROJECT["project"]["optional-dependencies"])


def test_both_containers_install_the_same():
    def installed(text: str) -> list[str]:
        return re.findall(r"torch==\S+|\$\{wheel\}\[\S+\]|pyarrow==[\d.]+|FROM (\S+)|From: (\S+)", text)

    docker, apptainer = map(installed, CONTAINERS.values())
    assert [sorted(filter(None, np.ravel(each))) for each in docker] == [
        sorted(filter(None, np.ravel(each))) for each in apptainer
    ]


# -- nf-core


def script_block(name: str) -> str:
    """The part `script` or `stub` of the module, without the indentation that Nextflow removes."""
    block = (MODULE / "main.nf").read_text().partition(f"\n    {name}:\n")[2].split('"""')[1]
    return "\n".join(line.removeprefix("    ") for line in block.splitlines())


def rendered(name: str, **values: str) -> str:
    """A block with `values` for its Groovy variables and Groovy's escapes resolved, as Nextflow hands it to bash."""

    def value(match: re.Match[str]) -> str:
        return values[match[1]]

    text = re.sub(r"(?<!\\)\$\{([\w.]+)\}", value, script_block(name))
    return text.replace("\\$", "$").replace("\\\\", "\\")


def outputs() -> dict[str, str]:
    """Pattern of each output of the module by its name."""
    declared = (MODULE / "main.nf").read_text().partition("    output:\n")[2].partition("    when:\n")[0]
    return {name: path for path, name in re.findall(r'path\("?([^")]+)"?\).*emit: (\w+)', declared)} | {
        name: path for path, name in re.findall(r'path "([^"]+)" +, emit: (\w+)', declared)
    }


def run_bash(script: str, folder: Path) -> None:
    """Run a script as Nextflow does, with this Python first on PATH."""
    binaries = Path(sys.executable).parent
    command = folder / "bin" / "sysvi"  # the command of this checkout
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sysvi "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}:{binaries}:{os.environ['PATH']}"
    source = str(ROOT / "python")
    environment = os.environ | {"PATH": path, "PYTHONPATH": source}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_module_declares_what_meta_describes():
    meta = yaml.safe_load((MODULE / "meta.yml").read_text())
    assert set(outputs()) == set(meta["output"]) == {"h5ad", "model", "report", "obsm", "versions"}
    text = (MODULE / "main.nf").read_text()
    (meta_and_file, *columns) = meta["input"]
    assert [next(iter(each)) for each in meta_and_file] == ["meta", "h5ad"]
    assert re.findall(r"^    val (\w+)$", text, re.MULTILINE) == [next(iter(each)) for each in columns]
    assert meta["name"].upper() == re.search(r"^process (\w+) {", text)[1]


@pytest.mark.parametrize("label", [False, True])
def test_the_stub_makes_all_outputs(tmp_path, label):
    script = rendered("stub", prefix="test", report="touch 'test.html'" if label else "", **{"task.process": "SYSVI"})
    run_bash(script, tmp_path)
    for name, pattern in outputs().items():
        path = tmp_path / pattern.replace("${prefix}", "test")
        assert path.exists() == (label or name != "report"), name


@pytest.mark.slow
def test_the_script_of_the_module_integrates(tmp_path):
    import pandas as pd

    cells = sysvi.datasets.simulate_systems(400, 150, seed=1)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    values = {
        "h5ad": "cells.h5ad",
        "prefix": "test",
        "system_col": "system",
        "batch": "--batch 'batch'",
        "label": "--label 'cell_type' --report 'test.html'",
        "args": "--epochs 2 --members 2 --min-cells 3 --device cpu --quiet",
        "task.cpus": "1",
        "task.process": "SYSVI_INTEGRATE",
    }
    run_bash(rendered("script", **values), tmp_path)
    for pattern in outputs().values():
        assert (tmp_path / pattern.replace("${prefix}", "test")).exists(), pattern
    embedding = anndata.read_h5ad(tmp_path / "test.h5ad").obsm["X_emb"]
    table = pd.read_parquet(tmp_path / "X_test.parquet")
    assert list(table.index) == list(cells.obs_names)
    assert list(table.columns) == [f"sysvi_{i}" for i in range(embedding.shape[1])]
    np.testing.assert_array_equal(table.to_numpy(), embedding)
    versions = yaml.safe_load((tmp_path / "versions.yml").read_text())["SYSVI_INTEGRATE"]
    assert versions["sysvi"] == sysvi.__version__
    assert set(versions) == {"python", "sysvi", "torch"}


# -- R


def test_r_universe_builds_this_repository():
    (package,) = json.loads((ROOT / "packaging" / "r-universe" / "packages.json").read_text())
    description = (ROOT / "DESCRIPTION").read_text()
    assert f"Package: {package['package']}\n" in description
    (urls,) = re.findall(r"^URL: (.+)$", description, re.MULTILINE)
    assert package["url"] in urls.split(", ")


def test_the_r_package_carries_the_engine():
    link = ROOT / "inst" / "python"
    assert link.is_symlink()
    assert link.readlink() == Path("../python")


def test_the_website_of_the_r_package_lists_each_function_and_vignette_once():
    site = yaml.safe_load((ROOT / "pkgdown" / "_pkgdown.yml").read_text())
    listed = [name for group in site["reference"] for name in group["contents"]]
    exported = re.findall(r"^export\((\w+)\)$", (ROOT / "NAMESPACE").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted([*exported, "predict.SysVIModel"])  # a method with a page of its own
    articles = [name for group in site["articles"] for name in group["contents"]]
    assert sorted(articles) == sorted(path.stem for path in (ROOT / "vignettes").glob("*.Rmd"))
    assert site["url"].startswith(site["navbar"]["components"]["python"]["href"])


def test_scripts_of_the_website_are_those_that_their_authors_published():
    folder = ROOT / "pkgdown" / "scripts"
    table = (folder / "README.md").read_text()
    listed = dict(re.findall(r"^\| `(\S+)` \|.*\| ([0-9a-f]{64}) \|$", table, re.MULTILINE))
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.min.js")}
    assert {name: hashlib.sha256(content).hexdigest() for name, content in found.items()} == listed


@pytest.mark.parametrize("path", sorted((ROOT / "vignettes").glob("*.Rmd")), ids=lambda path: path.name)
def test_vignettes_link_to_pages_of_the_website_that_exist(path):
    site = yaml.safe_load((ROOT / "pkgdown" / "_pkgdown.yml").read_text())["navbar"]["components"]["python"]["href"]
    for page, anchor in re.findall(rf"{re.escape(site)}([\w/-]+)\.html(?:#([\w-]+))?", path.read_text()):
        headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / f"{page}.md").read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, f"{page}.html#{anchor}"


# -- workflows


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_call_targets_that_exist_with_few_permissions(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name, job in workflow["jobs"].items():
        assert job["runs-on"] == "ubuntu-latest"
        assert job["timeout-minutes"] <= 90
        assert set(job.get("needs", "").split()) <= set(workflow["jobs"])
        assert all(("uses" in step) != ("run" in step) for step in job["steps"]), name
        called = {target for step in job["steps"] for target in re.findall(r"\bmake ([a-z-]+)", step.get("run", ""))}
        assert called <= targets


def test_only_the_release_of_a_tag_publishes():
    release = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    assert release[True] == {"push": {"tags": ["v*"]}}  # YAML reads the key `on` as true
    publishing = [
        name for name, job in release["jobs"].items() if job.get("permissions", {}).get("id-token") == "write"
    ]
    assert publishing == ["pypi"]
    assert release["jobs"]["pypi"]["environment"]["name"] == "pypi"
    assert release["jobs"]["pypi"]["needs"] == "build"
    for other in set(WORKFLOWS) - {ROOT / ".github" / "workflows" / "release.yml"}:
        assert "pypi-publish" not in other.read_text()
