"""CPU time of `import sysvi`, of the first use of `sysvi.integrate`, of `sysvi --help`, and of torch and its Adam.

    python benchmarks/imports.py [--rounds 7]

Each is run in fresh processes, in turn; CPU time is user + system time of all threads. The table has medians over the
rounds, with the smallest and the largest value. One round before these, which is not counted, lets Python compile
modules and the file system read them. Writes benchmarks/results/imports.csv.
"""

import argparse
import os
import statistics
import subprocess
import sys

import pandas as pd
from common import RESULTS

ADAM = """
import torch
parameter = torch.nn.Parameter(torch.zeros(2))
parameter.grad = torch.ones(2)
torch.optim.Adam([parameter], fused=True).step()
"""
TASKS = {
    "import sysvi": ["-c", "import sysvi"],
    "import sysvi; sysvi.integrate": ["-c", "import sysvi; sysvi.integrate"],  # imports torch and anndata
    "sysvi --help": ["-m", "sysvi", "--help"],
    "import torch": ["-c", "import torch"],
    "import torch; first step of torch.optim.Adam": ["-c", ADAM],
}


def main() -> None:
    """Time the tasks in turn and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in TASKS}
    for round_ in range(args.rounds + 1):
        for name, arguments in TASKS.items():
            measured = cpu_seconds([sys.executable, *arguments])
            if round_ > 0:
                seconds[name].append(measured)
    rows = [(name, statistics.median(s), min(s), max(s)) for name, s in seconds.items()]
    table = pd.DataFrame(rows, columns=["task", "median_cpu_s", "min_cpu_s", "max_cpu_s"])
    table.to_csv(RESULTS / "imports.csv", index=False, float_format="%.3f")
    print(table.round(2).to_string(index=False))


def cpu_seconds(command: list[str]) -> float:
    """User and system time of a command and of the processes that it waits for."""
    before = os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


if __name__ == "__main__":
    main()
