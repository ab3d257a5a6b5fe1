"""The arithmetic of training, by device: numba on CPUs, Triton on NVIDIA GPUs, torch elsewhere."""
