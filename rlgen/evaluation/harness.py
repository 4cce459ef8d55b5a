"""lm-evaluation-harness over one live model and local tasks: loaded once, run many times.

An evaluation runs it once a task; interventions run it once a condition, under an edit of the live model:

    harness = Harness(model, tokenizer, folders, evaluation)

    def edit(resid_BPD):
        return resid_BPD + harness.positions.mask("last_prompt")[..., None] * shift_D

    with edited(model, layer, edit):
        frame = harness.run(items={"max": ids}, seed=seed)

Tasks, prompts, requests and metrics are the harness's; only its loop over them is not, because building every
prompt anew, reports and progress bars take longer than a small model's answers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlgen.data.tasks import TASK_JSON, TASK_YAML, read_items
from rlgen.evaluation.engine import Engine
from rlgen.evaluation.lengths import check_requests
from rlgen.evaluation.lm import Decided, LiveLM, prompt_key, quiet, where_of
from rlgen.evaluation.positions import TokenPositions
from rlgen.study.sections import Evaluation
from rlgen.verifiers import DEFAULT, load_verifier

log = logging.getLogger("rlgen")

COLUMNS = [
    *("task", "item", "sample", "right", "answer", "gold", "response", "prompt"),
    *("log_likelihoods", "right_norm", "response_ids"),
]
"""Of a run's frame: `answer` is what the verifier read from the response (null if it read none), `gold` what is right.
The model has read or written `prompt` and `response` one straight after the other. Of a multiple choice there are the
choices' `log_likelihoods` and `right_norm`, the harness's acc_norm where it reports that; null otherwise. Of a free
answer there are `response_ids`, the response's token ids as they were sampled, if the engine tells them."""


class Runner:
    """A model that answers, and its tasks."""

    def __init__(self, lm: Engine, tasks: Sequence[Path], verifiers: Mapping[str, str] | None = None) -> None:
        """Load the task folders.

        Args:
            lm: What answers.
            tasks: Folders of task artifacts.
            verifiers: Verifiers of generated answers by task, as the study's settings name them; `math` for the others.
                What a task folder says of functions is never followed.

        Raises:
            StudyError: Prompts and answers of their length do not fit the model, a choice has no token of its own, or a
                verifier cannot be had.
        """
        self._lm = lm
        found = load_tasks(tasks, verifiers)
        for task in found:
            check_requests(task, lm)
        self._tasks = {task.name: task for task in found}

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, in the order given."""
        return list(self._tasks)

    @property
    def precision(self) -> str:
        """The model's precision, as in `bfloat16`."""
        return self._lm.precision

    @property
    def batch_size(self) -> int | None:
        """Sequences per batch at most; None if the engine decides."""
        return self._lm.sequences

    def in_batches_of(self, size: int) -> AbstractContextManager[None]:
        """While the block lasts, batches have `size` sequences at most, if the engine can be told."""
        return self._lm.in_batches_of(size)

    def max_new_tokens(self, task: str) -> int:
        """Tokens of a task's longest answer; 0 of a multiple choice, whose answers are not generated."""
        return 0 if self._tasks[task].multiple_choice else self._tasks[task].max_new_tokens

    def items(self, task: str) -> list[str]:
        """A task's item ids, in the file's order."""
        return list(self._tasks[task].rows)

    def prompts(self, task: str) -> dict[str, str]:
        """A task's prompts by item id, as the model is given them."""
        return {item: requests[0].args[0] for item, requests in self._tasks[task].requests.items()}

    def run(
        self,
        tasks: Sequence[str] | None = None,
        items: Mapping[str, Sequence[str]] | None = None,
        samples: int = 1,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Answers to some items (a task that `items` does not name: all of it), one row a sample, columns `COLUMNS`.

        Rows come in the order of tasks, items and samples asked for. Multiple choice is answered by log-likelihood
        and has one sample, whatever `samples` says. Answers follow from the seed, the prompt and the sample's
        number: two conditions with the same seed share their random numbers. In float32 they do not depend on the batch
        but for rounding; in bfloat16 and float16 rounding is coarse, and some do (`rlgen.evaluation.batching`).
        """
        chosen = [self._tasks[name] for name in (self.tasks if tasks is None else tasks)]
        picked = [(task, item) for task in chosen for item in (items or {}).get(task.name, task.rows)]
        self._lm.start(seed)
        generated = [(task, item) for task, item in picked if not task.multiple_choice]
        texts = self._lm.generate_until([r for t, i in generated for r in t.requests[i] * samples])
        written = [None] * len(texts) if self._lm.written is None else list(self._lm.written)
        scored = [(task, item) for task, item in picked if task.multiple_choice]
        scores = self._lm.loglikelihood([r for t, i in scored for r in t.requests[i]], disable_tqdm=True)
        rows: list[dict[str, Any]] = []
        for task, item in picked:
            if task.multiple_choice:
                count = len(task.requests[item])
                rows.append(task.scored(item, scores[:count]))
                del scores[:count]
            else:
                answers = zip(texts[:samples], written[:samples], strict=True)
                rows += (task.generated(item, n, text) | {"response_ids": ids} for n, (text, ids) in enumerate(answers))
                del texts[:samples], written[:samples]
        return pd.DataFrame(rows, columns=COLUMNS).astype({"right_norm": "boolean"})


class Harness(Runner):
    """A live model and its tasks."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        tasks: Sequence[Path],
        evaluation: Evaluation,
        verifiers: Mapping[str, str] | None = None,
    ) -> None:
        """Load the task folders, as `Runner`."""
        self._live = LiveLM(model, tokenizer, evaluation.batch_size, evaluation.batch_tokens)
        self._keys: dict[str, dict[str, bytes]] = {}
        super().__init__(self._live, tasks, verifiers)

    @property
    def positions(self) -> TokenPositions:
        """The token sets of the forward pass that is running: what an edit asks."""
        return self._live.positions

    @property
    def bos(self) -> int | None:
        """The id of the token that texts begin with, if there is one."""
        found: int | None = self._live.tokenizer.bos_token_id
        return found

    def watch(self, decided: Decided, shares_prefixes: bool) -> None:
        """From now on `decided` is told what is likely after each prompt.

        With `shares_prefixes` prompts are read once for all runs but for their last tokens, which any edit must then
        leave alone; `forget` frees what is kept of them.
        """
        self._live.decided, self._live.shares_prefixes = decided, shares_prefixes

    def decide(self, prompts: Sequence[Sequence[int]]) -> None:
        """Tell who watches what follows on prompts, given as token ids: no answers are written.

        Only their last tokens may be edited.
        """
        self._live.decide(prompts)

    def forget(self) -> None:
        """Free what is kept of prompts."""
        self._live.prefixes.clear()

    def prompt_ids(self, task: str) -> dict[str, list[int]]:
        """The token ids of a task's prompts by item, as the model is given them."""
        kind = self._tasks[task]
        return {item: self._ids(requests[0], kind.multiple_choice) for item, requests in kind.requests.items()}

    def _ids(self, request: Instance, multiple_choice: bool) -> list[int]:
        if multiple_choice:
            context, continuation = request.args
            return self._live.encode_choice(context, continuation, where_of(request)).prompt
        return self._live.tok_encode(request.args[0])

    def prompt_keys(self, task: str) -> dict[str, bytes]:
        """What a task's prompts are known by to who watches, by item."""
        if task not in self._keys:
            self._keys[task] = {item: prompt_key(ids) for item, ids in self.prompt_ids(task).items()}
        return self._keys[task]


class LoadedTask:
    """A task folder, its requests built once."""

    def __init__(self, folder: Path, verifiers: Mapping[str, str]) -> None:
        about = json.loads((folder / TASK_JSON).read_text())
        self.name: str = about["name"]
        self.multiple_choice = about["format"] == "multiple_choice"
        self.max_new_tokens: int = about.get("max_new_tokens", 0)
        self.rows = {row["id"]: row for row in read_items(folder)}
        self._verifier = load_verifier(verifiers.get(self.name, DEFAULT))
        self._task = ConfigurableTask(config=_configuration(folder, list(self.rows.values())))
        self.requests = {item: self._requests(row) for item, row in self.rows.items()}

    def _requests(self, row: dict[str, Any]) -> list[Instance]:
        context = self._task.fewshot_context(row, num_fewshot=0)
        made = self._task.construct_requests(doc=row, ctx=context, metadata=(self.name, row["id"], 1))
        return made if isinstance(made, list) else [made]

    def generated(self, item: str, sample: int, response: str) -> dict[str, Any]:
        """The frame's row of a generated answer."""
        row = self.rows[item]
        gold = row["answer"]
        found = self._verifier(response, gold)
        answers = {"right": found.right, "answer": found.extracted, "gold": gold, "response": response}
        return self._row(row, sample=sample, **answers, log_likelihoods=None, right_norm=None)

    def scored(self, item: str, scores: Sequence[tuple[float, bool]]) -> dict[str, Any]:
        """The frame's row of an answer by log-likelihood: right as the harness's `acc` says."""
        row = self.rows[item]
        metrics = self._task.process_results(row, scores)
        norm = bool(metrics["acc_norm"]) if "acc_norm" in metrics else None
        best = max(range(len(scores)), key=lambda choice: scores[choice][0])
        answer, gold = row["choices"][best], row["choices"][row["answer"]]
        response = self.requests[item][best].args[1]  # as it was scored: the delimiter before it is part of it
        answers = {"right": bool(metrics["acc"]), "answer": answer, "gold": gold, "response": response}
        likelihoods = [score for score, _ in scores]
        return self._row(row, sample=0, **answers, log_likelihoods=likelihoods, right_norm=norm)

    def _row(self, row: dict[str, Any], **rest: Any) -> dict[str, Any]:
        prompt = self.requests[row["id"]][0].args[0]
        return {"task": self.name, "item": row["id"], "prompt": prompt, "response_ids": None, **rest}


def load_tasks(folders: Sequence[Path], verifiers: Mapping[str, str] | None = None) -> list[LoadedTask]:
    """Load task folders and build their requests."""
    with quiet():
        return [LoadedTask(folder, verifiers or {}) for folder in folders]


def _configuration(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """task.yaml, with its items already in memory: no dataset cache, and the folder may have been moved."""
    config: dict[str, Any] = yaml.load((folder / TASK_YAML).read_text(), Loader=_Loader)
    del config["dataset_kwargs"]
    config.pop("process_results", None)  # the verifier of the settings judges
    config.pop("filter_list", None)  # each sample has its row; the harness's filters would join them
    config["metadata"] = None  # it would be handed to the function below
    return {**config, "custom_dataset": partial(dict, test=Dataset.from_list(rows))}


class _Loader(yaml.SafeLoader):
    """YAML in which the harness's tag for a function is left as a name: no artifact says which code is run."""


def _name(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


_Loader.add_constructor("!function", _name)
