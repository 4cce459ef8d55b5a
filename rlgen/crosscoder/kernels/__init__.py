"""Products with sparse codes and selections of codes, for CPUs (numba) and GPUs (Triton), behind the same functions."""
