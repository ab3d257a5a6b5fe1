"""Running many damaged inputs in a process of its own, which a crash, a hang or a large allocation ends.

A fuzzer is a module with a function ``cases(folder, seed)`` that yields endless pairs of a name and a function. The
function tries one damaged input and returns "refused" or "used"; any exception is a fault. As a script, the module
calls `work`.
"""

import faulthandler
import os
import resource
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from itertools import islice
from pathlib import Path

from soak import N_ROUNDS

MOST_SECONDS, MOST_BYTES = 300, 2**31  # for one input: much more time than any takes, on a busy machine too


def outcome(function):
    """What sysvi makes of an input: "used", or "refused" by an InputError in one sentence."""
    from sysvi import InputError

    try:
        function()
    except InputError as error:
        text = str(error)
        assert text
        assert "\n" not in text
        return "refused"
    return "used"


def work(cases):
    """Try the first cases of a seed, and print how many ended how; the last line names a case that crashed."""
    n_cases, seed = map(int, sys.argv[1:])
    warnings.simplefilter("ignore")
    faulthandler.enable()
    with tempfile.TemporaryDirectory() as folder:
        generator = cases(Path(folder), seed)
        counts = Counter([next(generator)[1]()])  # the first one imports everything
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = resource.getrlimit(resource.RLIMIT_AS)[1]  # which only the superuser of some systems can raise
        most = size + MOST_BYTES if limit == resource.RLIM_INFINITY else min(size + MOST_BYTES, limit)
        resource.setrlimit(resource.RLIMIT_AS, (most, limit))
        for i, (name, case) in enumerate(islice(generator, n_cases)):
            print(f"case {i} of seed {seed}: {name}", flush=True)
            faulthandler.dump_traceback_later(MOST_SECONDS, exit=True)
            counts[name.split(":")[0], case()] += 1
            faulthandler.cancel_dump_traceback_later()
    print(dict(counts))


def run_fuzzer(module, n_cases):
    """Run a fuzzer on so many inputs, the same in every run; `make soak` tries more of them."""
    command = [sys.executable, module, str(n_cases * N_ROUNDS), "0"]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")  # each would take some of the memory
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | one_thread)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, "\n".join([f"exit status {done.returncode}", *lines[-1:], done.stderr[-3000:]])
    print(lines[-1])
    assert len(lines) == n_cases * N_ROUNDS + 1
