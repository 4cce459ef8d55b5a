"""Products with sparse codes and selections of codes: numba's for CPUs, PyTorch's own for GPUs, with the same names."""
