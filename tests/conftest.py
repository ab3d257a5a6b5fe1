import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))  # tests import hdf5_edits.py
# How long an example takes, and how long it takes to draw, says nothing on a busy machine.
settings.register_profile("any speed", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real data sets, named by the variable SYSVI_DATA. Unset: an error in CI, a skip elsewhere."""
    folder = os.environ.get("SYSVI_DATA")
    if not folder:
        missing = "the environment variable SYSVI_DATA does not name the folder of the real data sets"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return Path(folder)


@pytest.fixture(scope="session")
def default_hangup_handler():
    """Reset SIGHUP, which is ignored under nohup, to its default; processes that tests start inherit this."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use real data, so that machines without them can deselect these by `-m "not data"`."""
    for item in items:
        if "data_dir" in getattr(item, "fixturenames", ()):
            item.add_marker("data")
