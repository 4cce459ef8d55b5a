"""Causal tests of the localised features: edits of a live model, each beside its controls."""
