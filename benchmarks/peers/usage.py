"""What a process uses; the standard library only, for ours and the peers alike."""

import resource
import sys
import time


class Usage:
    """Time and memory of this process: made after the imports, started when the data is in memory.

    Memory counts from the making, so that the data is part of it; time counts from the start. Times are readings of the
    system's clock: who runs this process takes off what the machine stood still (`common.standstills`).
    """

    def __init__(self) -> None:
        self.peak_before = peak_mb()

    def start(self) -> None:
        """The data is in memory, the work begins."""
        self.began, self.cpu = time.perf_counter(), time.process_time()

    def stop(self) -> dict:
        """The work is done: its start and end, seconds of all threads, peak memory over the imports and in all."""
        ended, cpu, peak = time.perf_counter(), time.process_time(), peak_mb()
        return {
            "span": (self.began, ended),
            "cpu_seconds": cpu - self.cpu,
            "peak_mb": peak - self.peak_before,
            "absolute_peak_mb": peak,
        }


def peak_mb() -> float:
    """Peak memory of this process so far, MB."""
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
