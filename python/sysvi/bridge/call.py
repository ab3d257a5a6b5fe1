"""Calling a task from R: in R's own process through reticulate, or over files in a process of its own."""

from __future__ import annotations

import ctypes
import json
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sysvi._core.backend_of_figures import check_backend_of_figures
from sysvi._core.errors import InputError
from sysvi._core.events import Event, as_json
from sysvi.bridge.tasks import TASKS
from sysvi.bridge.translation import translate_for_r
from sysvi.bridge.transport import ExpressionBuffer, read_task, write_answer
from sysvi.training.loop import NonFiniteLossError


def call(
    task: str,
    values: str,
    arrays: Mapping[str, Any],
    expression: ExpressionBuffer | None = None,
    on_event: Callable[[str], object] = lambda line: None,
) -> tuple[str, dict[str, np.ndarray]]:
    """Run a task.

    Parameters
    ----------
    task
        Name of the task, a key of `TASKS`.
    values
        Values of the task, a JSON object.
    arrays
        Arrays of the task, by name.
    expression
        Expression of the cells, for tasks that need it.
    on_event
        Function called with each event as one line of JSON. If it returns True while models are trained, training ends.

    Returns
    -------
    str
        Answer, a JSON object. ``{"error": message}`` for input that cannot be used, ``{"interrupted": true}`` if an
        interrupt left no result.
    dict of numpy.ndarray
        Arrays of the answer, by name.

    Examples
    --------
    >>> call("device", '{"device": "cpu"}', {})[0]
    '{"device": "cpu (... threads)"}'
    """

    def report(event: Event) -> None:
        stop = on_event(as_json(event))
        if stop is True and event.stage in ("epoch", "model"):
            raise KeyboardInterrupt

    def show_warning(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
        if issubclass(category, UserWarning) and not issubclass(category, (FutureWarning, DeprecationWarning)):
            report(Event("warning", translate_for_r(str(message))))

    answer: dict[str, Any]
    out: dict[str, np.ndarray]
    with warnings.catch_warnings(), keep_sigint_handler_of_host():
        warnings.simplefilter("always", UserWarning)  # whatever filters other packages of the session have set
        warnings.showwarning = show_warning
        try:
            check_backend_of_figures()
            answer, out = TASKS[task](json.loads(values), arrays, expression or ExpressionBuffer(), report)
        except (InputError, NonFiniteLossError) as error:
            answer, out = {"error": translate_for_r(str(error))}, {}
        except KeyboardInterrupt:
            answer, out = {"interrupted": True}, {}
    return json.dumps(answer), out


def run_folder(folder: Path) -> None:
    """Run the task that R wrote into `folder`, print events as lines of JSON, and write the answer there."""
    task = read_task(folder)
    answer, arrays = call(*task, lambda line: print(line, flush=True))
    write_answer(folder, answer, arrays)


@contextmanager
def keep_sigint_handler_of_host() -> Iterator[None]:
    """Restore R's handler of Ctrl-C, a C function; Python's ``signal.signal`` can restore Python functions only."""
    get, put = ctypes.pythonapi.PyOS_getsig, ctypes.pythonapi.PyOS_setsig
    get.restype = put.restype = ctypes.c_void_p
    put.argtypes = [ctypes.c_int, ctypes.c_void_p]
    handler = get(signal.SIGINT)
    try:
        yield
    finally:
        put(signal.SIGINT, handler)
