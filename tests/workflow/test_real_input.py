"""A real pretrained model, real text and real tasks, and a reward of the user's own, through the same rules."""

import html
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from rlgen.models import load_model, load_tokenizer, save_model
from tests.workflow.study_run import ROOT, snakemake

CHANCE = {"arc_challenge": 0.25, "openbookqa": 0.25, "sciq": 0.25, "piqa": 0.5}


@pytest.mark.slow
def test_a_real_model_passes_every_stage(real_data: Path, real_model: Path, tmp_path: Path) -> None:
    study = with_data_at(real_data, real_model, tmp_path / "stories260k.yaml")
    shutil.copytree(ROOT / "tests/studies", tmp_path / "tests/studies")  # rewards are found in the working directory
    snakemake(tmp_path, study, timeout=3000)

    results = tmp_path / "results/stories260k"
    summary = json.loads((results / "summary.json").read_text())
    assert summary["accuracy"].keys() == {"base", "sft", "rl"}
    for accuracies in summary["accuracy"].values():
        assert {task: found["n"] for task, found in accuracies.items()} == dict.fromkeys(CHANCE, 200)
        for task, found in accuracies.items():
            assert CHANCE[task] - 0.2 < found["value"] < CHANCE[task] + 0.1, task  # below: the shortest choice wins

    rewards = pd.read_parquet(results / "models/rl/curves.parquet")["rewards/contains_asked_word/mean"]
    assert rewards.iloc[0] < 0.3
    assert rewards.iloc[-1] > 0.7

    page = html.unescape((results / "report/index.html").read_text())
    assert yaml.safe_load(study.read_text())["report"]["note"] in page
    assert "Nothing to be done" in snakemake(tmp_path, study, "--dry-run")


@pytest.mark.slow
def test_models_that_others_trained_pass_every_stage(real_data: Path, real_model: Path, tmp_path: Path) -> None:
    """No arm is trained here: one is given with its checkpoints, and there are no problems."""
    settings = yaml.safe_load(with_data_at(real_data, real_model, tmp_path / "like.yaml").read_text())
    *checkpoints, last = (str(perturbed(real_model, tmp_path / f"tuned-{step}", 0.1 * step)) for step in (1, 2, 3))
    arm = {"name": "tuned", "method": "existing", "path": last, "checkpoints": checkpoints}
    pair = settings["crosscoders"]["base-rl"] | {"models": ["base", "tuned"]}
    del settings["problems"]
    for task in (task for tasks in settings["tasks"].values() for task in tasks):
        task["items"] = 60
    settings |= {
        "study": "tuned",
        "arms": [arm],
        "corpus": settings["corpus"] | {"tokens": 16384},
        "crosscoders": {"base-tuned": pair},
        "tracking": {"crosscoders": ["base-tuned"], "tokens": 8192},
        "localisation": settings["localisation"] | {"crosscoder": "base-tuned", "arm": "tuned", "permutations": 20},
        "interventions": settings["interventions"] | {"draws": 2, "directions": 1},
        "nulls": {"like": "base-tuned", "noise_like": "tuned"},
    }
    study = tmp_path / "tuned.yaml"
    study.write_text(yaml.safe_dump(settings))
    snakemake(tmp_path, study, timeout=1500)

    results = tmp_path / "results/tuned"
    summary = json.loads((results / "summary.json").read_text())
    assert summary["accuracy"].keys() == {"base", "tuned"}
    assert summary["localisation"]["features"]
    assert {"fit", "track", "intervene"} <= summary["wall_seconds"].keys()
    assert summary["problems"] is None
    assert not list((results / "models/tuned").rglob("*.safetensors")), "nothing is copied"
    assert "Nothing to be done" in snakemake(tmp_path, study, "--dry-run")


def perturbed(model: Path, folder: Path, strength: float) -> Path:
    """A copy with noise on every weight, as a share of its matrix's standard deviation."""
    random = torch.Generator().manual_seed(0)
    network = load_model(model).requires_grad_(False)
    for weight in network.parameters():
        weight += strength * weight.std() * torch.randn(weight.shape, generator=random)
    save_model(network, load_tokenizer(model), folder)
    return folder


def with_data_at(data: Path, model: Path, copy: Path) -> Path:
    """The study, its data where they are on this machine."""
    text = (ROOT / "tests/studies/stories260k.yaml").read_text()
    places = {"../shared/models/stories260k": model, "../shared/data": data}
    for place, here in places.items():
        text = text.replace(place, str(here))
    copy.write_text(text)
    return copy
