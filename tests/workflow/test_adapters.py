"""A study of adapters that exist already, through the same rules."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from rlgen.models import load_model
from tests.posttrain.adapters import adapted_logits, logits, make_adapter, reconfigured
from tests.workflow.study_run import TINY, jobs, snakemake, tiny_settings


@pytest.mark.slow
def test_a_study_of_adapters_passes_every_stage(tmp_path: Path) -> None:
    results = tmp_path / "results/tiny"
    base = results / "models/base"
    snakemake(tmp_path, TINY, "--until", "pretrain")
    early, last = (make_adapter(base, tmp_path / f"lora-{seed}", seed=seed) for seed in (1, 2))
    settings = tiny_settings()
    pair = settings["crosscoders"]["base-rl"] | {"models": ["base", "lora"]}
    for section in ("localisation", "nulls", "interventions"):
        del settings[section]
    settings["tasks"] = {group: tasks[:1] for group, tasks in settings["tasks"].items()}
    settings |= {
        "activations": settings["activations"] | {"parts": 1},
        "arms": [{"name": "lora", "method": "existing", "path": str(last), "checkpoints": [str(early)]}],
        "crosscoders": {"base-lora": pair},
        "tracking": {"crosscoders": ["base-lora"], "tokens": 8192, "top": 10},
    }
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(settings))
    snakemake(tmp_path, study)

    for folder, adapter in (("lora", last), ("lora/checkpoints/1", early)):
        found = logits(load_model(results / "models" / folder))
        torch.testing.assert_close(found, adapted_logits(base, adapter), atol=1e-4, rtol=0)
    assert json.loads((results / "summary.json").read_text())["accuracy"].keys() == {"base", "lora"}
    assert (results / "features/base-lora/tracking/tracking.json").is_file()
    assert "Nothing to be done" in snakemake(tmp_path, study, "--dry-run")
    reconfigured(last, lora_alpha=12)
    assert jobs(tmp_path, study)["adopt"] == 1, "its files are inputs"
