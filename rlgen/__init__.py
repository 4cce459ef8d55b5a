"""rlgen: why reinforcement learning generalises where supervised fine-tuning forgets."""

__version__ = "0.1.0"
