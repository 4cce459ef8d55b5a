"""A study whose arms were all trained elsewhere: without problems, from its models to its report."""

import html
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rlgen.cluster.artifacts import artifacts
from rlgen.models import load_model, load_tokenizer, save_model
from rlgen.study import load_study
from tests.evaluation.tiny import make_tiny
from tests.workflow.study_run import jobs, snakemake


def settings(work: Path) -> dict[str, Any]:
    """A study of a tiny untrained model and a noisy copy of it, which asks for one edit and nothing else."""
    base = make_tiny(work / "base")
    model = load_model(base).requires_grad_(False)
    for weight in model.parameters():
        weight += 0.3 * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    save_model(model, load_tokenizer(base), work / "tuned")
    rows = [{"id": f"i{n}", "question": "q" * (n % 5 + 1), "choices": ["a", "b"], "answer": n % 2} for n in range(40)]
    rows = [row | {"question": f"{row['question']} {n}"} for n, row in enumerate(rows)]
    (work / "pick.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [{"text": "ab ca bd " * (n % 7 + 3)} for n in range(60)]
    (work / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    task = {"source": "jsonl", "path": "pick.jsonl", "format": "multiple_choice"}
    fit = {"models": ["base", "tuned"], "features": 64, "k": 8, "batch_size": 256}
    return {
        "study": "taken",
        "base": {"method": "existing", "path": "base"},
        "arms": [{"name": "tuned", "method": "existing", "path": "tuned"}],
        "tasks": {"transfer": [{"name": "pick", **task}], "unseen": [{"name": "other", **task}]},
        "corpus": {"tokens": 4096, "row_length": 64, "sources": [{"source": "jsonl", "path": "texts.jsonl"}]},
        "activations": {"layers": [1], "shard_tokens": 2048, "chunk_tokens": 512},
        "crosscoders": {"base-tuned": fit},
        "localisation": {"crosscoder": "base-tuned", "arm": "tuned", "permutations": 20, "bootstrap": 10, "top": 5},
        "interventions": {"ablate": None, "draws": 2, "directions": 1, "bootstrap": 20},
    }


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "taken.yaml"
    path.write_text(yaml.safe_dump(settings(tmp_path)))
    return path


@pytest.mark.slow
def test_arms_that_others_trained_need_no_problems(tmp_path: Path, study: Path) -> None:
    snakemake(tmp_path, study, timeout=900)
    results = tmp_path / "results/taken"
    summary = json.loads((results / "summary.json").read_text())
    assert summary["problems"] is None
    assert list(summary["interventions"]) == ["amplify"]
    assert summary["precision"] == {"base": "float32", "tuned": "float32"}
    assert not (results / "data" / "problems").exists()
    for verdict in summary["verdicts"].values():
        assert verdict["n"] or verdict["verdict"] == "cannot tell"
    page = html.unescape((results / "report/index.html").read_text())
    for said in ("trained here", "never trained on", "were trained on", "was trained on", "How training went", "Ablat"):
        assert said not in page, said
    assert "Nothing to be done" in snakemake(tmp_path, study, "--dry-run")


@pytest.mark.parametrize("problems", ["left out", "null", "no source"])
def test_without_problems_nothing_makes_them(
    problems: str, tmp_path: Path, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"left out": {}, "null": {"problems": None}, "no source": {"problems": {"sources": []}}}[problems]
    study.write_text(yaml.safe_dump(yaml.safe_load(study.read_text()) | given))
    found = jobs(tmp_path, study)
    monkeypatch.chdir(tmp_path)
    listed = [artifact.rule for artifact in artifacts(load_study(study))]
    assert found == {rule: listed.count(rule) for rule in listed}
    assert "problems" not in found
    assert found["intervene"] == 1


def test_without_edits_features_are_localised_all_the_same(tmp_path: Path, study: Path) -> None:
    changed = yaml.safe_load(study.read_text())
    changed["interventions"] |= {"amplify": None}
    study.write_text(yaml.safe_dump(changed | {"nulls": {"like": "base-tuned", "noise_like": "tuned"}}))
    found = jobs(tmp_path, study)
    assert "intervene" not in found
    assert found["summary"] == 1
