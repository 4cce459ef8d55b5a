"""Jobs that Snakemake's executor cannot start: over several nodes, and longer than a partition's time limit."""
