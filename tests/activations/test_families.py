"""The residual stream is read alike in every decoder-only architecture: tiny random models of many families."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from rlgen.activations.dump import dump
from rlgen.activations.store import StoreReader
from rlgen.data.miniature import build_tokenizer
from rlgen.errors import StudyError
from rlgen.models import decoder_blocks, edited, residuals
from rlgen.study.sections import Activations
from rlgen.study.stages import DumpSettings
from tests.data.corpora import write_corpus

COMMON = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "mistral": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gemma2": {"sliding_window": 8},
    "gemma3_text": {"sliding_window": 8},
    "phi": {},
    "phi3": {},
    "gpt_neox": {},
    "gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 128},
    "olmo2": {},
    "falcon": {"alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2},
    "bloom": {},
    "granite": {},
    "stablelm": {},
}

MIXING = ("falcon", "bloom")
"""They do not take positions that start anew for another document."""


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: Any) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def network(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    extra = FAMILIES[family]
    common = COMMON if family != "gpt2" else {}
    if family == "falcon":
        common = {key: value for key, value in COMMON.items() if key != "head_dim"}
    config = AutoConfig.for_model(family, **{**{"vocab_size": 64}, **common, **extra})
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    return model


@torch.no_grad()
def test_residuals_are_the_hidden_states(network: PreTrainedModel) -> None:
    ids = torch.randint(3, 64, (3, 20), generator=torch.Generator().manual_seed(0))
    expected = network(input_ids=ids, output_hidden_states=True).hidden_states
    found = residuals(network, [1, 3], input_ids=ids)
    assert torch.equal(found[:, :, 0], expected[1])
    assert torch.equal(found[:, :, 1], expected[3])


@torch.no_grad()
def test_blocks_after_the_last_layer_are_not_run(network: PreTrainedModel) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("a block was run that nobody asked for")

    handles = [block.register_forward_pre_hook(never) for block in decoder_blocks(network)[2:]]
    residuals(network, [2], input_ids=torch.full((1, 4), 5))
    for handle in handles:
        handle.remove()


@torch.no_grad()
def test_an_edit_reaches_the_output(network: PreTrainedModel) -> None:
    ids = torch.full((1, 6), 5)
    plain = network(input_ids=ids).logits
    with edited(network, 2, lambda x_BTD: x_BTD):
        assert torch.equal(network(input_ids=ids).logits, plain)
    with edited(network, 2, torch.zeros_like):
        assert not torch.equal(network(input_ids=ids).logits, plain)


def dump_separate(network: PreTrainedModel, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """A store of documents that share rows, in `folder`/a; the token ids and documents, [rows, length]."""
    network.save_pretrained(folder / "base")
    build_tokenizer().save_pretrained(folder / "base")
    random = np.random.default_rng(0)
    tokens = random.integers(3, 40, (3, 24)).astype(np.int32)
    documents = np.stack([np.sort(random.integers(4 * row, 4 * row + 3, 24)) for row in range(3)]).astype(np.int32)
    corpus = write_corpus(folder / "corpus", tokens, documents, np.ones(tokens.shape, dtype=bool), separate=True)
    chosen = Activations(layers=[1, 3], dtype="float32", batch_rows=2, chunk_tokens=16, shard_tokens=32)
    dump(DumpSettings(activations=chosen, part=0), model=folder / "base", corpus=corpus, out=folder / "a")
    return tokens, documents


def test_a_store_of_separate_documents(family: str, network: PreTrainedModel, tmp_path: Path) -> None:
    """Documents that share a row are read as each would be alone, or the model is refused."""
    if family in MIXING:
        with pytest.raises(StudyError, match=r"corpus\.separate_documents: .* lets the documents of a row attend"):
            dump_separate(network, tmp_path)
        return
    tokens, documents = dump_separate(network, tmp_path)
    reader = StoreReader([tmp_path / "a"])
    order = np.argsort(reader.positions)
    found = np.stack([reader.read(0, 72, layer)[order] for layer in (1, 3)], axis=1)
    expected = []
    for row, numbers in zip(tokens, documents, strict=True):
        for number in np.unique(numbers):
            ids = torch.from_numpy(row[numbers == number].astype(np.int64))[None]
            with torch.no_grad():
                expected.append(residuals(network, [1, 3], input_ids=ids)[0].numpy())
    np.testing.assert_allclose(found, np.concatenate(expected), atol=2e-4, rtol=1e-4)
