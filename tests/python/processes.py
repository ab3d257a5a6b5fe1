"""Starting several processes of sysvi as a launcher does, for the tests."""

import os
import socket
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
LIMIT = 600  # seconds that only a hanging process reaches
_stores = []  # kept open until the tests end


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def environment(**further):
    import sysvi

    paths = [str(Path(sysvi.__file__).parents[1]), str(HERE), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"} | further


def start(commands, port=None):
    """Start one process for each command, arguments of Python, with the variables that torchrun sets.

    As with torchrun, they meet at a store in this process. With a `port`, the first of them opens the store there.
    """
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(len(commands))}
    if port is None:
        from torch.distributed import TCPStore

        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        variables |= {"MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        _stores.append(store)
    return [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            env=environment(**variables, RANK=str(rank), LOCAL_RANK=str(rank)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, command in enumerate(commands)
    ]


def finish(processes):
    """Wait for all; their exit statuses, standard outputs and standard errors. None is left running."""
    try:
        ends = [process.communicate(timeout=LIMIT) for process in processes]
    finally:
        for process in processes:
            process.kill()
    codes = [process.returncode for process in processes]
    return codes, [out for out, _ in ends], [err for _, err in ends]


# -- what the processes do: `python processes.py FILE FOLDER` ---------------------------------------------------------

SCENARIOS = {
    "defaults": {"members": 1},
    "ensemble": {"members": 3, "precision": "float32"},
    "gmm": {"members": 1, "prior": "gmm", "mixture": "joint", "precision": "float32", "train_size": 0.8},
    "standard_normal": {"members": 1, "prior": "standard_normal", "precision": "float32", "weight_systems": True},
    "disk": {"members": 2, "memory": "disk", "precision": "float32"},
}


def run_scenarios(path, set_attribute=setattr):
    """Embedding, support and losses of each scenario."""
    import numpy as np

    import sysvi
    import sysvi.api.integrate as integrate
    from sysvi.api.storage import Storage

    storage = Storage(150, 0, "windows of 150 cells")
    set_attribute(integrate, "choose_storage", lambda *_: storage)
    results = {}
    for name, settings in SCENARIOS.items():
        call = {"max_epochs": 3, "batch_size": 64, "device": "cpu", "progress": False, **settings}
        model = sysvi.integrate(path, "system", "batch", **call)
        results[f"{name}.embedding"] = model.adata.obsm["X_sysVI"]
        if "sysvi_support" in model.adata.obs:
            results[f"{name}.support"] = model.adata.obs["sysvi_support"].to_numpy()
        for i, member in enumerate(model.members):
            for term, losses in member.run.history.items():
                results[f"{name}.{i}.{term}"] = np.array(losses)
    return results


def main():
    import numpy as np
    import torch.distributed as dist

    path, folder = sys.argv[1:]
    dist.init_process_group("gloo")
    np.savez(Path(folder) / f"rank{dist.get_rank()}-of-{dist.get_world_size()}.npz", **run_scenarios(path))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
