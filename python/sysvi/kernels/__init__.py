"""The arithmetic of training, by device: numba on CPUs, Triton on CUDA cards, torch elsewhere."""
