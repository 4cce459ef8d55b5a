"""A tiny model, made in a moment."""

from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from rlgen.data.miniature import build_tokenizer


def make_tiny(folder: Path) -> Path:
    """Write an untrained two-layer model with the world's tokenizer, sharp enough to end its answers now and then."""
    tokenizer = build_tokenizer()
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
