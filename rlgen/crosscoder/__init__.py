"""Sparse crosscoders over N models: the model, how it is fitted, what it explains."""
