"""Whether matplotlib can be imported: it refuses to be if the environment names a backend that it does not have."""

from __future__ import annotations

import os

from sysvi._core.errors import InputError


def check_backend_of_figures() -> None:
    """Check the environment variable ``MPLBACKEND``, before any work is done.

    sysVI draws without a backend, but matplotlib and the packages that use it (igraph, scanpy) cannot be imported if
    the variable has a value that matplotlib does not know.

    Raises
    ------
    InputError
        If it has one.
    """
    backend = os.environ.get("MPLBACKEND")
    if not backend:
        return
    try:
        import matplotlib  # noqa: F401
    except ValueError as error:
        raise InputError(
            f"The environment variable MPLBACKEND is {backend!r}, which is no backend of matplotlib: unset it, or set "
            "it to agg."
        ) from error
