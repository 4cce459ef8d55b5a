"""What localisation reads from the models: codes, gradients and patched runs, one file a unit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlgen.crosscoder.model import Crosscoder
from rlgen.features.codes import Item, item_codes
from rlgen.features.gradients import answer_gradients
from rlgen.features.patching import patching_effects
from rlgen.features.refit import cached
from rlgen.features.scores import Floats, Indices
from rlgen.models import load_model, load_tokenizer
from rlgen.stage import Workspace
from rlgen.study import BASE
from rlgen.study.sections import Localisation

MODELS = ("arm", "base")
"""In the order in which they are read: base is needed again for patching."""


class Reader:
    """The models, one loaded at a time, and their answers to the items that select."""

    def __init__(
        self,
        work: Workspace,
        rule: Localisation,
        crosscoder: Crosscoder,
        models: dict[str, Path],
        answers: dict[str, pd.DataFrame],
        selection: dict[str, list[str]],
    ) -> None:
        """`models` and `answers` are those of `base` and `arm`; `selection` has the items by task."""
        self._work, self._rule, self._coder = work, rule, crosscoder
        self._models, self._answers, self._selection = models, answers, selection
        self._loaded: dict[str, tuple[PreTrainedModel, PreTrainedTokenizerBase]] = {}
        self._progress = work.progress((len(MODELS) + 1) * len(selection), "tasks")

    def read(self) -> dict[str, dict[str, Floats]]:
        """By task: mean codes of the items in `base` and `arm`, [items, F], and base's `gradient` for the arm's
        answers, [items, d]."""
        found: dict[str, dict[str, Floats]] = {task: {} for task in self._selection}
        for name in MODELS:
            for task in self._selection:
                found[task] |= self._unit(f"{name}-{task}", partial(self._read, name, task))
        return found

    def patch(
        self, seen: dict[str, dict[str, Floats]], chosen: dict[str, Indices], features: Indices
    ) -> dict[str, Floats]:
        """By task: change of the arm's answers in base when a feature's difference is added, [chosen items, features].

        `seen` is what `read` gave, `chosen` are places in the selection.
        """
        found = {}
        for task, index in chosen.items():
            codes_MIK = np.stack([seen[task][name][np.ix_(index, features)] for name in ("base", "arm")])
            read = partial(self._patch, task, index, codes_MIK, features)
            found[task] = self._unit(f"patched-{task}", read)["effect"]
        return found

    def _unit(self, name: str, compute: Callable[[], dict[str, Floats]]) -> dict[str, Floats]:
        found = cached(self._work.scratch / f"{name}.npz", compute)
        self._progress.add()
        return found

    def _read(self, name: str, task: str) -> dict[str, Floats]:
        rule, slot = self._rule, self._coder.slot(BASE if name == "base" else self._rule.arm)
        model, tokenizer = self._load(name)
        codes_IF = item_codes(model, tokenizer, self._coder, slot, self._items(name, task), rule.tokens, rule.codes)
        if name == "arm":
            return {"arm": codes_IF.numpy()}
        theirs = self._items("arm", task)
        gradient_ID = answer_gradients(model, tokenizer, self._coder.config.layer, theirs, rule.tokens)
        return {"base": codes_IF.numpy(), "gradient": gradient_ID.numpy()}

    def _patch(self, task: str, index: Indices, codes_MIK: Floats, features: Indices) -> dict[str, Floats]:
        model, tokenizer = self._load("base")
        items = self._items("arm", task)
        rows_MKD = torch.stack([self._coder.decoder_rows(name).detach()[features] for name in (BASE, self._rule.arm)])
        effect_IK = patching_effects(
            model,
            tokenizer,
            self._coder.config.layer,
            [items[place] for place in index],
            torch.from_numpy(codes_MIK).to(rows_MKD),
            rows_MKD,
            self._rule.tokens,
        )
        return {"effect": effect_IK.numpy()}

    def _load(self, name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        if name not in self._loaded:
            self._loaded.clear()
            self._loaded[name] = load_model(self._models[name]), load_tokenizer(self._models[name])
        return self._loaded[name]

    def _items(self, model: str, task: str) -> list[Item]:
        """The items that select, with a model's answers."""
        answers = self._answers[model]
        by_item = dict(list(answers[answers["task"] == task].sort_values("sample").groupby("item")))
        chosen = [by_item[item] for item in self._selection[task]]
        return [item_of(rows) for rows in chosen]


def item_of(rows: pd.DataFrame) -> Item:
    """An item of an evaluation's rows. Older evaluations, and those by vLLM, have no ids of their responses."""
    first = rows.iloc[0]
    sampled = [_listed(ids) for ids in rows["response_ids"]] if "response_ids" in rows else None
    chosen = _listed(first.get("log_likelihoods")) is not None
    name = f"task `{first['task']}`, item `{first['item']}`"
    return Item(first["prompt"], rows["response"].tolist(), sampled, chosen, name)


def _listed(value: Any) -> list[Any] | None:
    """A cell that holds a list; None if it is null."""
    return np.asarray(value).tolist() if isinstance(value, (list, np.ndarray)) else None
