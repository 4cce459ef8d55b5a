"""Adapters, merged into plain models."""

from pathlib import Path

import pytest
import torch
from peft import get_peft_model

from rlgen.errors import StudyError
from rlgen.models import load_model
from rlgen.posttrain.lora import lora_config, merged
from rlgen.study.sections import Lora
from tests.evaluation.tiny import make_tiny


@pytest.mark.parametrize("lora", [Lora(rank=4, alpha=6), Lora(rank=2, targets=["q_proj", "down_proj"])])
def test_merged_weights_are_those_that_peft_merges(lora: Lora, tmp_path: Path) -> None:
    base = load_model(make_tiny(tmp_path / "tiny"))
    start = {name: weight.clone() for name, weight in base.state_dict().items()}
    model = get_peft_model(base, lora_config(lora, base))
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.1
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    found = merged(model.state_dict(), lora)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    expected = model.merge_and_unload().state_dict()
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=1e-6, rtol=1e-6)
    changed = {name for name in found if not torch.equal(found[name], start[name])}
    assert changed
    assert all("proj" in name for name in changed)
    if lora.targets:
        assert all(name.split(".")[-2] in lora.targets for name in changed)


def test_there_are_none_unless_asked_for() -> None:
    assert lora_config(None, torch.nn.Linear(1, 1)) is None


def test_a_module_that_there_is_not_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"no linear module `query`; use of .*down_proj.*q_proj"):
        lora_config(Lora(targets=["query"]), load_model(make_tiny(tmp_path / "tiny")))
