"""The miniature base: a small Qwen3, pretrained from scratch on the miniature world."""

from __future__ import annotations

from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM, Trainer, TrainingArguments

from rlgen.data.miniature import build_tokenizer, mixture
from rlgen.posttrain.trainer import common_arguments, train
from rlgen.stage import derive_seed, stage
from rlgen.study.sections import PretrainedBase
from rlgen.study.stages import PretrainSettings
from rlgen.token_sets import encode_documents

_DECAY = 0.6
"""Share of steps, the last ones, over which the learning rate falls."""
_WARMUP = 20
"""Steps over which it rises."""
_POSITIONS = 256
"""Longest sequence of the model."""


def pretrain(settings: PretrainSettings, out: Path) -> None:
    """Train the base and write it. One document a row; the loss is on what follows the prompt."""
    base = settings.base
    seed = derive_seed(settings.seed, "pretrain")
    with stage("pretrain", settings, {}, out) as work:
        tokenizer = build_tokenizer()
        rows = _rows(base, seed, tokenizer)
        arguments = TrainingArguments(
            **common_arguments(work, seed, base.steps),
            bf16=torch.cuda.is_available(),
            report_to=[],
            per_device_train_batch_size=base.batch_size,
            learning_rate=base.lr,
            adam_beta2=0.98,
            weight_decay=0.01,
            lr_scheduler_type="warmup_stable_decay",
            warmup_steps=min(_WARMUP, base.steps // 10),
            lr_scheduler_kwargs={
                "num_decay_steps": int(_DECAY * base.steps),
                "decay_type": "linear",
                "min_lr_ratio": 0.0,
            },
            train_sampling_strategy="sequential",
        )
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(_config(base, tokenizer))
        train(work, lambda: Trainer(model=model, args=arguments, train_dataset=rows), base.steps, 1, tokenizer, "base")


def _config(base: PretrainedBase, tokenizer: PreTrainedTokenizerBase) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=base.hidden_size,
        intermediate_size=base.intermediate_size,
        num_hidden_layers=base.layers,
        num_attention_heads=base.heads,
        num_key_value_heads=max(1, base.heads // 2),
        head_dim=base.hidden_size // base.heads,
        max_position_embeddings=_POSITIONS,
        initializer_range=0.05,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _rows(base: PretrainedBase, seed: int, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Token ids and labels of every document in the order of training, padded to the longest; no loss on prompts."""
    rng = np.random.default_rng(seed)
    first = int(base.first_share * base.steps) * base.batch_size
    early = islice(mixture(rng, base.first_think_rate, base.guess_accuracy), first)
    late = islice(mixture(rng, base.think_rate, base.guess_accuracy), base.steps * base.batch_size - first)
    texts = list(chain(early, late))
    ids = encode_documents(tokenizer, texts)
    prompts = [text.index("\nA ") + len("\nA ") + 1 for text in texts]  # one token a character, and the beginning token
    shape = (len(texts), max(map(len, ids)))
    input_ids, labels = np.full(shape, tokenizer.pad_token_id), np.full(shape, -100)
    for row, (found, prompt) in enumerate(zip(ids, prompts, strict=True)):
        input_ids[row, : len(found)] = found
        labels[row, prompt : len(found)] = found[prompt:]
    return Dataset.from_dict({"input_ids": input_ids, "labels": labels}).with_format("torch")
