"""Products with sparse codes and selections of codes: numba's for CPUs, Triton's for GPUs, with the same names."""
