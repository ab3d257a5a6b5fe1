"""Build wheel and source distribution into dist/, and check them.

Run by ``make dist``; needs build, twine and check-wheel-contents. The wheel is built from the source distribution, and
must be the one that the checkout gives.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"


def files_of(wheel: Path) -> dict[str, bytes]:
    """Content of each file in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def missing_files(names: set[str]) -> list[str]:
    """Files of python/sysvi that git knows, or those that a wheel must have besides, which are not among `names`."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "python/sysvi"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    wanted = {name.removeprefix("python/") for name in listed.split("\0") if name and (ROOT / name).exists()}
    missing = sorted(wanted - names)
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        missing.append("LICENSE")
    return missing


def run(*command: str | Path) -> None:
    """Run a module of this Python; end with its status if it fails."""
    done = subprocess.run([sys.executable, "-m", *map(str, command)], cwd=ROOT)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    """Build and check."""
    shutil.rmtree(DIST, ignore_errors=True)
    run("build", "--outdir", DIST)
    (wheel,), (sdist,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    run("twine", "check", "--strict", wheel, sdist)
    run("check_wheel_contents", wheel)
    content = files_of(wheel)
    if missing := missing_files(set(content)):
        sys.exit(f"{wheel.name} lacks {', '.join(missing)}: see [tool.hatch.build] in pyproject.toml.")
    with tempfile.TemporaryDirectory() as folder:
        run("build", "--wheel", "--outdir", folder)
        (direct,) = Path(folder).glob("*.whl")
        if files_of(direct) != content:
            sys.exit(f"{sdist.name} does not build the same wheel as the checkout: a file is missing in it.")
    for path in (wheel, sdist):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
