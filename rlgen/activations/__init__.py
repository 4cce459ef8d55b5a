"""Activation stores: models' residual streams on the corpus, on disk (Zarr v3), and shuffled batches from them."""
