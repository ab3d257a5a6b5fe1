import subprocess
import sys

HEAVY = {"anndata", "matplotlib", "numba", "pandas", "rich", "scanpy", "scipy", "sklearn", "torch"}


def test_modules_that_the_command_line_needs_import_no_heavy_library():
    """`sysvi --help` must answer at once."""
    modules = ", ".join(f"sysvi._core.{name}" for name in ("errors", "events", "files", "log", "progress", "settings"))
    code = f"import sys, {modules}; print(*{HEAVY!r} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
