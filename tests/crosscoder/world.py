"""Activations of two models made of known features, some of them in one model alone."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.activations.synthetic import write_store


@dataclass
class World:
    """`directions` [models, features, d]: rows of zeros where a model lacks the feature."""

    directions: NDArray[np.float32]
    acts: NDArray[np.float32]
    """[models, tokens, d]"""

    @property
    def nrn(self) -> NDArray[np.float32]:
        """Of every feature: 0 in base alone, 1 in rl alone, 0.5 as strong in both."""
        strength = np.linalg.norm(self.directions, axis=-1)
        share: NDArray[np.float32] = strength[1] / strength.sum(axis=0)
        return share

    def stores(self, folder: Path) -> list[Path]:
        names = ("base", "rl")
        return [
            write_store(folder / name / "part-000.zarr", name, acts[:, None], chunk_tokens=1024, shard_tokens=8192)
            for name, acts in zip(names, self.acts, strict=True)
        ]


def make_world(
    tokens: int = 40_000, d: int = 32, shared: int = 20, exclusive: int = 6, rate: float = 0.06, weak: int = 0
) -> World:
    """Features 0 ... `shared` are in both models, the next `exclusive` in base alone, the last in rl alone.

    The first `weak` of the shared ones are a sixth as strong in base as in rl.
    """
    random = np.random.default_rng(0)
    features = shared + 2 * exclusive
    rows = random.standard_normal((features, d)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    directions = np.stack([rows, rows])
    directions[0, :weak] /= 6
    directions[1, shared : shared + exclusive] = 0
    directions[0, shared + exclusive :] = 0
    codes = random.uniform(0.7, 1.3, (tokens, features)) * (random.random((tokens, features)) < rate)
    acts = codes.astype(np.float32) @ directions
    return World(directions, acts + 0.01 * random.standard_normal(acts.shape).astype(np.float32))
