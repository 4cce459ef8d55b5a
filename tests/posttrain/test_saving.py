"""A model that is loaded is the model that was saved, bit by bit."""

from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from transformers import PreTrainedModel

from rlgen.data.miniature import build_tokenizer
from rlgen.errors import StudyError
from rlgen.model_checks import check_model
from rlgen.models import load_model, save_model
from rlgen.posttrain.lora import lora_config, merged
from rlgen.posttrain.trainer import cast
from rlgen.study.sections import Lora
from tests.architectures import APART, MIXING, RECURRENT, build

FAMILIES = APART | MIXING | RECURRENT


def exact(model: PreTrainedModel) -> set[str]:
    return set(model._keep_in_fp32_modules_strict or ())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_s_own_weights(family: str, tied: bool, tmp_path: Path) -> None:
    model = build(family, {**FAMILIES[family], "tie_word_embeddings": tied})
    save_model(model, build_tokenizer(), tmp_path)
    found, wanted = load_model(tmp_path).state_dict(), model.state_dict()
    assert found.keys() == wanted.keys()
    assert [name for name, weight in wanted.items() if not torch.equal(found[name], weight)] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_in_the_precision_of_the_base(family: str, tmp_path: Path) -> None:
    model = build(family, FAMILIES[family])
    state = cast(model.state_dict(), torch.bfloat16, exact(model))
    names = set(state)
    save_model(model, build_tokenizer(), tmp_path, state)
    assert set(state) == names, "the weights that are given are left alone"
    loaded = load_model(tmp_path)
    assert loaded.dtype == torch.bfloat16
    assert [name for name, weight in loaded.state_dict().items() if not torch.equal(weight, state[name])] == []


def test_numbers_that_are_no_weights_keep_their_type() -> None:
    whole, shared = torch.tensor([257, 1]), torch.ones(4)
    state = {
        "places": whole,
        "a": shared,
        "b": shared,
        "part": shared[:2],
        "gate.bias": torch.ones(1),
        "none": shared[:0],
    }
    found = cast({**state, "nothing": torch.zeros(0, 3)}, torch.bfloat16, {"gate.bias"})
    assert torch.equal(found["places"], whole)
    assert found["places"].dtype == whole.dtype
    assert found["a"] is found["b"]
    assert found["part"].shape == (2,)
    assert found["gate.bias"].dtype == torch.float32
    assert (found["none"].shape, found["nothing"].shape) == ((0,), (0, 3))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("targets", [[], ["lm_head"], ["q_proj"]], ids=["all", "head", "queries"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "mixtral", "qwen3_moe", "granitemoehybrid"])
def test_merged_adapters(family: str, targets: list[str], tied: bool, tmp_path: Path) -> None:
    """The saved model computes what the adapted one does, and config.json says whether its output layer is its own."""
    model = build(family, {**FAMILIES[family], "tie_word_embeddings": tied})
    lora = Lora(rank=4, alpha=8, targets=targets)
    adapted = get_peft_model(model, lora_config(lora, model))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) / 10)
    state = merged(adapted.state_dict(), lora)
    save_model(adapted.get_base_model(), build_tokenizer(), tmp_path, state)
    loaded = load_model(tmp_path)
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, adapted(ids).logits, rtol=1e-3, atol=1e-3)
    assert [
        found.fault for found in check_model(tmp_path, separate_documents=False) if found.fault and not found.note
    ] == []
    assert loaded.config.tie_word_embeddings == (tied and targets != ["lm_head"])


def test_weights_that_are_stored_transposed_take_no_adapters() -> None:
    with pytest.raises(StudyError, match=r"lora: `\S+` of GPT2LMHeadModel stores its weights transposed"):
        lora_config(Lora(), build("gpt2", APART["gpt2"]))
