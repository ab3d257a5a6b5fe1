"""Where numba caches the machine code of compiled functions."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from types import FunctionType


@cache
def ensure_numba_cache() -> None:
    """Give numba a temporary cache folder if it can write to none of its usual ones.

    numba raises "cannot cache function: no locator available" for a function with ``cache=True`` if neither the folder
    of the function's module nor the user's cache folder can be written, as in many containers. This function must
    therefore run before the first such function is defined: those of sysVI, and those of scanpy, umap-learn and
    pynndescent, which are defined when these packages are imported. The temporary folder is deleted at exit, so every
    process compiles anew; to keep the cache, set the environment variable ``NUMBA_CACHE_DIR`` to a writable folder.
    Without a folder for temporary files, functions are compiled without a cache.
    """
    import numba
    from numba.core.dispatcher import Dispatcher

    def probe() -> None: ...

    try:
        for module_file in (__file__, numba.__file__):  # packages that use numba are usually installed beside it
            code = probe.__code__.replace(co_filename=module_file)
            numba.njit(cache=True)(FunctionType(code, {}))
    except RuntimeError:
        try:
            folder = tempfile.mkdtemp(prefix="sysvi-numba-")
        except OSError:
            setattr(Dispatcher, "enable_caching", lambda self: None)  # noqa: B010 (numba has no setting for this)
            return
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["NUMBA_CACHE_DIR"] = folder
        numba.config.reload_config()
