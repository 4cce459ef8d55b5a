"""Accuracy per item, by lm-evaluation-harness on a model in memory."""
