"""A pairwise crosscoder's features over its arm's checkpoints (METHOD: tracking over checkpoints)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlgen.activations.layout import read_attributes
from rlgen.activations.store import StoreReader, group_parts
from rlgen.crosscoder.model import Crosscoder
from rlgen.errors import StudyError
from rlgen.features.attribution import nrn
from rlgen.features.refit import HALVES, Codes, CodeSums, Floats, TargetSums, cached, halved, refit
from rlgen.models import device
from rlgen.stage import Progress, Workspace, atomic_path, derive_seed, stage, write_json
from rlgen.study import BASE
from rlgen.study.stages import TrackSettings

BLOCK = 4096
"""Tokens read and encoded at once."""
MIN_FIRED = 10
"""A feature takes part if it is active on so many tokens of each half; below that its refit is noise."""

Indices = NDArray[np.int64]


def track(settings: TrackSettings, *, crosscoder: Path, stores: list[Path], out: Path) -> None:
    """Write how far the top features of checkpoints agree: overlap.parquet, nrn.parquet, tracking.json.

    `stores` are all parts of base, of the arm and of its checkpoints. Raises StudyError if one is missing or their
    tokens differ.
    """
    inputs = {"crosscoder": crosscoder, **{f"store {path.parent.name}/{path.name}": path for path in stores}}
    with stage("track", settings, inputs, out) as work:
        model = Crosscoder.from_pretrained(crosscoder).to(device()).eval()
        checkpoints, readers = open_stores(stores, settings.arm)
        tokens = choose_tokens(readers, model.config.layer, settings)
        codes, targets = _sums(work, model, readers, tokens)
        features = np.flatnonzero((codes.fired >= MIN_FIRED).all(axis=0))
        nrn_HCF = refitted_nrn(codes, targets, checkpoints, features, settings.ridge)
        _write(work, settings, checkpoints, features, nrn_HCF, int(codes.count.sum()))


@dataclass(frozen=True)
class Tokens:
    """Which tokens of the stores take part, of the first `stop`."""

    stop: int
    kept: NDArray[np.bool_]
    half: NDArray[np.int8]


def open_stores(stores: Sequence[Path], arm: str) -> tuple[list[str], dict[str, StoreReader]]:
    """The arm's checkpoints, oldest first and the arm last, and a reader for each of them and for base."""
    stored = {read_attributes(path).model for path in stores}
    earlier = [name for name in stored if name.startswith(f"{arm}@")]
    checkpoints = [*sorted(earlier, key=lambda name: int(name.rpartition("@")[2])), arm]
    names = [BASE, *checkpoints]
    readers = [StoreReader(parts) for parts in group_parts(list(stores), names)]
    return checkpoints, dict(zip(names, readers, strict=True))


def choose_tokens(readers: dict[str, StoreReader], layer: int, settings: TrackSettings) -> Tokens:
    """The first `settings.tokens` tokens that all stores have, without outliers, and a half for each document."""
    stop = min(settings.tokens, *(reader.tokens_total for reader in readers.values()))
    first = readers[BASE]
    kept = np.ones(stop, dtype=bool)
    for name, reader in readers.items():
        if not np.array_equal(reader.array("tokens", 0, stop), first.array("tokens", 0, stop)):
            raise StudyError(f"stores of `{BASE}` and `{name}` hold different tokens; dump both from one corpus")
        norms = reader.array("norm", 0, stop, layer)
        kept &= norms <= settings.outlier_norm * np.median(norms)
    documents, index = np.unique(first.array("document", 0, stop), return_inverse=True)
    if len(documents) < HALVES:
        raise StudyError(f"tracking.tokens: {stop} tokens hold one document, and the null needs two; give more tokens")
    order = np.random.default_rng(derive_seed(settings.seed, "track", "halves")).permutation(len(documents))
    return Tokens(stop, kept, (order % HALVES).astype(np.int8)[index])


def refitted_nrn(
    codes: CodeSums, targets: dict[str, TargetSums], checkpoints: list[str], features: Indices, ridge: float
) -> Floats:
    """NRN of every feature in every checkpoint against base, both refitted on the same tokens.

    Returns [3, checkpoints, features]: on all tokens, on the first and on the second half of the documents.
    """
    found = []
    for halves in ([0, 1], [0], [1]):
        l1 = {name: np.abs(refit(codes, sums, halves, features, ridge)).sum(axis=1) for name, sums in targets.items()}
        found.append([nrn(l1[BASE], l1[name]) for name in checkpoints])
    return np.array(found)


def top_features(nrn_F: Floats, top: int) -> Indices:
    """The features of highest NRN, highest first; among equals the one of lower index."""
    return np.argsort(-nrn_F, kind="stable")[:top]


def overlaps(tops_a: Sequence[Indices], tops_b: Sequence[Indices]) -> Floats:
    """Share of features that every set of `tops_a` has in common with every set of `tops_b`, [a, b]."""
    return np.array([[len(np.intersect1d(a, b)) / max(len(a), 1) for b in tops_b] for a in tops_a])


def _sums(
    work: Workspace, model: Crosscoder, readers: dict[str, StoreReader], tokens: Tokens
) -> tuple[CodeSums, dict[str, TargetSums]]:
    """The sums of the codes and of every model's activations; each is one unit, in a file of its own."""
    features, d = model.config.features, model.config.d
    progress = work.progress(tokens.stop * (len(readers) + 1), "tokens")
    blocks = _Blocks(model, readers, tokens, progress)
    codes = CodeSums(**cached(work.scratch / "codes.npz", lambda: asdict(CodeSums.over(blocks.codes(), features))))
    targets = {}
    for index, name in enumerate(readers, start=1):
        progress.to(index * tokens.stop)

        def target_sums(name: str = name) -> dict[str, Floats]:
            return asdict(TargetSums.over(blocks.targets(name), features, d))

        targets[name] = TargetSums(**cached(work.scratch / f"{name}.npz", target_sums))
    return codes, targets


class _Blocks:
    """Tokens in blocks: codes of the final models, encoded once and kept sparse, and every model's activations."""

    def __init__(self, model: Crosscoder, readers: dict[str, StoreReader], tokens: Tokens, progress: Progress) -> None:
        self._model, self._readers, self._tokens, self._progress = model, readers, tokens, progress
        self._encoded: dict[int, Codes] = {}

    def codes(self) -> Iterator[Codes]:
        """Codes, block by block."""
        for start in range(0, self._tokens.stop, BLOCK):
            yield self._codes(start)
            self._progress.add(self._stop(start) - start)

    def targets(self, name: str) -> Iterator[tuple[Codes, Tensor, Tensor]]:
        """Codes, one model's activations [tokens, d] and the tokens' half, block by block."""
        for start in range(0, self._tokens.stop, BLOCK):
            yield self._codes(start), self._read(name, start), self._half(start)
            self._progress.add(self._stop(start) - start)

    @torch.no_grad()
    def _codes(self, start: int) -> Codes:
        if start not in self._encoded:
            acts_BMD = torch.stack([self._read(name, start) for name in self._model.config.models], dim=1)
            self._encoded[start] = halved(self._model.encode(acts_BMD), self._half(start))
        return self._encoded[start]

    def _read(self, name: str, start: int) -> Tensor:
        stored = self._readers[name].read(start, self._stop(start), self._model.config.layer)
        return torch.from_numpy(stored)[self._kept(start)].to(self._model.W_enc.device)

    def _half(self, start: int) -> Tensor:
        half_B = torch.from_numpy(self._tokens.half[start : self._stop(start)])[self._kept(start)]
        return half_B.to(self._model.W_enc.device)

    def _kept(self, start: int) -> Tensor:
        return torch.from_numpy(self._tokens.kept[start : self._stop(start)])

    def _stop(self, start: int) -> int:
        return min(start + BLOCK, self._tokens.stop)


def _write(
    work: Workspace, settings: TrackSettings, checkpoints: list[str], features: Indices, nrn_HCF: Floats, tokens: int
) -> None:
    top = min(settings.top, len(features))
    on_all, first, second = ([top_features(nrn_F, top) for nrn_F in part] for part in nrn_HCF)
    overlap_CC = overlaps(on_all, on_all)
    halves_CC = (overlaps(first, second) + overlaps(second, first)) / 2
    null_C = np.diagonal(halves_CC)
    found: dict[str, Any] = {
        "arm": settings.arm,
        "checkpoints": checkpoints,
        "overlap": overlap_CC.tolist(),
        "null": {"mean": float(null_C.mean()), "low": float(null_C.min()), "high": float(null_C.max())},
        "overlap_across_halves": halves_CC.tolist(),
        "chance": top / len(features) if len(features) else None,
        "top": top,
        "top_features": {name: features[best].tolist() for name, best in zip(checkpoints, on_all, strict=True)},
        "features": len(features),
        "tokens": tokens,
    }
    pairs = [(a, b) for a in range(len(checkpoints)) for b in range(len(checkpoints))]
    overlap = pd.DataFrame(
        {
            "checkpoint": [checkpoints[a] for a, _ in pairs],
            "other": [checkpoints[b] for _, b in pairs],
            "overlap": overlap_CC.ravel(),
            "overlap_across_halves": halves_CC.ravel(),
        }
    )
    by_feature = pd.DataFrame({"feature": features})
    for index, name in enumerate(checkpoints):
        by_feature[name] = nrn_HCF[0, index]
    for table, file in ((overlap, "overlap.parquet"), (by_feature, "nrn.parquet")):
        with atomic_path(work.folder / file) as path:
            table.to_parquet(path, index=False)
    write_json(work.folder / "tracking.json", found)
