"""Fits a crosscoder to joined activation stores; killed at any moment, it goes on to the same bits."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rlgen.activations.copies import local_copies
from rlgen.activations.joined import join
from rlgen.activations.store import group_parts
from rlgen.crosscoder.mesh import mesh_of
from rlgen.crosscoder.trainer import Trainer
from rlgen.errors import StudyError
from rlgen.launch import Saving, stage_of_all, wait
from rlgen.stage import Workspace, atomic_path, write_json
from rlgen.study.stages import FitSettings

log = logging.getLogger("rlgen")

TRAINING = "training.parquet"
_LATEST = "latest.json"
_SAVE_SECONDS = 5.0
_SAVE_SHARE = 0.03
"""The training state is saved every so many seconds, and so that it takes at most this share of the time."""
_EXPLODED = 100
"""A loss of so many times that of no reconstruction at all will not come down again."""


def fit(settings: FitSettings, *, stores: list[Path], out: Path) -> None:
    """Fit a crosscoder to the stores (every part of every model, in any order).

    Writes config.json, model.safetensors and training.parquet. Under `torchrun` (or submitit) the processes share
    the tokens and, if the settings say so, the features. Raises StudyError if the stores cannot be joined or the loss
    is no longer finite.
    """
    mesh = mesh_of(settings.crosscoder.feature_shards)
    parts = group_parts(stores, settings.crosscoder.models)
    inputs = {f"{path.parent.name}/{path.name}": path for path in stores}
    again = settings.crosscoder.epochs > 1
    with stage_of_all("fit", settings, inputs, out) as work, local_copies(again) as copies:
        trainer = Trainer(settings, join(parts, copies), mesh)
        _load(trainer, work.scratch)
        train(trainer, work, name=out.name)
        whole = trainer.whole()
        if mesh.rank == 0:
            whole.save_pretrained(work.folder)
            write_log(trainer, work.folder)


def write_log(trainer: Trainer, folder: Path) -> None:
    """The training log so far."""
    with atomic_path(folder / TRAINING) as path:
        pq.write_table(pa.Table.from_pylist(trainer.log), path)


def train(trainer: Trainer, work: Workspace, name: str) -> None:
    """All steps that are left, with the state saved now and then. `name` is the crosscoder's."""
    size, steps, mesh = trainer.loader.batch_size, len(trainer.loader), trainer.mesh
    progress = work.progress(steps * size, "tokens", done=trainer.loader.step * size)
    saving = Saving(_SAVE_SECONDS, _SAVE_SHARE)
    dense = None
    for acts_BMD in trainer.loader:
        terms = trainer.step(acts_BMD)
        if not terms.value < _EXPLODED * trainer.nothing:
            raise StudyError(
                f"crosscoders.{name}.lr: the loss is {terms.value:.3g} at step {trainer.loader.step} of {steps}; "
                "lower it. The last good state is kept until the settings change"
            )
        if mesh.rank == 0:
            progress.add(size, note=f"loss {terms.value:.2f}, L0 {terms.l0:.1f}")
            if terms.dense is not dense:
                dense = terms.dense
                log.info("fit: %s products from step %d on", "dense" if dense else "sparse", trainer.loader.step)
        if saving.due() and trainer.loader.step < steps:
            saving.begin()
            _save(trainer, work.scratch)
            saving.end()


def _save(trainer: Trainer, scratch: Path) -> None:
    """Every process' state, and then which of them are whole."""
    step, mesh = trainer.loader.step, trainer.mesh
    folder = scratch / f"state-{step}"
    folder.mkdir(exist_ok=True)
    with atomic_path(folder / f"{mesh.rank}.pt") as path:
        torch.save(trainer.state_dict(), path)
    wait()
    if mesh.rank == 0:
        write_log(trainer, scratch)
        write_json(scratch / _LATEST, {"state": folder.name, "mesh": [mesh.data.size, mesh.features.size]})
        for other in scratch.glob("state-*"):
            if other != folder:
                shutil.rmtree(other)


def _load(trainer: Trainer, scratch: Path) -> None:
    """Go on from the last whole state of as many processes, if there is one."""
    if not (scratch / _LATEST).is_file():
        return
    latest, mesh = json.loads((scratch / _LATEST).read_text()), trainer.mesh
    if latest["mesh"] != [mesh.data.size, mesh.features.size]:
        log.warning("fit: the saved state is of %s x %s processes; starting anew", *latest["mesh"])
        return
    path = scratch / latest["state"] / f"{mesh.rank}.pt"
    trainer.load_state_dict(torch.load(path, weights_only=True, map_location=trainer.device))
