import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real data sets, from the environment variable SYSVI_DATA."""
    folder = os.environ.get("SYSVI_DATA")
    if not folder:
        missing = "the environment variable SYSVI_DATA does not name the folder of the real data sets"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return Path(folder)
