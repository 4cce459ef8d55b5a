"""An existing model taken into the study: by reference, so that nothing is copied; an adapter by merging it."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from transformers import PreTrainedConfig

from rlgen.errors import StudyError
from rlgen.model_checks import refuse_faults
from rlgen.models import REFERENCE, Reference, load_config, load_tokenizer, locate, vocabulary_difference
from rlgen.posttrain.adapters import adopt_adapter, find_adapter
from rlgen.stage import Workspace, stage, write_json
from rlgen.study.sections import Existing, ExistingArm
from rlgen.study.stages import AdoptSettings

log = logging.getLogger("rlgen")

_MATCHING = {"model_type": "architecture", "hidden_size": "width", "num_hidden_layers": "number of blocks"}


def adopt(settings: AdoptSettings, out: Path, base: Path | None = None, separate_documents: bool = False) -> None:
    """Check a model, and each of an arm's earlier checkpoints, and take them into the study.

    Write reference.json for a model. A folder's path becomes absolute, and its content is known by its digest; a hub id
    becomes a commit. So every later stage loads what was there now, even if the branch moves. Write a PEFT adapter as a
    whole model: the base with the adapter merged into it (`rlgen.posttrain.adapters`).

    Args:
        settings: The model, as the study gives it.
        out: Where the artifact is published.
        base: The folder of the study's base, which an arm must match; None if the model is no arm.
        separate_documents: Whether the corpus keeps the documents of a row apart, so that a model that cannot is
            refused. It changes nothing in the artifact.

    Raises:
        StudyError: The model's configuration or tokenizer cannot be loaded; its weights are pickled and the study does
            not allow that; an adapter cannot be merged; `rlgen.model_checks` finds a fault in the model or in a
            checkpoint; or an arm's architecture, width, blocks or tokenizer are not those of the base.
    """
    model = settings.model
    inputs = {path: Path(path) for path in model.folders} | ({"the study's base": base} if base else {})
    with stage("adopt", settings, inputs, out) as work:
        folders = [work.folder]
        _take(model, model.path, model.revision, work, work.folder, base)
        checkpoints = model.checkpoints if isinstance(model, ExistingArm) else []
        for index, checkpoint in enumerate(checkpoints, start=1):
            folder = work.folder / "checkpoints" / str(index)
            folder.mkdir(parents=True, exist_ok=True)
            path, _, revision = (checkpoint, "", "") if checkpoint in work.inputs else checkpoint.partition("@")
            _take(model, path, revision or None, work, folder, base)
            folders.append(folder)
        loaded = [_Loaded.of(folder) for folder in folders]
        if base:
            origin = _Loaded.of(base)
            for found in loaded:
                _check_match(found, origin)
        for folder in {locate(folder): folder for folder in folders}.values():
            for note in refuse_faults(folder, separate_documents):
                log.warning("%s: %s", locate(folder).path, note)


def _take(model: Existing, path: str, revision: str | None, work: Workspace, folder: Path, base: Path | None) -> None:
    """Merge a model into the base if it is an adapter; refer to it if not."""
    if adapter := find_adapter(path, revision, work.inputs.get(path)):
        adopt_adapter(adapter, base, model.allow_pickle, work, folder)
    else:
        _refer(model, path, revision, work, folder)


def _refer(model: Existing, path: str, revision: str | None, work: Workspace, folder: Path) -> None:
    digest = work.inputs.get(path)
    where = str(Path(path).resolve()) if digest else path
    found = Reference(where, revision, model.trust_remote_code, model.allow_pickle, digest)
    write_json(folder / REFERENCE, asdict(found))
    load_config(folder)
    if digest is None:
        write_json(folder / REFERENCE, asdict(replace(found, revision=_commit(path, revision))))


@dataclass(frozen=True)
class _Loaded:
    """What a model is known by without its weights."""

    path: str
    config: PreTrainedConfig
    vocabulary: dict[str, int]

    @classmethod
    def of(cls, folder: Path) -> _Loaded:
        return cls(locate(folder).path, load_config(folder).get_text_config(), load_tokenizer(folder).get_vocab())


def _check_match(arm: _Loaded, base: _Loaded) -> None:
    """Raises StudyError unless a model can be one that was trained from `base`."""
    names = f"{arm.path} and the base, {base.path}, do not match"
    remedy = "an arm must have been trained from the study's base"
    for key, what in _MATCHING.items():
        own, its = getattr(arm.config, key), getattr(base.config, key)
        if own != its:
            raise StudyError(f"{names}: {what} {own} and {its}; {remedy}")
    if difference := vocabulary_difference(base.vocabulary, arm.vocabulary, ("the base", "the arm")):
        raise StudyError(f"{names}: {difference}; {remedy}")


def _commit(path: str, revision: str | None) -> str:
    """The commit that a model's configuration is of; it has been loaded, so it is in the hub's cache."""
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(path, "config.json", revision=revision)).parent.name
