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

from rlgen.activations.store import StoreReader
from rlgen.crosscoder.model import Crosscoder
from rlgen.errors import StudyError
from rlgen.features.attribution import nrn
from rlgen.features.refit import HALVES, CodeSums, Floats, TargetSums, cached, refit
from rlgen.models import device
from rlgen.stage import Progress, Workspace, atomic_path, derive_seed, stage, write_json
from rlgen.study import BASE
from rlgen.study.stages import TrackSettings

BLOCK = 8192
"""Tokens read and encoded at once."""
MIN_FIRED = 10
"""A feature takes part if it is active on so many tokens of each half; below that its refit is noise."""

Indices = NDArray[np.int64]


def track(settings: TrackSettings, *, crosscoder: Path, stores: list[Path], out: Path) -> None:
    """Write how far the top arm-specific features agree between checkpoints: overlap.parquet, nrn.parquet, tracking.json.

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
    parts: dict[str, list[Path]] = {}
    for path in sorted(stores):
        parts.setdefault(path.parent.name, []).append(path)
    for needed in (BASE, arm):
        if needed not in parts:
            raise StudyError(f"--store: no store of `{needed}` among {sorted(parts)}; give its parts too")
    earlier = [name for name in parts if name.startswith(f"{arm}@")]
    checkpoints = [*sorted(earlier, key=lambda name: int(name.rpartition("@")[2])), arm]
    return checkpoints, {name: StoreReader(parts[name]) for name in (BASE, *checkpoints)}


def choose_tokens(readers: dict[str, StoreReader], layer: int, settings: TrackSettings) -> Tokens:
    """The first `settings.tokens` tokens that all stores have, without outliers, and a half for each document."""
    stop = min(settings.tokens, *(reader.tokens_total for reader in readers.values()))
    first = readers[BASE]
    kept = np.ones(stop, dtype=bool)
    for name, reader in readers.items():
        if not np.array_equal(reader.tokens[:stop], first.tokens[:stop]):
            raise StudyError(f"stores of `{BASE}` and `{name}` hold different tokens; dump both from one corpus")
        norms = np.asarray(reader.norms(layer)[:stop])
        kept &= norms <= settings.outlier_norm * np.median(norms)
    documents, index = np.unique(first.documents[:stop], return_inverse=True)
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
    features, d = model.config.features, model.config.d
    progress = work.progress(tokens.stop * (len(readers) + 1), "tokens")

    def codes_sums() -> dict[str, Floats]:
        blocks = ((codes_BF, half_B) for codes_BF, _, half_B in _blocks(model, readers, None, tokens, progress))
        return asdict(CodeSums.over(blocks, features))

    def target_sums(name: str) -> dict[str, Floats]:
        return asdict(TargetSums.over(_blocks(model, readers, name, tokens, progress), features, d))

    codes = CodeSums(**cached(work.scratch / "codes.npz", codes_sums))
    targets = {}
    for index, name in enumerate(readers, start=1):
        progress.to(index * tokens.stop)
        targets[name] = TargetSums(**cached(work.scratch / f"{name}.npz", lambda name=name: target_sums(name)))
    return codes, targets


@torch.no_grad()
def _blocks(
    model: Crosscoder, readers: dict[str, StoreReader], target: str | None, tokens: Tokens, progress: Progress
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Codes of the final models, activations of `target` (or nothing) and halves, block by block."""
    config = model.config
    place = model.W_enc.device
    for start in range(0, tokens.stop, BLOCK):
        stop = min(start + BLOCK, tokens.stop)
        kept = torch.from_numpy(tokens.kept[start:stop])
        finals = [torch.as_tensor(readers[name].read(start, stop, config.layer)) for name in config.models]
        acts_BMD = torch.stack(finals, dim=1)[kept].to(place)
        if target is None:
            target_BD = acts_BMD[:, 0]
        elif target in config.models:
            target_BD = acts_BMD[:, config.models.index(target)]
        else:
            target_BD = torch.as_tensor(readers[target].read(start, stop, config.layer))[kept].to(place)
        yield model.encode(acts_BMD), target_BD, torch.from_numpy(tokens.half[start:stop])[kept].to(place)
        progress.add(stop - start)


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
