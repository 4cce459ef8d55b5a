"""A pairwise crosscoder's features over its arm's checkpoints (METHOD: tracking over checkpoints)."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from rlgen.activations.copies import local_copies
from rlgen.activations.store import StoreReader
from rlgen.crosscoder.model import Crosscoder
from rlgen.features.attribution import nrn
from rlgen.features.checkpoints import GROUPS, Blocks, Tokens, choose_tokens, open_stores
from rlgen.features.drift import drift
from rlgen.features.lifetimes import counts, feature_table
from rlgen.features.overlap import Agreement, by_documents, by_features, overlap_block
from rlgen.features.refit import CodeSums, Refit, TargetSums, cached
from rlgen.features.swap import Readout, SwapSums
from rlgen.models import device
from rlgen.stage import Workspace, atomic_path, derive_seed, stage, write_json
from rlgen.study import BASE
from rlgen.study.stages import TrackSettings

DRAWS = 200
"""Of the bootstrap over groups of documents."""
MIN_FIRED = 10
"""A feature takes part if it is active on so many tokens of each half; below that its refit is noise."""

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Kind = TypeVar("Kind", CodeSums, TargetSums, SwapSums)


def track(settings: TrackSettings, *, crosscoder: Path, stores: list[Path], out: Path) -> None:
    """Write what became of the features over checkpoints: features.parquet, overlap.parquet, tracking.json.

    `stores` are all parts of base, of the arm and of its checkpoints. Raises StudyError if one is missing or their
    tokens differ.
    """
    inputs = {"crosscoder": crosscoder, **{f"store {path.parent.name}/{path.name}": path for path in stores}}
    with stage("track", settings, inputs, out) as work, local_copies() as copies:
        model = Crosscoder.from_pretrained(crosscoder).to(device()).eval()
        checkpoints, readers = open_stores(stores, settings.arm, copies)
        tokens = choose_tokens(readers, model.config.layer, settings)
        codes, targets, swapped = _sums(work, model, readers, tokens)
        features = np.flatnonzero((codes.fired >= MIN_FIRED).all(dim=0).numpy())
        nrn_HCF = refitted_nrn(codes, targets, checkpoints, features, settings.ridge)
        readout = Readout([swapped[name] for name in readers])
        table = feature_table(readout, checkpoints, nrn_HCF[0], features, MIN_FIRED)
        refit = _refit_overlap(nrn_HCF, checkpoints, features, settings.top)
        weight_F = model.selection_weights().detach().double().cpu().numpy()
        random = np.random.default_rng(derive_seed(settings.seed, "track", "draws"))
        swap = _swap_overlap(readout, weight_F, checkpoints, settings.top, random)
        found = {
            "arm": settings.arm,
            "checkpoints": checkpoints,
            "tokens": int(codes.count.sum()),
            **refit,
            "swap_readout": swap,
            "nrn": drift(nrn_HCF, checkpoints),
            **counts(table, firing(readout), checkpoints),
        }
        overlap = pd.concat([_pairs(checkpoints, block, name) for name, block in (("refit", refit), ("swap", swap))])
        for content, file in ((table, "features.parquet"), (overlap, "overlap.parquet")):
            with atomic_path(work.folder / file) as path:
                content.to_parquet(path, index=False)
        write_json(work.folder / "tracking.json", found)


def refitted_nrn(
    codes: CodeSums, targets: dict[str, TargetSums], checkpoints: list[str], features: Indices, ridge: float
) -> Floats:
    """NRN of every feature in every checkpoint against base, both refitted on the same tokens.

    Returns [3, checkpoints, features]: on all tokens, on the first and on the second half of the documents.
    """
    found = []
    for halves in ([0, 1], [0], [1]):
        refit = Refit(codes, halves, features, ridge)
        l1 = {name: refit.rows(sums).abs().sum(dim=1).cpu().numpy() for name, sums in targets.items()}
        found.append([nrn(l1[BASE], l1[name]) for name in checkpoints])
        del refit  # before the next one is made: each holds F^2 doubles
    return np.array(found)


def firing(readout: Readout) -> NDArray[np.bool_]:
    """Which features fire often enough to be spoken of, [F]: in both halves, in base or in the same checkpoint."""
    enough = [readout.fired(half) >= MIN_FIRED for half in readout.halves()]
    found: NDArray[np.bool_] = np.logical_and.reduce(enough).any(axis=0)
    return found


def _sums(
    work: Workspace, model: Crosscoder, readers: dict[str, StoreReader], tokens: Tokens
) -> tuple[CodeSums, dict[str, TargetSums], dict[str, SwapSums]]:
    """The sums of the frozen codes and of every model; each is one unit, in a file of its own."""
    features, d = model.config.features, model.config.d
    progress = work.progress(tokens.stop * (len(readers) + 1), "tokens")
    blocks = Blocks(model, readers, tokens, progress)

    def code_sums() -> dict[str, Floats]:
        return _arrays(CodeSums.over(blocks.codes(), features))

    codes = _pick(CodeSums, cached(work.scratch / "codes.npz", code_sums))
    targets, swapped = {}, {}
    for index, name in enumerate(readers, start=1):
        progress.to(index * tokens.stop)

        def model_sums(name: str = name) -> dict[str, Floats]:
            target, swap = TargetSums.empty(features, d), SwapSums.empty(GROUPS, features)
            for block in blocks.of(name):
                target.add(block.codes, block.acts_BD, block.half_B)
                swap.add(block.swapped_BF, block.group_B)
            return _arrays(target) | _arrays(swap)

        found = cached(work.scratch / f"{name}.npz", model_sums)
        targets[name], swapped[name] = _pick(TargetSums, found), _pick(SwapSums, found)
    return codes, targets, swapped


def _arrays(sums: CodeSums | TargetSums | SwapSums) -> dict[str, Floats]:
    return {name: value.cpu().numpy() for name, value in vars(sums).items()}


def _pick(kind: type[Kind], found: dict[str, Floats]) -> Kind:
    return kind(**{field.name: torch.from_numpy(found[field.name]) for field in fields(kind)})


def _refit_overlap(nrn_HCF: Floats, checkpoints: list[str], features: Indices, top: int) -> dict[str, Any]:
    """Overlap of the features of highest refitted NRN."""
    found = Agreement(nrn_HCF, top)
    return overlap_block(found, by_features(found, len(found.tops[0])), checkpoints, features)


def _swap_overlap(
    readout: Readout, weight_F: Floats, checkpoints: list[str], top: int, random: np.random.Generator
) -> dict[str, Any]:
    """Overlap of the features whose mean code, weighted by decoder norms, rises most above base's."""
    features = np.flatnonzero(firing(readout))

    def agreement(halves: list[Indices]) -> Agreement:
        parts = (np.concatenate(halves), *halves)
        return Agreement((readout.rise(part, weight_F)[:, features] for part in parts), top)

    found = agreement(readout.halves())
    redrawn = [agreement([random.choice(half, len(half)) for half in readout.halves()]) for _ in range(DRAWS)]
    return overlap_block(found, by_documents(found, redrawn), checkpoints, features)


def _pairs(checkpoints: list[str], block: dict[str, Any], readout: str) -> pd.DataFrame:
    """An overlap block's matrices as rows, one a pair of checkpoints."""
    pairs = [(a, b) for a in checkpoints for b in checkpoints]
    matrices = {key: np.ravel(block[key]) for key in block if key.startswith("overlap")}
    names = {"readout": readout, "checkpoint": [a for a, _ in pairs], "other": [b for _, b in pairs]}
    return pd.DataFrame({**names, **matrices})
