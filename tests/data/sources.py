"""Files of rows, and the stages that read them."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlgen.data.corpus import make_corpus
from rlgen.data.miniature import build_tokenizer
from rlgen.data.problems import make_problems
from rlgen.data.tasks import make_task
from rlgen.errors import StudyError
from rlgen.study.sections import (
    BenchmarkTask,
    Corpus,
    Evaluation,
    HubProblems,
    HubText,
    JsonlProblems,
    JsonlTask,
    JsonlText,
    PretrainedBase,
    Problems,
    Text,
)
from rlgen.study.stages import CorpusSettings, ProblemsSettings, TaskSettings

GOOD = {"question": "1 + 1?", "answer": "2"}
MC = {"question": "Which?", "choices": ["a", "b"], "answer": 1}
PROBLEM = {"problem": "1 + 1?", "answer": "2", "solution": "It is 2."}
ROW = {**GOOD, **PROBLEM, "text": "Q max 1"}
"""What every source can read."""


def lines(*rows: Any) -> bytes:
    return "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows).encode()


def generate(path: Path, out: Path, **settings: Any) -> None:
    task = JsonlTask(name="t", source="jsonl", path=path, format="generate", **settings)
    make_task(TaskSettings(task=task, evaluation=Evaluation()), out=out)


def choose(path: Path, out: Path, **settings: Any) -> None:
    task = JsonlTask(name="t", source="jsonl", path=path, format="multiple_choice", **settings)
    make_task(TaskSettings(task=task, evaluation=Evaluation()), out=out)


def benchmark(path: Path, out: Path, name: str) -> None:
    task = BenchmarkTask(name="t", source="benchmark", benchmark=name, path=path)
    make_task(TaskSettings(task=task, evaluation=Evaluation()), out=out)


def problems(path: Path, out: Path, prompt: str = "{problem}\n", unverifiable: Any = "refuse", **source: Any) -> None:
    found = JsonlProblems(source="jsonl", path=path, **source)
    settings = Problems(sources=[found], prompt=prompt, unverifiable=unverifiable)
    make_problems(ProblemsSettings(problems=settings), out=out)


def hub_problems(path: Path, out: Path, unverifiable: Any = "refuse", **source: Any) -> None:
    found = HubProblems(source="hub", path=str(path.parent), **source)
    make_problems(ProblemsSettings(problems=Problems(sources=[found], unverifiable=unverifiable)), out=out)


def _corpus(source: Text, out: Path) -> None:
    build_tokenizer().save_pretrained(out.parent / "base")
    (out.parent / "problems").mkdir(parents=True, exist_ok=True)
    (out.parent / "problems" / "problems.jsonl").write_text("")
    corpus = Corpus(tokens=2000, row_length=64, sources=[source])
    settings = CorpusSettings(corpus=corpus, base=PretrainedBase(method="pretrain"))
    make_corpus(settings, base=out.parent / "base", problems=out.parent / "problems", out=out)


def corpus(path: Path, out: Path, **source: Any) -> None:
    _corpus(JsonlText(source="jsonl", path=path, **source), out)


def hub_corpus(path: Path, out: Path, **source: Any) -> None:
    _corpus(HubText(source="hub", path=str(path.parent), **source), out)


def refused(make: Any, file: Path, out: Path, *fragments: str, **settings: Any) -> str:
    """Return the message of the one StudyError, which holds all fragments and can be printed in one line."""
    with pytest.raises(StudyError) as caught:
        make(file, out, **settings)
    message = str(caught.value)
    for fragment in fragments:
        assert fragment in message
    message.encode()
    assert "\n" not in message
    assert len(message) < 1500
    return message


def put(tmp_path: Path, content: bytes, name: str = "rows.jsonl") -> Path:
    """Write a file alone in its folder."""
    path = tmp_path / "rows" / name
    path.parent.mkdir()
    path.write_bytes(content)
    return path
