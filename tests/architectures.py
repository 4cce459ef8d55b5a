"""Tiny random models of many architectures."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from rlgen.data.miniature import build_tokenizer

COMMON: dict[str, Any] = {
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
_GPT2 = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 128}
_LINEAR = ["linear_attention", "linear_attention", "linear_attention", "full_attention"]
_MAMBA_HEADS = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 8}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_DELTA = {
    "layer_types": _LINEAR,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_LATENT = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
_STEP = 1e-9
"""Shortest step of a state-space model's time. With a longer one, these two read on from a cache otherwise."""

APART: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "qwen3_moe": _EXPERTS,
    "mistral": {"sliding_window": 8},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gemma2": {"sliding_window": 8},
    "gemma3_text": {"sliding_window": 8},
    "gemma4_text": {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 64, "sliding_window": 8},
    "cohere2": {"sliding_window": 8},
    "phi": {},
    "phi3": {},
    "gpt_neox": {},
    "gpt2": _GPT2,
    "gpt_neo": {"num_layers": 4, "num_heads": 4, "attention_types": [[["global", "local"], 2]], "window_size": 8},
    "gptj": {**_GPT2, "rotary_dim": 4},
    "gpt_bigcode": _GPT2,
    "olmo2": {},
    "olmo3": {"sliding_window": 8},
    "granite": {},
    "stablelm": {},
    "starcoder2": {"sliding_window": 8},
    "deepseek_v3": {**_LATENT, **_ROUTED, "head_dim": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    "llama4_text": {
        **{"num_local_experts": 2, "num_experts_per_tok": 1},
        **{"intermediate_size_mlp": 32, "attention_chunk_size": 8},
    },
}
"""Attention alone; documents that share a row do not see one another."""
MIXING: dict[str, dict[str, Any]] = {
    "falcon": {"alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2},
    "bloom": {},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 4, "max_seq_len": 128},
    "opt": {"word_embed_proj_dim": 32, "ffn_dim": 48},
    "gpt_oss": {"sliding_window": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
}
"""Attention-only models that do not treat positions that start again as a new document."""
RECURRENT: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 4},
    "falcon_mamba": {"state_size": 4},
    "mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8},
    "qwen3_next": {**_DELTA, **_EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3_5_text": _DELTA,
    "qwen3_5_moe_text": {**_DELTA, **_EXPERTS, "shared_expert_intermediate_size": 16},
    "granitemoehybrid": {
        **_MAMBA_HEADS,
        **{"layer_types": ["mamba", "mamba", "mamba", "attention"], "num_local_experts": 4},
        **{"num_experts_per_tok": 2, "shared_intermediate_size": 16},
    },
    "falcon_h1": {**_MAMBA_HEADS, "mamba_d_ssm": 64},
    "bamba": {**_MAMBA_HEADS, "attn_layer_indices": [3]},
    "jamba": {
        **{"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
        **{"num_experts": 2, "mamba_d_state": 4, "use_mamba_kernels": False},
    },
    "zamba": {
        **{"layers_block_type": ["linear_attention", "linear_attention", "hybrid", "hybrid"], "mamba_dt_rank": 4},
        **{"mamba_d_state": 4, "n_mamba_heads": 2},
    },
    "zamba2": {
        **{"layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "hybrid_layer_ids": [1, 3]},
        **{"mamba_d_state": 8, "mamba_headdim": 8, "n_mamba_heads": 8, "chunk_size": 8},
        **{"num_mem_blocks": 1, "mamba_ngroups": 1, "time_step_min": _STEP},
    },
    "nemotron_h": {
        **_ROUTED,
        **{"layers_block_type": ["mamba", "moe", "attention", "mamba"], "mamba_num_heads": 8, "mamba_head_dim": 8},
        **{"ssm_state_size": 8, "chunk_size": 8, "n_groups": 2, "moe_shared_expert_intermediate_size": 16},
        **{"time_step_min": _STEP},
    },
    "lfm2": {"layer_types": ["conv", "conv", "full_attention", "conv"]},
    "lfm2_moe": {**_EXPERTS, "layer_types": ["conv", "conv", "full_attention", "conv"], "num_dense_layers": 1},
    "kimi_linear": {
        **_LATENT,
        **_ROUTED,
        **{"layer_types": _LINEAR, "linear_num_heads": 4, "linear_head_dim": 8, "q_lora_rank": None},
    },
    "bailing_hybrid": {**_LATENT, **_ROUTED, "layer_types": _LINEAR},
    "olmo_hybrid": {**_DELTA, "linear_num_value_heads": 2},
}
"""With blocks that keep a state; documents that share a row see one another."""
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "recurrent_gemma": (
        {"block_types": ["recurrent", "recurrent", "attention"], "attention_window_size": 8, "lru_width": 32},
        r"logits of answers in a batch differ by \d+\.\d% from those of each alone",
    ),
    "rwkv": ({"attention_hidden_size": 32, "context_length": 128}, "its forward pass takes no cache"),
    "minimax": (
        {"layer_types": _LINEAR, "num_local_experts": 4, "num_experts_per_tok": 2, "block_size": 8},
        "MiniMax uses cache of its own",
    ),
    "xlstm": (
        {
            **{"num_heads": 4, "num_blocks": 4, "chunk_size": 8, "autocast_kernel_dtype": "float32"},
            **{"chunkwise_kernel": "chunkwise--native_autograd", "sequence_kernel": "native_sequence__native"},
            "step_kernel": "native",
        },
        "xLSTMForCausalLM",
    ),
    "zamba2": ({**RECURRENT["zamba2"], "time_step_min": 0.001}, r"logits from a cache differ by 0\.\d%"),
    "openai-gpt": (_GPT2, "OpenAIGPTLMHeadModel"),
    "bert": ({}, r"logits change by \d+\.\d% with tokens that come later; .* is no causal LM"),
}
"""What rlgen cannot use, and what it says of each."""

_BARE = ("mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm")
"""They have no attention, or their configuration takes no words of it."""
_OWN_WORDS = ("gpt2", "mpt", "openai-gpt", "gptj", "gpt_bigcode")
"""Their configurations have names of their own for sizes."""


def build(family: str, given: dict[str, Any]) -> PreTrainedModel:
    """A model with random weights. Skips, naming the version, if transformers does not know the architecture."""
    import pytest
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if family not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {family}")
    words = dict(COMMON)
    if family in _BARE:
        words = {key: words[key] for key in ("vocab_size", "hidden_size", "bos_token_id", "eos_token_id")}
        words |= {"pad_token_id": 0} | ({"num_hidden_layers": 4, "initializer_range": 0.3} if family != "xlstm" else {})
    elif family in _OWN_WORDS:
        words = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3}
    elif family == "gpt_neo":
        words = {"vocab_size": 64, "hidden_size": 32, "bos_token_id": 1, "eos_token_id": 2}
    elif family == "falcon":
        del words["head_dim"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **{**words, **given})
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    return model


def save(model: PreTrainedModel, folder: Path) -> Path:
    """Write a model with the miniature world's tokenizer."""
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder
