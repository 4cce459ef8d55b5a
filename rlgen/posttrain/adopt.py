"""An existing model taken into the study by reference: nothing is copied."""

from __future__ import annotations

from pathlib import Path

from rlgen.errors import StudyError
from rlgen.models import REFERENCE, load_tokenizer
from rlgen.stage import Workspace, stage, write_json
from rlgen.study.sections import ExistingArm
from rlgen.study.stages import AdoptSettings


def adopt(settings: AdoptSettings, out: Path) -> None:
    """Write reference.json {path, revision, digest} for the model, and for each of an arm's earlier checkpoints.

    A folder's path becomes absolute, and its content is known by its digest; a hub id by its revision. Raises
    StudyError if the model's configuration or tokenizer cannot be loaded.
    """
    model = settings.model
    inputs = {path: Path(path) for path in model.folders}
    with stage("adopt", settings, inputs, out) as work:
        _refer(model.path, model.revision, work, work.folder)
        checkpoints = model.checkpoints if isinstance(model, ExistingArm) else []
        for index, checkpoint in enumerate(checkpoints, start=1):
            folder = work.folder / "checkpoints" / str(index)
            folder.mkdir(parents=True, exist_ok=True)
            _refer(checkpoint, None, work, folder)


def _refer(path: str, revision: str | None, work: Workspace, folder: Path) -> None:
    from transformers import AutoConfig

    digest = work.inputs.get(path)
    where = str(Path(path).resolve()) if digest else path
    write_json(folder / REFERENCE, {"path": where, "revision": revision, "digest": digest})
    try:
        AutoConfig.from_pretrained(where, revision=revision)
    except (OSError, ValueError) as error:
        raise StudyError(f"path: {path}: no model configuration can be loaded from there: {error}") from None
    load_tokenizer(folder)
