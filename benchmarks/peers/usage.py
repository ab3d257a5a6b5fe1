"""Time and memory of a process; uses the standard library only, so that it works in every environment."""

import resource
import sys
import time


class Usage:
    """Time and memory of this process.

    Create it after the imports: memory counts from there, so that it includes the data. Call `start` when the data are
    in memory: time counts from there. Times are readings of the system's clock, so that the process that started this
    one can subtract the time in which the machine stood still (`common.standstills`).
    """

    def __init__(self) -> None:
        self.peak_before = peak_mb()

    def start(self) -> None:
        """Start the clock: the data are in memory."""
        self.began, self.cpu = time.perf_counter(), time.process_time()

    def stop(self) -> dict:
        """Clock readings at start and end, CPU seconds of all threads, peak memory (MB) over imports and in total."""
        ended, cpu, peak = time.perf_counter(), time.process_time(), peak_mb()
        return {
            "span": (self.began, ended),
            "cpu_seconds": cpu - self.cpu,
            "peak_mb": peak - self.peak_before,
            "absolute_peak_mb": peak,
        }


def peak_mb() -> float:
    """Peak memory of this process so far, MB."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes in a unit of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
